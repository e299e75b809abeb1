"""The ECS clusters of a configuration, however they are written, each with a name of its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.config.model import Ecs


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAt:
    """One cluster, and how it is asked."""

    cluster: str  # name or ARN
    region: str
    endpoint_url: str
    role_arn: str = ""
    external_id: str = ""
    id: str = ""  # its name; where two have the same, with "@" and what tells them apart

    @property
    def name(self) -> str:
        return self.cluster.rpartition("/")[2]

    @property
    def account(self) -> str:
        """The number of its account, "" where only AWS could tell."""
        return _account(self.cluster) or _account(self.role_arn)

    def is_meant_by(self, reference: str, among: Sequence[ClusterAt]) -> bool:
        """Say whether *reference*, the `cluster` of a service, means this one of *among*."""
        if reference == self.id:
            return True
        if sum(other.name == self.name for other in among) == 1:
            return reference.rpartition("/")[2] == self.name
        return reference == self.cluster and sum(other.cluster == self.cluster for other in among) == 1


def clusters_of(ecs: Ecs) -> tuple[ClusterAt, ...]:
    """Return every cluster of [ecs]: those of `clusters`, then each [[ecs.cluster]]."""
    listed = [
        ClusterAt(cluster=name, region=ecs.region, endpoint_url=ecs.endpoint_url) for name in ecs.clusters
    ]
    listed += [
        ClusterAt(
            cluster=section.name,
            region=section.region or ecs.region,
            endpoint_url=section.endpoint_url or ecs.endpoint_url,
            role_arn=section.role_arn,
            external_id=section.external_id,
        )
        for section in ecs.cluster
    ]
    # An ARN says which Region it is in; another one would not know it.
    listed = [replace(at, region=_region(at.cluster) or at.region) for at in listed]
    return tuple(replace(at, id=_id(at, listed)) for at in listed)


def _id(at: ClusterAt, listed: Sequence[ClusterAt]) -> str:
    """Return what no other of *listed* has as its id, unless it may well be the same cluster."""
    same = [other for other in listed if other.name == at.name]
    regions = {other.region for other in same}
    if len(same) == 1 or ("" in regions and len(regions) > 1):
        return at.name
    if sum(other.region == at.region for other in same) == 1:
        return f"{at.name}@{at.region}"
    if sum(other.account == at.account for other in same) == 1:
        return f"{at.name}@{at.account or at.region or 'default'}"
    return f"{at.name}@{'/'.join(filter(None, (at.account, at.region))) or 'default'}"


def _account(arn: str) -> str:
    return arn.split(":")[4] if arn.count(":") >= 5 else ""


def _region(arn: str) -> str:
    return arn.split(":")[3] if arn.count(":") >= 5 else ""
