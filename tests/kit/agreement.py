"""What every message that we take must satisfy: h11 and llhttp take it too, and read it as we do."""

from __future__ import annotations

from tests.kit.parsers import (
    Headers,
    Parsed,
    by_h11,
    by_httptools,
    our_response,
    ours,
    response_by_h11,
    response_by_httptools,
)

# Which names end at the proxy, told a second time and in other words than the parser's. Expect does in
# HTTP/1.0.
_ENDS_HERE = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade http2-settings "
    b"content-length forwarded x-forwarded-for x-forwarded-proto x-forwarded-port x-forwarded-host x-real-ip "
    b"x-request-id expect".split()
)
# llhttp knows a fixed list of methods; of it the grammar makes these.
_LLHTTP = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"M-SEARCH")


def end_to_end(headers: Headers) -> Headers:
    nominated = {
        token.strip(b" \t")
        for name, value in headers
        if name == b"connection"
        for token in value.lower().split(b",")
    }
    return tuple(field for field in headers if field[0] not in _ENDS_HERE and field[0] not in nominated)


def as_forwarded(message: Parsed) -> Parsed:
    """Return *message* as it should go on: in origin-form, without what is the client's connection's."""
    method, target = message.start
    headers = end_to_end(message.headers)
    if target[:1] != b"/" and target != b"*":
        authority, slash, rest = target[target.index(b"://") + 3 :].partition(b"/")
        if b"?" in authority:
            authority, _, query = authority.partition(b"?")
            slash, rest = b"/?", query + slash + rest
        target = (slash or b"/") + rest
        headers = (*(field for field in headers if field[0] != b"host"), (b"host", authority))
    elif all(name != b"host" for name, _ in headers):
        headers = (*headers, (b"host", b""))  # HTTP/1.0 (RFC 9112 section 3.2)
    return Parsed((method, target), headers, message.body)


def _stops_llhttp(stream: bytes, message: Parsed) -> bool:
    """Whether llhttp does not know its method, or httptools takes it for the beginning of a tunnel, whatever
    else it says."""
    return message.start[0] not in _LLHTTP or b"\nupgrade:" in stream.lower()


def _framing(message: Parsed) -> list[bytes]:
    return [name for name, _ in message.headers if name in (b"content-length", b"transfer-encoding")]


def agree_on_requests(stream: bytes) -> None:
    """h11 reads what we read, and one framing header leaves at most. llhttp may refuse more, some chunk
    extensions among it, but reads no other."""
    mine = ours(stream)
    assert all(len(_framing(message)) <= 1 for message in mine.messages)
    wanted = tuple(as_forwarded(message) for message in mine.messages)
    theirs = tuple(as_forwarded(message) for message in by_h11(stream).messages[: len(wanted)])
    assert theirs == wanted
    stops = (i for i, message in enumerate(mine.messages) if _stops_llhttp(stream, message))
    count = next(stops, len(wanted))
    reading = by_httptools(stream)
    theirs = tuple(as_forwarded(message) for message in reading.messages[:count])
    assert theirs == wanted[: len(theirs)]
    assert len(theirs) == count or reading.end == "refused"


def agree_on_response(data: bytes, method: bytes, *, eof: bool) -> None:
    """The same of what a backend sends in answer to a *method* request, and then closes or not."""
    mine = our_response(data, method, eof=eof)
    if not mine.messages:
        return
    (message,) = mine.messages
    (theirs,) = response_by_h11(data, method, eof=eof).messages
    assert (theirs.start, end_to_end(theirs.headers), theirs.body) == (
        message.start, end_to_end(message.headers), message.body,
    )  # fmt: skip
    # We keep Content-Length and write Transfer-Encoding anew.
    assert _framing(message) in ([], [b"content-length"])
    assert not _framing(message) or b"transfer-encoding" not in _framing(theirs)
    # An interim response with the wrong headers is an end for llhttp.
    if method != b"HEAD" and mine.end == "clean" and data[9:10] != b"1":
        reading = response_by_httptools(data)
        assert reading.end == "refused" or (reading.messages[0].start, reading.messages[0].body) == (
            message.start, message.body,
        )  # fmt: skip
