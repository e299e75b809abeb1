"""What discovery asks AWS: an interface, so that nothing but the real one imports boto3."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Json = Mapping[str, Any]


class Described(NamedTuple):
    """What a Describe call found, and the ARNs that ECS positively does not know (any more)."""

    found: list[Json]
    missing: list[str]


class EcsQueries(Protocol):
    """What is asked; answers are the API's own JSON. All raise `DiscoveryError`."""

    @property
    def calls(self) -> Counter[str]: ...

    def close(self) -> None: ...

    def task_pages(
        self,
        cluster: str,
        *,
        desired_status: str = "RUNNING",
        instance: str = "",
        service: str = "",
        launch_type: str = "",
    ) -> AsyncGenerator[list[str], None]: ...

    async def list_tasks(self, cluster: str, *, desired_status: str = "RUNNING") -> list[str]: ...

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> Described: ...

    async def list_container_instances(self, cluster: str) -> list[str]: ...

    async def describe_container_instances(self, cluster: str, arns: Sequence[str]) -> Described: ...

    async def describe_services(self, cluster: str, names: Sequence[str]) -> Described: ...

    async def describe_task_definition(self, arn: str) -> Json: ...

    async def instance_addresses(self, ec2_ids: Sequence[str]) -> dict[str, str]: ...
