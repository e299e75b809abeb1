"""One script against our transport and against uvloop's: the same events, the same bytes for the peer."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.worker.sockets import Poller, Stream
from tests.kit.transports import Recorder, arrived, connected, reset, unacknowledged_bytes

_BUFFER_BYTES: Final = 16 * 1024  # of the kernel, which doubles it
_LITTLE: Final = 1000  # always taken at once, unless the buffer is full
_MUCH: Final = 3 << 20  # never
_MARK_BYTES: Final = 64 * 1024

OURS = ("write", "write much", "write pieces", "write_eof", "close", "abort", "pause", "resume")
THEIRS = ("send", "shutdown", "close it", "reset", "drain")
REACTIONS = ("nothing", "write", "close", "abort", "pause", "write_eof")


@dataclass(frozen=True)
class Script:
    """What is done, step by step, and what the protocol does when it is told something."""

    steps: tuple[str, ...]
    keep_open: bool
    on_data: str
    on_eof: str
    on_resume: str


@dataclass(frozen=True)
class Outcome:
    events: list[str]
    received: bytes
    error: str
    peer_received_bytes: int  # -1: somebody has cut it short, and where is the kernel's affair
    peer_end: str


def _do(protocol: Recorder, what: str, written: bytearray) -> None:
    """Ask its transport for it; a refusal by exception is uvloop's way to ignore what comes too late. What is
    written after `close` uvloop may still send, and we never do: nobody may rely on either."""
    transport = protocol.transport
    with contextlib.suppress(RuntimeError):
        if what.startswith("write") and transport.is_closing():
            pass
        elif what in ("write", "write much", "write pieces"):
            data = bytes([len(written) % 251]) * (_MUCH if what == "write much" else _LITTLE)
            if what == "write pieces":
                transport.writelines([data[:10], data[10:]])
            else:
                transport.write(data)
            written += data
        elif what == "pause":
            transport.pause_reading()
        elif what == "resume":
            transport.resume_reading()
        elif what != "nothing":
            getattr(transport, what)()


class _Peer:
    """The other end of the connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.received = bytearray()
        self.end = ""

    def do(self, what: str, near: socket.socket) -> None:
        """Do it, and wait until the kernel has brought it over; uvloop and we shall find it there."""
        try:
            if what == "send":
                self._sock.send(b"s" * _LITTLE)
                self._wait(near, select.POLLIN)
            elif what == "shutdown":
                self._sock.shutdown(socket.SHUT_WR)
                self._wait(near, select.POLLRDHUP)
            elif what == "close it":
                self._sock.close()
                self._wait(near, select.POLLRDHUP)
            elif what == "reset":
                reset(self._sock)
                self._wait(near, select.POLLRDHUP)
        except OSError:  # it is closed by now, or cannot send
            pass

    @staticmethod
    def _wait(near: socket.socket, events: int) -> None:
        if near.fileno() >= 0:
            arrived(near.fileno(), events)

    def take(self) -> None:
        """Take what is there."""
        try:
            while not self.end:
                data = self._sock.recv(1 << 20)
                self.received += data
                if not data:
                    self.end = "fin"
        except BlockingIOError:
            pass
        except ConnectionError:
            self.end = "reset"
        except OSError:
            self.end = "closed by itself"

    def close(self) -> None:
        self._sock.close()


async def _play(
    script: Script, near: socket.socket, far: socket.socket, protocol: Recorder, written: bytearray
) -> Outcome:
    transport, peer = protocol.transport, _Peer(far)

    async def settle() -> None:
        """Let the loop find what there is to find: all of it is there already."""
        seen, calm = (list(protocol.events), len(protocol.data)), 0
        while calm < 4:
            await asyncio.sleep(0)
            now = (list(protocol.events), len(protocol.data))
            calm = calm + 1 if now == seen else 0
            seen = now

    async def drain() -> None:
        """Take all that the transport has to send."""
        deadline_s = time.monotonic() + 20
        while True:
            peer.take()
            unsent = 0 if protocol.lost else transport.get_write_buffer_size()
            if peer.end or not (unsent or near.fileno() < 0 or unacknowledged_bytes(near)):
                break
            assert time.monotonic() < deadline_s, "it does not drain"
            await asyncio.sleep(0.0005)
        peer.take()
        await settle()

    await settle()
    for step in script.steps:
        if step == "drain":
            await drain()
        elif step in OURS:
            _do(protocol, step, written)
        else:
            peer.do(step, near)
        await settle()
    transport.close()
    await settle()
    deadline_s = time.monotonic() + 20
    while not (protocol.lost and peer.end):
        peer.take()
        assert time.monotonic() < deadline_s, "it does not end"
        await asyncio.sleep(0.0005)
    peer.close()
    assert written.startswith(peer.received)
    whole = protocol.error is None and peer.end == "fin" and "abort" not in vars(script).values()
    whole = whole and "abort" not in script.steps
    return Outcome(
        protocol.events,
        protocol.data,
        _kind(protocol.error),
        len(peer.received) if whole else -1,
        peer.end,
    )


def _kind(error: BaseException | None) -> str:
    return "none" if error is None else "connection" if isinstance(error, ConnectionError) else repr(error)


def _recorder(script: Script, written: bytearray) -> Recorder:
    def reacting(what: str) -> Callable[[Recorder], object]:
        return lambda protocol: _do(protocol, what, written)

    return Recorder(
        keep_open=script.keep_open,
        data=reacting(script.on_data),
        eof=reacting(script.on_eof),
        resume=reacting(script.on_resume),
    )


async def _with_stream(script: Script) -> Outcome:
    near, far = connected(_BUFFER_BYTES)
    poller = Poller(asyncio.get_running_loop())
    written = bytearray()
    protocol = _recorder(script, written)
    Stream(poller, near, protocol).set_write_buffer_limits(_MARK_BYTES, _MARK_BYTES // 4)
    try:
        return await _play(script, near, far, protocol, written)
    finally:
        protocol.transport.abort()
        await asyncio.sleep(0)
        poller.close()
        far.close()


async def _with_uvloop(script: Script) -> Outcome:
    near, far = connected(_BUFFER_BYTES)
    written = bytearray()
    protocol = _recorder(script, written)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
    transport.set_write_buffer_limits(_MARK_BYTES, _MARK_BYTES // 4)
    try:
        return await _play(script, near, far, protocol, written)
    finally:
        transport.abort()
        await asyncio.sleep(0.001)
        far.close()


_scripts = st.builds(
    Script,
    steps=st.lists(st.sampled_from(OURS + THEIRS), max_size=7).map(tuple),
    keep_open=st.booleans(),
    on_data=st.sampled_from(REACTIONS),
    on_eof=st.sampled_from(REACTIONS),
    on_resume=st.sampled_from(REACTIONS),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_scripts)
def test_like_uvloop(script: Script) -> None:
    def run(play: Callable[[Script], Any]) -> Outcome:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome: Outcome = runner.run(play(script))
            return outcome

    assert run(_with_stream) == run(_with_uvloop)
