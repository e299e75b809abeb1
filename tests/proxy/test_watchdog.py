"""A worker whose loop stands still is found, and nobody else is taken for one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.link import scoreboard as sb
from proxy.link.scoreboard import Scoreboard
from proxy.settings import Timeouts
from proxy.watchdog import LOOK_S, Watchdog
from proxy.worker.heartbeat import Heartbeat
from tests.kit.anyport import Anyport
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.wire import Wire, request
from tests.kit.workers import wait_for

_PID = 4711
_LIMIT_S = Timeouts().stall_restart_s


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    made = Scoreboard.create(2)
    yield made
    os.close(made.fd)


class _Bench:
    """A watchdog that looks as often as the supervisor does, on a clock of the test's."""

    def __init__(self, board: Scoreboard) -> None:
        self.board = board
        self.now_s = 1_000.0
        self.watchdog = Watchdog(board, self.now_s)
        self.hearts = [Heartbeat(board.head(row), self.now_s) for row in range(2)]

    def begin(self, row: int, pid: int = _PID) -> None:
        self.board.begin(row, pid)

    def beat(self, *rows: int) -> None:
        for row in rows:
            self.hearts[row].beat(self.now_s, 0.0, Timeouts())

    def look(self, after_s: float = LOOK_S) -> dict[int, float]:
        self.now_s += after_s
        return self.watchdog.look(self.now_s, {0: _PID, 1: _PID})


def test_a_worker_that_stands_still_is_found_and_the_other_is_not(board: Scoreboard) -> None:
    bench = _Bench(board)
    for row in (0, 1):
        bench.begin(row)
    bench.beat(0, 1)
    for _ in range(round(_LIMIT_S / LOOK_S)):
        assert bench.look() == {}
        bench.beat(1)
    assert bench.look() == {0: 0.0}
    bench.beat(1)
    assert bench.look() == {0: LOOK_S}
    bench.beat(0, 1)
    assert bench.look() == {}


def test_one_that_is_still_starting_may_take_its_time(board: Scoreboard) -> None:
    """Or a slow machine would never get it up: killed, started again, killed."""
    bench = _Bench(board)
    bench.begin(0, pid=_PID - 1)  # the row is still that of its predecessor, who was killed
    bench.beat(0)
    for _ in range(100):
        assert bench.look() == {}
    bench.begin(0)
    for _ in range(100):
        assert bench.look() == {}


def test_after_a_machine_was_suspended_everybody_gets_another_chance(board: Scoreboard) -> None:
    bench = _Bench(board)
    for row in (0, 1):
        bench.begin(row)
    bench.beat(0, 1)
    assert bench.look() == {}
    for _ in range(3):
        assert bench.look(after_s=3_600.0) == {}
        bench.beat(0, 1)


def test_stalls_are_counted_and_the_longest_is_shown_for_a_while(board: Scoreboard) -> None:
    head = board.head(0)
    heart = Heartbeat(head, 0.0)
    heart.beat(1.0, 0.05, Timeouts())
    assert (head[sb.STALLS], head[sb.LOOP_LAG_MAX_US]) == (0, 50_000)
    heart.beat(2.0, 0.3, Timeouts())
    heart.beat(3.0, 0.0, Timeouts())
    assert (head[sb.STALLS], head[sb.LOOP_LAG_MAX_US]) == (1, 300_000)
    heart.beat(17.0, 0.0, Timeouts())
    assert head[sb.LOOP_LAG_MAX_US] == 300_000, "a scrape every 15 s sees it"
    heart.beat(33.0, 0.0, Timeouts())
    assert (head[sb.STALLS], head[sb.LOOP_LAG_MAX_US]) == (1, 0)


# The whole, with real processes

_BLOCKING = """
import signal, sys, time
def stand_still_here(*_):
    time.sleep(600)
if "proxy.worker" in sys.orig_argv:
    signal.signal(signal.SIGWINCH, stand_still_here)
"""


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGWINCH])
def test_a_stalled_worker_is_started_again_with_its_stack_in_the_log(
    tmp_path: Path, how: signal.Signals
) -> None:
    """SIGSTOP: the process does not run at all. SIGWINCH: code that does not return, put in from outside."""
    (tmp_path / "sitecustomize.py").write_text(_BLOCKING)
    environ = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    with ScriptedBackend(answering()) as backend:
        config = (
            f'[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:{backend.port}"]\n'
            '[service.health]\nkind = "none"\n[timeouts]\nstall_restart_s = 1.0\n'
        )
        with Anyport(tmp_path, config, workers=1, environ=environ) as anyport:
            anyport.wait_ready()
            stalled = anyport.children()["worker 0"]
            os.kill(stalled, how)
            # A handler written in Python runs with the next Python code, at the latest with the next tick.
            until_s = time.monotonic() + 0.6
            wait_for(lambda: time.monotonic() > until_s, "it stands still")
            with Wire.connect(anyport.port) as waiting:
                waiting.send(request("/waited"))
                assert waiting.read_response().body == b"/waited"
            assert anyport.children()["worker 0"] != stalled
            wait_for(lambda: 'anyport_worker_stalls_total{worker="0"} ' in anyport.metrics(), "metrics")
            assert 'anyport_worker_stalls_total{worker="0"} 0.0' not in anyport.metrics()
            assert "worker 0 stands still" in anyport.log
            assert "worker 0 was killed by SIGKILL" in anyport.log
            if how == signal.SIGWINCH:
                assert "stand_still_here" in anyport.log, "the stack says where"


def test_a_short_stall_is_only_counted(tmp_path: Path) -> None:
    with ScriptedBackend(answering()) as backend:
        config = (
            f'[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:{backend.port}"]\n'
            '[service.health]\nkind = "none"\n[timeouts]\nstall_restart_s = 60.0\n'
        )
        with Anyport(tmp_path, config, workers=1) as anyport:
            anyport.wait_ready()
            worker = anyport.children()["worker 0"]
            before = _stalls(anyport)
            os.kill(worker, signal.SIGSTOP)
            until_s = time.monotonic() + 0.6  # longer than a tick and 100 ms
            wait_for(lambda: time.monotonic() > until_s, "the stall")
            os.kill(worker, signal.SIGCONT)
            wait_for(lambda: _stalls(anyport) > before, "it is counted")
            assert anyport.children()["worker 0"] == worker


def _stalls(anyport: Anyport) -> float:
    line = next(
        line for line in anyport.metrics().splitlines() if line.startswith("anyport_worker_stalls_total{")
    )
    return float(line.rpartition(" ")[2])
