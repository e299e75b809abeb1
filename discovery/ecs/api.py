"""The few AWS calls discovery makes: every page and batch or a `DiscoveryError`, never a shorter list."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from discovery.ecs.errors import NEEDS_NEW_SESSION, translate_error
from discovery.ecs.ports import did_you_mean
from discovery.ecs.queries import Described, Json
from discovery.ecs.shapes import instance_address, short_name
from discovery.ecs.threads import all_of, in_thread
from discovery.model import DiscoveryError

_BATCH: Final = 100  # what DescribeTasks, DescribeContainerInstances and one page of ListTasks may hold
_AT_ONCE: Final = 4  # the bucket refills 20 per second for everyone in the account: do not rush
_PAGES: Final = 1000  # a cluster ends at 5,000 instances; more pages than this is a server gone round


class EcsApi:
    """ECS and EC2 through boto3, in threads. One for each source: `calls` counts its calls by operation.

    Credentials and Region are found by boto3, and looked for anew after they were refused.
    """

    def __init__(self, *, region: str = "", endpoint_url: str = "", call_timeout_s: float = 10.0) -> None:
        self.calls: Counter[str] = Counter()
        self._region = region or None
        self._endpoint_url = endpoint_url or None
        self._call_timeout_s = call_timeout_s
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        # Without the lock: its holder may be waiting for the metadata service, and this is the event loop.
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    async def list_tasks(self, cluster: str, *, desired_status: str = "RUNNING") -> list[str]:
        """Return the ARNs of all tasks that ECS wants to be in `desired_status`."""
        arns: list[str] = []
        asked = {"cluster": cluster, "maxResults": _BATCH, "desiredStatus": desired_status}
        try:
            async for page in self._pages("ecs", "ListTasks", "nextToken", asked):
                arns += _texts(page, "taskArns", "ecs:ListTasks")
        except DiscoveryError as exc:
            if exc.kind == "missing_cluster":
                raise await self._missing_cluster(cluster) from exc
            raise
        return list(dict.fromkeys(arns))

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> Described:
        """Return the tasks of `arns`, running or not; stopped ones stay known for about an hour."""
        return await self._describe("DescribeTasks", cluster, "tasks", "taskArn", arns)

    async def describe_container_instances(self, cluster: str, arns: Sequence[str]) -> Described:
        """Return the container instances of `arns`."""
        return await self._describe(
            "DescribeContainerInstances", cluster, "containerInstances", "containerInstanceArn", arns
        )

    async def describe_task_definition(self, arn: str) -> Json:
        """Return one revision. It holds environment variables: keep only what you need of it."""
        answer = await self._call("ecs", "DescribeTaskDefinition", {"taskDefinition": arn})
        definition = answer.get("taskDefinition")
        if not isinstance(definition, Mapping) or definition.get("taskDefinitionArn") != arn:
            raise DiscoveryError(
                "malformed", f"ecs:DescribeTaskDefinition: no such revision in the answer: {arn}"
            )
        return definition

    async def instance_addresses(self, ec2_ids: Sequence[str]) -> dict[str, str]:
        """Return the private address of each instance; those without one (terminated) are absent."""
        addresses: dict[str, str] = {}
        for batch in _batches(ec2_ids):
            # A filter, not InstanceIds: there, one id that is gone fails the whole call.
            asked = {"Filters": [{"Name": "instance-id", "Values": batch}], "MaxResults": 1000}
            async for page in self._pages("ec2", "DescribeInstances", "NextToken", asked):
                for reservation in _objects(page, "Reservations", "ec2:DescribeInstances"):
                    for raw in _objects(reservation, "Instances", "ec2:DescribeInstances"):
                        ec2_id, address = instance_address(raw)
                        if address:
                            addresses[ec2_id] = address
        return addresses

    async def _describe(
        self, operation: str, cluster: str, items: str, arn: str, arns: Sequence[str]
    ) -> Described:
        batches = _batches(arns)
        answers = await all_of(
            self._call("ecs", operation, {"cluster": cluster, items: batch}) for batch in batches
        )
        result = Described([], [])
        for batch, answer in zip(batches, answers, strict=True):
            found = {item.get(arn): item for item in _objects(answer, items, f"ecs:{operation}")}
            missing = _missing(answer, f"ecs:{operation}")
            forgotten = [one for one in batch if one not in found and short_name(one) not in missing]
            if forgotten:
                raise DiscoveryError(
                    "partial", f"ecs:{operation}: {len(forgotten)} of {len(batch)} are not in the answer, "
                    f"such as {short_name(forgotten[0])}; the last complete answer stands"
                )  # fmt: skip
            result.found.extend(found[one] for one in batch if one in found)
            result.missing.extend(one for one in batch if one not in found)
        return result

    async def _missing_cluster(self, cluster: str) -> DiscoveryError:
        """Say which clusters there are, as far as this identity may know."""
        text = f"there is no cluster {short_name(cluster)!r}"
        try:
            names = []
            async for page in self._pages("ecs", "ListClusters", "nextToken", {"maxResults": _BATCH}):
                names += [short_name(arn) for arn in _texts(page, "clusterArns", "ecs:ListClusters")]
        except DiscoveryError:
            return DiscoveryError("missing_cluster", f"{text}: check clusters and region in [ecs]")
        hint = did_you_mean(short_name(cluster), names)
        there = f"there are: {', '.join(sorted(names))}" if names else "there is none at all in this Region"
        return DiscoveryError("missing_cluster", f"{text}{hint}; {there}; check clusters and region in [ecs]")

    async def _pages(
        self, service: str, operation: str, token: str, asked: Json
    ) -> AsyncGenerator[Json, None]:
        """Yield every page; raise rather than end early or go round."""
        seen: set[str] = set()
        request = dict(asked)
        for _ in range(_PAGES):
            page = await self._call(service, operation, request)
            yield page
            following = page.get(token)
            if not following:
                return
            if following in seen:
                break
            seen.add(following)
            request[token] = following
        raise DiscoveryError("partial", f"{service}:{operation}: the pages go round")

    async def _call(self, service: str, operation: str, request: Json) -> Json:
        """Return one answer, or raise what went wrong with it as a `DiscoveryError`."""
        method = "".join("_" + c.lower() if c.isupper() else c for c in operation).lstrip("_")

        def call() -> Json:
            answer: Json = getattr(self._client(service), method)(**request)
            return answer

        async with self._slots:
            self.calls[operation] += 1
            try:
                answer = await in_thread(call, name=f"anyport-{operation}")
            except (BotoCoreError, ClientError, TypeError, AttributeError, KeyError, ValueError) as exc:
                if isinstance(exc, ClientError):
                    self._count_retries(operation, exc.response)
                where = self._endpoint_url or f"AWS ({service}, {self._region or 'default Region'})"
                error = translate_error(exc, f"{service}:{operation}", where)
                if error.kind in NEEDS_NEW_SESSION:
                    self.close()
                raise error from exc
        self._count_retries(operation, answer)
        return answer

    def _count_retries(self, operation: str, answer: Json) -> None:
        retries = answer.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        if retries:
            self.calls[operation] += retries

    def _client(self, service: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        """Return the client, made on first use: that reads files and may ask the metadata service."""
        with self._lock:
            if service not in self._clients:
                try:
                    self._clients[service] = self._new_client(service)
                except ValueError as exc:
                    raise DiscoveryError(
                        "other",
                        f"{self._endpoint_url!r} or Region {self._region!r} makes no sense: check "
                        'endpoint_url and region in [ecs], such as "http://127.0.0.1:4566" and "eu-west-1"',
                    ) from exc
            return self._clients[service]

    def _new_client(self, service: str) -> Any:  # noqa: ANN401
        # At level DEBUG they print requests and answers, environment variables included.
        for name in ("boto3", "botocore", "urllib3"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return boto3.session.Session().client(
            service,
            region_name=self._region,
            endpoint_url=self._endpoint_url,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 3},
                connect_timeout=min(self._call_timeout_s, 3.0),
                read_timeout=self._call_timeout_s,
                max_pool_connections=_AT_ONCE,
            ),
        )


def _batches(ids: Iterable[str]) -> list[list[str]]:
    unique = list(dict.fromkeys(ids))
    return [unique[i : i + _BATCH] for i in range(0, len(unique), _BATCH)]


def _objects(answer: Json, name: str, action: str) -> list[Json]:
    value = answer.get(name)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise DiscoveryError("malformed", f"{action}: the answer has no list {name!r}")
    return value


def _texts(answer: Json, name: str, action: str) -> list[str]:
    value = answer.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DiscoveryError("malformed", f"{action}: the answer has no list {name!r}")
    return value


def _missing(answer: Json, action: str) -> set[str]:
    """Return the short names of what ECS does not know; any other failure makes the answer partial."""
    missing = set()
    for failure in answer.get("failures") or []:
        reason = failure.get("reason") if isinstance(failure, Mapping) else None
        if reason != "MISSING":
            raise DiscoveryError("partial", f"{action}: a part of the answer failed: {reason}")
        missing.add(short_name(str(failure.get("arn"))))
    return missing
