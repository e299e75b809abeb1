# cython: boundscheck=False, wraparound=False
"""Where one WebSocket frame ends and the next begins (RFC 6455 section 5.2). Payloads are not looked at."""

from __future__ import annotations

from typing import Final

GOING_AWAY: Final = b"\x88\x02\x03\xe9"  # a close frame of a server, status 1001

_CLOSE: Final = 8
_INCOMPLETE: Final = -1


# HOT PATH, compiled: `feed` runs for every piece that arrives.
class FrameTracker:
    """Follows one direction of a WebSocket from its first byte on."""

    __slots__ = ("_left", "_partial", "closed")

    def __init__(self) -> None:
        self._left = 0  # bytes of the frame under way that are still to come
        self._partial = b""  # a header that is not whole yet
        self.closed = False  # a close frame has gone by: nothing may follow it

    def feed(self, data: bytes) -> None:
        """Follow *data*, the bytes that come next."""
        size, left = len(data), self._left
        if size <= left:
            self._left = left - size
        elif left or self._partial or not 2 <= size < 128 or data[1] != size - 2 or data[0] & 8:
            self._walk(data)
        # else one whole small message, as most are

    @property
    def between_frames(self) -> bool:
        """Whether a frame put in here would not be in the middle of another one."""
        return not (self._left or self._partial)

    def _walk(self, data: bytes) -> None:
        at = self._left
        if self._partial:
            data, self._partial = self._partial + data, b""
        end = len(data)
        while at < end:
            following = _next(data, at)
            if following == _INCOMPLETE:
                self._partial = data[at:]
                self._left = 0
                return
            if data[at] & 15 == _CLOSE:
                self.closed = True
            at = following
        self._left = at - end


def _next(data: bytes, at: int) -> int:
    """Return where the frame that begins at *at* ends, or `_INCOMPLETE` if that cannot be said yet."""
    if len(data) < at + 2:
        return _INCOMPLETE
    second = data[at + 1]
    length, head = second & 127, 6 if second & 128 else 2
    if length == 126:
        head += 2
        if len(data) < at + 4:
            return _INCOMPLETE
        length = int.from_bytes(data[at + 2 : at + 4], "big")
    elif length == 127:
        head += 8
        if len(data) < at + 10:
            return _INCOMPLETE
        length = int.from_bytes(data[at + 2 : at + 10], "big")
    return at + head + length
