"""All streams of a worker in one turn: who is served when, who pays for a mistake, who has to wait."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.kit.transports import LOOPS, Recorder, Yard, arrived, fd_of, reset, yard

_SMALL = 8 * 1024
_MUCH = bytes(1 << 20)


@pytest.fixture(params=LOOPS)
def here(request: pytest.FixtureRequest) -> Iterator[Yard]:
    with yard(LOOPS[request.param]) as made:
        yield made


class Mistake(Exception):
    pass


def _fail(_: Recorder) -> None:
    raise Mistake


# One turn


def test_backends_are_heard_before_clients(here: Yard) -> None:
    """S47: what a backend has said is known before a client's request can be given its connection."""
    order: list[str] = []
    near_client, client = here.stream(Recorder(data=lambda _: order.append("client")))
    near_backend, backend = here.stream(Recorder(data=lambda _: order.append("backend")), early=True)
    for near, far in ((near_client, client), (near_backend, backend)):
        far.send(b"x")
        arrived(fd_of(near))
    here.until(lambda: len(order) == 2)
    assert order == ["backend", "client"]


def _caught_up(here: Yard, backend_data: bytes, others: int = 0) -> list[bool]:
    """Return whether the poller says that it has caught up: before, while a backend speaks, while a client
    does, afterwards. All is ready when the turn begins."""
    said = [here.poller.caught_up]

    def say(_: Recorder) -> None:
        if len(said) < 3:
            said.append(here.poller.caught_up)

    pairs = [here.stream(Recorder(data=say), early=True)]
    pairs += [here.stream(Recorder(data=say)) for _ in range(1 + others)]
    pairs[0][1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    pairs[0][0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for near, far in pairs:
        far.sendall(backend_data if near is pairs[0][0] else b"x")
        arrived(fd_of(near))
    here.until(lambda: len(said) == 3)
    return [*said, here.poller.caught_up]


def test_clients_know_that_what_is_idle_is_idle(here: Yard) -> None:
    assert _caught_up(here, b"x") == [False, False, True, False]


def test_a_full_read_may_have_left_something(here: Yard) -> None:
    """Extra bytes exactly behind it would be the next one's answer (S46)."""
    assert _caught_up(here, bytes(65_536)) == [False, False, False, False]
    assert _caught_up(here, bytes(65_535)) == [False, False, True, False]


def test_with_more_to_tell_than_fits_in_a_turn_nothing_is_sure(here: Yard) -> None:
    """The backends among the rest have not been heard."""
    assert _caught_up(here, b"x", others=255)[2] is False


def test_more_than_fits_in_a_turn_is_told_in_the_next(here: Yard) -> None:
    protocols = [Recorder() for _ in range(600)]
    for protocol in protocols:
        near, far = here.stream(protocol)
        far.send(b"x")
        arrived(fd_of(near))
    here.until(lambda: all(protocol.data for protocol in protocols))


@pytest.mark.parametrize("early", [True, False], ids=["of a backend", "of a client"])
def test_ended_by_another_one_in_the_same_turn_it_hears_no_more(here: Yard, early: bool) -> None:
    """Though its own event is waiting already, and its descriptor may be somebody else's by then."""
    protocols: list[Recorder] = []

    def end_the_others(one: Recorder) -> None:
        for other in protocols:
            if other is not one:
                other.transport.abort()

    pairs = []
    for number in range(3):
        protocols.append(Recorder(data=end_the_others))
        pairs.append(here.stream(protocols[-1], early=early and number == 0))
    for near, far in pairs:
        far.send(b"x")
        arrived(fd_of(near))
    here.until(lambda: sum(protocol.lost for protocol in protocols) == 2)
    assert sorted(protocol.events for protocol in protocols) == [
        ["made", "data"], ["made", "lost"], ["made", "lost"],
    ]  # fmt: skip


def test_a_descriptor_that_is_used_again_is_another_connection(here: Yard) -> None:
    """In one turn: a backend's end closes a client, and the next client is accepted with its number."""
    accepted: list[Recorder] = []

    def make() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    _, listening = here.listener(make)
    client = Recorder()
    near_client, far_client = here.stream(client)
    near_backend, far_backend = here.stream(Recorder(data=lambda _: near_client.abort()), early=True)
    number = fd_of(near_client)
    far_client.send(b"old")
    arrived(number)
    late = here.client(listening)
    arrived(listening.fileno())
    far_backend.send(b"x")
    arrived(fd_of(near_backend))
    here.until(lambda: accepted and client.lost)
    assert accepted[0].transport.get_extra_info("socket").fileno() == number
    assert client.events == ["made", "lost"]
    late.send(b"new")
    here.until(lambda: accepted[0].data == b"new")
    assert accepted[0].events == ["made", "data"]
    accepted[0].transport.abort()
    here.until(lambda: accepted[0].lost)


def test_the_end_is_told_within_the_turn(here: Yard) -> None:
    """Who waits for it need not wait for the loop; and what the telling ends is told as well."""
    second = Recorder()
    here.stream(second)
    first = Recorder(data=lambda p: p.transport.abort(), lost=lambda _: second.transport.abort())
    near, far = here.stream(first)
    far.send(b"x")
    arrived(fd_of(near))
    here.until(lambda: second.lost)
    assert first.events == ["made", "data", "lost"]
    assert second.events == ["made", "lost"]


# Mistakes


@pytest.mark.parametrize("where", ["data", "eof", "lost"])
def test_a_mistake_ends_one_connection(here: Yard, where: str) -> None:
    """It is reported, its connection ends with it, and the others of that turn are served."""
    others = [Recorder() for _ in range(4)]
    wrong = Recorder(**{where: _fail})
    pairs = [here.stream(others[0]), here.stream(others[1], early=True)]
    pairs.append(here.stream(wrong))
    pairs += [here.stream(others[2]), here.stream(others[3])]
    for near, far in pairs:
        far.send(b"x")
        if near is wrong.transport and where != "data":
            far.close()
        arrived(fd_of(near))
    here.until(lambda: wrong.lost and all(other.data for other in others))
    assert wrong.events.count("lost") == 1
    assert [type(bug) for bug in here.bugs] == [Mistake]
    assert (wrong.error is here.bugs[0]) == (where != "lost")
    assert not any(other.lost for other in others)
    pairs[0][1].send(b"y")
    here.until(lambda: others[0].data == b"xy")


def test_a_mistake_at_the_end_does_not_keep_others_from_being_told_of_theirs(here: Yard) -> None:
    """Inside a turn and outside: they are told one after the other."""
    ended = [Recorder(lost=_fail) for _ in range(3)]
    for protocol in ended:
        here.stream(protocol)[0].abort()
    here.until(lambda: all(protocol.lost for protocol in ended))
    assert len(here.bugs) == 3
    ended = [Recorder(lost=_fail) for _ in range(3)]
    for protocol in ended:
        near, far = here.stream(protocol)
        reset(far)
        arrived(fd_of(near), select.POLLHUP)
    here.until(lambda: all(protocol.lost for protocol in ended))
    assert len(here.bugs) == 6


def test_a_mistake_when_told_to_go_on_ends_that_connection(here: Yard) -> None:
    wrong = Recorder(resume=_fail)
    stream, far = here.stream(wrong, buffer_bytes=_SMALL)
    stream.write(_MUCH)
    here.read(far, len(_MUCH) - 16 * 1024)  # the lower mark
    here.until(lambda: wrong.lost)
    assert [type(bug) for bug in here.bugs] == [Mistake]
    assert wrong.error is here.bugs[0]


def test_a_mistake_when_told_to_pause_is_not_the_writers(here: Yard) -> None:
    """The one that writes is another connection as a rule: it must not end for it."""
    wrong = Recorder(pause=_fail)
    full, _ = here.stream(wrong, buffer_bytes=_SMALL)
    writer = Recorder(data=lambda _: full.write(_MUCH))
    _, far = here.stream(writer)
    far.send(b"x")
    here.until(lambda: wrong.lost)
    here.run()
    assert [type(bug) for bug in here.bugs] == [Mistake]
    assert wrong.events == ["made", "pause", "lost"]
    assert writer.events == ["made", "data"]


def test_a_connection_that_cannot_begin_is_over(here: Yard) -> None:
    """Whoever made it is told; so is its protocol, which may have begun to count itself."""
    wrong = Recorder(made=_fail)
    near, far = here.pair()
    with pytest.raises(Mistake):
        type(here.stream(Recorder())[0])(here.poller, near, wrong)
    here.until(lambda: wrong.lost)
    assert wrong.events == ["made", "lost"]
    assert here.ended(far)
    assert near.fileno() == -1


# Fairness


def test_a_flood_does_not_keep_the_others_waiting(here: Yard) -> None:
    """A turn reads so much of each and no more; between two turns the loop does what else it has to."""
    rounds: list[int] = []
    pieces: list[int] = []
    flood = Recorder(data=lambda p: pieces.append(len(p.data) - sum(pieces)))
    flooded, source = here.stream(flood)
    flooded.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    quiet = Recorder(data=lambda _: rounds.append(len(pieces)))
    near, far = here.stream(quiet)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 4 << 20:
            sent += source.send(_MUCH)
    far.send(b"x")
    arrived(fd_of(near))
    between: list[int] = []

    def meanwhile() -> None:
        between.append(len(pieces))
        if len(flood.data) < sent:
            here.loop.call_soon(meanwhile)

    here.loop.call_soon(meanwhile)
    here.until(lambda: len(flood.data) == sent)
    assert rounds[0] <= 1
    assert max(pieces) <= 256 * 1024
    assert max(late - early for early, late in pairwise(between)) == 1


def test_a_crowd_at_the_door_does_not_keep_those_inside_waiting(here: Yard) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    _, listening = here.listener(make)
    for _ in range(200):
        here.client(listening)
    inside = Recorder(data=lambda p: seen.append(len(made)))
    seen: list[int] = []
    near, far = here.stream(inside)
    far.send(b"x")
    arrived(fd_of(near))
    here.until(lambda: seen)
    assert seen[0] <= 64
    here.until(lambda: len(made) == 200)
    for protocol in made:
        protocol.transport.abort()


# Listeners


def test_each_connection_gets_a_protocol_of_its_own(here: Yard) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    listener, listening = here.listener(make)
    clients = [here.client(listening) for _ in range(3)]
    here.until(lambda: len(made) == 3)
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    here.until(lambda: all(protocol.data for protocol in made))
    assert {p.transport.get_extra_info("peername"): p.data for p in made} == {
        client.getsockname(): b"%d" % number for number, client in enumerate(clients)
    }
    assert made[0].transport.get_extra_info("sockname")[1] == clients[0].getpeername()[1]
    assert made[0].transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    listener.close()
    listener.close()
    for protocol in made:
        assert not protocol.lost
        protocol.transport.abort()


@pytest.mark.parametrize("where", ["make", "made"])
def test_a_protocol_that_fails_does_not_close_the_door(here: Yard, where: str) -> None:
    """The next client is served as ever, in the same turn."""
    good: list[Recorder] = []
    visits = iter((1, 2, 3, 4))

    def make() -> Recorder:
        if next(visits) % 2:
            if where == "make":
                raise Mistake
            return Recorder(made=_fail)
        good.append(Recorder())
        return good[-1]

    _, listening = here.listener(make)
    clients = [here.client(listening) for _ in range(4)]
    here.queued(listening, 4)
    here.until(lambda: len(good) == 2)
    assert here.turns == 1
    assert [type(bug) for bug in here.bugs] == [Mistake, Mistake]
    for client in (clients[0], clients[2]):
        client.setblocking(False)
        here.ended(client)
    clients[3].send(b"hello")
    here.until(lambda: good[1].data == b"hello")
    for protocol in good:
        protocol.transport.abort()


def test_an_accepted_connection_that_has_ended_does_not_touch_its_old_descriptor(here: Yard) -> None:
    """The number is soon somebody else's: a socket made of it would end with that one's connection."""
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    _, listening = here.listener(make)
    clients = [here.client(listening) for _ in range(2)]
    here.until(lambda: len(made) == 2)
    asked, silent = made
    number = fd_of(asked.transport)
    for client in clients:
        client.send(b"x")
    for ended in made:
        ended.transport.abort()
        ended.transport.abort()
    here.until(lambda: asked.lost and silent.lost)
    other = os.open(os.devnull, os.O_RDONLY)
    if other != number:
        os.dup2(other, number)
    for ended in made:
        assert ended.transport.get_extra_info("socket") is None
        assert ended.transport.get_extra_info("sockname", "?") == "?"
        ended.transport.write_eof()
        ended.transport.write(b"x")
        ended.transport.abort()
    here.run()
    assert not here.bugs
    os.fstat(number)  # still open
    for fd in {other, number}:
        os.close(fd)


@pytest.mark.parametrize("where", ["make", "made"])
def test_a_listener_that_is_closed_while_it_accepts_accepts_no_more(here: Yard, where: str) -> None:
    """Its descriptor may be somebody else's by then, who listens as well."""
    made: list[Recorder] = []
    other = socket.create_server(("127.0.0.1", 0))
    other.setblocking(False)
    here.client(other)

    def close(_: object) -> None:
        number = listening.fileno()
        listener.close()
        os.dup2(other.fileno(), number)
        others.append(number)

    others: list[int] = []

    def make() -> Recorder:
        made.append(Recorder(**({"made": close} if where == "made" else {})))
        if where == "make":
            close(None)
        return made[-1]

    listener, listening = here.listener(make)
    for _ in range(3):
        here.client(listening)
    here.until(lambda: made)
    turns = here.turns
    here.run(50)
    assert here.turns - turns <= 2
    assert len(made) == 1
    assert not here.bugs
    made[0].transport.abort()
    other.close()
    os.close(others[0])


def test_a_closed_listener_is_not_watched_though_somebody_else_has_it_too(here: Yard) -> None:
    """The supervisor keeps the sockets: closing does not take them out of epoll."""
    listener, listening = here.listener(Recorder)
    kept = socket.socket(fileno=os.dup(listening.fileno()))
    listener.close()
    here.client(kept)
    arrived(kept.fileno())
    turns = here.turns
    here.run(50)
    assert here.turns == turns
    kept.close()


def test_a_client_that_is_gone_before_it_is_accepted_does_no_harm(here: Yard) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    _, listening = here.listener(make)
    reset(here.client(listening))
    client = here.client(listening)
    client.send(b"hello")
    here.until(lambda: any(protocol.data == b"hello" for protocol in made))
    for protocol in made:
        protocol.transport.abort()
    assert not here.bugs


def test_a_listener_that_cannot_listen_does_not_spin(here: Yard) -> None:
    """Whatever the reason: it asks again after a while, and the rest of the worker goes on."""
    protocol = Recorder()
    _, far = here.stream(protocol)
    _, listening = here.listener(Recorder)
    listening.shutdown(socket.SHUT_RDWR)
    arrived(listening.fileno(), select.POLLHUP)
    here.run(3)
    turns = here.turns
    here.run(50)
    assert here.turns == turns
    far.send(b"x")
    here.until(lambda: protocol.data)
    assert not here.bugs


def test_a_listener_that_has_rested_accepts_again(here: Yard) -> None:
    """But not once it has been closed."""
    rested, listening = here.listener(Recorder)
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    listener, listening = here.listener(make)
    for resting in (listener, rested):
        resting.fail(Mistake())
    rested.close()
    client = here.client(listening)
    client.send(b"hello")
    here.until(lambda: made and made[0].data == b"hello")
    made[0].transport.abort()
    assert not here.bugs


# The end


@pytest.mark.parametrize("make_loop", LOOPS.values(), ids=LOOPS)
def test_nothing_stays_open(make_loop: type[asyncio.AbstractEventLoop]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with yard(make_loop) as here:
        _, listening = here.listener(Recorder)
        here.client(listening).close()
        protocol = Recorder()
        _, far = here.stream(protocol)
        here.stream(Recorder())
        far.close()
        here.until(lambda: protocol.lost)
    assert set(os.listdir("/proc/self/fd")) <= before
