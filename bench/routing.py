"""What it costs a worker to find the service of a request and pick a task, by how many there are.

In process, with the worker's own code, the best of many runs: whatever is more comes from the machine.
Once in a row, where a small table never leaves the nearest caches, and once with half a megabyte moved
between two requests, as the rest of a request and the kernel do in a worker.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Final

from bench.harness import table
from proxy.link.cells import Cells
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot, by_service
from proxy.policy.backends import Table
from proxy.policy.balancing import pick

_BACKENDS: Final = (10, 1_000, 10_000)
_SERVICES: Final = (1, 100, 1_000)
_REQUESTS: Final = 500
_BEST_OF: Final = 60
_MOVED: Final = bytearray(512 * 1024)

Requests = list[tuple[bytes, bytes]]


def run() -> str:
    """Return the table."""
    gc.collect()
    cells = {(b, s): _cell(b, s) for b in _BACKENDS for s in _SERVICES}
    ways: dict[str, Callable[[Requests, Table], float]] = {"in a row": _in_a_row, "as in a worker": _apart}
    lines = []
    for way, ask in ways.items():
        best_ns = dict.fromkeys(cells, float("inf"))
        for _ in range(_BEST_OF):  # interleaved, as everywhere
            for key, (requests, routes) in cells.items():
                best_ns[key] = min(best_ns[key], ask(requests, routes))
        for b in _BACKENDS:
            shown = (f"{best_ns[b, s]:.0f} ({best_ns[b, s] / best_ns[10, 1]:.2f})" for s in _SERVICES)
            lines.append([way, f"{b}", *shown])
    titles = ["requests", "backends", *(f"in {s} service{'s' * (s > 1)}" for s in _SERVICES)]
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
        by_service=by_service(
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


def _cell(backends: int, services: int) -> tuple[Requests, Table]:
    board = Scoreboard.create(1)
    routes = Table(lambda slot: Cells(board.begin_block(0, slot)))
    routes.apply(world(backends, services))
    chosen = random.Random(backends * services)
    names = [f"service-{chosen.randrange(min(services, backends))}.example.com" for _ in range(_REQUESTS)]
    return [(name.encode(), b"/orders/17?page=3") for name in names], routes


def _in_a_row(requests: Requests, routes: Table) -> float:
    """Return what one request took, in nanoseconds."""
    find, chance = routes.router.find, random.random
    begun_ns = time.perf_counter_ns()
    for host, path in requests:
        service = find(host, path)
        assert service is not None
        pick(service.eligible, 0.0, chance)
    return (time.perf_counter_ns() - begun_ns) / len(requests)


def _apart(requests: Requests, routes: Table) -> float:
    """Return the same with other work between two requests, which is not counted."""
    find, chance, clock_ns = routes.router.find, random.random, time.perf_counter_ns
    taken_ns = []
    for host, path in requests:
        bytes(_MOVED)
        begun_ns = clock_ns()
        service = find(host, path)
        assert service is not None
        pick(service.eligible, 0.0, chance)
        taken_ns.append(clock_ns() - begun_ns)
    return statistics.median(taken_ns)
