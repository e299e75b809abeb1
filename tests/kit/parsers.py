"""Three parsers of requests and responses with one result type: ours, h11 and httptools (llhttp).

`ours` follows a connection as the proxy does, with its own parser and reader; the other two share no
code with it. What differs between two of them is how a smuggled request begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import h11
import httptools

from proxy.settings import Limits
from proxy.worker.http1.framing import ChunkedReader, FramingError
from proxy.worker.http1.head import (
    CHUNKED,
    UNTIL_CLOSE,
    HeadError,
    HeadLimits,
    RequestHead,
    ResponseHead,
    find_end,
    parse_request,
    parse_response,
)

LIMITS: Final = HeadLimits(Limits())
_WHOLE: Final = 2**62

Headers = tuple[tuple[bytes, bytes], ...]
# clean: nothing is left; partial: a message has begun and not ended; refused: what follows is not one;
# closed: what follows is not read, as a message before it has said so.
End = Literal["clean", "partial", "refused", "closed"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """One message, as a parser has understood it."""

    start: tuple[bytes, ...]  # (method, target), or (status,)
    headers: Headers  # names in lower case, values without outer blanks, in their order
    body: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """A stream as a parser has understood it."""

    messages: tuple[Parsed, ...]
    end: End
    status: int = 0  # of the refusal, where the parser names one


def kept_lines(head: RequestHead | ResponseHead) -> list[bytes]:
    """Return the header lines that go on: the one place that knows how a head holds them."""
    return head.lines.split(b"\r\n")[1:-1]


def _headers(lines: list[bytes]) -> Headers:
    return tuple(_field(name, value) for name, _, value in (line.partition(b":") for line in lines))


def _field(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name.lower(), value.strip(b" \t")


def ours(data: bytes) -> Reading:
    """Return the requests of *data* as a client's connection would take them."""
    messages: list[Parsed] = []

    def reading(end: End, status: int = 0) -> Reading:
        return Reading(tuple(messages), end, status)

    while True:
        for _ in range(2):
            data = data.removeprefix(b"\r\n")
        if not data:
            return reading("clean")
        try:
            end = find_end(data, 0, LIMITS.request_head_bytes)
            if end < 0:
                return reading("partial")
            head = parse_request(data[:end], LIMITS)
        except HeadError as exc:
            return reading("refused", exc.status)
        data = data[end:]
        if head.length == CHUNKED:
            reader = ChunkedReader()
            try:
                body = reader.feed(data)
            except FramingError:
                return reading("refused", 400)
            if not reader.done:
                return reading("partial")
            data = reader.rest
        else:
            body, data = data[: head.length], data[head.length :]
            if len(body) < head.length:
                return reading("partial")
        messages.append(Parsed((head.method, head.target), _headers(kept_lines(head)), body))
        if not head.keep_alive or head.upgrade or (head.target == b"*" and head.length):
            return reading("closed")


def by_h11(data: bytes) -> Reading:
    """Return the requests of *data* as h11 reads them."""
    messages: list[Parsed] = []
    while True:
        for _ in range(2):  # h11 takes them as well, but would say "partial" about them alone
            data = data.removeprefix(b"\r\n")
        if not data:
            return Reading(tuple(messages), "clean")
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
        connection.receive_data(data)
        try:
            request = connection.next_event()
            if request is h11.NEED_DATA:
                return Reading(tuple(messages), "partial")
            assert isinstance(request, h11.Request)
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
        except h11.RemoteProtocolError:
            return Reading(tuple(messages), "refused")
        if not isinstance(event, h11.EndOfMessage):
            return Reading(tuple(messages), "partial")
        headers = tuple(_field(name, value) for name, value in request.headers)
        messages.append(Parsed((request.method, request.target), headers, body))
        kept = request.http_version == b"1.0" and any(
            name == b"connection" and b"keep-alive" in value.lower() for name, value in headers
        )
        if connection.their_state is h11.MUST_CLOSE and not kept:  # h11 always ends at HTTP/1.0
            return Reading(tuple(messages), "closed")
        data = connection.trailing_data[0]


class _Events:
    """What llhttp calls back."""

    def __init__(self) -> None:
        self.messages: list[Parsed] = []
        self.parser: Any = None
        self.inside = False

    def on_message_begin(self) -> None:
        self.inside, self.whole_head = True, False
        self.target = self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.whole_head:  # else it is a trailer
            self.headers.append(_field(name, value))

    def on_headers_complete(self) -> None:
        self.whole_head = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        parser = self.parser
        start = (
            (parser.get_method(), self.target)
            if isinstance(parser, httptools.HttpRequestParser)
            else (b"%d" % parser.get_status_code(),)
        )
        self.messages.append(Parsed(start, tuple(self.headers), self.body))
        self.inside = False


def by_httptools(data: bytes) -> Reading:
    """Return the requests of *data* as llhttp reads them."""
    events = _Events()
    events.parser = httptools.HttpRequestParser(events)
    try:
        events.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return Reading(tuple(events.messages), "closed")
    except httptools.HttpParserError as exc:
        closed = "Connection: close" in str(exc)
        return Reading(tuple(events.messages), "closed" if closed else "refused")
    return Reading(tuple(events.messages), "partial" if events.inside else "clean")


def our_response(data: bytes, method: bytes, *, eof: bool) -> Reading:
    """Return the final response in *data* as a backend's connection would take it; *eof*: then it closes."""
    while True:
        try:
            end = find_end(data, 0, LIMITS.response_head_bytes)
            if end < 0:
                return Reading((), "partial")
            head = parse_response(data[:end], method, LIMITS)
        except HeadError as exc:
            return Reading((), "refused", exc.status)
        data = data[end:]
        if head.status == 101:  # nobody has asked to switch
            return Reading((), "refused", 502)
        if head.status >= 200:
            break
    headers = _headers(kept_lines(head))
    start = (b"%d" % head.status,)
    if head.length == CHUNKED:
        reader = ChunkedReader()
        try:
            body = reader.feed(data)
        except FramingError:
            return Reading((), "refused", 502)
        return Reading((Parsed(start, headers, body),), "clean") if reader.done else Reading((), "partial")
    if head.length == UNTIL_CLOSE:
        return Reading((Parsed(start, headers, data),), "closed") if eof else Reading((), "partial")
    if len(data) < head.length:
        return Reading((), "partial")
    return Reading((Parsed(start, headers, data[: head.length]),), "clean")


def response_by_h11(data: bytes, method: bytes, *, eof: bool) -> Reading:
    """Return the final response in *data* to a *method* request as h11 reads it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 24)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(data)
        if eof:
            connection.receive_data(b"")
        while isinstance(event := connection.next_event(), h11.InformationalResponse):
            pass
        if not isinstance(event, h11.Response):
            return Reading((), "partial")
        head, body = event, b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return Reading((), "refused")
    if not isinstance(event, h11.EndOfMessage):
        return Reading((), "partial")
    headers = tuple(_field(name, value) for name, value in head.headers)
    return Reading((Parsed((b"%d" % head.status_code,), headers, body),), "clean")


def response_by_httptools(data: bytes) -> Reading:
    """Return the responses in *data* to requests that are not HEAD, as llhttp reads them."""
    events = _Events()
    events.parser = httptools.HttpResponseParser(events)
    try:
        events.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return Reading(tuple(events.messages), "closed")
    except httptools.HttpParserError as exc:
        closed = "Connection: close" in str(exc)
        return Reading(tuple(events.messages), "closed" if closed else "refused")
    return Reading(tuple(events.messages), "partial" if events.inside else "clean")
