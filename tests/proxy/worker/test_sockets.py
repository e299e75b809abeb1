"""A stream is a transport: the order of what a protocol is told, and what becomes of its bytes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from proxy.worker.sockets import Stream
from tests.kit.transports import LOOPS, Recorder, Yard, arrived, fd_of, reset, unacknowledged_bytes, yard

_SMALL = 8 * 1024  # a buffer of the kernel, before it doubles it
_MUCH = bytes(range(256)) * 4 * 1024  # 1 MiB: more than such buffers take


@pytest.fixture(params=LOOPS)
def here(request: pytest.FixtureRequest) -> Iterator[Yard]:
    with yard(LOOPS[request.param]) as made:
        yield made


def _blocked(here: Yard, protocol: Recorder) -> tuple[Stream, socket.socket]:
    """Return a stream that has `_MUCH` to send, to a peer that does not read."""
    stream, far = here.stream(protocol, buffer_bytes=_SMALL)
    stream.write(_MUCH)
    assert stream.get_write_buffer_size() > 0
    return stream, far


# The order of calls


def test_the_life_of_a_connection(here: Yard) -> None:
    """made, data, eof, lost: each in its turn, the last with None for an end without error."""
    protocol = Recorder()
    _, far = here.stream(protocol)
    assert protocol.events == ["made"]
    far.send(b"hello")
    here.until(lambda: protocol.data == b"hello")
    far.close()
    here.until(lambda: protocol.lost)
    here.run()
    assert protocol.events == ["made", "data", "eof", "lost"]
    assert protocol.error is None


def test_a_reset_is_an_error(here: Yard) -> None:
    protocol = Recorder()
    _, far = here.stream(protocol)
    reset(far)
    here.until(lambda: protocol.lost)
    assert protocol.events == ["made", "lost"]
    assert isinstance(protocol.error, ConnectionResetError)


@pytest.mark.parametrize("end", [Stream.close, Stream.abort])
@pytest.mark.parametrize("when", ["made", "data", "outside"])
def test_the_end_is_told_once_and_never_inside_the_call_that_ends(
    here: Yard, end: Callable[[Stream], None], when: str
) -> None:
    """Whoever ends a connection may be in the middle of using it."""
    inside: list[bool] = []

    def ending(protocol: Recorder) -> None:
        end(protocol.transport)
        assert protocol.transport.is_closing()
        inside.append(protocol.lost)
        end(protocol.transport)
        Stream.abort(protocol.transport)

    protocol = Recorder(**{when: ending})
    _, far = here.stream(protocol)
    far.send(b"one")
    if when == "outside":
        ending(protocol)
    here.until(lambda: protocol.lost)
    here.run()
    assert inside == [False]
    assert protocol.events == ["made", "data", "lost"] if when == "data" else ["made", "lost"]
    assert protocol.error is None


def test_nothing_is_told_after_close(here: Yard) -> None:
    """Neither bytes nor the end of the other side, though the buffer is still on its way out."""
    protocol = Recorder()
    stream, far = _blocked(here, protocol)
    stream.close()
    far.send(b"too late")
    far.shutdown(socket.SHUT_WR)
    arrived(fd_of(stream), select.POLLRDHUP)
    stream.resume_reading()  # does not bring it back
    assert not stream.is_reading()
    here.run()
    assert protocol.events == ["made", "pause"]
    here.read(far, len(_MUCH))
    here.until(lambda: protocol.lost)
    assert "data" not in protocol.events
    assert "eof" not in protocol.events


def test_after_the_end_every_method_is_without_effect(here: Yard) -> None:
    protocol = Recorder()
    stream, _ = here.stream(protocol)
    stream.abort()
    here.until(lambda: protocol.lost)
    stream.write(b"x")
    stream.write_eof()
    stream.pause_reading()
    stream.resume_reading()
    stream.close()
    stream.abort()
    here.run()
    assert protocol.events == ["made", "lost"]
    assert stream.get_write_buffer_size() == 0
    assert stream.get_extra_info("peername", "?") == "?"


def test_what_a_transport_knows(here: Yard) -> None:
    stream, far = here.stream(Recorder())
    assert stream.get_extra_info("peername") == far.getsockname()
    assert stream.get_extra_info("sockname") == far.getpeername()
    assert stream.get_extra_info("ssl_object") is None
    assert stream.get_extra_info("cipher", 3) == 3
    assert stream.can_write_eof()
    assert stream.is_reading()
    late, far = here.stream(Recorder())
    reset(far)
    arrived(fd_of(late), select.POLLHUP)
    assert late.get_extra_info("peername", "?") == "?"


def test_a_protocol_that_takes_over_hears_the_rest(here: Yard) -> None:
    """In the middle of being told bytes, as after a PROXY header; the first one hears no more."""
    second = Recorder()
    first = Recorder(data=lambda p: p.transport.set_protocol(second))
    _, far = here.stream(first)
    far.send(b"header")
    here.until(lambda: first.data)
    far.send(b"body")
    here.until(lambda: second.data == b"body")
    far.close()
    here.until(lambda: second.lost)
    assert first.events == ["made", "data"]
    assert second.events == ["data", "eof", "lost"]


# The end of what the other side says


def test_half_a_connection_can_be_kept(here: Yard) -> None:
    """`eof_received` returns true: the answer still goes out, and nothing spins meanwhile."""
    protocol = Recorder(keep_open=True)
    stream, far = here.stream(protocol)
    far.send(b"question")
    far.shutdown(socket.SHUT_WR)
    here.until(lambda: "eof" in protocol.events)
    turns = here.turns
    here.run(50)
    assert here.turns == turns
    stream.write(b"answer")
    stream.close()
    assert here.read(far, 6) == b"answer"
    assert here.ended(far)
    here.until(lambda: protocol.lost)
    assert protocol.events == ["made", "data", "eof", "lost"]


def test_else_it_closes_once_the_buffer_is_out(here: Yard) -> None:
    protocol = Recorder()
    stream, far = _blocked(here, protocol)
    far.shutdown(socket.SHUT_WR)
    here.until(lambda: "eof" in protocol.events)
    assert stream.is_closing()
    assert here.read(far, len(_MUCH)) == _MUCH
    assert here.ended(far)
    here.until(lambda: protocol.lost)
    assert protocol.error is None


def test_a_protocol_that_takes_over_after_the_end_is_told_of_it(here: Yard) -> None:
    """A client may half-close before the 101 comes: the tunnel has to pass that on."""
    first, second = Recorder(keep_open=True), Recorder(keep_open=True)
    stream, far = here.stream(first)
    far.shutdown(socket.SHUT_WR)
    here.until(lambda: "eof" in first.events)
    assert not stream.is_reading()
    stream.set_protocol(second)
    stream.resume_reading()
    here.until(lambda: second.events)
    here.run()
    assert second.events == ["eof"]


def test_the_end_right_behind_the_last_bytes_is_told_in_the_same_turn(here: Yard) -> None:
    """A backend that answers and closes: the next request of this turn must not get its connection."""
    seen: list[list[str]] = []
    backend = Recorder()
    client = Recorder(data=lambda _: seen.append(list(backend.events)))
    near_client, far_client = here.stream(client)
    near_backend, far_backend = here.stream(backend, early=True)
    far_client.send(b"request")
    far_backend.send(b"response")
    far_backend.close()
    arrived(fd_of(near_client))
    arrived(fd_of(near_backend), select.POLLRDHUP)
    here.until(lambda: seen)
    assert seen == [["made", "data", "eof", "lost"]]


# Writing


def test_what_the_kernel_takes_is_out_at_once(here: Yard) -> None:
    stream, far = here.stream(Recorder())
    stream.write(b"hello")
    stream.write(b"")
    arrived(far.fileno())
    assert far.recv(100) == b"hello"
    assert stream.get_write_buffer_size() == 0


def test_close_sends_what_is_buffered_first(here: Yard) -> None:
    protocol = Recorder()
    stream, far = _blocked(here, protocol)
    stream.close()
    here.run()
    assert not protocol.lost
    assert here.read(far, len(_MUCH)) == _MUCH
    assert here.ended(far)
    here.until(lambda: protocol.lost)
    assert protocol.events == ["made", "pause", "resume", "lost"]
    assert protocol.error is None


def test_abort_does_not(here: Yard) -> None:
    protocol = Recorder()
    stream, _ = _blocked(here, protocol)
    stream.abort()
    assert stream.get_write_buffer_size() == 0
    here.until(lambda: protocol.lost)
    assert protocol.events == ["made", "pause", "lost"]


def test_a_close_that_never_gets_its_buffer_out_can_be_aborted(here: Yard) -> None:
    """The peer does not read, so only its owner can end it."""
    protocol = Recorder()
    stream, _ = _blocked(here, protocol)
    stream.close()
    here.run()
    assert not protocol.lost
    stream.abort()
    here.until(lambda: protocol.lost)
    assert protocol.error is None


def test_a_close_whose_peer_goes_away_ends(here: Yard) -> None:
    protocol = Recorder()
    stream, far = _blocked(here, protocol)
    stream.close()
    reset(far)
    here.until(lambda: protocol.lost)
    assert isinstance(protocol.error, ConnectionError)


def test_write_eof_comes_behind_the_buffer(here: Yard) -> None:
    protocol = Recorder()
    stream, far = _blocked(here, protocol)
    stream.write_eof()
    stream.write(b"ignored")
    stream.write_eof()
    assert here.read(far, len(_MUCH)) == _MUCH
    assert here.ended(far)
    far.send(b"still heard")
    here.until(lambda: protocol.data == b"still heard")
    assert protocol.events == ["made", "pause", "resume", "data"]
    stream.close()
    here.until(lambda: protocol.lost)


def test_write_eof_without_a_buffer_is_at_once(here: Yard) -> None:
    stream, far = here.stream(Recorder())
    stream.write(b"last")
    stream.write_eof()
    stream.write(b"ignored")
    arrived(far.fileno(), select.POLLRDHUP)
    assert far.recv(100) == b"last"
    assert far.recv(100) == b""


def test_the_water_marks(here: Yard) -> None:
    """Asked to pause above the upper one, once, and to go on at the lower one, once."""
    protocol = Recorder()
    stream, far = here.stream(protocol, buffer_bytes=_SMALL)
    stream.set_write_buffer_limits(high=len(_MUCH), low=1000)
    stream.write(_MUCH)
    assert protocol.events == ["made"]
    stream.write(_MUCH)
    stream.write(_MUCH)
    assert protocol.events == ["made", "pause"]
    left = []
    protocol.on["resume"] = lambda _: left.append(stream.get_write_buffer_size())
    assert here.read(far, 3 * len(_MUCH)) == 3 * _MUCH
    here.until(lambda: left)
    assert protocol.events == ["made", "pause", "resume"]
    assert left[0] <= 1000
    here.until(lambda: stream.get_write_buffer_size() == 0)
    here.run()
    turns = here.turns
    here.run(50)
    assert here.turns == turns  # nobody is told that he could write, who has nothing to


def test_more_can_be_written_when_asked_to_go_on(here: Yard) -> None:
    again = [b"second", b"third"]

    def more(protocol: Recorder) -> None:
        if again:
            protocol.transport.write(again.pop(0))
            protocol.transport.write(_MUCH)

    protocol = Recorder(resume=more)
    _, far = _blocked(here, protocol)
    expected = _MUCH + b"second" + _MUCH + b"third" + _MUCH
    assert here.read(far, len(expected)) == expected
    here.until(lambda: protocol.events.count("resume") == 3)
    assert protocol.events == ["made", *["pause", "resume"] * 3]


@pytest.mark.parametrize("end", [Stream.close, Stream.abort, Stream.write_eof])
def test_it_can_be_ended_when_asked_to_go_on(here: Yard, end: Callable[[Stream], None]) -> None:
    protocol = Recorder(resume=lambda p: end(p.transport))
    _, far = _blocked(here, protocol)
    here.until(lambda: _swallow(far) or "resume" in protocol.events)
    here.until(lambda: _swallow(far))
    far.close()
    here.until(lambda: protocol.lost)
    assert protocol.events.count("resume") == protocol.events.count("lost") == 1


def _swallow(far: socket.socket) -> bool:
    """Take what is there; return whether that was the end."""
    try:
        while data := far.recv(1 << 20):
            del data
    except BlockingIOError:
        return False
    return True


def test_pieces_of_all_sizes_arrive_in_order(here: Yard) -> None:
    """More of them than one gathered write takes, and than the kernel takes at a time."""
    protocol = Recorder()
    stream, far = here.stream(protocol, buffer_bytes=_SMALL)
    pieces = [bytes([number % 251]) * (number * 7919 % 701) for number in range(5000)]
    for piece in pieces:
        stream.write(piece)
    expected = b"".join(pieces)
    out = b""
    for share in range(10):  # some of it is out, then more is added
        out += here.read(far, len(expected) // 10)
        stream.write(bytes([share]) * 1000)
        expected += bytes([share]) * 1000
    stream.write_eof()
    assert out + here.read(far, len(expected) - len(out)) == expected
    assert here.ended(far)
    assert stream.get_write_buffer_size() == 0


def test_a_buffer_that_has_been_emptied_can_be_filled_again(here: Yard) -> None:
    """Its last pieces leave in one go, behind some that have left before."""
    stream, far = here.stream(Recorder(), buffer_bytes=_SMALL)
    for _ in range(3):
        pieces = [_MUCH, _MUCH, *[b"little"] * 60]
        for piece in pieces:
            stream.write(piece)
        expected = b"".join(pieces)
        assert here.read(far, len(expected)) == expected
        here.until(lambda: not stream.get_write_buffer_size())


@pytest.mark.parametrize("before", [b"", _MUCH], ids=["first", "behind a buffer"])
@pytest.mark.parametrize("body", [b"body", _MUCH], ids=["little", "much"])
def test_pieces_together(here: Yard, before: bytes, body: bytes) -> None:
    protocol = Recorder()
    stream, far = here.stream(protocol, buffer_bytes=_SMALL)
    stream.write(before)
    stream.writelines([b"head", body, b"tail"])
    assert ("pause" in protocol.events) == (_MUCH in (before, body))
    stream.close()
    stream.writelines([b"too", b"late"])
    expected = before + b"head" + body + b"tail"
    assert here.read(far, len(expected)) == expected
    assert here.ended(far)


def test_what_is_left_of_a_big_write_is_not_copied(here: Yard) -> None:
    protocol = Recorder()
    stream, far = here.stream(protocol, buffer_bytes=_SMALL)
    data = bytes(32 << 20)
    tracemalloc.start()
    try:
        stream.write(data)
        taken = 0
        while stream.get_write_buffer_size() > 24 << 20:
            taken += len(here.read(far, 1 << 16))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken >= 7 << 20
    assert peak < 4 << 20
    stream.abort()


def test_what_has_been_sent_of_many_pieces_is_let_go(here: Yard) -> None:
    protocol = Recorder()
    stream, far = here.stream(protocol, buffer_bytes=_SMALL)
    tracemalloc.start()
    try:
        for _ in range(100):
            stream.write(bytes(100_000))
        full = tracemalloc.get_traced_memory()[0]
        for _ in range(60):
            here.read(far, 100_000)
        here.until(lambda: stream.get_write_buffer_size() < 4_000_000)
        assert tracemalloc.get_traced_memory()[0] < full - 5_000_000
    finally:
        tracemalloc.stop()
    stream.abort()


# Writing fails


def test_a_write_to_nobody_is_an_error(here: Yard) -> None:
    protocol = Recorder()
    stream, far = here.stream(protocol)
    stream.pause_reading()
    reset(far)
    arrived(fd_of(stream), select.POLLHUP)
    stream.write(b"anybody there?")
    assert stream.is_closing()
    here.until(lambda: protocol.lost)
    assert isinstance(protocol.error, ConnectionError)
    assert protocol.events == ["made", "lost"]


def _answered_and_reset(here: Yard, stream: Stream, far: socket.socket) -> None:
    """Have *far* refuse the rest of a long request: an answer, then a reset for what it does not read."""
    far.send(b"413")
    arrived(fd_of(stream))
    reset(far)
    arrived(fd_of(stream), select.POLLHUP)


def test_pieces_for_nobody_are_an_error_unless_an_answer_waits(here: Yard) -> None:
    for asked in (False, True):
        protocol = Recorder()
        stream, far = here.stream(protocol)
        if asked:
            stream.writelines([b"PO", b"ST"])
            arrived(far.fileno())
            far.recv(4)
        _answered_and_reset(here, stream, far)
        stream.writelines([b"bo", b"dy"])
        assert stream.get_write_buffer_size() == (4 if asked else 0)
        here.until(lambda over=protocol: over.lost)
        assert protocol.data == (b"413" if asked else b"")
        assert isinstance(protocol.error, ConnectionError)


@pytest.mark.parametrize("buffered", [True, False], ids=["in the buffer", "at once"])
def test_an_answer_before_a_reset_is_not_lost(here: Yard, buffered: bool) -> None:
    """The reset is for what the backend does not want to read: the answer says why. And it is an error
    then, never an end: it could pass for the end of a body."""
    protocol = Recorder(keep_open=True)
    if buffered:
        stream, far = _blocked(here, protocol)
    else:
        stream, far = here.stream(protocol)
        stream.write(b"POST")
        arrived(far.fileno())
        far.recv(4)
    unsent = stream.get_write_buffer_size()
    _answered_and_reset(here, stream, far)
    if not buffered:
        stream.write(b"body")
        stream.write(b"ignored")
        assert stream.get_write_buffer_size() == 4  # it never went out
    assert unsent == 0 or buffered
    here.until(lambda: protocol.lost)
    assert protocol.data == b"413"
    assert isinstance(protocol.error, ConnectionError)
    assert [e for e in protocol.events if e != "pause"] == ["made", "data", "lost"]


def test_a_long_answer_before_a_reset_is_not_lost(here: Yard) -> None:
    """More than one read, the first of which fails to be the last."""
    protocol = Recorder()
    stream, far = _blocked(here, protocol)
    stream.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    stream.pause_reading()
    answer = bytes(400_000)
    sent = 0

    def delivered() -> bool:
        nonlocal sent
        with contextlib.suppress(BlockingIOError):
            sent += far.send(answer[sent:])
        return sent == len(answer) and not unacknowledged_bytes(far)

    here.until(delivered)
    reset(far)
    arrived(fd_of(stream), select.POLLHUP)
    stream.resume_reading()
    here.until(lambda: protocol.lost)
    assert len(protocol.data) == len(answer)
    assert isinstance(protocol.error, ConnectionError)


def test_an_end_that_cannot_be_sent_does_not_cost_the_answer_either(here: Yard) -> None:
    protocol = Recorder(keep_open=True)
    stream, far = here.stream(protocol)
    stream.write(b"POST")
    arrived(far.fileno())
    far.recv(4)
    _answered_and_reset(here, stream, far)
    stream.write_eof()
    here.until(lambda: protocol.lost)
    assert protocol.data == b"413"
    assert isinstance(protocol.error, OSError)


def test_what_was_said_unasked_is_no_answer(here: Yard) -> None:
    """The first bytes on a kept connection cannot be sent: what lies there was for nobody (S47)."""
    protocol = Recorder()
    stream, far = here.stream(protocol)
    stream.write(b"GET")
    arrived(far.fileno())
    far.recv(3)
    far.send(b"200")
    here.until(lambda: protocol.data == b"200")
    far.send(b"408")
    arrived(fd_of(stream))
    reset(far)
    arrived(fd_of(stream), select.POLLHUP)
    stream.write(b"GET")
    here.until(lambda: protocol.lost)
    assert protocol.data == b"200"
    assert isinstance(protocol.error, ConnectionError)


@pytest.mark.parametrize("end", [Stream.close, Stream.abort, Stream.pause_reading])
def test_what_cannot_send_any_more_ends_when_nobody_wants_to_read_it(
    here: Yard, end: Callable[[Stream], None]
) -> None:
    protocol = Recorder()
    stream, far = here.stream(protocol)
    stream.write(b"POST")
    arrived(far.fileno())
    far.recv(4)
    _answered_and_reset(here, stream, far)
    stream.write(b"body")
    assert not stream.is_closing()
    end(stream)
    assert stream.is_closing()
    here.until(lambda: protocol.lost)
    assert protocol.events == ["made", "lost"]
    assert isinstance(protocol.error, ConnectionError)


# Reading, and not reading


def test_paused_is_silent(here: Yard) -> None:
    protocol = Recorder()
    stream, far = here.stream(protocol)
    stream.pause_reading()
    stream.pause_reading()
    assert not stream.is_reading()
    far.send(b"hello")
    arrived(fd_of(stream))
    turns = here.turns
    here.run(50)
    assert here.turns == turns
    assert protocol.events == ["made"]
    stream.resume_reading()
    assert stream.is_reading()
    here.until(lambda: protocol.data == b"hello")


def test_paused_in_the_middle_is_silent_from_there(here: Yard) -> None:
    protocol = Recorder(data=lambda p: p.transport.pause_reading())
    stream, far = here.stream(protocol)
    far.send(b"one")
    here.until(lambda: protocol.data == b"one")
    far.send(b"two")
    far.shutdown(socket.SHUT_WR)
    arrived(fd_of(stream), select.POLLRDHUP)
    here.run()
    assert protocol.events == ["made", "data"]
    protocol.on.clear()
    stream.resume_reading()
    here.until(lambda: protocol.lost)
    assert protocol.data == b"onetwo"


def test_paused_or_closed_before_it_begins(here: Yard) -> None:
    protocol = Recorder(made=lambda p: p.transport.pause_reading())
    stream, far = here.stream(protocol)
    far.send(b"hello")
    arrived(fd_of(stream))
    here.run()
    assert protocol.events == ["made"]


@pytest.mark.parametrize("unsent", [True, False], ids=["with bytes to send", "with nothing to send"])
def test_a_reset_while_paused_waits_or_ends_but_never_spins(here: Yard, unsent: bool) -> None:
    """epoll tells of errors whether asked or not: while nobody reads, it must not be asked at all."""
    protocol = Recorder()
    if unsent:
        stream, far = _blocked(here, protocol)
    else:
        stream, far = here.stream(protocol)
    stream.pause_reading()
    reset(far)
    arrived(fd_of(stream), select.POLLHUP)
    turns = here.turns
    here.run(50)
    assert here.turns - turns <= 2
    assert protocol.lost == unsent
    stream.resume_reading()
    here.until(lambda: protocol.lost)
    assert isinstance(protocol.error, ConnectionError)


def test_a_reset_after_its_end_is_found_by_the_next_write(here: Yard) -> None:
    """Half-closed and silent; not even a hang-up of both sides may spin."""
    protocol = Recorder(keep_open=True)
    stream, far = here.stream(protocol)
    far.shutdown(socket.SHUT_WR)
    here.until(lambda: "eof" in protocol.events)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    arrived(fd_of(stream), select.POLLHUP)
    turns = here.turns
    here.run(50)
    assert here.turns == turns
    stream.write(b"answer")
    here.until(lambda: protocol.lost)
    assert isinstance(protocol.error, ConnectionError)
    assert protocol.events == ["made", "eof", "lost"]


def test_both_sides_have_ended_and_nothing_spins(here: Yard) -> None:
    protocol = Recorder(keep_open=True)
    stream, far = here.stream(protocol)
    stream.write_eof()
    far.shutdown(socket.SHUT_WR)
    here.until(lambda: "eof" in protocol.events)
    arrived(fd_of(stream), select.POLLHUP)
    turns = here.turns
    here.run(50)
    assert here.turns == turns
    assert not protocol.lost  # closing is the protocol's to do
    stream.close()
    here.until(lambda: protocol.lost)
    assert protocol.error is None
