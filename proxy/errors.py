"""The closed vocabulary of failures: one word in response header, log, metric, `explain` and manual.

The first letter says whose it is: C client, R routing, B selection, U reaching the backend,
X exchange, P proxy. The status is a promise: 503 means no byte of the request reached any backend
(safe to retry); 502 and 504 mean it may have. `docs/errors.md` has a paragraph for each.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ErrorCode(NamedTuple):
    """One way a request can fail."""

    slot: int  # on the scoreboard: append only, never renumber
    code: str
    reason: str
    status: int  # of the response; 0: no response can be sent, the connection is cut
    text: str  # one sentence for the client: never an address, never an exception text
    retry_after: bool = False

    def __str__(self) -> str:
        return f"{self.code} {self.reason}"


def _table(*rows: tuple[str, str, int, bool, str]) -> tuple[ErrorCode, ...]:
    return tuple(
        ErrorCode(slot, code, reason, status, text, retry_after)
        for slot, (code, reason, status, retry_after, text) in enumerate(rows)
    )


ERRORS: Final = _table(
    ("C01", "bad_request", 400, False, "The request is malformed or could be read in two ways."),
    ("C02", "host_missing", 400, False, "The request has no usable Host header."),
    ("C03", "head_too_large", 431, False, "The request head is larger than this proxy accepts."),
    ("C04", "body_too_large", 413, False, "The request body is larger than this service accepts."),
    ("C05", "head_timeout", 408, False, "The request head did not arrive in time."),
    ("C06", "body_timeout", 408, False, "The request body stopped arriving."),
    ("C07", "client_gone", 460, False, "The client closed the connection first."),
    ("C08", "protocol_refused", 405, False, "This method, expectation or HTTP version is not served here."),
    ("C09", "rate_limited", 429, True, "Too many requests."),
    ("C10", "denied", 403, False, "Access to this service is denied."),
    ("R01", "unknown_service", 404, False, "No service answers to this host and path."),
    ("R02", "table_not_loaded", 503, True, "The proxy has not yet learnt which services exist."),
    ("R03", "misdirected", 421, False, "This host is not served on this listener."),
    ("R04", "maintenance", 503, True, "The service is switched off on purpose."),
    ("R05", "instance_header_bad", 400, False, "The header that names a task cannot be read."),
    ("R06", "instance_unknown", 404, False, "The named task does not exist."),
    ("B01", "no_task", 503, True, "The service has no running task."),
    ("B02", "none_ready", 503, True, "The service has tasks, but none is ready."),
    ("B03", "all_suspended", 503, False, "Every task of the service is suspended."),
    ("B04", "queue_full", 503, True, "Every task of the service is at its limit."),
    ("B05", "queue_timeout", 503, True, "No task of the service became free in time."),
    ("B06", "pin_lost", 503, False, "The task that held this session is gone."),
    ("B07", "pin_full", 503, True, "The task that holds this session is at its limit."),
    ("B08", "shed", 503, True, "The proxy is shedding load."),
    ("U01", "connect_refused", 503, False, "No task of the service accepts connections."),
    ("U02", "connect_timeout", 503, False, "No task of the service could be reached in time."),
    ("U03", "tls_failed", 503, False, "No secure connection to the service could be made."),
    ("U04", "identity_mismatch", 503, False, "Another task answers where this one should."),
    ("U05", "local_ports_exhausted", 503, False, "The proxy has no free port or descriptor."),
    ("X01", "closed_before_response", 502, False, "The service closed the connection without answering."),
    ("X02", "stale_connection", 502, False, "A kept connection to the service had gone stale."),
    ("X03", "response_timeout", 504, False, "The service did not answer in time."),
    ("X04", "response_malformed", 502, False, "The service's answer is not valid HTTP."),
    ("X05", "response_truncated", 0, False, "The service's answer was cut short."),
    ("X06", "response_idle", 0, False, "The service fell silent in the middle of its answer."),
    ("X07", "task_stopped_midflight", 502, False, "The task was stopped while it served the request."),
    ("X08", "drain_deadline", 0, False, "The proxy's drain deadline ended the request."),
    ("X09", "upgrade_failed", 502, False, "The service promised an upgrade and did not keep it."),
    ("X10", "replay_failed", 502, False, "The service asked for a replay that cannot be done."),
    ("P01", "internal", 500, False, "The proxy failed. Report this with the request id."),
    ("P02", "shutting_down", 503, False, "The proxy is shutting down."),
)

BY_REASON: Final = {error.reason: error for error in ERRORS}

(
    BAD_REQUEST, HOST_MISSING, HEAD_TOO_LARGE, BODY_TOO_LARGE, HEAD_TIMEOUT, BODY_TIMEOUT, CLIENT_GONE,
    PROTOCOL_REFUSED, RATE_LIMITED, DENIED,
    UNKNOWN_SERVICE, TABLE_NOT_LOADED, MISDIRECTED, MAINTENANCE, INSTANCE_HEADER_BAD, INSTANCE_UNKNOWN,
    NO_TASK, NONE_READY, ALL_SUSPENDED, QUEUE_FULL, QUEUE_TIMEOUT, PIN_LOST, PIN_FULL, SHED,
    CONNECT_REFUSED, CONNECT_TIMEOUT, TLS_FAILED, IDENTITY_MISMATCH, LOCAL_PORTS_EXHAUSTED,
    CLOSED_BEFORE_RESPONSE, STALE_CONNECTION, RESPONSE_TIMEOUT, RESPONSE_MALFORMED, RESPONSE_TRUNCATED,
    RESPONSE_IDLE, TASK_STOPPED_MIDFLIGHT, DRAIN_DEADLINE, UPGRADE_FAILED, REPLAY_FAILED,
    INTERNAL, SHUTTING_DOWN,
) = ERRORS  # fmt: skip
