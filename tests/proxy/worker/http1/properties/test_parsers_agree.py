"""What our parser takes, two that share no code with it take, and understand as the same messages."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tests.kit.agreement import agree_on_requests, agree_on_response
from tests.kit.bounded import bounded
from tests.kit.grammar import mutated, responses, streams, valid_streams
from tests.kit.parsers import ours

_BOTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"


@bounded(300)
@given(stream=valid_streams)
def test_valid_requests_are_taken_and_read_alike(stream: bytes) -> None:
    """Invariant I1 at the parsers, and that the grammar makes what it says: nothing valid is refused."""
    assert ours(stream).end in ("clean", "closed")
    agree_on_requests(stream)


@bounded(600)
@given(stream=streams)
def test_what_we_take_of_hostile_bytes_is_read_alike(stream: bytes) -> None:
    """Invariant I1 at the parsers: whatever we accept has one meaning, whoever reads it."""
    agree_on_requests(stream)


@bounded(500)
@given(data=mutated(responses()), method=st.sampled_from((b"GET", b"GET", b"HEAD")), eof=st.booleans())
@example(data=_BOTH, method=b"GET", eof=False)
@example(
    data=_BOTH.replace(b"\nContent-Length: 5", b"\nX: y").replace(b"1.1", b"1.0"), method=b"GET", eof=True
)
def test_what_we_take_of_a_hostile_backend_is_read_alike(data: bytes, method: bytes, eof: bool) -> None:
    """The same for responses, where the end of the connection may be the end of the body."""
    agree_on_response(data, method, eof=eof)
