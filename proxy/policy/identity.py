"""Whose answer is it? The proof that the answer to a health check carries, or does not. Pure.

A port that a task has left may be another's within seconds, and a plain 200 is an answer that anybody can
give. A task that is asked for its identity names its service, or echoes its own ARN or id, in a header or in
the body; who names something else is somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

BODY_BYTES: Final = 64 * 1024  # of a body that are looked at
NOT_PROVEN: Final = "identity not proven"
_MISMATCH: Final = "identity mismatch"
_SAID_MAX: Final = 100  # characters of what was answered instead


def accepted(service: str, task_arn: str) -> tuple[str, ...]:
    """Return what proves a backend: its service's name, and its task's ARN and id where it has them."""
    if not task_arn.startswith("arn:"):
        return (service,)
    return service, task_arn, task_arn.rpartition("/")[2]


def fault(proofs: tuple[str, ...], *, said: Iterable[str], body: bytes | None) -> str:
    """Return "" if one of *proofs* was given, else what is wrong with the answer, in printable words.

    *said* are the values of the header that should name it; each has to be one of *proofs* exactly. Where the
    header is missing, one of them as a word of its own in *body* will do; None: it was not looked at.
    """
    values = [value.strip() for value in said]
    wrong = next((value for value in values if value not in proofs), None)
    if wrong is not None:
        return f'{_MISMATCH}: answered as "{_shown(wrong)}"'
    if values or (body is not None and _words(proofs).search(body[:BODY_BYTES])):
        return ""
    return NOT_PROVEN


def is_mismatch(reason: str) -> bool:
    """Return whether *reason*, from `fault`, says that somebody else was named."""
    return reason.startswith(_MISMATCH)


@lru_cache(maxsize=4096)
def _words(proofs: tuple[str, ...]) -> re.Pattern[bytes]:
    """Return what finds one of *proofs* that is not part of a longer name: "web" is not in "web-admin"."""
    names = b"|".join(re.escape(proof.encode()) for proof in proofs)
    return re.compile(rb"(?<![\w-])(?<!\w\.)(?:" + names + rb")(?![\w-])(?!\.\w)")


def _shown(value: str) -> str:
    cut = value if len(value) <= _SAID_MAX else value[:_SAID_MAX] + "…"
    return "".join(c if c.isprintable() else "?" for c in cut)
