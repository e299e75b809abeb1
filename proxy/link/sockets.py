"""Listening sockets: how they are made, which worker serves which, and how one stops without losing a client.

They cross from process to process: from the supervisor to its workers, from a running anyport to its
successor, from systemd to anyport.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

BACKLOG: Final = 4096

# Classic BPF on the TCP header: a SYN is dropped, everything else passes (linux/filter.h).
_NO_NEW_HANDSHAKES: Final = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags
    (0x45, 0, 1, 0x02),  # jset SYN
    (0x06, 0, 0, 0),  # ret 0: drop
    (0x06, 0, 0, 0xFFFF_FFFF),  # ret all: accept
)
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27


@dataclass(slots=True)
class Sockets:
    """All that anyport listens on."""

    listeners: list[list[socket.socket]]  # of each [[listener]]; `shares` says which worker serves which
    metrics: socket.socket
    admin: socket.socket
    held: bool = False  # somebody outside (systemd) keeps the listeners for the next anyport

    def all(self) -> list[socket.socket]:
        return [*(sock for group in self.listeners for sock in group), self.metrics, self.admin]


def listen(host: str, port: int, *, reuse_port: bool = False, backlog: int = BACKLOG) -> socket.socket:
    """Return a socket that listens on (host, port)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Else [::] would take IPv4 too, under addresses that fit no network of `trusted_proxies`.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def bind(host: str, port: int, workers: int) -> list[socket.socket]:
    """Return one listening socket for each worker; `OSError` if the address cannot be had.

    Each worker has its own socket (SO_REUSEPORT), so the kernel spreads connections without a lock
    and a dead worker's queue waits for its successor. Port 0 is chosen once and shared.
    """
    # SO_REUSEPORT would let us share the port with another anyport without a word: ask first.
    with listen(host, port) as probe:
        chosen: int = probe.getsockname()[1]
    return more([], host, chosen, workers)


def more(have: Sequence[socket.socket], host: str, port: int, workers: int) -> list[socket.socket]:
    """Return *have* and as many further sockets on (host, port) as make one for each worker."""
    made = list(have)
    try:
        while len(made) < workers:
            made.append(listen(host, port, reuse_port=True))
    except BaseException:
        for sock in made[len(have) :]:
            sock.close()
        raise
    return made


def shares(sockets: Sequence[socket.socket], workers: int) -> list[list[socket.socket]]:
    """Return, per worker, which of the *sockets* of one address it serves; none is left to nobody.

    One each. Where there are fewer, several workers serve the same one. Where there are more (an
    upgrade to fewer workers), all serve what is over, so that the load stays even.
    """
    return [[sockets[row % len(sockets)], *sockets[workers:]] for row in range(workers)]


def stop_handshakes(sock: socket.socket) -> None:
    """Let nobody new begin to connect; whose handshake is under way or done still gets in.

    Closing at once would reset everyone in the accept queue. A SYN that is dropped is sent again
    after a second, and then refused, or taken by whoever listens there by then.
    """
    code = array("B", b"".join(struct.pack("HBBI", *line) for line in _NO_NEW_HANDSHAKES))
    program = struct.pack("HP", len(_NO_NEW_HANDSHAKES), code.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def allow_handshakes(sock: socket.socket) -> None:
    """Undo `stop_handshakes`, if somebody has done that."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
