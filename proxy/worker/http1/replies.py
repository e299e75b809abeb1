"""The responses anyport makes itself: a code of `proxy.errors`, never an address or a cause's text."""

from __future__ import annotations

import html
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from proxy.errors import ErrorCode
from proxy.worker.http1.head import field_value

if TYPE_CHECKING:
    from proxy.worker.http1.exchange import Exchange

_RETRY_AFTER_S: Final = 1
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{status} {phrase}</title>'
    "<body><h1>{status} {phrase}</h1><p>{text}</p><p><code>{code} {reason}</code></p>"
    "<p>Request id: <code>{request_id}</code></p></body></html>\n"
)
_JSON: Final = '{{"code":"{code}","error":"{reason}","message":"{text}","request_id":"{request_id}"}}\n'


def status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Error"))


def options_reply(*, keep_alive: bool) -> bytes:
    """Return the answer to `OPTIONS *`, which asks about the proxy itself (RFC 9110 section 9.3.7)."""
    return status_line(204) + (b"\r\n" if keep_alive else b"Connection: close\r\n\r\n")


def error_reply(exchange: Exchange, error: ErrorCode, *, keep_alive: bool) -> bytes:
    """Return the whole response for an exchange that failed with *error* before any response head."""
    head = exchange.head
    return error_bytes(
        error,
        exchange.request_id,
        delivered=exchange.delivered,
        attempts=exchange.attempts,
        as_html=b"text/html" in field_value(head.lines, b"accept").lower(),
        bodiless=head.method == b"HEAD",
        keep_alive=keep_alive,
        explicit_keep_alive=not head.minor,
    )


def error_bytes(
    error: ErrorCode,
    request_id: bytes,
    *,
    status: int = 0,
    delivered: bool = False,
    attempts: int = 0,
    as_html: bool = False,
    bodiless: bool = False,
    keep_alive: bool = False,
    explicit_keep_alive: bool = False,
) -> bytes:
    """Return a whole response for *error*; *status* where it is more precise than the code's usual one."""
    status = status or error.status
    template = _PAGE if as_html else _JSON
    phrase = _REASONS.get(status, b"Error").decode()
    text = html.escape(error.text, quote=False) if as_html else error.text
    connection = b"Connection: close\r\n"
    if keep_alive:
        connection = b"Connection: keep-alive\r\n" if explicit_keep_alive else b""
    body = template.format(
        status=status, phrase=phrase, text=text, code=error.code, reason=error.reason,
        request_id=request_id.decode("ascii"),
    ).encode()  # fmt: skip
    return b"".join((
        status_line(status),
        b"X-Anyport-Error: %b; delivered=%b; attempts=%d\r\n"
        % (str(error).encode(), b"yes" if delivered else b"no", attempts),
        b"X-Request-Id: %b\r\nCache-Control: no-store\r\n" % request_id,
        b"Retry-After: %d\r\n" % _RETRY_AFTER_S if error.retry_after else b"",
        b"Content-Type: %b\r\nContent-Length: %d\r\n"
        % (b"text/html; charset=utf-8" if as_html else b"application/json", len(body)),
        connection,
        b"\r\n",
        b"" if bodiless else body,
    ))  # fmt: skip
