"""Connections to backends: idle ones are reused, newest first; new ones are dialled."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from proxy import errors
from proxy.errors import ErrorCode
from proxy.link import scoreboard as sb
from proxy.link.reports import Mistaken
from proxy.policy.backends import Backend
from proxy.worker.connect import connect, readable
from proxy.worker.http1 import proof, secure
from proxy.worker.http1.upstream import UpstreamConnection
from proxy.worker.record import record_bug
from proxy.worker.sockets import Stream
from proxy.worker.state import WorkerState

if TYPE_CHECKING:
    from proxy.worker.http1.exchange import Exchange

_UPSTREAM_REUSES: Final = sb.UPSTREAM_REUSES
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM))


def take(state: WorkerState, backend: Backend) -> UpstreamConnection | None:
    """Return an idle connection to *backend*, or None.

    The socket is asked whether the backend has closed it or sent something unasked: the loop may not
    have come to read that yet, and the next answer would be somebody else's.
    """
    while backend.idle:
        connection: UpstreamConnection = backend.idle.pop()
        # In a turn of the poller what the backends had said is read; those over TLS are the loop's.
        if (not state.poller.caught_up or backend.tls is not None) and readable(connection.fileno):
            state.head.add(sb.UPSTREAM_CLOSED, 1)
            connection.abort()
            continue
        state.head.add(_UPSTREAM_REUSES, 1)
        return connection
    return None


def give_back(state: WorkerState, connection: UpstreamConnection) -> None:
    """Keep *connection* for the next exchange, or close it where there must not be one."""
    backend = connection.backend
    hot = state.hot
    connection.served += 1
    if (
        len(backend.idle) >= hot.idle_connections_per_backend
        or connection.served >= hot.requests_per_upstream_connection
        or backend.removed
        or not backend.ready
    ):
        connection.close()
        return
    idle_s = hot.upstream_idle_s
    if connection.idle_max_s < idle_s:
        idle_s = connection.idle_max_s
    connection.rest(state.now_s + idle_s)
    backend.idle.append(connection)


def flush(backend: Backend) -> None:
    """Close the idle connections of *backend*; those in use end with their exchange."""
    idle, backend.idle = backend.idle, []
    for connection in idle:
        connection.close()


async def dial(state: WorkerState, backend: Backend, exchange: Exchange, left_s: float) -> None:
    """Connect to *backend*, within *left_s*, and tell *exchange* how that went."""
    try:
        await _dial(state, backend, exchange, left_s)
    except Exception as exc:
        # A mistake of ours. It must end this exchange, and not the task group with everybody in it.
        record_bug(state, exc)
        exchange.on_bug()


async def _dial(state: WorkerState, backend: Backend, exchange: Exchange, left_s: float) -> None:
    error: ErrorCode
    detail = ""
    begun_s = state.loop.time()
    timeout_s = min(left_s, state.settings.timeouts.connect_s)
    try:
        connection = await _connect(state, backend, timeout_s)
        if backend.row.confirm:
            connection = await _proven(state, connection, begun_s + left_s)
    except secure.TlsFailed as exc:
        error, detail = errors.TLS_FAILED, str(exc)
    except proof.NotProven as exc:
        error, detail = errors.IDENTITY_MISMATCH, str(exc)
        if backend.suspect_until_s <= state.now_s:
            state.report(Mistaken(backend.service.name, backend.key, detail))
    except (ConnectionRefusedError, ConnectionResetError):
        error = errors.CONNECT_REFUSED
    except proof.NoAnswer as exc:
        error, detail = errors.CONNECT_TIMEOUT, str(exc)
    except TimeoutError:
        error = errors.CONNECT_TIMEOUT
    except OSError as exc:
        # Anything else (no route, network down) is a host not reached.
        error = errors.LOCAL_PORTS_EXHAUSTED if exc.errno in _EXHAUSTED else errors.CONNECT_TIMEOUT
    else:
        state.head.add(sb.UPSTREAM_CONNECTS, 1)
        exchange.on_connected(connection)
        return
    exchange.on_connect_failed(backend, error, detail, left_s=left_s - (state.loop.time() - begun_s))


async def _connect(state: WorkerState, backend: Backend, timeout_s: float) -> UpstreamConnection:
    if backend.tls is not None:
        return await secure.connect(state, backend, backend.tls, timeout_s)
    sock = await connect(state.loop, backend.host, backend.port, timeout_s)
    connection = UpstreamConnection(state, backend)
    Stream(state.poller, sock, connection, early=True)
    return connection


async def _proven(
    state: WorkerState, connection: UpstreamConnection, deadline_s: float
) -> UpstreamConnection:
    """Return a connection to the backend of *connection*, which by then has proven itself if it has to."""
    backend = connection.backend
    check = backend.service.row.identity if backend.service.row is not None else None
    if check is None:
        return connection
    timeout_s = min(deadline_s - state.loop.time(), check.timeout_s)
    proven = await proof.prove(state, connection, check, timeout_s)
    return proven or await _connect(state, backend, proof.FRESH_S)
