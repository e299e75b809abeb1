"""Addresses from the config, as a source: known at once, and always the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import MappingProxyType
from typing import Final

from discovery.model import Endpoint, Service, Snapshot, SourceStatus, Told, by_service

CONTAINER: Final = "static"


class StaticSource:
    """A source whose one snapshot is what the config lists."""

    def __init__(
        self,
        services: Sequence[tuple[Service, Sequence[tuple[str, int]]]],
        *,
        name: str = "static",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.status = SourceStatus()
        self._clock = clock
        self._snapshot = Snapshot(
            source=name,
            services=MappingProxyType({service.name: service for service, _ in services}),
            by_service=by_service(
                _endpoint(service, host, port, name)
                for service, addresses in services
                for host, port in sorted(set(addresses))
            ),
        )

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the addresses, then wait until cancelled."""
        self.status.refreshes += 1
        self.status.last_success_s = self._clock()
        yield self._snapshot
        await asyncio.Event().wait()

    def hurry(self, task_arn: str = "") -> None:
        """There is nothing to ask: the configuration says where these answer."""
        self.status.asked_s = self._clock()

    def told(self, task_arn: str) -> tuple[Told, ...]:
        """Nobody has said anything later than the configuration."""
        return ()


def _endpoint(service: Service, host: str, port: int, source: str) -> Endpoint:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Endpoint(
        service=service.name,
        task_arn=f"static:{address}",
        container=CONTAINER,
        container_port=port,
        host=host,
        port=port,
        source=source,
    )
