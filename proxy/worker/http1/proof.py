"""Whose task answers on a new connection? Asked on that very connection, before a request goes on it.

Only where what is known of a backend is old news and its service has a check that proves an identity: the
port may be another task's by now (rule 4). A connection that stands cannot move to another task, so whoever
has proven to be the right one on it is the right one for as long as it lasts.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from proxy.policy import identity
from proxy.policy.backends import Backend
from proxy.settings import IdentityCheck
from proxy.worker.http1.framing import ChunkedReader, FramingError
from proxy.worker.http1.head import CHUNKED, HeadError, HeadLimits, ResponseHead, find_end, parse_response
from proxy.worker.http1.upstream import UpstreamConnection
from proxy.worker.state import WorkerState

# A connection that ends with its proof is followed by one without: a container needs longer than this to end
# and give its port to another.
FRESH_S: Final = 0.5
_NOT_HTTP: Final = f"{identity.NOT_PROVEN}: the answer is not HTTP"
_INTERIM_MAX: Final = 8  # 1xx responses before the final one, as for any exchange


class NotProven(Exception):
    """Somebody else answers, or nobody who can prove who it is, in the words of `policy.identity`."""


class NoAnswer(Exception):
    """Whoever listens there does not say who it is."""


async def prove(
    state: WorkerState, connection: UpstreamConnection, check: IdentityCheck, timeout_s: float
) -> UpstreamConnection | None:
    """Return a connection to use in the place of *connection*, which is new: its backend has proven itself.

    None: it has, and has ended the connection with that, or left more on it than is worth reading. Raises
    `NotProven`, `NoAnswer` if none comes in time, `ConnectionResetError` if it ends without one.
    """
    if connection.over:
        raise ConnectionResetError
    backend = connection.backend
    transport = connection.release_transport()
    answer = _Answer(state, check, backend)
    transport.set_protocol(cast(asyncio.Protocol, answer))
    try:
        transport.write(
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: anyport-health-check\r\nAccept: */*\r\n\r\n"
            % (check.path.encode(), check.host.encode())
        )
        async with asyncio.timeout(timeout_s):
            reusable = await answer.whole
    except TimeoutError:
        transport.abort()
        raise NoAnswer("it does not say whose it is") from None
    except BaseException:
        transport.abort()
        raise
    if not reusable or transport.is_closing():
        transport.close()
        return None
    proven = UpstreamConnection(state, backend)
    transport.set_protocol(cast(asyncio.Protocol, proven))
    proven.connection_made(transport)
    return proven


class _Answer:
    """Reads one response; `whole`: whether the connection can be used after it, or why it proves nothing."""

    def __init__(self, state: WorkerState, check: IdentityCheck, backend: Backend) -> None:
        self.whole: asyncio.Future[bool] = state.loop.create_future()
        self._check = check
        self._proofs = identity.accepted(backend.service.name, backend.key.task_arn)
        self._limits: HeadLimits = state.hot.heads
        self._head: ResponseHead | None = None
        self._chunks: ChunkedReader | None = None
        self._data = b""  # not parsed yet, while there is no head
        self._body = b""
        self._interim = 0

    # asyncio

    def data_received(self, data: bytes) -> None:
        if self.whole.done():
            return
        try:
            self._take(data)
        except (HeadError, FramingError):
            self.whole.set_exception(NotProven(_NOT_HTTP))

    def eof_received(self) -> bool:
        self._on_end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_end()

    def pause_writing(self) -> None:
        """There is nothing more to write."""

    def resume_writing(self) -> None:
        """There is nothing more to write."""

    # The response

    def _take(self, data: bytes) -> None:
        head = self._head
        if head is None:
            head, data = self._read_head(self._data + data)
            if head is None:
                self._data = data
                return
            self._head = head
            if head.length == CHUNKED:
                self._chunks = ChunkedReader()
        if self._chunks is not None:
            self._body += self._chunks.feed(data)
            ended, extra = self._chunks.done, bool(self._chunks.rest)
        else:
            self._body += data
            ended, extra = 0 <= head.length <= len(self._body), 0 <= head.length < len(self._body)
        if ended or len(self._body) > identity.BODY_BYTES:
            self._judge(head, reusable=ended and not extra and head.keep_alive)

    def _read_head(self, data: bytes) -> tuple[ResponseHead | None, bytes]:
        """Return the head of the final response and what is behind it, or None and what is there so far."""
        while True:
            end = find_end(data, 0, self._limits.response_head_bytes)
            if end < 0:
                return None, data
            head = parse_response(data[:end], b"GET", self._limits)
            data = data[end:]
            if head.status >= 200:
                return head, data
            self._interim += 1
            if head.status == 101 or self._interim > _INTERIM_MAX:
                raise FramingError("no answer to a GET")

    def _judge(self, head: ResponseHead, *, reusable: bool) -> None:
        said = _values(head.lines, self._check.header.encode()) if self._check.header else []
        fault = identity.fault(self._proofs, said=said, body=self._body if self._check.body else None)
        if fault:
            self.whole.set_exception(NotProven(fault))
        else:
            self.whole.set_result(reusable)

    def _on_end(self) -> None:
        if self.whole.done():
            return
        if self._head is not None:  # what has come counts, as it does for a check
            self._judge(self._head, reusable=False)
        else:
            self.whole.set_exception(ConnectionResetError())


def _values(lines: bytes, name: bytes) -> list[str]:
    """Return the values of the headers *name* (lower case) in *lines*, whose first is no header."""
    pairs = (line.partition(b":") for line in lines.split(b"\r\n")[1:])
    return [value.decode("latin-1") for key, _, value in pairs if key.lower() == name]
