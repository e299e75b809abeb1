"""One request and its response: choose a backend, send, try elsewhere if that is safe, relay, account.

It stands between a `ClientConnection` and an `UpstreamConnection`, which know nothing of each other.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from proxy import errors
from proxy.errors import BY_REASON, ErrorCode
from proxy.link import scoreboard as sb
from proxy.link.reports import Refused
from proxy.policy.backends import Backend, Service, why_none
from proxy.policy.balancing import pick, pick_another
from proxy.policy.routing import AmbiguousPath
from proxy.worker.http1 import pool, replies
from proxy.worker.http1.framing import LAST_CHUNK, encode_chunk
from proxy.worker.http1.head import CHUNKED, RequestHead, ResponseHead
from proxy.worker.http1.tunnel import Tunnel, upgrade_fault
from proxy.worker.record import record
from proxy.worker.state import WorkerState

if TYPE_CHECKING:
    from proxy.worker.http1.downstream import ClientConnection
    from proxy.worker.http1.upstream import UpstreamConnection

# May be sent a second time although a backend may have acted on the first (RFC 9110 section 9.2.2): the safe
# ones whenever no answer came, the merely idempotent ones only where an idle time that ran out explains it.
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_IDEMPOTENT: Final = _SAFE | {b"PUT", b"DELETE"}
_WITHOUT_BODY: Final = frozenset((b"GET", b"HEAD"))
_SUSPECT_S: Final = 1.0  # how long a backend that refused a connection is only a last resort
_APART_BYTES: Final = 4096  # a larger body is not copied behind its head, but gathered by the kernel

_AS_IS, _CHUNKS, _RAW = range(3)  # how the response body goes to the client
_IN_FLIGHT: Final = sb.IN_FLIGHT


# HOT PATH. One object per request; no task, no future and no exception unless something goes wrong.
class Exchange:
    """One request and its response."""

    __slots__ = (
        "_client", "_held", "_mode", "_out", "_out_body", "_out_complete", "_state", "_tried", "_upstream",
        "attempts",
        "backend", "delivered", "delivered_error", "detail", "error", "head", "over", "request_ended",
        "request_id", "rx_bytes", "service", "started_s", "status", "tx_bytes",
    )  # fmt: skip

    def __init__(self, state: WorkerState, client: ClientConnection, head: RequestHead) -> None:
        self._state = state
        self._client = client
        self.head = head
        self.started_s = perf_counter()
        self.request_id = head.request_id or state.next_request_id()
        self.service: Service | None = None
        self.backend: Backend | None = None  # of the last attempt
        self._held: Backend | None = None  # the one whose load counts this exchange
        self._upstream: UpstreamConnection | None = None
        self._tried: list[Backend] = []
        self.attempts = 0
        self.delivered = False  # a backend's socket may have taken a byte of it; never cleared (rule 6)
        self.delivered_error: ErrorCode | None = None  # what became of that attempt
        self._out = b""  # the request up to the moment it was sent: what a further attempt sends
        self._out_body = b""  # what belongs behind that
        self._out_complete = True  # nothing was sent after it
        self.request_ended = False
        self.status = 0  # of the response, once its head has gone to the client
        self.error: ErrorCode | None = None
        self.detail = ""
        self._mode = _AS_IS
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.over = False

    # The request

    def start(self, body: bytes, *, ended: bool) -> None:
        """Send the request on its way with the *body* bytes that have come with its head."""
        state, head = self._state, self.head
        table = state.table
        service = table.router.sure.get(head.host)
        if service is None:
            try:
                service = table.router.find(head.host, head.path)
            except AmbiguousPath:
                self._fail(errors.BAD_REQUEST, "the path reads differently once normalised", keep=False)
                return
        self.request_ended = ended
        self.rx_bytes = len(body)
        if service is None:
            self._fail(errors.UNKNOWN_SERVICE if table.loaded else errors.TABLE_NOT_LOADED)
            return
        self.service = service
        service.counters.add(_IN_FLIGHT, 1)
        service.retries.note_request(state.now_s)
        if not service.eligible:
            self._fail(BY_REASON[why_none(service.backends)])
            return
        self._out = self._client.request_bytes(head, self.request_id)
        if len(body) > _APART_BYTES and head.length != CHUNKED:
            self._out_body, body = body, b""
        if body:
            self._out += encode_chunk(body) if head.length == CHUNKED else body
        if ended and head.length == CHUNKED:
            self._out += LAST_CHUNK
        self._try(pick(service.eligible, state.now_s, state.random))

    def on_request_body(self, payload: bytes, *, ended: bool) -> None:
        """Pass further body bytes of the request on."""
        self.rx_bytes += len(payload)
        self.request_ended = ended
        data = payload
        if self.head.length == CHUNKED:
            data = encode_chunk(payload) if payload else b""
            if ended:
                data += LAST_CHUNK
        if self.over or not data:
            return
        upstream = self._upstream
        if upstream is not None:
            self._out_complete = False
            upstream.write(data)
            upstream.await_head()
            return
        self._out += self._out_body + data
        self._out_body = b""
        if len(self._out) > self._state.settings.limits.buffer_bytes:
            self._client.pause_reading()

    def _try(self, backend: Backend, connect_left_s: float | None = None) -> None:
        """Send the request to *backend*; a connection must be there within *connect_left_s*."""
        self.attempts += 1
        self.backend = self._held = backend
        backend.in_flight += 1
        self._tried.append(backend)
        # What has failed on one kept connection would fail on the next: a second attempt gets a fresh one.
        connection = None if self.delivered else pool.take(self._state, backend)
        if connection is None:
            if connect_left_s is None:
                connect_left_s = self._state.settings.timeouts.connect_total_s
            self._state.tasks.create_task(pool.dial(self._state, backend, self, connect_left_s), name="dial")
        else:
            self._send_on(connection)

    def _send_on(self, connection: UpstreamConnection) -> None:
        self._upstream = connection
        self.delivered = True
        self._client.resume_reading()
        out = self._out
        if self.attempts > 1:
            line, _, rest = out.partition(b"\r\n")
            out = b"%b\r\nX-Anyport-Attempt: %d\r\n%b" % (line, self.attempts, rest)
        connection.begin(self, out, self._out_body)

    # What the pool and the backend's connection tell

    def on_connected(self, connection: UpstreamConnection) -> None:
        backend = connection.backend
        if self.over:  # the client has left meanwhile
            pool.give_back(self._state, connection)
        elif connection.over:  # it has ended, or spoken, before it was asked anything
            self._try_elsewhere(errors.CONNECT_REFUSED)
        elif backend.removed or backend.row.suspended:  # meanwhile another task may answer there (rule 4)
            connection.close()
            self._try_elsewhere(errors.CONNECT_REFUSED)
        else:
            self._send_on(connection)

    def on_connect_failed(self, backend: Backend, error: ErrorCode, detail: str, *, left_s: float) -> None:
        """No connection to *backend*; *left_s* is what remains of the time to get one elsewhere."""
        if error is errors.CONNECT_REFUSED and backend.suspect_until_s <= self._state.now_s:
            self._state.report(Refused(backend.service.name, backend.key))
        backend.suspect_until_s = self._state.now_s + _SUSPECT_S
        if not self.over:
            self._try_elsewhere(error, detail, connect_left_s=left_s)

    def on_upstream_lost(self, connection: UpstreamConnection, *, answered: bool, detail: str = "") -> None:
        """The connection ended with the response unfinished; *answered*: a byte of it had arrived."""
        self._upstream = None
        if self.status:
            self._cut(errors.TASK_STOPPED_MIDFLIGHT if self._stopped() else errors.RESPONSE_TRUNCATED)
            return
        if self._stopped():
            error = errors.TASK_STOPPED_MIDFLIGHT
        elif answered:
            error = errors.RESPONSE_MALFORMED
            detail = detail or "the connection ended before the response head was whole"
        else:
            error = errors.STALE_CONNECTION if connection.used else errors.CLOSED_BEFORE_RESPONSE
        first, self.delivered_error = self.delivered_error is None, error
        if (
            not answered
            and first  # what ends one task's connection may end every task's
            and self.request_ended
            and self._out_complete
            and self.head.method in (_IDEMPOTENT if connection.used else _SAFE)
            and not self.head.expects_continue
            and not self.head.upgrade
        ):
            if connection.used:
                self._tried.remove(connection.backend)  # going stale says nothing against a backend
            self._try_elsewhere(error, detail)
        else:
            self._fail(error, detail)

    def on_upstream_timeout(self, *, in_body: bool) -> None:
        self._upstream = None
        if in_body:
            self._cut(errors.RESPONSE_IDLE)
        else:
            self._fail(errors.RESPONSE_TIMEOUT)

    def on_response_refused(self, detail: str) -> None:
        """The backend's answer is not HTTP; its connection is closed already."""
        self._upstream = None
        self._fail(errors.RESPONSE_MALFORMED, detail)

    def on_body_broken(self) -> None:
        self._upstream = None
        self._cut(errors.RESPONSE_TRUNCATED)

    def on_interim(self, head: ResponseHead) -> None:
        """Relay 103 to a client that can take it, and 100 to one that waits for it; no other 1xx (S40)."""
        if head.status == 100:
            self._client.invite_body(head.lines + b"\r\n")
        elif head.status == 103 and self.head.minor:
            self._client.write(head.lines + b"\r\n")

    def on_switch(self, connection: UpstreamConnection, head: ResponseHead) -> None:
        """The backend has answered 101: from here on both sides are a tunnel."""
        fault = upgrade_fault(self.head, head)
        if fault:
            connection.abort()
            self._upstream = None
            self._fail(errors.UPGRADE_FAILED, fault)
            return
        assert self.service is not None
        self.status = 101
        self.service.counters.add(sb.TUNNELS, 1)
        self._client.write(b"%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (head.lines, head.upgrade))
        Tunnel(self._state, self, self._client, connection)

    def on_response(self, head: ResponseHead, body: bytes, *, ended: bool) -> None:
        """Send the response head on, with the *body* bytes that came with it, in one write."""
        client, request = self._client, self.head
        added = b"\r\n"
        if head.length < 0:
            if request.minor:
                added = b"Transfer-Encoding: chunked\r\n\r\n"
                self._mode = _CHUNKS
            else:
                self._mode = _RAW
                client.keep_alive = False
        if not self.request_ended or request.upgrade or self._state.draining:
            client.keep_alive = False  # what follows a declined upgrade may be no request (reliability S43)
        if not client.keep_alive:
            added = b"Connection: close\r\n" + added
        elif not request.minor:
            added = b"Connection: keep-alive\r\n" + added
        apart = len(body) > _APART_BYTES and self._mode != _CHUNKS
        if body:
            if not apart:
                added += encode_chunk(body) if self._mode == _CHUNKS else body
            self.tx_bytes = len(body)
        if ended and self._mode == _CHUNKS:
            added += LAST_CHUNK
            self._mode = _AS_IS
        self.status = head.status
        if apart:
            client.writelines([head.lines + added, body])
        else:
            client.write(head.lines + added)
        if client.full:  # with an earlier response: nobody will say so a second time
            self.on_client_full()

    def on_response_body(self, data: bytes) -> None:
        self.tx_bytes += len(data)
        self._client.write(encode_chunk(data) if self._mode == _CHUNKS else data)

    def on_response_end(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """The response is complete; so is the exchange."""
        self._upstream = None
        if self._mode == _CHUNKS:
            self._client.write(LAST_CHUNK)
        if reusable and self.request_ended and (not self.head.length or self._body_is_read(connection)):
            pool.give_back(self._state, connection)
        else:
            # An unread rest of the request on its way would be taken for the next one.
            connection.close()
        self._finish()
        self._client.on_exchange_end()

    def _body_is_read(self, connection: UpstreamConnection) -> bool:
        """Whether the backend has read the body for what it is. Many expect none of GET or HEAD: to them it
        is the next request, and the answer to that would be somebody else's (reliability S7)."""
        return connection.flushed and self.head.method not in _WITHOUT_BODY

    def on_upstream_full(self) -> None:
        self._client.pause_reading()

    def on_upstream_drained(self) -> None:
        self._client.resume_reading()

    def on_bug(self) -> None:
        """We have made a mistake that is logged already: end what it has left unfinished."""
        if self.over:
            return
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self.status:
            self._cut(errors.INTERNAL)
        else:
            self._fail(errors.INTERNAL, keep=False)

    # What the client's connection tells

    def on_client_full(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def on_client_drained(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def on_client_lost(self, error: ErrorCode = errors.CLIENT_GONE) -> None:
        """The client has gone: cancel what the backend does for it."""
        if self.over:
            return
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        self.error = error
        self._finish()

    def on_request_refused(self, error: ErrorCode, detail: str) -> None:
        """The rest of the request is malformed or does not come: nothing of it can be trusted."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self.status:
            self._cut(error)
        else:
            self._fail(error, detail, keep=False)

    # Ends

    def _try_elsewhere(
        self, error: ErrorCode, detail: str = "", *, connect_left_s: float | None = None
    ) -> None:
        """Make one more attempt if there is a candidate and the budget allows, else fail."""
        service, state = self.service, self._state
        assert service is not None
        self._leave_backend()
        settings = state.settings.retries
        if (
            (connect_left_s is None or connect_left_s > 0)
            and self.attempts < settings.attempts
            and service.retries.take(
                state.now_s, percent=settings.budget_percent, minimum_per_s=settings.budget_minimum
            )
        ):
            candidate = pick_another(service.answering, self._tried, state.now_s, state.random)
            if candidate is not None:
                service.counters.add(sb.RETRIES, 1)
                self._try(candidate, connect_left_s)
                return
        self._fail(error, detail)

    def _fail(self, error: ErrorCode, detail: str = "", *, keep: bool = True) -> None:
        """Answer with *error*; only possible while no response head has been sent."""
        if self.delivered_error is not None and error.code[0] in "UB":
            error = self.delivered_error  # 503 would promise that nothing was delivered (rule 6)
        self.error = error
        self.detail = detail
        client = self._client
        if not keep or not self.request_ended or self._state.draining:
            client.keep_alive = False
        self.status = error.status
        client.write(replies.error_reply(self, error, keep_alive=client.keep_alive))
        self._finish()
        client.on_exchange_end()

    def _cut(self, error: ErrorCode) -> None:
        """End visibly in the middle of the response: the client must not take it for whole (rule 8)."""
        self.error = error
        self._finish()
        self._client.cut()

    def _leave_backend(self) -> None:
        if self._held is not None:
            self._held.in_flight -= 1
            self._held = None

    def _stopped(self) -> bool:
        return self.backend is not None and (self.backend.removed or self.backend.row.draining)

    def finish_tunnel(self, error: ErrorCode | None, rx_bytes: int, tx_bytes: int) -> None:
        """Account for the tunnel that this exchange has become."""
        assert self.service is not None
        self.service.counters.add(sb.TUNNELS, -1)
        self.error = error
        self.rx_bytes += rx_bytes
        self.tx_bytes += tx_bytes
        self._finish()

    def _finish(self) -> None:
        """Count the exchange, once, whatever its end."""
        self.over = True
        self._leave_backend()
        if self.service is not None:
            self.service.counters.add(_IN_FLIGHT, -1)
        record(self._state, self)
