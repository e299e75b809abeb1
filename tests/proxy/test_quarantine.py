"""The whole of anyport with a table that kills each worker that takes it: one dies, and nobody notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.anyport import Anyport
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.wire import Truncated, Wire, request
from tests.kit.workers import wait_for

# In each worker: a table that has the service "poison" ends the process in the middle of taking it.
_FATAL = """
import os, sys
if "proxy.worker" in sys.orig_argv:
    from proxy.link import snapshots
    real = snapshots._service
    def service(raw):
        if raw["name"] == "poison":
            os.kill(os.getpid(), 9)
        return real(raw)
    snapshots._service = service
"""


def _service(name: str, port: int) -> str:
    return (
        f'[[service]]\nname = "{name}"\nhosts = ["{name}.test"]\nstatic = ["127.0.0.1:{port}"]\n'
        '[service.health]\nkind = "none"\n'
    )


@contextmanager
def _asking(port: int) -> Iterator[Callable[[], int]]:
    """Ask for the good service all the time, each on a connection of its own; yield how many were answered.

    One at a time: so the worker that dies can take one with it, and whoever asked asks again.
    """
    stop, answered, lost, wrong = threading.Event(), [0], list[str](), list[bytes]()

    def ask() -> None:
        while not stop.is_set():
            path = f"/{answered[0]}"
            try:
                with Wire.connect(port) as wire:
                    wire.send(request(path, host="good.test"))
                    body = wire.read_response().body
            except (OSError, Truncated):
                lost.append(path)
                continue
            if body != path.encode():
                wrong.append(body)
            answered[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield lambda: answered[0]
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert len(lost) <= 1


def _metric(anyport: Anyport, name: str) -> float:
    line = next(line for line in anyport.metrics().splitlines() if line.startswith(f"{name} "))
    return float(line.rpartition(" ")[2])


def _configure(anyport: Anyport, before: str, *services: str) -> None:
    anyport.config.write_text(before + "".join(services))
    os.kill(anyport.children()["control"], signal.SIGHUP)


def test_a_table_that_kills_workers_costs_one_worker_and_no_service(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_FATAL)
    environ = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    with ScriptedBackend(answering()) as backend:
        good, poison, new = (_service(name, backend.port) for name in ("good", "poison", "new"))
        with Anyport(tmp_path, good, environ=environ) as anyport:
            before = anyport.config.read_text().removesuffix(good)
            anyport.wait_ready()
            first = anyport.children()
            with _asking(anyport.port) as answered:
                wait_for(lambda: answered() > 20, "requests")
                _configure(anyport, before, good, poison)
                wait_for(lambda: bool(anyport.readyz()["table"]["quarantine"]), "it is in quarantine")
                wait_for(lambda: len(anyport.children()) == 3, "another worker is started")
                wait_for(anyport.ready, "ready, with the table before")
                since = answered()
                wait_for(lambda: answered() > since + 50, "requests after it")

                assert sum(first[name] != pid for name, pid in anyport.children().items()) == 1
                assert {row["service"] for row in anyport.table()} == {"good"}
                assert _metric(anyport, "anyport_snapshots_quarantined_total") == 1
                assert _metric(anyport, "anyport_table_quarantined") == 1
                assert "is not used: worker" in anyport.log
                assert "died while it took it" in anyport.readyz()["table"]["quarantine"]
                assert "died while it took it" in _status(anyport)

                _configure(anyport, before, good, new)
                wait_for(lambda: {row["service"] for row in anyport.table()} == {"good", "new"}, "the next")
                wait_for(lambda: anyport.readyz()["table"]["quarantine"] == "", "no quarantine", 20)
                assert _metric(anyport, "anyport_table_quarantined") == 0
            with Wire.connect(anyport.port) as wire:
                wire.send(request("/new", host="new.test"))
                assert wire.read_response().body == b"/new"
            assert sum(first[name] != pid for name, pid in anyport.children().items()) == 1


def _status(anyport: Anyport) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "proxy", "status", "--url", f"http://127.0.0.1:{anyport.admin_port}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return found.stdout
