"""Clients that never stop asking, for tests in which nobody may notice anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.kit.wire import Truncated, Wire, request


@dataclass
class Tally:
    """What the clients have seen."""

    answered: int = 0
    connections: int = 0
    failures: list[str] = field(default_factory=list)  # refused, reset, cut short, or not a 200


class _Client(threading.Thread):
    def __init__(self, port: int, tally: Tally, stop: threading.Event, *, keep: bool, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._tally = tally
        self._stopping = stop
        self._keep = keep
        self._pause_s = pause_s

    def run(self) -> None:
        while not self._stopping.is_set():
            step = "connect"
            try:
                with Wire.connect(self._port) as wire:
                    wire.keep_received = False
                    self._tally.connections += 1
                    again, asked = True, 0
                    while again and not self._stopping.is_set():
                        step = f"request {asked}"
                        wire.send(request(f"/{asked}"))
                        answer = wire.read_response()
                        asked += 1
                        if answer.status != 200:
                            self._tally.failures.append(f"{step}: {answer.raw_head!r}")
                        self._tally.answered += 1
                        again = self._keep and answer.get("connection") != b"close"
                        if self._pause_s:
                            self._stopping.wait(self._pause_s)
            except (OSError, Truncated) as exc:
                self._tally.failures.append(f"{step}: {exc!r}")


@contextmanager
def traffic(port: int, *, steady: int = 4, paused: int = 4, single: int = 2) -> Iterator[Tally]:
    """Ask *port* for the length of the context.

    *steady* clients ask without a pause on a kept connection, *paused* ones now and then, *single*
    ones open a connection for each request.
    """
    tally, stop = Tally(), threading.Event()
    clients = [
        *(_Client(port, tally, stop, keep=True, pause_s=0.0) for _ in range(steady)),
        *(_Client(port, tally, stop, keep=True, pause_s=0.05) for _ in range(paused)),
        *(_Client(port, tally, stop, keep=False, pause_s=0.002) for _ in range(single)),
    ]
    for client in clients:
        client.start()
    try:
        yield tally
    finally:
        stop.set()
        for client in clients:
            client.join(20)
