"""How a worker ends: announce it, stop accepting without losing anybody, finish, say goodbye, leave."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from proxy.link import scoreboard as sb
from proxy.link.sockets import stop_handshakes
from proxy.worker.http1.downstream import ClientConnection
from proxy.worker.http1.tunnel import Tunnel
from proxy.worker.state import WorkerState

_HANDSHAKE_S: Final = 0.25  # what a handshake under way may still take: one round trip
_STEP_S: Final = 0.02  # between two looks at what is still open
_LAST_WORDS_S: Final = 0.05  # for the answers that the end itself makes
_ANSWER_SHARE: Final = 0.2  # of the window is left for the answer to the last goodbye


class Acceptor(Protocol):
    """What takes connections from a listening socket."""

    def close(self) -> None: ...


class Ending:
    """What this worker has been told about its end."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._terminated = False
        self.stop_accepting = asyncio.Event()
        self.at_once = False  # nobody wants to wait any more
        self.handed_over = False  # a successor accepts on the same sockets

    def terminate(self) -> None:
        """SIGTERM; the second one means at once."""
        if self._terminated:
            self.hurry()
        self._terminated = True
        self.begun.set()

    def hand_over(self) -> None:
        """A successor has the sockets: leave new connections to it."""
        self.handed_over = True
        self.stop_accepting.set()
        self.begun.set()

    def hurry(self) -> None:
        self.at_once = True
        self.stop_accepting.set()
        self.begun.set()


async def drain(
    state: WorkerState,
    ending: Ending,
    acceptors: Iterable[Acceptor],
    sockets: Sequence[socket.socket],
    *,
    held: bool,
) -> None:
    """Return once nothing is open any more, or the drain time is over.

    *held*: somebody outside keeps the sockets and will start the next anyport, so their queues may fill.
    """
    timeouts = state.settings.timeouts
    begun_s = state.loop.time()
    until_s = begun_s + timeouts.drain_s
    state.draining = True
    state.head[sb.DRAINING] = 1
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeouts.lb_drain_s):
            await ending.stop_accepting.wait()
    if not (ending.handed_over or ending.at_once or held):
        await _empty_queues(sockets, ending, state.loop, until_s)
    for acceptor in acceptors:
        acceptor.close()
    if not ending.handed_over:
        close_idle(state)  # else they stay: their next request may be on its way, and nobody is in a hurry
    await _finish(state, ending, until_s)
    if ending.handed_over:
        close_idle(state)
    abort_all(state)
    await asyncio.sleep(_LAST_WORDS_S)


def close_idle(state: WorkerState) -> None:
    """Close the connections that wait for a request."""
    for client in list(state.clients):
        if isinstance(client, ClientConnection):
            client.drain()


def abort_all(state: WorkerState) -> None:
    for item in list(state.watched):
        with contextlib.suppress(OSError):
            item.abort()


async def _empty_queues(
    sockets: Sequence[socket.socket], ending: Ending, loop: asyncio.AbstractEventLoop, until_s: float
) -> None:
    """Have everybody accepted who has connected, or is about to: closing now would reset them."""
    for sock in sockets:
        stop_handshakes(sock)
    calm_s = loop.time() + _HANDSHAKE_S
    while not ending.at_once and loop.time() < until_s:
        await asyncio.sleep(_STEP_S)
        if loop.time() >= calm_s and not _waiting(sockets):
            return


def _waiting(sockets: Sequence[socket.socket]) -> bool:
    """Return whether a connection is in the queue of one of *sockets*."""
    poll = select.poll()
    for sock in sockets:
        poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _finish(state: WorkerState, ending: Ending, until_s: float) -> None:
    """Wait for the exchanges under way; close the WebSockets, one after the other over the window."""
    start_s = state.loop.time()
    window_s = (until_s - start_s) * (1 - _ANSWER_SHARE)
    told = 0
    while state.clients and not ending.at_once and (now_s := state.loop.time()) < until_s:
        waiting = [item for item in state.clients if isinstance(item, Tunnel) and item.may_be_told]
        passed = min(1.0, (now_s - start_s) / window_s) if window_s > 0 else 1.0
        due = goodbyes_due(passed, told, len(waiting))
        for tunnel in waiting[:due]:
            tunnel.say_goodbye()
        told += due
        await asyncio.sleep(_STEP_S)


def goodbyes_due(passed: float, told: int, waiting: int) -> int:
    """Return how many of the *waiting* to tell now, when the share *passed* of the window is over.

    The first at once, the last well before the end; those who leave unasked, or come late, are
    counted as they are found, so the pace is even whatever happens.
    """
    if not waiting:
        return 0
    return max(0, min(waiting, int(passed * (told + waiting)) + 1 - told))
