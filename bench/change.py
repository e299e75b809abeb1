"""What one change costs the control process: from a source's snapshot to the sealed table.

A thousand services and ten thousand tasks; one task of them starts to drain, comes back, is replaced, or a
verdict on it changes. CPU time of this thread, which does nothing else; the rest of the way is in a worker
(`snapshot`).
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from bench.harness import table
from discovery.model import Endpoint, HealthCheck, Service, Snapshot, by_service
from discovery.table import BackendTable
from proxy.control.changes import changes
from proxy.control.compose import Composer, Knowledge, inherited
from proxy.control.health.check import Target, target
from proxy.control.health.schedule import Monitor
from proxy.link import snapshots
from proxy.link.snapshots import EMPTY, Encoder, TableSnapshot
from proxy.policy.verdict import CheckResult
from proxy.settings import WorkerSettings

SERVICES: Final = 1_000
ENDPOINTS: Final = 10_000
_TURNS: Final = 60
_STAGES: Final = ("merge", "learn", "checks", "compose", "compare", "encode", "seal", "say")


def facts() -> Snapshot:
    """Return what a source knows: every service has its tasks, each on an address of its own."""
    names = [f"service-{n}" for n in range(SERVICES)]
    services = {
        name: Service(name=name, hosts=(f"{name}.example.com",), health=HealthCheck(kind="none"))
        for name in names
    }
    endpoints = [
        Endpoint(
            service=names[n % SERVICES],
            task_arn=f"arn:aws:ecs:eu-central-1:111122223333:task/production/{n:032x}",
            container="app",
            container_port=8080,
            host=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
            port=32768 + n % 20_000,
            source="ecs:production",
            zone="eu-central-1a",
            instance=f"i-{n % 300:017x}",
            release="ecs-svc/1234567890123456789",
            started_at=1.7e9 + n,
            version=3,
        )
        for n in range(ENDPOINTS)
    ]
    return Snapshot(
        source="ecs:production", services=MappingProxyType(services), by_service=by_service(endpoints)
    )


def moved(before: Snapshot, turn: int) -> Snapshot:
    """Return *before* with one task that is not as it was; the rest is shared."""
    name = f"service-{turn * 37 % SERVICES}"
    first, *others = before.by_service[name]
    now = replace(first, draining=not first.draining, reason="task is stopping", version=first.version + 1)
    return replace(before, by_service=MappingProxyType({**before.by_service, name: (now, *others)}))


class _Line:
    """The stages as `ControlPlane` puts them together."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.cpu_ms: dict[str, list[float]] = {stage: [] for stage in _STAGES}
        self._merged = BackendTable(["ecs:production"])
        self._composer = Composer(lambda _: 1)
        self._encoder = Encoder()
        self._newest = EMPTY

        async def check(_: Target) -> CheckResult | None:
            return None

        self._monitor = Monitor(
            group, check, on_change=lambda _: None, clock=time.monotonic, rng=random.Random(1)
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        begun_s = time.thread_time()
        yield
        self.cpu_ms[name].append((time.thread_time() - begun_s) * 1000)

    def take(self, snapshot: Snapshot) -> None:
        """Take *snapshot* all the way."""
        with self._stage("merge"):
            self._merged.apply(snapshot)
        merged = self._merged
        with self._stage("learn"):
            known = Knowledge(
                facts=merged.snapshot,
                suspended=merged.suspended,
                claims=merged.claims,
                pending=frozenset(),
            )
            changed = self._composer.learn(known, EMPTY)
        with self._stage("checks"):
            for name in changed:
                service = known.facts.services[name]
                targets = [target(e, service) for e in known.facts.by_service.get(name, ())]
                self._monitor.watch(name, targets, inherited(EMPTY, targets, 0.0))
        with self._stage("compose"):
            made = self._composer.table(
                verdict=self._monitor.verdict, touched=set(), settings=WorkerSettings()
            )
        before, self._newest = self._newest, replace(made, revision=self._newest.revision + 1)
        with self._stage("compare"):
            assert replace(made, revision=before.revision) != before
        with self._stage("encode"):
            parts = self._encoder.parts(self._newest)
        with self._stage("seal"):
            fd = snapshots.seal(*parts)
        os.close(fd)
        with self._stage("say"):
            for _ in changes(before, self._newest):
                pass


async def _measure(turns: int) -> tuple[dict[str, float], dict[str, list[float]], TableSnapshot]:
    async with asyncio.TaskGroup() as group:
        line = _Line(group)
        snapshot = facts()
        line.take(snapshot)
        first = {stage: found.pop() for stage, found in line.cpu_ms.items()}
        for turn in range(turns):
            snapshot = moved(snapshot, turn)
            line.take(snapshot)
    return first, line.cpu_ms, line._newest


def run(turns: int = _TURNS) -> str:
    """Return the table."""
    first, found, _ = asyncio.run(_measure(turns))
    lines = [
        [stage, f"{first[stage]:.1f}", f"{statistics.median(some):.2f}", f"{max(some):.2f}"]
        for stage, some in found.items()
    ]
    sums = [sum(stages) for stages in zip(*found.values(), strict=True)]
    lines.append(["all", f"{sum(first.values()):.1f}", f"{statistics.median(sums):.2f}", f"{max(sums):.2f}"])
    titles = ["stage", "first table ms", "one change ms", "the dearest ms"]
    return f"change: {ENDPOINTS} endpoints in {SERVICES} services\n{table(titles, lines)}"


def main(say: Callable[[str], None] = print) -> None:
    """Print the table."""
    say(run())


if __name__ == "__main__":
    main()
