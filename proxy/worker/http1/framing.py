"""Chunked bodies: read strictly, written anew (RFC 9112 section 7.1)."""

from __future__ import annotations

import re
from typing import Final

_SIZE_LINE_BYTES_MAX: Final = 256
_EXTENSION_BYTES_MAX: Final = 16 * 1024  # of all size lines of one message: extensions are never forwarded
_TRAILER_BYTES_MAX: Final = 8 * 1024
# 15 hex digits and a cap on leading zeros; an extension holds no control character and closes its quotes.
_SIZE_LINE = re.compile(
    rb"(0{0,15}[0-9A-Fa-f]{1,15})"
    rb"(?:;(?:[\t !#-~\x80-\xff]|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\")*)?"
)
_TRAILER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t -~\x80-\xff]*")
# Some readers take trailers for headers: these would frame, route or authenticate the message anew, behind
# its end (RFC 9110 section 6.5.1, reliability S27).
_NOT_TRAILERS: Final = frozenset((
    b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"trailer", b"upgrade",
    b"expect", b"host", b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"forwarded",
    b"x-real-ip",
))  # fmt: skip

LAST_CHUNK: Final = b"0\r\n\r\n"

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class FramingError(Exception):
    """The body is not what its framing says."""


def encode_chunk(data: bytes) -> bytes:
    """Return *data*, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _check_trailer(data: bytes, at: int, end: int) -> None:
    line = _TRAILER_LINE.fullmatch(data, at, end)
    if line is None:
        raise FramingError("a trailer line is malformed")
    name = line[1].lower().replace(b"_", b"-")
    if name in _NOT_TRAILERS or name.startswith(b"x-forwarded-"):
        raise FramingError("a trailer has the name of a header that frames, routes or authenticates")


class ChunkedReader:
    """Takes a chunked body apart, whatever way it is cut.

    After `feed` returns with `done` set, `rest` holds what followed the body.
    """

    __slots__ = ("_buffer", "_extension_bytes", "_left", "_searched", "_state", "_trailer_bytes", "rest")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0  # of the current chunk's data
        self._buffer = b""  # an incomplete line
        self._searched = 0  # how much of it, in a trailer, is known to hold no end
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self.rest = b""

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes) -> bytes:
        """Return the payload in *data*; raise `FramingError` if the framing is broken."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        payload: list[bytes] = []
        at = 0
        while at < len(data):
            if self._state == _DATA:
                part = data[at : at + self._left]
                payload.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                if data[at : at + 2] != b"\r\n"[: len(data) - at]:
                    raise FramingError("chunk data is not followed by CRLF")
                if len(data) - at < 2:
                    break
                at += 2
                self._state = _SIZE
            elif self._state == _SIZE:
                end = data.find(b"\r\n", at, at + _SIZE_LINE_BYTES_MAX + 2)
                if end < 0:
                    self._check_partial_size(data[at:])
                    break
                self._start_chunk(data[at:end])
                at = end + 2
            else:
                # A line that comes byte by byte is searched once (I7).
                fresh = at + self._searched
                end = data.find(b"\r\n", max(at, fresh - 1))
                if self._trailer_bytes + (end if end >= 0 else len(data)) - at > _TRAILER_BYTES_MAX:
                    raise FramingError("the trailers are too large")
                if end < 0:
                    if data.find(b"\n", fresh) >= 0:
                        raise FramingError("a trailer line is malformed")
                    self._searched = len(data) - at
                    break
                self._searched = 0
                if end == at:
                    self._state = _DONE
                    self.rest = data[at + 2 :]
                    break
                _check_trailer(data, at, end)
                self._trailer_bytes += end + 2 - at
                at = end + 2
        if self._state != _DONE and at < len(data):
            self._buffer = data[at:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _start_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise FramingError("a chunk size line is malformed")
        self._extension_bytes += len(line) - len(match[1])
        if self._extension_bytes > _EXTENSION_BYTES_MAX:
            raise FramingError("the chunk extensions are too large")
        if len(match[1]) > 16:
            raise FramingError("a chunk size has too many digits")
        self._left = int(match[1], 16)
        self._state = _DATA if self._left else _TRAILER

    def _check_partial_size(self, line: bytes) -> None:
        """Refuse early what no continuation can mend."""
        if (
            len(line) > _SIZE_LINE_BYTES_MAX + 1  # the CR of its end may have come
            or b"\n" in line
            or (line and line[:1] not in b"0123456789abcdefABCDEF")
        ):
            raise FramingError("a chunk size line is malformed")
