"""Proof that both sides of a request know the fleet's key, without sending it. Pure but for the clock.

A request is signed with its time and a number that is used once; the answer is signed over that number. So a
stranger can neither ask, nor replay to a proxy what it was asked, nor answer for one. What is said is not
hidden.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final

SCHEME: Final = "Anyport-Fleet"
WORD_HEADER: Final = "Anyport-Fleet-Word"  # what an answer says beside its body
PROOF_HEADER: Final = "Anyport-Fleet-Proof"  # the signature of an answer
SKEW_S: Final = 60.0  # how far two clocks may be apart
_REMEMBERED: Final = 200_000  # numbers used once: 1,600 signed requests per second for as long as they count

_CREDENTIALS: Final = re.compile(
    rf"{SCHEME} ([0-9]{{1,12}}):([0-9a-f]{{32}}):([0-9a-f]{{64}})", re.IGNORECASE
)


class Refused(Exception):
    """A request or an answer that proves nothing. The text says why; it is for our log, not for who asks."""


def new_nonce() -> str:
    """Return a number that is used once."""
    return secrets.token_hex(16)


def credentials(key: str, method: str, target: str, etag: str, *, now_s: float, nonce: str) -> str:
    """Return the Authorization header of a request for *target*: path and query as they are sent."""
    at = str(int(now_s))
    return f"{SCHEME} {at}:{nonce}:{_mac(key, 'request', method, target, etag, at, nonce)}"


def proof(key: str, nonce: str, status: int, etag: str, word: str, body: bytes) -> str:
    """Return what proves an answer to the request that carried *nonce*."""
    return _mac(key, "answer", nonce, str(status), etag, word, body)


def check_answer(key: str, nonce: str, status: int, etag: str, word: str, body: bytes, shown: str) -> None:
    """Raise `Refused` unless *shown* proves the answer."""
    if not hmac.compare_digest(
        shown.encode(errors="replace"), proof(key, nonce, status, etag, word, body).encode()
    ):
        raise Refused("its answer is not signed with our key")


class Gate:
    """The server's side: lets each signed request in once. `clock` is Unix time."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def admit(self, key: str, header: str, method: str, target: str, etag: str) -> str:
        """Return the nonce of a request that knows *key*; raise `Refused` for any other."""
        found = _CREDENTIALS.fullmatch(header)
        if found is None:
            raise Refused("no credentials of the fleet")
        at, nonce, shown = found[1], found[2].lower(), found[3].lower()
        if not hmac.compare_digest(shown, _mac(key, "request", method, target, etag, at, nonce)):
            raise Refused("signed with another key, or changed on its way")
        now_s = self._clock()
        apart_s = int(at) - now_s
        if abs(apart_s) > SKEW_S:
            raise Refused(f"its clock is {abs(apart_s):.0f} s {'ahead of' if apart_s > 0 else 'behind'} ours")
        # Only now: a stranger must not be able to fill the memory.
        self._forget(now_s)
        if nonce in self._seen:
            raise Refused("replayed")
        if len(self._seen) >= _REMEMBERED:
            raise Refused("too many requests")
        self._seen.add(nonce)
        self._order.append((now_s, nonce))
        return nonce

    def _forget(self, now_s: float) -> None:
        # A clock that is SKEW_S ahead makes a request good for twice that.
        while self._order and abs(now_s - self._order[0][0]) > 2 * SKEW_S + 1:
            self._seen.discard(self._order.popleft()[1])


def _mac(key: str, *parts: str | bytes) -> str:
    """Return the code over *parts*, each with its length: no two lists of parts read the same."""
    code = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode(errors="surrogateescape")
        code.update(len(data).to_bytes(8, "big"))
        code.update(data)
    return code.hexdigest()
