"""Pages of the List operations."""

import pytest

from discovery.simulator.failures import ApiError
from discovery.simulator.paging import page_number, page_of


def test_pages_cover_everything_once() -> None:
    items = [f"task-{number:03}" for number in range(250)]
    token, seen, sizes = None, [], []
    while True:
        page = page_of(items, token, None)
        seen += page.items
        sizes.append(len(page.items))
        if not page.next_token:
            break
        token = page.next_token
    assert seen == items
    assert sizes == [100, 100, 50]
    assert page_number(token) == 3


def test_what_vanishes_between_pages_hides_nothing_else() -> None:
    first = page_of(["a", "b", "c", "d"], None, 2)
    assert page_of(["c", "d"], first.next_token, 2).items == ["c", "d"]


def test_a_full_last_page_has_no_successor() -> None:
    assert page_of(["a", "b"], None, 2).next_token == ""


@pytest.mark.parametrize("size", [0, 101, -1])
def test_sizes_beyond_the_limits_are_refused(size: int) -> None:
    with pytest.raises(ApiError) as refused:
        page_of([], None, size)
    assert refused.value.code == "InvalidParameterException"


@pytest.mark.parametrize("token", ["x", "????", "W10=", "bnVsbA=="])
def test_a_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(ApiError, match="token"):
        page_of(["a"], token, None)
