"""How long a table of 10,000 endpoints holds a worker up.

Inside: the longest step between two turns of the loop, with the worker's code in this process. Outside: a
real worker is asked 2,000 times a second for a host that it does not know, so that nothing but its loop is
in the answer, while one table after the other comes; the longest wait stands beside that of a worker that is
left alone.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from bench.harness import Bench, Sample, table
from bench.routing import world
from proxy.link import scoreboard as sb
from proxy.link import snapshots
from proxy.link.cells import Cells
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import Decoder, TableSnapshot, by_service
from proxy.policy.backends import Table
from proxy.steps import Steps
from proxy.worker.garbage import settle
from tests.kit.workers import WorkerProcess, wait_for

_ENDPOINTS: Final = 10_000
_SERVICES: Final = 100
_RATE: Final = 2_000
_TABLES: Final = 8  # sent during one look from outside
_LOOK_S: Final = 4
_QUESTION: Final = b"GET / HTTP/1.1\r\nHost: nobody.example.net\r\n\r\n"


def tables() -> dict[str, tuple[TableSnapshot, TableSnapshot]]:
    """Return pairs of tables to go to and fro between, by what is different."""
    full = world(_ENDPOINTS, _SERVICES)
    sick = [replace(row, healthy=False, reason="health check: timeout after 2 s") for row in full.backends]
    new = [replace(row, task_arn=f"{row.task_arn}0") for row in full.backends]
    return {
        "nothing": (full, full),
        "one endpoint": (full, replace(full, by_service=by_service((sick[0], *full.backends[1:])))),
        "every endpoint": (full, replace(full, by_service=by_service(sick))),
        "every task": (full, replace(full, by_service=by_service(new))),
        "everything": (full, replace(full, by_service={}, services=())),
    }


def run(bench: Bench) -> str:
    """Return the table."""
    pairs = tables()
    settle()
    lines = []
    quiet = _outside(bench, ())
    lines.append(["(no table comes)", "", "", *_cells(quiet)])
    for name, pair in pairs.items():
        inside = list(_inside(pair, bench.rounds))
        longest_ms = statistics.median(max(steps_ms) for steps_ms in inside)
        total_ms = statistics.median(sum(steps_ms) for steps_ms in inside)
        lines.append([name, f"{longest_ms:.2f}", f"{total_ms:.0f}", *_cells(_outside(bench, pair))])
    titles = [
        "what changes",
        "longest step ms",
        "all steps ms",
        "p50 us",
        "p99 us",
        "longest wait ms",
        "loop lag ms",
    ]
    return f"snapshot: {_ENDPOINTS} endpoints in {_SERVICES} services\n{table(titles, lines)}"


def _cells(seen: Sample) -> list[str]:
    waits = f"{seen['p50_us']:.0f}", f"{seen['p99_us']:.0f}", f"{seen['max_us'] / 1000:.2f}"
    return [*waits, f"{seen['lag_us'] / 1000:.2f}"]


def _inside(pair: Sequence[TableSnapshot], rounds: int) -> Iterator[list[float]]:
    board = Scoreboard.create(1)
    decoder, held = Decoder(), Table(lambda slot: Cells(board.begin_block(0, slot)))
    for revision in range(2 * rounds + 1):
        fd = snapshots.seal(snapshots.encode(replace(pair[revision % 2], revision=revision + 1)))
        steps_ms = _timed(_take(decoder, held, fd))
        os.close(fd)
        if revision:  # the first comes before a worker serves anybody
            yield steps_ms


def _take(decoder: Decoder, held: Table, fd: int) -> Steps[None]:
    snapshot = yield from decoder.file(fd)
    yield from held.steps(snapshot, lambda _: None)


def _timed(steps: Steps[None]) -> list[float]:
    taken_ms: list[float] = []
    while True:
        begun_s = time.thread_time()  # of the CPU: nobody else is in it
        try:
            next(steps)
        except StopIteration:
            return taken_ms
        finally:
            taken_ms.append((time.thread_time() - begun_s) * 1000)


def _outside(bench: Bench, pair: Sequence[TableSnapshot]) -> Sample:
    pace = bench.compiled("pace")
    with WorkerProcess() as worker, ThreadPoolExecutor(1) as aside:
        assert worker.process is not None
        if bench.proxy_pin:
            os.sched_setaffinity(worker.process.pid, {int(bench.proxy_pin[-1])})
        first = pair[0] if pair else world(_ENDPOINTS, _SERVICES)
        worker.publish(first.services, first.backends)
        ready = [
            snapshots.seal(snapshots.encode(replace(pair[n % 2], revision=worker.revision + n)))
            for n in range(1, _TABLES + 1 if pair else 1)
        ]
        looking = aside.submit(
            bench.load, pace, str(worker.port), str(_RATE), "4", str(_LOOK_S), given=_QUESTION
        )
        for fd in ready:
            time.sleep(_LOOK_S / (_TABLES + 1))
            worker.revision += 1
            snapshots.send(worker.near, worker.revision, fd)
            os.close(fd)
            wait_for(lambda: worker.head(sb.REVISION) == worker.revision, "the worker takes a table")
        return {**looking.result(), "lag_us": worker.head(sb.LOOP_LAG_MAX_US)}
