"""What proves a task, what gives somebody else away, and what says nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.identity import BODY_BYTES, NOT_PROVEN, accepted, fault, is_mismatch

ARN = "arn:aws:ecs:eu-west-1:111122223333:task/prod/4d590253bb114126b7afa7b58eea9221"
PROOFS = accepted("web", ARN)


def test_a_task_may_say_its_service_its_arn_or_its_id() -> None:
    assert accepted("web", ARN) == ("web", ARN, "4d590253bb114126b7afa7b58eea9221")
    assert accepted("web", "static:10.0.0.1:80") == ("web",), "an address proves nothing"


@pytest.mark.parametrize("value", [*PROOFS, " web\t"])
def test_the_header_has_to_be_one_of_them_exactly(value: str) -> None:
    assert fault(PROOFS, said=[value], body=None) == ""


@pytest.mark.parametrize("value", ["shop", "", "WEB", "web-admin", ARN[:-1], "webx", "web, web"])
def test_another_name_is_a_mismatch_whatever_the_body_says(value: str) -> None:
    why = fault(PROOFS, said=[value], body=b"web")
    assert why == f'identity mismatch: answered as "{value}"'
    assert is_mismatch(why)


def test_two_names_of_which_one_is_wrong_prove_nothing() -> None:
    assert is_mismatch(fault(PROOFS, said=["web", "shop"], body=None))


def test_without_a_name_nothing_is_proven() -> None:
    assert fault(PROOFS, said=[], body=None) == NOT_PROVEN
    assert fault(PROOFS, said=[], body=b"hello") == NOT_PROVEN
    assert not is_mismatch(NOT_PROVEN)


@pytest.mark.parametrize(
    "body",
    [
        b"web",
        b"I am web.",
        b'{"service": "web"}',
        b"<b>web</b>",
        b"a/web",
        b"x\nweb\n",
        ARN.encode(),
        b"task=4d590253bb114126b7afa7b58eea9221;",
    ],
)
def test_a_name_in_the_body_is_a_word_of_its_own(body: bytes) -> None:
    assert fault(PROOFS, said=[], body=body) == ""


@pytest.mark.parametrize("body", [b"web-admin", b"my-web", b"web2", b"web.internal", b"a.web", b"_web", b""])
def test_part_of_a_longer_name_is_none(body: bytes) -> None:
    assert fault(PROOFS, said=[], body=body) == NOT_PROVEN


def test_names_are_no_patterns() -> None:
    assert fault(accepted("a.c", "dns:10.0.0.1:80"), said=[], body=b"abc") == NOT_PROVEN


def test_the_body_counts_as_far_as_it_is_read() -> None:
    assert fault(PROOFS, said=[], body=b" " * (BODY_BYTES - 3) + b"web") == ""
    assert fault(PROOFS, said=[], body=b" " * BODY_BYTES + b"web") == NOT_PROVEN


@given(st.text(max_size=300))
def test_whatever_was_answered_can_be_printed(value: str) -> None:
    why = fault(PROOFS, said=[value], body=None)
    assert why == "" or (why.isprintable() and len(why) < 150)
