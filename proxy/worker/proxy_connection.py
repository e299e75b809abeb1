"""A connection that begins with a PROXY header: read it, then be a client's connection like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.link import scoreboard as sb
from proxy.worker.http1.forwarding import within
from proxy.worker.proxy_protocol import ProxyHeader, ProxyProtocolError, parse
from proxy.worker.state import WorkerState


class ProxyHeaderConnection(asyncio.Protocol):
    """Takes the header off, and gives the transport to the protocol that *make* returns for it.

    Only `trusted_proxies` may say who the client is; whoever else comes is closed without a word, as is
    one whose header is malformed or does not arrive in time. Each is counted by its reason.
    """

    __slots__ = ("_buffer", "_make", "_state", "_transport", "deadline_s")

    def __init__(self, state: WorkerState, make: Callable[[ProxyHeader], asyncio.Protocol]) -> None:
        self._state = state
        self._make = make
        self._buffer = b""
        self.deadline_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        state = self._state
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer or not within(peer[0], state.settings.trusted_proxies):
            self._refuse("untrusted")
            return
        if state.full and state.shed(transport):
            return
        self.deadline_s = state.now_s + state.settings.timeouts.proxy_header_s
        state.watched.add(self)
        state.clients.add(self)
        state.head[sb.CLIENTS] += 1

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        data = self._buffer + data
        try:
            header = parse(data)
        except ProxyProtocolError:
            self._refuse("malformed")
            return
        if header is None:
            self._buffer = data
            return
        self._forget()
        protocol = self._make(header)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        rest = data[header.length_bytes :]
        if rest and not self._transport.is_closing():
            protocol.data_received(rest)

    def eof_received(self) -> bool:
        if self._buffer:  # else it has only looked whether the port is open
            self._refuse("malformed")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    def on_deadline(self) -> None:
        self._refuse("timeout")

    def abort(self) -> None:
        self._transport.abort()

    def _refuse(self, why: str) -> None:
        self._state.head[sb.PROXY_REFUSED + sb.PROXY_REFUSALS.index(why)] += 1
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        state = self._state
        if self in state.clients:
            state.clients.discard(self)
            state.watched.discard(self)
            state.head[sb.CLIENTS] -= 1
