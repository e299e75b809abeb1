"""A new connection to a backend over TLS."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from proxy.backend_tls import in_words
from proxy.policy.backends import Backend
from proxy.settings import BackendTls
from proxy.worker import connect as tcp
from proxy.worker.http1.upstream import UpstreamConnection
from proxy.worker.state import WorkerState

_GOODBYE_S: Final = 2.0  # how long the close_notify of a connection that we close is waited for


class TlsFailed(Exception):
    """TCP stands, TLS does not; nothing of a request was sent. The text is for the log."""


async def connect(
    state: WorkerState, backend: Backend, tls: BackendTls, timeout_s: float
) -> UpstreamConnection:
    """Return a new connection to *backend* that satisfies *tls*, both handshakes within *timeout_s*.

    Raises `TlsFailed`, or the `OSError` of what kept TCP from connecting.
    """
    loop = state.loop
    context = state.backend_tls.get(tls)
    if context is None:
        raise TlsFailed("handshake: the files for TLS to backends cannot be used")
    deadline_s = loop.time() + timeout_s
    sock = await tcp.connect(loop, backend.host, backend.port, timeout_s)
    connection = UpstreamConnection(state, backend)
    try:
        async with asyncio.timeout_at(deadline_s):
            transport, _ = await loop.create_connection(
                lambda: cast(asyncio.Protocol, connection),
                sock=sock,
                ssl=context,
                server_hostname=tls.name,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
    except OSError as exc:
        raise TlsFailed(in_words(exc)) from exc
    if transport.is_closing():  # by the other side, before our turn came
        raise TlsFailed("handshake: the connection was closed")
    # While a slow client makes us pause, uvloop would go on reading into a buffer of its own, and throw that
    # away when TCP ends: so it may hold nothing, and what we have not read yet waits in the kernel.
    cast(Any, transport).set_read_buffer_limits(high=1, low=0)
    return connection
