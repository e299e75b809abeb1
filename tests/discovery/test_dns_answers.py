"""What one answer after the other means: changes drain, silence keeps, emptiness has to come twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from discovery.dns_answers import CONFIRM_S, DRAIN_S, TTL_MIN_S, Answers
from discovery.dns_names import Answer, Place

A, B, C = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)


def answers(*places: Place, ttl_s: float = 30.0, ttl_max_s: float = 60.0) -> Answers:
    made = Answers(ttl_max_s)
    if places:
        made.learn(Answer(frozenset(places), ttl_s), 0.0, 0.0)
    return made


NOTHING = Answer(frozenset(), 0.0)


def test_an_answer_is_asked_for_again_when_it_runs_out_within_bounds() -> None:
    assert answers(A, ttl_s=30.0).due_s == 30.0
    assert answers(A, ttl_s=0.0).due_s == TTL_MIN_S
    assert answers(A, ttl_s=86_400.0).due_s == 60.0


def test_what_leaves_an_answer_drains_and_then_goes() -> None:
    known = answers(A, B)
    known.learn(Answer(frozenset({B, C}), 30.0), 30.0, 30.1)

    assert known.current == {B, C}
    assert known.leaving == {A: 30.1 + DRAIN_S}
    known.expire(30.0 + DRAIN_S)
    assert A in known.leaving
    known.expire(30.1 + DRAIN_S)
    assert known.leaving == {}


def test_what_comes_back_meanwhile_stays() -> None:
    known = answers(A, B)
    known.learn(Answer(frozenset({B}), 30.0), 30.0, 30.0)
    known.learn(Answer(frozenset({A, B}), 30.0), 40.0, 40.0)
    known.expire(1000.0)

    assert (known.current, known.leaving) == ({A, B}, {})


def test_half_an_answer_adds_and_takes_nothing_away() -> None:
    known = answers(A, B)
    known.learn(Answer(frozenset({C}), 30.0, whole=False), 30.0, 30.0)

    assert (known.current, known.leaving) == ({A, B, C}, {})


def test_no_answer_keeps_what_is_known_and_asks_ever_less_often() -> None:
    known = answers(A)
    pauses = []
    for now_s in (30.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0):
        known.miss(now_s)
        pauses.append(known.due_s - now_s)

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert (known.current, known.answered_s) == ({A}, 0.0)
    known.learn(Answer(frozenset({A}), 30.0), 800.0, 800.0)
    known.miss(900.0)
    assert known.due_s == 901.0


def test_emptiness_is_believed_the_second_time_and_not_before_a_ttl() -> None:
    for ttl_s in (1.0, 30.0):
        wait_s = max(CONFIRM_S, ttl_s)
        known = answers(A, ttl_s=ttl_s)
        known.learn(NOTHING, 40.0, 40.0)
        assert (known.current, known.empty, known.due_s) == ({A}, False, 40.0 + wait_s)
        known.learn(NOTHING, 41.0, 41.0)  # somebody was in a hurry
        assert known.current == {A}
        known.learn(NOTHING, 40.0 + wait_s, 40.0 + wait_s)
        assert (known.current, known.empty) == (frozenset(), True)
        assert known.leaving == {A: 40.0 + wait_s + DRAIN_S}


def test_one_good_answer_in_between_ends_the_suspicion() -> None:
    known = answers(A)
    known.learn(NOTHING, 40.0, 40.0)
    known.learn(Answer(frozenset({A}), 30.0), 50.0, 50.0)
    known.learn(NOTHING, 100.0, 100.0)

    assert known.current == {A}


def test_a_name_that_never_was_is_an_answer_after_the_second_time() -> None:
    """Before that, what an earlier process knew of it is not to be thrown away."""
    known = answers()
    known.learn(NOTHING, 0.0, 0.0)
    assert known.answered_s is None
    known.learn(NOTHING, CONFIRM_S, CONFIRM_S)
    assert (known.answered_s, known.empty) == (CONFIRM_S, True)


PLACES = st.frozensets(st.sampled_from([A, B, C]))
EVENTS = st.lists(st.tuples(st.floats(0.0, 100.0), st.one_of(st.none(), st.tuples(PLACES, st.booleans()))))


@given(EVENTS)
def test_an_address_goes_only_by_an_answer_and_never_without_draining(
    events: list[tuple[float, tuple[frozenset[Place], bool] | None]],
) -> None:
    known, now_s = Answers(60.0), 0.0
    for pause_s, event in events:
        now_s += pause_s
        known.expire(now_s)
        before = known.current
        if event is None:
            known.miss(now_s)
        else:
            known.learn(Answer(event[0], 5.0, whole=event[1]), now_s, now_s)
        lost = before - known.current
        assert all(known.leaving[place] == now_s + DRAIN_S for place in lost)
        if event is None or (event[0] and not event[1]):
            assert not lost
        assert not known.current & known.leaving.keys()
        assert known.due_s > now_s
