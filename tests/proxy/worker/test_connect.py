"""Dialling a backend: a connection that can be used, or the reason why there is none."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from proxy.worker.connect import connect, readable
from tests.kit.backends import refused_port
from tests.kit.eventually import eventually
from tests.kit.transports import LOOPS, arrived, connected, reset


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as made:
        yield made


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(8)
        yield sock


class _Meanwhile:
    """A loop in which something happens between the handshake and whoever waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, happen: Callable[[socket.socket], None]) -> None:
        self._loop = loop
        self._happen = happen

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        await self._loop.sock_connect(sock, address)
        self._happen(sock)


async def _dial(port: int, host: str = "127.0.0.1", timeout_s: float = 10.0) -> socket.socket:
    return await connect(asyncio.get_running_loop(), host, port, timeout_s)


async def _dial_while(port: int, happen: Callable[[socket.socket], None]) -> socket.socket:
    loop = _Meanwhile(asyncio.get_running_loop(), happen)
    return await connect(cast(asyncio.AbstractEventLoop, loop), "127.0.0.1", port, 10.0)


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_it_neither_blocks_nor_delays(runner: asyncio.Runner, listening: socket.socket) -> None:
    sock = runner.run(_dial(listening.getsockname()[1]))
    with sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getpeername() == listening.getsockname()
        assert not readable(sock.fileno())


def test_ipv6(runner: asyncio.Runner) -> None:
    with socket.socket(socket.AF_INET6) as listening:
        listening.bind(("::1", 0))
        listening.listen(1)
        with runner.run(_dial(listening.getsockname()[1], "::1")) as sock:
            assert sock.getpeername()[0] == "::1"


def test_refused(runner: asyncio.Runner) -> None:
    with pytest.raises(ConnectionRefusedError):
        runner.run(_dial(refused_port()))


def test_not_in_time(runner: asyncio.Runner) -> None:
    """A full queue swallows what knocks. No descriptor stays."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        with runner.run(_dial(port)):
            before = _descriptors()
            with pytest.raises(TimeoutError):
                runner.run(_dial(port, timeout_s=0.05))
            assert _descriptors() == before


def test_given_up(runner: asyncio.Runner) -> None:
    """A dial that is cancelled leaves no descriptor either."""

    async def give_up(port: int) -> None:
        before = _descriptors()
        dial = asyncio.create_task(_dial(port))
        await eventually(lambda: _descriptors() != before)
        dial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dial
        await eventually(lambda: _descriptors() <= before)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        with runner.run(_dial(port)):
            runner.run(give_up(port))


def test_a_connection_to_itself_is_none(runner: asyncio.Runner) -> None:
    """TCP can open from both sides at once, and both may be one: nobody listens there."""
    port = refused_port()

    class Bound:
        async def sock_connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
            sock.bind(address)
            await asyncio.get_running_loop().sock_connect(sock, address)

    async def dial() -> socket.socket:
        return await connect(cast(asyncio.AbstractEventLoop, Bound()), "127.0.0.1", port, 10.0)

    with pytest.raises(ConnectionRefusedError):
        runner.run(dial())


def test_the_same_port_elsewhere_is_not_itself(runner: asyncio.Runner, listening: socket.socket) -> None:
    port = listening.getsockname()[1]

    class Bound:
        async def sock_connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
            sock.bind(("127.0.0.2", port))
            await asyncio.get_running_loop().sock_connect(sock, address)

    async def dial() -> socket.socket:
        return await connect(cast(asyncio.AbstractEventLoop, Bound()), "127.0.0.1", port, 10.0)

    with runner.run(dial()) as sock:
        assert sock.getsockname() == ("127.0.0.2", port)


@pytest.mark.parametrize("how", ["reset", "fin", "word"])
def test_a_backend_that_does_not_wait_for_a_request(
    runner: asyncio.Runner, listening: socket.socket, how: str
) -> None:
    """It would not take what it is sent for a request: it has closed, or thinks that it is to speak first."""

    def happen(sock: socket.socket) -> None:
        far = listening.accept()[0]
        if how == "reset":
            reset(far)
        elif how == "fin":
            far.close()
        else:
            far.send(b"220 mail.test ESMTP\r\n")
        arrived(sock.fileno(), select.POLLIN | select.POLLRDHUP)
        far.close()

    with pytest.raises(ConnectionResetError):
        runner.run(_dial_while(listening.getsockname()[1], happen))


def test_any_other_reason_stays_what_it_is(runner: asyncio.Runner) -> None:
    """The pool tells apart what is the backend's and what is ours."""

    def happen(_: socket.socket) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "no port is left")

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        with pytest.raises(OSError, match="no port is left") as raised:
            runner.run(_dial_while(listening.getsockname()[1], happen))
        assert raised.value.errno == errno.EADDRNOTAVAIL


def test_readable() -> None:
    near, far = connected()
    with near:
        assert not readable(near.fileno())
        far.send(b"x")
        arrived(near.fileno())
        assert readable(near.fileno())
        assert near.recv(1) == b"x"
        assert not readable(near.fileno())
        far.close()
        arrived(near.fileno(), select.POLLRDHUP)
        assert readable(near.fileno())
