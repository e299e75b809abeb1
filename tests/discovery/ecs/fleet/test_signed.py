"""Only who knows the key is let in, once; and only its answer is believed."""

from __future__ import annotations

import pytest

from discovery.ecs.fleet import signed
from discovery.ecs.fleet.signed import Gate, Refused, credentials, new_nonce

KEY = "correct horse battery staple"
NOW_S = 1_800_000_000.0
TARGET = "/fleet/v1/ledger/prod?wait=5"


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def ask(
    *, key: str = KEY, method: str = "GET", target: str = TARGET, etag: str = "e", at_s: float = NOW_S
) -> str:
    return credentials(key, method, target, etag, now_s=at_s, nonce=new_nonce())


def test_who_knows_the_key_is_let_in() -> None:
    assert len(Gate(clock=Clock()).admit(KEY, ask(), "GET", TARGET, "e")) == 32


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (ask(key="another key altogether"), "another key"),
        (ask(method="HEAD"), "changed"),
        (ask(target="/fleet/v1/ledger/other?wait=5"), "changed"),
        (ask(etag="f"), "changed"),
        (ask().replace(" 18", " 19"), "changed"),
        (ask()[:-1], "no credentials"),
        ("", "no credentials"),
        (f"Bearer {KEY}", "no credentials"),
        (f"Anyport-Fleet {'9' * 5000}:{'a' * 32}:{'b' * 64}", "no credentials"),
        (f"Anyport-Fleet 1:{'a' * 32}:{'b' * 64}\u0663", "no credentials"),
        (ask(at_s=NOW_S - 61), "behind ours"),
        (ask(at_s=NOW_S + 62), "ahead of ours"),
    ],
)
def test_nobody_else_is(header: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        Gate(clock=Clock()).admit(KEY, header, "GET", TARGET, "e")


@pytest.mark.parametrize("skew_s", [-59.0, 59.0])
def test_clocks_may_be_a_minute_apart(skew_s: float) -> None:
    Gate(clock=Clock()).admit(KEY, ask(at_s=NOW_S + skew_s), "GET", TARGET, "e")


def test_a_request_is_let_in_once_as_long_as_its_time_would_let_it_in() -> None:
    clock = Clock()
    gate = Gate(clock=clock)
    header = ask(at_s=NOW_S + 59)
    gate.admit(KEY, header, "GET", TARGET, "e")

    for later_s in (0, 60, 118, 119, 121, 1000):
        clock.now_s = NOW_S + later_s
        gate.admit(KEY, ask(at_s=clock.now_s), "GET", TARGET, "e")
        with pytest.raises(Refused):
            gate.admit(KEY, header, "GET", TARGET, "e")


def test_what_was_used_is_forgotten_in_time() -> None:
    clock = Clock()
    gate = Gate(clock=clock)
    for _ in range(10):
        gate.admit(KEY, ask(), "GET", TARGET, "e")
    clock.now_s += 1000

    gate.admit(KEY, ask(at_s=clock.now_s), "GET", TARGET, "e")

    assert len(gate._seen) == len(gate._order) == 1


def test_strangers_cannot_fill_the_memory() -> None:
    gate = Gate(clock=Clock())
    for _ in range(100):
        with pytest.raises(Refused):
            gate.admit(KEY, ask(key="not the key at all"), "GET", TARGET, "e")

    assert not gate._seen


ANSWER = ("n" * 32, 200, '"7-12"', '{"age_s":1}', b"body")


def test_an_answer_is_believed_as_it_was_signed_and_in_no_other_way() -> None:
    shown = signed.proof(KEY, *ANSWER)
    signed.check_answer(KEY, *ANSWER, shown)

    nonce, status, etag, word, body = ANSWER
    for other in (
        ("m" * 32, status, etag, word, body),
        (nonce, 304, etag, word, body),
        (nonce, status, '"7-13"', word, body),
        (nonce, status, etag, '{"age_s":0}', body),
        (nonce, status, etag, word, b"bodx"),
        (nonce, status, etag + word, "", body),
    ):
        with pytest.raises(Refused):
            signed.check_answer(KEY, *other, shown)
    for forged in ("", "x", shown[:-1], "\u20ac" * 64):
        with pytest.raises(Refused):
            signed.check_answer(KEY, *ANSWER, forged)


def test_a_request_is_no_answer() -> None:
    """One code must never stand for both."""
    nonce = new_nonce()
    header = credentials(KEY, "GET", TARGET, "", now_s=NOW_S, nonce=nonce)

    with pytest.raises(Refused):
        signed.check_answer(KEY, nonce, 200, "", TARGET, b"", header.rpartition(":")[2])
