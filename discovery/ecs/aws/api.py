"""The few AWS calls discovery makes: every page and batch or a `DiscoveryError`, never a shorter list."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from discovery.ecs.aws.budget import Budget, category
from discovery.ecs.aws.errors import NEEDS_NEW_SESSION, is_transient, translate_error
from discovery.ecs.aws.queries import Described, Json
from discovery.ecs.aws.sessions import Account, Clients
from discovery.ecs.aws.threads import all_of, in_thread
from discovery.ecs.shapes import instance_address, short_name
from discovery.model import DiscoveryError
from discovery.spelling import did_you_mean

log = logging.getLogger("anyport.discovery.ecs")

_BATCH: Final = 100  # what DescribeTasks, DescribeContainerInstances and one page of List operations may hold
_SERVICES: Final = 10  # what DescribeServices may hold
_AT_ONCE: Final = 6  # calls of one category: at 20 per second and 0.2 s each, more would only wait
_PAGES: Final = 1000  # a cluster ends at 5,000 instances; more pages than this is a server gone round
_ATTEMPTS: Final = 6  # at one call: some ten seconds, then the question is put aside for a while
_FIRST_RETRY_S: Final = 0.25


class EcsApi:
    """ECS and EC2 through boto3, in threads. One for each source: `calls` counts its calls by operation.

    Credentials and Region are found by boto3, and looked for anew after they were refused. Every call is
    taken from `budget`; one that is throttled or finds a server in trouble is repeated by itself, not the
    question that it is a part of. `failed` is told of each error, also of those that a repetition mends.
    """

    def __init__(
        self,
        account: Account = Account(),  # noqa: B008 - frozen
        *,
        budget: Budget | None = None,
        call_timeout_s: float = 10.0,
        failed: Callable[[DiscoveryError], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.failed = failed
        self.budget = budget or Budget(clock=clock)
        self._clients = Clients(account, read_timeout_s=call_timeout_s)
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._slots: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._clients.close()

    async def task_pages(
        self,
        cluster: str,
        *,
        desired_status: str = "RUNNING",
        instance: str = "",
        service: str = "",
        launch_type: str = "",
    ) -> AsyncGenerator[list[str], None]:
        """Yield the ARNs of all tasks that ECS wants to be in `desired_status`, page by page.

        Only those of a container instance (ARN), an ECS service (name) or a launch type, if one is given.
        """
        asked = {"cluster": cluster, "maxResults": _BATCH, "desiredStatus": desired_status}
        filters = {"containerInstance": instance, "serviceName": service, "launchType": launch_type}
        asked |= {name: value for name, value in filters.items() if value}
        try:
            async for page in self._pages("ecs", "ListTasks", "nextToken", asked):
                yield _texts(page, "taskArns", "ecs:ListTasks")
        except DiscoveryError as exc:
            if exc.kind == "missing_cluster":
                raise await self._missing_cluster(cluster) from exc
            raise

    async def list_tasks(self, cluster: str, *, desired_status: str = "RUNNING") -> list[str]:
        """Return what `task_pages` yields, each once."""
        pages = [page async for page in self.task_pages(cluster, desired_status=desired_status)]
        return list(dict.fromkeys(arn for page in pages for arn in page))

    async def list_container_instances(self, cluster: str) -> list[str]:
        """Return the ARNs of all container instances that have not been deregistered."""
        asked = {"cluster": cluster, "maxResults": _BATCH}
        action = "ListContainerInstances"
        pages = [page async for page in self._pages("ecs", action, "nextToken", asked)]
        found = (_texts(page, "containerInstanceArns", f"ecs:{action}") for page in pages)
        return list(dict.fromkeys(arn for arns in found for arn in arns))

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> Described:
        """Return the tasks of `arns`, running or not; stopped ones stay known for about an hour."""
        return await self._describe("DescribeTasks", cluster, "tasks", "taskArn", arns)

    async def describe_container_instances(self, cluster: str, arns: Sequence[str]) -> Described:
        """Return the container instances of `arns`."""
        return await self._describe(
            "DescribeContainerInstances", cluster, "containerInstances", "containerInstanceArn", arns
        )

    async def describe_services(self, cluster: str, names: Sequence[str]) -> Described:
        """Return the ECS services of `names`."""
        return await self._describe(
            "DescribeServices", cluster, "services", "serviceName", names, at_once=_SERVICES
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
        self,
        operation: str,
        cluster: str,
        items: str,
        arn: str,
        arns: Sequence[str],
        *,
        at_once: int = _BATCH,
    ) -> Described:
        batches = _batches(arns, at_once)
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
        async with self._slots[category(operation)]:
            for attempt in range(1, _ATTEMPTS + 1):
                wait_s = self.budget.reserve(operation)
                if wait_s:
                    await self._sleep(wait_s)
                self.calls[operation] += 1
                try:
                    answer = await self._ask(service, operation, request)
                except _Failed as refusal:
                    self._note(operation, refusal.error)
                    if not refusal.transient or attempt == _ATTEMPTS:
                        raise refusal.error from refusal.__cause__
                    await self._sleep(self._rng.uniform(0.5, 1.0) * _FIRST_RETRY_S * 2.0**attempt)
                else:
                    self._note(operation, None)
                    return answer
        raise AssertionError("unreachable")

    async def _ask(self, service: str, operation: str, request: Json) -> Json:
        method = "".join("_" + c.lower() if c.isupper() else c for c in operation).lstrip("_")

        def call() -> Json:
            answer: Json = getattr(self._clients.get(service), method)(**request)
            return answer

        try:
            return await in_thread(call, name=f"anyport-{operation}")
        except DiscoveryError as exc:
            raise _Failed(exc, transient=False) from exc
        except (
            BotoCoreError, ClientError, ResponseParserError, TypeError, AttributeError, KeyError, ValueError,
        ) as exc:  # fmt: skip
            account = self._clients.account
            where = account.endpoint_url or f"AWS ({service}, {account.region or 'default Region'})"
            error = translate_error(exc, f"{service}:{operation}", where, role_arn=account.role_arn)
            if error.kind in NEEDS_NEW_SESSION:
                self.close()
            raise _Failed(error, transient=is_transient(exc)) from exc

    def _note(self, operation: str, error: DiscoveryError | None) -> None:
        """Tell of an error, and once of a while in which AWS throttles us, and once of its end."""
        if error is not None:
            self.failed(error)
        if error is not None and error.kind == "throttled":
            began = self.budget.refused(operation)
            if began:
                log.warning(
                    "AWS throttles our calls (%s): asking at half the rate, and less if it goes on", began
                )
            return
        over = self.budget.answered(operation)
        if over is not None:
            log.info(
                "AWS takes our calls (%s) at the full rate again; in %.0f s it has refused %d",
                over.category,
                over.lasted_s,
                over.calls,
            )


class _Failed(Exception):
    """One call has failed; `transient` says whether the same call may succeed in a moment."""

    def __init__(self, error: DiscoveryError, *, transient: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.transient = transient


def _batches(ids: Iterable[str], size: int = _BATCH) -> list[list[str]]:
    unique = list(dict.fromkeys(ids))
    return [unique[i : i + size] for i in range(0, len(unique), size)]


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
