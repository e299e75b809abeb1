"""What our parser takes, two that share no code with it take, and understand as the same messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.bounded import bounded
from tests.kit.grammar import mutated, responses, streams, valid_streams
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


def _end_to_end(headers: Headers) -> Headers:
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
    headers = _end_to_end(message.headers)
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


def _agreed(stream: bytes) -> None:
    """h11 reads what we read. llhttp may refuse more, some chunk extensions among it, but reads no other."""
    mine = ours(stream)
    wanted = tuple(as_forwarded(message) for message in mine.messages)
    theirs = tuple(as_forwarded(message) for message in by_h11(stream).messages[: len(wanted)])
    assert theirs == wanted
    stops = (i for i, message in enumerate(mine.messages) if _stops_llhttp(stream, message))
    count = next(stops, len(wanted))
    reading = by_httptools(stream)
    theirs = tuple(as_forwarded(message) for message in reading.messages[:count])
    assert theirs == wanted[: len(theirs)]
    assert len(theirs) == count or reading.end == "refused"


@bounded(300)
@given(stream=valid_streams)
def test_valid_requests_are_taken_and_read_alike(stream: bytes) -> None:
    """Invariant I1 at the parsers, and that the grammar makes what it says: nothing valid is refused."""
    assert ours(stream).end in ("clean", "closed")
    _agreed(stream)


@bounded(600)
@given(stream=streams)
def test_what_we_take_of_hostile_bytes_is_read_alike(stream: bytes) -> None:
    """Invariant I1 at the parsers: whatever we accept has one meaning, whoever reads it."""
    _agreed(stream)


@bounded(500)
@given(data=mutated(responses()), method=st.sampled_from((b"GET", b"GET", b"HEAD")), eof=st.booleans())
def test_what_we_take_of_a_hostile_backend_is_read_alike(data: bytes, method: bytes, eof: bool) -> None:
    """The same for responses, where the end of the connection may be the end of the body."""
    mine = our_response(data, method, eof=eof)
    if not mine.messages:
        return
    (message,) = mine.messages
    (theirs,) = response_by_h11(data, method, eof=eof).messages
    assert (theirs.start, _end_to_end(theirs.headers), theirs.body) == (
        message.start, _end_to_end(message.headers), message.body,
    )  # fmt: skip
    # An interim response with the wrong headers is an end for llhttp.
    if method != b"HEAD" and mine.end == "clean" and data[9:10] != b"1":
        reading = response_by_httptools(data)
        assert reading.end == "refused" or (reading.messages[0].start, reading.messages[0].body) == (
            message.start, message.body,
        )  # fmt: skip
