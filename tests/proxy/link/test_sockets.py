"""Listening sockets: who serves which, and how new handshakes are stopped without losing the old."""

from __future__ import annotations

import select
import socket

import pytest

from proxy.link.sockets import allow_handshakes, bind, close_all, listen, shares, stop_handshakes


def _knock(listener: socket.socket) -> socket.socket:
    """Begin to connect, without waiting for that."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(listener.getsockname())
    return sock


def test_those_who_have_connected_stay_and_nobody_new_comes() -> None:
    with listen("127.0.0.1", 0) as listener, _knock(listener) as early:
        stop_handshakes(listener)
        with _knock(listener) as late:
            accepted, _ = listener.accept()
            with accepted:
                early.setblocking(True)
                early.sendall(b"heard")
                assert accepted.recv(5) == b"heard"
            assert not select.select([listener], [], [], 0.2)[0]
            allow_handshakes(listener)
            assert select.select([listener], [], [], 10)[0], "its second SYN, after a second, is answered"
            assert late.fileno() >= 0


def test_allowing_what_was_never_stopped_changes_nothing() -> None:
    with listen("127.0.0.1", 0) as listener:
        allow_handshakes(listener)
        with _knock(listener):
            assert select.select([listener], [], [], 10)[0]


@pytest.mark.parametrize("have", [1, 2, 3, 5])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_socket_is_served_and_every_worker_serves(have: int, workers: int) -> None:
    """A socket that nobody accepts from would swallow its part of the connections."""
    made = bind("127.0.0.1", 0, have)
    try:
        served = shares(made, workers)
        assert len(served) == workers
        assert {sock for group in served for sock in group} == set(made)
        assert len({len(group) for group in served}) == 1, "evenly"
    finally:
        close_all(made)


def test_a_port_that_another_anyport_has_is_not_shared() -> None:
    made = bind("127.0.0.1", 0, 2)
    try:
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", made[0].getsockname()[1], 2)
    finally:
        close_all(made)
