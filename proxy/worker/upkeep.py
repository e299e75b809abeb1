"""What a worker sees to every few seconds: options of listening sockets, connections that have grown old."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from proxy.settings import Timeouts
from proxy.worker.http1.downstream import ClientConnection
from proxy.worker.state import WorkerState

_EVERY_S: Final = 5.0


async def keep_up(
    state: WorkerState,
    listening: Sequence[socket.socket],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Do it until cancelled. A connection beyond `client_age_s` ends with its next response: clients that
    stay for ever would never come to see a new worker, or what a load balancer in front has learnt."""
    while True:
        timeouts = state.settings.timeouts
        for sock in listening:
            if sock.fileno() >= 0:
                tune(sock, timeouts)
        for client in state.clients:
            if isinstance(client, ClientConnection):
                client.retire()
        await sleep(min(_EVERY_S, timeouts.client_age_s))


def tune(listening: socket.socket, timeouts: Timeouts) -> None:
    """Set what connections inherit from the socket that accepts them: so it costs none of them a call.

    A client that has vanished, or acknowledges and takes nothing, is given up by the kernel as well.
    """
    timeout_ms = int(timeouts.client_write_s * 1000)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, min(timeout_ms, 2**31 - 1)))
