"""What a finished exchange leaves behind: counts on the scoreboard and, where asked for, a log line."""

from __future__ import annotations

import traceback
from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from proxy import errors
from proxy.errors import ErrorCode
from proxy.link import scoreboard as sb
from proxy.worker.accesslog import now
from proxy.worker.state import WorkerState

if TYPE_CHECKING:
    from proxy.worker.http1.exchange import Exchange
    from proxy.worker.http1.head import RequestHead

_CLASSES: Final = len(sb.CODE_CLASSES)
_METHOD_CELL: Final = {
    method.encode(): sb.REQUESTS + index * _CLASSES for index, method in enumerate(sb.METHODS)
}
_OTHER_CELL: Final = _METHOD_CELL[b"OTHER"]
_DURATION: Final = sb.DURATION
_BUCKETS_US: Final = sb.BUCKETS_US
_FIRST_BUCKET_US: Final = sb.BUCKETS_US[0]
_TEXT_MAX: Final = 1024  # characters of a field that a client chooses
_TRACE_MAX: Final = 8192


def record(state: WorkerState, exchange: Exchange) -> None:
    """Count *exchange* and log it as the settings say. Called once, when its last byte is out."""
    elapsed_s = perf_counter() - exchange.started_s
    service = exchange.service
    cells = state.no_service if service is None else service.counters
    error, status = exchange.error, exchange.status
    cell = _METHOD_CELL.get(exchange.head.method, _OTHER_CELL) + status // 100
    if status != 101:
        elapsed_us = int(elapsed_s * 1e6)
        bucket = (
            _DURATION if elapsed_us <= _FIRST_BUCKET_US else _DURATION + bisect_left(_BUCKETS_US, elapsed_us)
        )
        cells.finish(cell, bucket, elapsed_us, exchange.rx_bytes, exchange.tx_bytes)
    else:  # how long a tunnel stayed open says nothing about latency
        cells.add(cell, 1)
        cells.add(sb.REQUEST_BYTES, exchange.rx_bytes)
        cells.add(sb.RESPONSE_BYTES, exchange.tx_bytes)
    if error is not None:
        cells.add(sb.FAILURES + error.slot, 1)
    if state.hot.logs_all or (state.hot.logs_errors and (error is not None or status >= 500)):
        state.log.add(_line(exchange, elapsed_s))


def record_own(state: WorkerState, head: RequestHead, status: int) -> None:
    """Count and log a request that asked about anyport itself and was answered here."""
    state.no_service.add(_METHOD_CELL.get(head.method, _OTHER_CELL) + status // 100, 1)
    if state.settings.access_log.requests == "all":
        state.log.add(
            {
                "time": now(),
                "request_id": (head.request_id or state.next_request_id()).decode("ascii"),
                "service": "",
                "method": _text(head.method),
                "host": _text(head.host),
                "path": _text(head.path),
                "status": status,
            }
        )


def record_refusal(state: WorkerState, error: ErrorCode, status: int, request_id: bytes, detail: str) -> None:
    """Count and log a request that was refused before it could become an exchange."""
    state.no_service.add(_OTHER_CELL + status // 100, 1)
    state.no_service.add(sb.FAILURES + error.slot, 1)
    if state.settings.access_log.requests != "off":
        state.log.add(
            {
                "time": now(),
                "request_id": request_id.decode("ascii"),
                "status": status,
                "error": str(error),
                "detail": detail,
            }
        )


def record_bug(state: WorkerState, bug: BaseException) -> None:
    """Count and log a mistake of ours, with where it happened. The worker goes on."""
    state.no_service.add(sb.FAILURES + errors.INTERNAL.slot, 1)
    trace = "".join(traceback.format_exception(bug))
    state.log.add({"time": now(), "error": str(errors.INTERNAL), "trace": trace[-_TRACE_MAX:]})


def _line(exchange: Exchange, elapsed_s: float) -> dict[str, Any]:
    head, error, backend = exchange.head, exchange.error, exchange.backend
    line: dict[str, Any] = {
        "time": now(),
        "request_id": exchange.request_id.decode("ascii"),
        "service": exchange.service.name if exchange.service is not None else "",
        "method": _text(head.method),
        "host": _text(head.host),
        "path": _text(head.path),  # never the query: it may hold secrets
        "status": exchange.status or (error.status if error is not None else 0),
        "duration_ms": round(elapsed_s * 1000, 3),
        "request_bytes": exchange.rx_bytes,
        "response_bytes": exchange.tx_bytes,
        "attempts": exchange.attempts,
        "delivered": exchange.delivered,
    }
    if backend is not None:
        line["task"] = backend.key.task_arn.rpartition("/")[2]
        line["backend"] = backend.address
    if error is not None:
        line["error"] = str(error)
        if exchange.detail:
            line["detail"] = exchange.detail
    return line


def _text(data: bytes) -> str:
    return data[:_TEXT_MAX].decode("ascii", "backslashreplace")
