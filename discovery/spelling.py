"""What somebody may have meant. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the nearest known word, else ""."""
    near = difflib.get_close_matches(word.lower(), [k for k in known if k], n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""
