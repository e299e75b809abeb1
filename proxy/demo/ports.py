"""Which fixed ports the demo uses: the documented ones where they are free, else what the kernel gives."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

ADDRESS: Final = "127.0.0.1"  # a demo is nobody else's business
_METRICS_PORT: Final = 9180
_ADMIN_PORT: Final = 9181


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where anyport listens during the demo."""

    listener: int
    metrics: int
    admin: int
    notes: tuple[str, ...] = ()  # which wishes could not be met


def choose(listener: int) -> Ports:
    """Return *listener* and the default metrics and admin ports, each replaced if it is taken."""
    notes: list[str] = []
    taken: set[int] = set()

    def pick(what: str, wish: int) -> int:
        port = wish if wish and wish not in taken and _is_free(wish) else _any_free(taken)
        if wish and port != wish:
            notes.append(f"port {wish} ({what}) is in use on {ADDRESS}, so this demo uses {port}")
        taken.add(port)
        return port

    return Ports(
        listener=pick("the fixed port", listener),
        metrics=pick("metrics", _METRICS_PORT),
        admin=pick("admin", _ADMIN_PORT),
        notes=tuple(notes),
    )


def are_free(ports: Ports) -> bool:
    """Return whether all of *ports* could be listened on now."""
    return all(map(_is_free, (ports.listener, ports.metrics, ports.admin)))


def _is_free(port: int) -> bool:
    # Both must be free: a listener on 0.0.0.0 is a rival for the loopback address too.
    return all(_can_bind(address, port) for address in (ADDRESS, "0.0.0.0"))


def _can_bind(address: str, port: int) -> bool:
    # Without SO_REUSEPORT: another anyport of the same user would else share its port with us.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def _any_free(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((ADDRESS, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
