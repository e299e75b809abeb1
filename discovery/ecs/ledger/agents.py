"""What is remembered of the agent on one instance between its answers. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from discovery.ecs.ledger.words import Sighting, held_ports

# It is asked several times a second. After a longer silence it may have started again, and then, for a
# moment, not know all that it knew.
_SILENCE_S: Final = 5.0


class Agent:
    """Which ports the agent has given out, and which tasks it should list and does not."""

    def __init__(self) -> None:
        self.claims: Mapping[tuple[str, int], str] = {}  # (protocol, host port) to the task that holds it
        self.missing: dict[str, float] = {}  # tasks it does not list, and since when; -inf: beyond doubt
        self._heard_s = float("-inf")
        self._doubtful = True  # its last answer was its first, or left out most of what it listed

    def answers(self, now_s: float) -> bool:
        """Say whether it answered just now."""
        return now_s - self._heard_s <= _SILENCE_S

    def hear(self, listed: Mapping[str, Sighting], before: Collection[str], now_s: float) -> bool:
        """Take one answer, and the tasks it listed before; return whether its claims have changed."""
        back = not self.answers(now_s)
        self.hear_again(now_s)
        lost = sum(arn not in listed for arn in before)
        self._doubtful = back or 2 * lost > len(before)
        for arn in listed:
            self.missing.pop(arn, None)
        claims = {port: arn for arn, sighting in listed.items() for port in held_ports(sighting)}
        changed = claims != self.claims
        self.claims = claims
        return changed

    def hear_again(self, now_s: float) -> None:
        """Take it that it says what it said before."""
        if not self.answers(now_s):  # all that it has left out so far may be news to it
            self.missing = dict.fromkeys(self.missing, now_s)
        self._heard_s = now_s

    def miss(self, arn: str, *, known: bool) -> None:
        """Take it that the answer just heard lacks a task, which it listed before (*known*) or never did."""
        self.missing[arn] = self._heard_s if self._doubtful or not known else float("-inf")

    def take_unlisted(self, now_s: float, confirm_s: float) -> list[str]:
        """Return the tasks it has left out for `confirm_s`, or beyond doubt, and forget them."""
        if not self.missing:
            return []
        found = [arn for arn, since_s in self.missing.items() if now_s - since_s >= confirm_s]
        for arn in found:
            del self.missing[arn]
        return found
