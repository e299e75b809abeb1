"""A running worker, scripted backends behind it and raw clients before it, with one clean-up for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from typing import Any

from proxy.link import scoreboard as sb
from proxy.settings import Timeouts, WorkerSettings
from tests.kit.backends import Script, ScriptedBackend, answering
from tests.kit.wire import Message, Wire
from tests.kit.workers import WorkerProcess, backend, service, wait_for


def settings(**changes: Any) -> WorkerSettings:
    """Return the defaults with *changes*, each key given without its section (`connect_s=0.2`)."""
    made = WorkerSettings(timeouts=Timeouts(lb_drain_s=0))
    for key, value in changes.items():
        if key in ("trusted_proxies", "listeners"):
            made = replace(made, **{key: value})
            continue
        for section in ("timeouts", "limits", "retries", "access_log"):
            part = getattr(made, section)
            if key in (field.name for field in fields(part)):
                made = replace(made, **{section: replace(part, **{key: value})})
                break
        else:
            raise AssertionError(f"no such setting: {key}")
    return made


class Stage:
    """One test's view of a worker: a service of its own slot, so that its counters start at zero."""

    def __init__(self, worker: WorkerProcess, slot: int, stack: ExitStack) -> None:
        self.worker = worker
        self.slot = slot
        self._stack = stack

    def backend(self, script: Script | None = None, **options: Any) -> ScriptedBackend:
        return self._stack.enter_context(ScriptedBackend(script or answering(), **options))

    def route(self, *backends: ScriptedBackend | int, **changes: Any) -> None:
        """Route every host to *backends* (or ports), with the settings *changes*."""
        self.worker.settings = settings(**changes)
        ports = [b if isinstance(b, int) else b.port for b in backends]
        self.worker.publish([service(slot=self.slot)], [backend(port) for port in ports])

    def serve(self, script: Script | None = None, **changes: Any) -> ScriptedBackend:
        """Route to one new backend and return it."""
        made = self.backend(script)
        self.route(made, **changes)
        return made

    def client(self, **options: Any) -> Wire:
        return self._stack.enter_context(
            Wire.connect(self.worker.port, **{"host": self.worker.host, **options})
        )

    def ask(self, data: bytes, method: str = "GET") -> Message:
        """Send *data* on a new connection and return the response."""
        client = self.client()
        client.send(data)
        return client.read_response(method)

    def cell(self, cell: int) -> int:
        return self.worker.cell(self.slot, cell)

    def failures(self, reason: str) -> int:
        return self.worker.failures(reason, self.slot)

    def settled(self) -> bool:
        """Return whether no exchange of the service is under way."""
        return self.cell(sb.IN_FLIGHT) == 0

    def wait_failure(self, reason: str, count: int = 1) -> None:
        wait_for(lambda: self.failures(reason) == count, f"{count} failures {reason}")


@contextmanager
def staged(worker: WorkerProcess, slot: int) -> Iterator[Stage]:
    """Yield a stage; afterwards everything it opened is closed. A worker that the test has not ended
    itself must still live then."""
    with ExitStack() as stack:
        yield Stage(worker, slot, stack)
    assert worker.process is None or worker.process.poll() is None, "the worker died"


def words(message: Message) -> tuple[str, Sequence[str]]:
    """Return (error word, modifiers) of X-Anyport-Error: ("connect_refused", ["delivered=no", ...])."""
    value = message.get("x-anyport-error")
    assert value is not None, message.raw_head
    word, *rest = value.decode().split("; ")
    return word.split(" ")[1], rest
