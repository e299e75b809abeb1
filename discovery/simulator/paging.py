"""Pages of the List operations: opaque tokens that stay right while the list changes under them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import NamedTuple

from discovery.simulator.failures import invalid


class Cursor(NamedTuple):
    """Where a page starts: after the item `after`; `page` counts from 1."""

    page: int = 1
    after: str = ""


class Page(NamedTuple):
    items: list[str]
    next_token: str  # "" on the last page


def page_number(token: str | None) -> int:
    return decode(token).page


def decode(token: str | None) -> Cursor:
    """Read a nextToken. Raises ApiError InvalidParameterException for one this API never gave out."""
    if not token:
        return Cursor()
    try:
        page, after = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, TypeError):
        raise invalid("Invalid token.") from None
    return Cursor(int(page), str(after))


def _encode(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode()


def page_of(items: Iterable[str], token: str | None, size: int | None, default_size: int = 100) -> Page:
    """One page of *items*, in the order of their names.

    Raises ApiError InvalidParameterException for a size outside 1 to 100.
    """
    wanted = default_size if size is None else size
    if not 1 <= wanted <= 100:
        raise invalid("maxResults must be between 1 and 100.")
    cursor = decode(token)
    rest = sorted(item for item in items if item > cursor.after)
    shown = rest[:wanted]
    more = len(rest) > wanted
    return Page(shown, _encode(Cursor(cursor.page + 1, shown[-1])) if more else "")
