"""What the answers about one name mean, one after the other: which addresses it has, and which no longer.

State without I/O; time comes as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from discovery.dns_names import Answer, Place

TTL_MIN_S: Final = 1.0
CONFIRM_S: Final = 10.0  # between two answers that there is nothing, until that is believed
DRAIN_S: Final = 30.0  # for how long an address that DNS no longer names keeps the sessions it has
_RETRY_S: Final = 1.0  # after a failure; doubled with each further one, up to `ttl_max_s`


@dataclass(slots=True)
class Answers:
    """One name over time."""

    ttl_max_s: float
    due_s: float = 0.0  # when to ask again
    current: frozenset[Place] = frozenset()
    leaving: dict[Place, float] = field(default_factory=dict)  # no longer named: until when they drain
    answered_s: float | None = None  # when the question behind the newest answer that counts was asked
    empty: bool = False  # DNS says that there is nothing, and that is believed
    _ttl_s: float = CONFIRM_S
    _empty_since_s: float | None = None
    _failures: int = 0

    def learn(self, answer: Answer, asked_s: float, now_s: float) -> None:
        """Take the answer to a question of *asked_s*. One that there is nothing has to come twice."""
        self._failures = 0
        if answer.places:
            self._empty_since_s = None
            self.empty = False
            self._ttl_s = min(max(answer.ttl_s, TTL_MIN_S), self.ttl_max_s)
            self.due_s = now_s + self._ttl_s
            self.answered_s = asked_s
            self._become(answer.places if answer.whole else answer.places | self.current, now_s)
            return
        if self._empty_since_s is None:
            self._empty_since_s = now_s
        # A record that is being replaced is missing for a moment, and servers disagree for up to a TTL.
        believed_s = self._empty_since_s + max(CONFIRM_S, self._ttl_s)
        if self.empty or now_s >= believed_s:
            self.empty = True
            self.answered_s = asked_s
            self.due_s = now_s + CONFIRM_S
            self._become(frozenset(), now_s)
        else:
            self.due_s = believed_s

    def miss(self, now_s: float) -> None:
        """Take it that a question got no answer, which says nothing about the name."""
        self.due_s = now_s + min(_RETRY_S * 2**self._failures, self.ttl_max_s)
        self._failures = min(self._failures + 1, 10)

    def expire(self, now_s: float) -> None:
        """Let go of what has drained."""
        for place in [place for place, until_s in self.leaving.items() if until_s <= now_s]:
            del self.leaving[place]

    def _become(self, places: frozenset[Place], now_s: float) -> None:
        for place in self.current - places:
            self.leaving[place] = now_s + DRAIN_S
        for place in places & self.leaving.keys():
            del self.leaving[place]
        self.current = places
