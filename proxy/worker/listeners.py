"""How a connection begins at each listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.worker.http1.downstream import ClientConnection
from proxy.worker.proxy_connection import ProxyHeaderConnection
from proxy.worker.proxy_protocol import ProxyHeader
from proxy.worker.state import WorkerState
from proxy.worker.tls_connection import TlsConnection


def opener(state: WorkerState, index: int) -> Callable[[], asyncio.Protocol]:
    """Return what makes the protocol of each connection of the listener with this *index*.

    The settings are asked for each connection, so a reload can give a listener TLS or take it away.
    """

    def client(header: ProxyHeader | None) -> asyncio.Protocol:
        # Compiled, so no subclass of it; it has all that one needs.
        return cast(asyncio.Protocol, ClientConnection(state, header))

    def inner(header: ProxyHeader | None = None) -> asyncio.Protocol:
        listeners = state.settings.listeners
        if index < len(listeners) and listeners[index].tls:
            return TlsConnection(state, state.client_tls.get(index), lambda: client(header))
        return client(header)

    def outer() -> asyncio.Protocol:
        listeners = state.settings.listeners
        if index < len(listeners) and listeners[index].proxy_protocol:
            return ProxyHeaderConnection(state, inner)
        return inner()

    return outer
