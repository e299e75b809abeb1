"""A run of the scoreboard's 64-bit integers, to count in.

HOT PATH, compiled: what a request leaves behind is one call and a few additions in memory.
"""

from __future__ import annotations

from proxy.link import scoreboard as sb

_DURATION_SUM_US = sb.DURATION_SUM_US
_REQUEST_BYTES = sb.REQUEST_BYTES
_RESPONSE_BYTES = sb.RESPONSE_BYTES


class Cells:
    """The cells of a block, or of the head of a row, by offset."""

    __slots__ = ("_cells", "_owner")

    def __init__(self, cells: memoryview[int]) -> None:
        self._owner = cells  # keeps the memory mapped
        self._cells = memoryview(cells)  # compiled: a pointer to its first cell, see the .pxd

    def __getitem__(self, cell: int) -> int:
        return self._owner[cell]

    def __setitem__(self, cell: int, value: int) -> None:
        self._owner[cell] = value

    def add(self, cell: int, amount: int) -> None:
        """Add *amount* to *cell*."""
        self._cells[cell] += amount

    def finish(self, cell: int, bucket: int, elapsed_us: int, rx_bytes: int, tx_bytes: int) -> None:
        """Count a response that is complete: in *cell* by method and status, in *bucket* by its time."""
        self._cells[cell] += 1
        self._cells[bucket] += 1
        self._cells[_DURATION_SUM_US] += elapsed_us
        self._cells[_REQUEST_BYTES] += rx_bytes
        self._cells[_RESPONSE_BYTES] += tx_bytes
