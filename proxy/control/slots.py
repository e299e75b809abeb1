"""Which block of the scoreboard counts for which service."""

from __future__ import annotations

from collections.abc import Callable

from proxy.link.snapshots import TableSnapshot


class Slots:
    """Gives each service a block of the scoreboard and never takes it back: counters must not mix."""

    def __init__(self, base: TableSnapshot, *, count: int, unused: Callable[[int], bool]) -> None:
        self._by_name = {row.name: row.slot for row in base.services if row.slot}
        self._count = count
        self._unused = unused

    def __call__(self, name: str) -> int:
        """Return the slot of *name*; 0, which services share, once all others have been used."""
        slot = self._by_name.get(name)
        if slot is None:
            taken = set(self._by_name.values())
            free = (n for n in range(1, self._count) if n not in taken and self._unused(n))
            slot = self._by_name[name] = next(free, 0)
        return slot
