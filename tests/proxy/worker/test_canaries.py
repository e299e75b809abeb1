"""Invariant I8: whoever asks gets his own answer, whole, or visibly none; 100,000 times at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import uvloop

from proxy.link import scoreboard as sb
from tests.kit.stage import Stage
from tests.kit.swarm import Plan, Record, Swarm, SwarmBackend
from tests.kit.workers import wait_for

REQUESTS = 100_000
CONNECTIONS = 400
BACKENDS = 3

_METHODS = (b"GET",) * 8 + (b"POST",) * 6 + (b"HEAD",) * 2 + (b"PUT", b"DELETE")
# What the backend does, with how many of 100 requests; and what a client may be told of it.
_ACTS = {
    "ok": (36, {200}), "big": (10, {200}), "chunked": (20, {200}), "interim": (5, {200}), "s304": (6, {304}),
    "s204": (5, {204}), "s500": (5, {500}), "close": (3, {200}), "extra": (2, {200}), "garbage": (1, {502}),
    "half": (1, {502}), "fin": (2, {502}), "rst": (1, {502}), "cut": (1, {200}), "fin,ok": (2, {200, 502}),
}  # fmt: skip
_WEIGHTS = [weight for weight, _ in _ACTS.values()]


def _batches(rng: random.Random) -> Iterator[list[Plan]]:
    """Yield batches of one to four pipelined requests; what ends a connection comes last in its batch."""
    acts = list(_ACTS)
    number = 0
    while number < REQUESTS:
        batch: list[Plan] = []
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            method = rng.choice(_METHODS)
            act = rng.choices(acts, _WEIGHTS)[0]
            if act in ("cut", "close") and method == b"HEAD":
                act = "ok"  # a head alone is never cut, and nothing says that its connection will close
            plan = Plan(b"c%07d" % number, method, act.encode())
            number += 1
            if method in (b"POST", b"PUT"):
                plan.framing = rng.choice(("length", "chunked", ""))
            batch.append(plan)
            if rng.random() < 0.06:
                plan.close, plan.old, plan.abort = rng.choice(
                    ((True, False, False), (False, plan.framing != "chunked", False), (False, False, True))
                )
            if act == "cut" or plan.last:
                break
        for plan in batch:  # a client that leaves leaves all of them
            plan.abort = batch[-1].abort
        yield batch


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_everybody_gets_his_own_answer(stage: Stage) -> None:
    """GET, HEAD, POST with either framing, pipelined, kept alive and closed, clients that leave and backends
    that fail: each answer's canary is that of its request, and each request ends as it must."""
    rng = random.Random(8)
    record = Record()
    ends: Counter[str] = Counter()
    wrong: list[str] = []

    def done(plan: Plan) -> None:
        act = plan.script.decode()
        if plan.wrong:
            wrong.append(plan.wrong)
        elif plan.abort:
            ends["abort"] += 1
        elif act == "cut":
            ends["cut"] += 1
            if plan.whole:
                wrong.append(f"a cut answer looked whole: {plan}")
        elif not plan.whole:
            wrong.append(f"no answer: {plan}")
        elif plan.status not in _ACTS[act][1]:
            wrong.append(f"unexpected: {plan}")
        else:
            ends[f"{plan.status}"] += 1

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def backend() -> SwarmBackend:
            return SwarmBackend(record, delay_s=lambda: rng.choice((0, 0, 0, 0.001, 0.01)))

        servers = [await loop.create_server(backend, "127.0.0.1", 0, backlog=1024) for _ in range(BACKENDS)]
        stage.route(*(server.sockets[0].getsockname()[1] for server in servers))
        swarm = Swarm(
            stage.worker.port, _batches(rng), done,
            cut=lambda size: rng.randrange(size) if rng.random() < 0.3 else size,
            patience_s=lambda: rng.choice((0, 0, 0.001, 0.005)),
        )  # fmt: skip
        await swarm.run(CONNECTIONS)
        wrong.extend(swarm.wrong)
        for server in servers:
            server.close()
        await record.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert not wrong, (len(wrong), wrong[:5])
    assert not record.wrong, (len(record.wrong), record.wrong[:5])
    assert sum(ends.values()) >= REQUESTS
    assert set(ends) == {"200", "204", "304", "500", "502", "abort", "cut"}, ends
    assert ends["200"] > 0.6 * REQUESTS, ends
    assert stage.failures("internal") == 0
    assert stage.worker.failures("internal", sb.NO_SERVICE) == 0
    wait_for(stage.settled, "nothing in flight")
