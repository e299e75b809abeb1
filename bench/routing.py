"""What it costs a worker to find the service of a request and pick a task, by how many there are.

In process, with the worker's own code. The best of many runs: whatever is more comes from the machine.
"""

from __future__ import annotations

import gc
import random
import time
from typing import Final

from bench.harness import table
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot
from proxy.policy.backends import Table
from proxy.policy.balancing import pick

_BACKENDS: Final = (10, 1_000, 10_000)
_SERVICES: Final = (1, 100, 1_000)
_REQUESTS: Final = 2_000
_BEST_OF: Final = 60


def run() -> str:
    """Return the table."""
    gc.collect()
    cells = {(b, s): _cell(b, s) for b in _BACKENDS for s in _SERVICES}
    for _ in range(_BEST_OF):  # interleaved, as everywhere
        for key, (requests, found, so_far_ns) in cells.items():
            cells[key] = requests, found, min(so_far_ns, _ask(requests, found))
    best_ns = {key: ns for key, (_, _, ns) in cells.items()}
    lines = [
        [f"{b}", *(f"{best_ns[b, s]:.0f} ({best_ns[b, s] / best_ns[10, 1]:.2f})" for s in _SERVICES)]
        for b in _BACKENDS
    ]
    titles = ["backends", *(f"in {s} service{'s' * (s > 1)}" for s in _SERVICES)]
    return "routing: ns to route and pick, and the ratio to the first cell\n" + table(titles, lines)


def world(backends: int, services: int, revision: int = 1) -> TableSnapshot:
    """Return a table of *backends* spread over *services*, each with a host of its own."""
    return TableSnapshot(
        revision=revision,
        loaded=True,
        services=tuple(
            ServiceRow(name=f"service-{n}", slot=n + 1, hosts=(f"service-{n}.example.com",), path="/")
            for n in range(services)
        ),
        backends=tuple(
            BackendRow(
                service=f"service-{n % services}",
                task_arn=f"arn:aws:ecs:eu-central-1:111122223333:task/production/{n:032x}",
                container="app",
                container_port=8080,
                host=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
                port=32768 + n % 20_000,
                healthy=True,
                draining=False,
                zone="eu-central-1a",
                instance=f"i-{n % 500:017x}",
                release="ecs-svc/1234567890123456789",
                started_at=1.7e9 + n,
            )
            for n in range(backends)
        ),
    )


_Cell = tuple[list[tuple[bytes, bytes]], Table, float]


def _cell(backends: int, services: int) -> _Cell:
    board = Scoreboard.create(1)
    routes = Table(lambda slot: board.begin_block(0, slot))
    routes.apply(world(backends, services))
    chosen = random.Random(backends * services)
    names = [f"service-{chosen.randrange(min(services, backends))}.example.com" for _ in range(_REQUESTS)]
    return [(name.encode(), b"/orders/17?page=3") for name in names], routes, float("inf")


def _ask(requests: list[tuple[bytes, bytes]], routes: Table) -> float:
    """Return what one request took, in nanoseconds."""
    find, chance = routes.router.find, random.random
    begun_ns = time.perf_counter_ns()
    for host, path in requests:
        service = find(host, path)
        assert service is not None
        pick(service.eligible, 0.0, chance)
    return (time.perf_counter_ns() - begun_ns) / len(requests)
