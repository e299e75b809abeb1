"""Upgrades: a successor takes the ports over, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.anyport import Anyport
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.traffic import traffic
from tests.kit.wire import response
from tests.kit.workers import wait_for


@pytest.fixture
def hello() -> Iterator[int]:
    with ScriptedBackend(answering(response(b"hello"))) as backend:
        yield backend.port


def _config(port: int) -> str:
    return (
        f'[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:{port}"]\n'
        '[service.health]\nkind = "none"\n[timeouts]\ndrain_s = 5.0\nlb_drain_s = 0.0\n'
    )


def test_three_upgrades_under_load_are_not_noticed(tmp_path: Path, hello: int) -> None:
    """0 refused, 0 reset, 0 failed, whatever the numbers of workers before and after."""
    environ = {"ANYPORT_HANDOFF": str(tmp_path / "handoff")}
    with ExitStack() as stack:
        running = stack.enter_context(Anyport(tmp_path, _config(hello), workers=2, environ=environ))
        running.wait_ready()
        with traffic(running.port) as tally:
            for number, workers in enumerate((3, 1, 2)):
                wait_for(lambda before=tally.answered: tally.answered > before + 200, "traffic", 30)
                successor = stack.enter_context(
                    running.successor(f"successor-{number}", ANYPORT_WORKERS=str(workers))
                )
                wait_for(lambda: "has taken over" in successor.log, "the take-over", 30)
                assert successor.ready(), "one of the two said not ready"
                assert running.process.wait(30) == 0
                assert len(successor.children()) == workers + 1
                running = successor
            wait_for(lambda before=tally.answered: tally.answered > before + 200, "traffic", 30)

    assert tally.failures == []
