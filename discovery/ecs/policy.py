"""The least IAM policy for what discovery calls: which action for which feature, on which resources. Pure.

After the Service Authorization Reference. `ecs:ListClusters` is not in it: all it does is to make the message
on a misspelled cluster better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from discovery.ecs.events.queue_place import own_queues
from discovery.ecs.events.setup import Setup

Json = dict[str, Any]

ACCOUNT: Final = "ACCOUNT"  # stands for what nobody has said
REGION: Final = "REGION"

# What follows the tasks of a cluster (discovery.ecs.aws.api): all of it knows the condition ecs:cluster.
_CLUSTER: Final = ("ListTasks", "DescribeTasks", "DescribeContainerInstances", "DescribeServices")
# While events come, the poller only compares the counts of each instance; this lists them.
_AUDIT: Final = ("ListContainerInstances",)
# These know no resources: "*" is all that can be said.
_ANYWHERE: Final = ("ecs:DescribeTaskDefinition", "ec2:DescribeInstances")

# A queue that is only read (discovery.ecs.events.queue_place.GivenQueue), by URL or by ARN.
_READ: Final = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
_FIND: Final = ("GetQueueUrl",)
# One that the proxy makes and removes (OwnQueue), and those of others that it tidies away.
_OWN: Final = ("CreateQueue", "TagQueue", "SetQueueAttributes", "ListQueueTags", "DeleteQueue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that is asked, and as whom."""

    name: str
    region: str = ""
    account: str = ""
    role_arn: str = ""  # assumed first; "": as the task role

    @property
    def arn(self) -> str:
        return _arn("ecs", self.region, self.account, f"cluster/{self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The queue that is read, in the account of the task role."""

    queue: str  # "auto", or its URL or ARN
    topic: str = ""  # name or ARN, for "auto"
    region: str = ""
    account: str = ""


def policies(clusters: Sequence[Cluster], events: Events | None = None) -> dict[str, Json]:
    """Return the policy of each role by its ARN, that of the task role, which is always there, under ""."""
    statements: dict[str, list[Json]] = {"": []}
    for cluster in clusters:
        statements.setdefault(cluster.role_arn, [])
    for role in statements:
        ours = [cluster for cluster in clusters if cluster.role_arn == role]
        if ours:
            statements[role] += _of_clusters([cluster.arn for cluster in ours], audited=events is not None)
    roles = [role for role in statements if role]
    if roles:
        statements[""].append(_allow("Roles", ["sts:AssumeRole"], roles))
    if events is not None:
        statements[""] += _of_events(events, clusters[0].name if clusters else "")
    return {role: {"Version": "2012-10-17", "Statement": found} for role, found in statements.items()}


def _of_clusters(arns: Sequence[str], *, audited: bool) -> Iterable[Json]:
    yield {
        **_allow("Tasks", [f"ecs:{name}" for name in _CLUSTER], ["*"]),
        "Condition": {"ArnEquals": {"ecs:cluster": _one_or_all(arns)}},
    }
    if audited:
        yield _allow("Instances", [f"ecs:{name}" for name in _AUDIT], arns)
    yield _allow("Definitions", _ANYWHERE, ["*"])


def _of_events(events: Events, cluster: str) -> Iterable[Json]:
    setup = Setup(
        clusters=(),
        region=events.region or REGION,
        account=events.account or ACCOUNT,
        queue="" if events.queue == "auto" else events.queue,
        topic=events.topic,
    )
    if events.queue != "auto":
        find = _FIND if events.queue.startswith("arn:") else ()
        yield _allow("Queue", [f"sqs:{name}" for name in (*_READ, *find)], [setup.target])
        return
    own = _arn("sqs", events.region, events.account, f"{own_queues(cluster)}*")
    yield _allow("OwnQueues", [f"sqs:{name}" for name in (*_READ, *_OWN)], [own])
    yield _allow("Topic", ["sns:Subscribe"], [setup.target])
    yield _allow("Tidy", ["sqs:ListQueues", "sns:Unsubscribe"], ["*"])


def _allow(sid: str, actions: Iterable[str], resources: Sequence[str]) -> Json:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": _one_or_all(list(actions)),
        "Resource": _one_or_all(resources),
    }


def _one_or_all(texts: Sequence[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


def _arn(service: str, region: str, account: str, rest: str) -> str:
    where = Setup(clusters=(), region=region or REGION, account=account or ACCOUNT)
    return f"arn:{where.partition}:{service}:{where.region}:{where.account}:{rest}"
