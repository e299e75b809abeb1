"""The oracle, 100,000 times: whatever goes wrong, what an error says about delivery is true.

Tasks that refuse, reset, close, lie and vanish, tables that change under the requests, and backends that
note a request at its first byte.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import uvloop

from proxy.errors import BY_REASON
from proxy.link import scoreboard as sb
from proxy.link.snapshots import BackendRow
from tests.kit.backends import refused_port
from tests.kit.stage import Stage, settings
from tests.kit.swarm import Plan, Record, Slammer, Swarm, SwarmBackend
from tests.kit.workers import backend, service, wait_for

REQUESTS = 100_000
CONNECTIONS = 200
SERVICES = 12
FIRST_SLOT = 400  # of the scoreboard: out of the way of the other tests' services
PUBLISH_EVERY = 2_500  # requests

_METHODS = (b"GET",) * 6 + (b"POST",) * 4 + (b"HEAD", b"PUT", b"DELETE", b"PATCH")
_ACTS = ("ok",) * 4 + (
    "chunked", "close", "stale", "rst0", "rst", "fin", "cut", "half", "garbage", "extra", "s500",
)  # fmt: skip
_ONCE = (b"POST", b"PATCH")


def _plans(rng: random.Random) -> Iterator[list[Plan]]:
    for number in range(REQUESTS):
        script = ",".join(rng.choice(_ACTS) for _ in range(3)).encode()
        plan = Plan(b"c%07d" % number, rng.choice(_METHODS), script)
        plan.host = b"h%d.test" % rng.randrange(SERVICES + 1)  # the last is nobody's
        if plan.method in (b"POST", b"PUT", b"PATCH"):
            plan.framing = rng.choice(("length", "chunked"))
        plan.abort = rng.random() < 0.02
        plan.close = rng.random() < 0.1
        yield [plan]


def _table(rng: random.Random, live: list[int], slammer: int, dead: list[int]) -> list[BackendRow]:
    """Return rows of tasks nobody has seen before: some live, some that reset, some that refuse, some not
    to be used, and for some services none at all."""
    rows = []
    for number in range(SERVICES):
        ports = rng.sample(live, rng.choice((0, 1, 1, 2))) + rng.sample(dead, rng.choice((0, 1, 2, 3)))
        ports += [slammer] * (rng.random() < 0.15)
        rows += [
            backend(
                port,
                of=f"s{number}",
                task=f"arn:aws:ecs:eu-west-1:111122223333:task/test/{rng.getrandbits(128):032x}",
                healthy=rng.random() < 0.85,
                draining=rng.random() < 0.1,
            )
            for port in ports
        ]
    return rows


class _Oracle:
    """Judges each plan by what the backends have seen."""

    def __init__(self, record: Record) -> None:
        self.seen = record.seen
        self.wrong: list[str] = []
        self.kinds: Counter[str] = Counter()

    def __call__(self, plan: Plan) -> None:
        fault = self._fault(plan, self.seen[plan.canary])
        if fault:
            self.wrong.append(f"{fault}: {plan}, {self.seen[plan.canary]} arrived")

    def _fault(self, plan: Plan, arrived: int) -> str:
        if plan.wrong:
            return plan.wrong
        if arrived > (1 if plan.method in _ONCE else 2):
            return "repeated too often"
        if not plan.whole:
            self.kinds["gone" if plan.abort else "cut"] += 1
            return "" if plan.abort or arrived else "cut, and yet it reached nobody"
        if plan.error is None:
            self.kinds["answered"] += 1
            return "" if arrived else "answered by nobody"
        code, word, delivered = plan.error
        self.kinds[word] += 1
        known = BY_REASON.get(word)
        if known is None or known.code != code or known.status != plan.status:
            return "not a row of the table"
        if arrived and not delivered:
            return "it says it was not delivered"
        if plan.status == 503 and (arrived or delivered):
            return "503 and delivered"
        if plan.status in (502, 504) and not delivered:
            return "502 or 504 without delivery"
        return ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_error_lies_about_delivery(stage: Stage) -> None:
    """Vocabulary tests (b) and (c): over 100,000 fault sequences no 503 has a byte at any backend, no
    delivered=no is wrong, every word is one of the table, P01 does not occur, and no address leaves."""
    rng = random.Random(9)
    record = Record()
    oracle = _Oracle(record)
    worker = stage.worker
    services = [service(f"s{i}", slot=FIRST_SLOT + i, hosts=(f"h{i}.test",)) for i in range(SERVICES)]
    internal = worker.failures("internal", sb.NO_SERVICE)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(lambda: SwarmBackend(record), "127.0.0.1", 0, backlog=1024)
            for _ in range(4)
        ]
        slammer = await loop.create_server(Slammer, "127.0.0.1", 0, backlog=1024)
        ports = [server.sockets[0].getsockname()[1] for server in (*servers, slammer)]
        dead = [refused_port() for _ in range(4)]
        worker.settings = settings(budget_percent=40.0, budget_minimum=500)

        def plans() -> Iterator[list[Plan]]:
            for number, batch in enumerate(_plans(rng)):
                if number % PUBLISH_EVERY == 0:
                    worker.publish(services, _table(rng, ports[:4], ports[4], dead))
                yield batch

        swarm = Swarm(
            worker.port, plans(), oracle, cut=lambda size: size, patience_s=lambda: rng.choice((0, 0.002))
        )
        await swarm.run(CONNECTIONS)
        oracle.wrong.extend(swarm.wrong)
        for server in (*servers, slammer):
            server.close()
        await record.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert not oracle.wrong, (len(oracle.wrong), oracle.wrong[:5])
    assert not record.wrong, (len(record.wrong), record.wrong[:5])
    assert sum(oracle.kinds.values()) == REQUESTS
    wanted = {
        "answered", "cut", "gone", "no_task", "none_ready", "connect_refused", "closed_before_response",
        "stale_connection", "response_malformed", "unknown_service",
    }  # fmt: skip
    assert wanted <= set(oracle.kinds), oracle.kinds
    assert min(oracle.kinds[kind] for kind in wanted) >= 50, oracle.kinds
    slots = [FIRST_SLOT + i for i in range(SERVICES)]
    assert sum(worker.failures("internal", slot) for slot in slots) == 0
    assert worker.failures("internal", sb.NO_SERVICE) == internal == 0
    wait_for(lambda: all(worker.cell(slot, sb.IN_FLIGHT) == 0 for slot in slots), "nothing in flight")
