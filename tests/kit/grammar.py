"""Requests and responses for property tests: valid ones, and what people do to them to be misread."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from hypothesis import strategies as st

_TCHAR: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TARGET: Final = bytes(c for c in range(0x21, 0x7F) if c not in b"#%/")  # %2F and ".." are routing's matter
_VALUE: Final = bytes((*range(0x20, 0x7F), 9, *range(0x80, 0x100)))


def _text(alphabet: bytes, *, least: int = 0, most: int = 12) -> st.SearchStrategy[bytes]:
    table = bytes(alphabet[c % len(alphabet)] for c in range(256))
    return st.binary(min_size=least, max_size=most).map(lambda drawn: drawn.translate(table))


_DECOY: Final = b"GET /decoy HTTP/1.1\r\nHost: web.test\r\n\r\n"
_bodies = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from((_DECOY, b"0\r\n\r\n", b"0\r\n\r\n" + _DECOY, b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n")),
)
_blanks = st.sampled_from((b"", b" ", b"\t", b"  "))
# "te" and the like: names that the proxy knows are frequent, the rest is anything.
_names = st.one_of(
    st.sampled_from(
        (
            b"Accept", b"Cookie", b"X-A", b"x_a", b"TE", b"Keep-Alive", b"Proxy-Connection",
            b"X-Forwarded-For",
            b"Forwarded", b"Trailer", b"Via", b"X-Hop", b"Host2", b"Content-Type", b"X-Real-IP",
        )
    ),
    _text(_TCHAR, least=1).map(lambda text: b"X" + text),
)  # fmt: skip
_plain_lines = st.builds(
    lambda name, before, value, after: name + b":" + before + value + after,
    _names, _blanks, _text(_VALUE), _blanks,
)  # fmt: skip
_known_lines = st.sampled_from(
    (
        b"Connection: keep-alive", b"Connection: X-Hop", b"connection:x-hop , X-A,", b"X-Hop: 1",
        b"Expect: 100-continue", b"Accept: text/html", b"X-Forwarded-For: 6.6.6.6, 7.7.7.7",
        b"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==",
    )
)  # fmt: skip
_last_lines = st.sampled_from(
    (b"Connection: close", b"Connection: Upgrade\r\nUpgrade: foo", b"Connection: keep-alive, CLOSE")
)
_methods = st.sampled_from(
    (b"GET", b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"BREW", b"M-SEARCH")
)
_targets = st.one_of(
    st.just(b"/"),
    _text(_TARGET).map(lambda text: b"/" + text),
    st.sampled_from((b"/a//b", b"/%zz", b"http://web.test/x?y", b"HTTP://WEB.test",
    b"http://web.test?q", b"/*")),
)  # fmt: skip
_trailers = st.sampled_from((b"", b"", b"X-Sum: 1\r\n", b"X-Sum: 1\r\nX-B:\r\n"))
_extensions = st.sampled_from((b"", b"", b"", b";x", b';a="b;\\"c"', b";" + b"e" * 200))


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return (encoded, payload) of a chunked body."""
    parts = draw(st.lists(_bodies, max_size=3))
    out = b""
    for part in parts:
        size = b"%x" % len(part)
        size = b"0" * draw(st.sampled_from((0, 0, 0, 1, 7))) + (size.upper() if draw(st.booleans()) else size)
        out += size + draw(_extensions) + b"\r\n" + part + b"\r\n"
    return out + b"0" * draw(st.integers(1, 3)) + b"\r\n" + draw(_trailers) + b"\r\n", b"".join(parts)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return one valid request of a method, target, framing and headers of any kind."""
    old = draw(st.integers(0, 11)) == 0
    method = draw(_methods)
    host = draw(st.sampled_from((b"Host: web.test", b"host:web.test", b"HOST: \tWEB.TEST ")))
    lines = draw(st.lists(st.one_of(_plain_lines, _plain_lines, _known_lines), max_size=5))
    lines.insert(draw(st.integers(0, len(lines))), host)
    if sum(line.startswith(b"Expect") for line in lines) > 1:
        lines = [line for line in lines if not line.startswith(b"Expect")]
    if draw(st.integers(0, 9)) == 0:
        lines.append(draw(_last_lines))
    body = b""
    framing = draw(st.sampled_from(("none", "length", "chunked")))
    if old and (framing == "chunked" or method in (b"GET", b"HEAD", b"DELETE")):
        framing = "none"
    if framing == "length":
        body = draw(_bodies)
        name = draw(st.sampled_from((b"Content-Length: ", b"content-length:", b"CONTENT-LENGTH:\t00")))
        lines.insert(draw(st.integers(0, len(lines))), name + b"%d" % len(body))
    elif framing == "chunked":
        body, _ = draw(chunked())
        name = draw(st.sampled_from((b"Transfer-Encoding: chunked", b"transfer-encoding:\tCHUNKED ")))
        lines.insert(draw(st.integers(0, len(lines))), name)
    version = b"HTTP/1.0" if old else b"HTTP/1.1"
    return b"\r\n".join((method + b" " + draw(_targets) + b" " + version, *lines, b"", body))


_statuses = st.sampled_from(
    (b"200 OK", b"200", b"200 ", b"201 Made", b"404 Not Found", b"500 caf\xe9", b"304 Same",
    b"204 None", b"599 ")
)  # fmt: skip
_interims = st.sampled_from(
    (b"", b"", b"", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 100 Go\r\n\r\n")
)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Return one valid response with what may come before it; its body may end with the connection."""
    status = draw(_statuses)
    lines = draw(st.lists(st.one_of(_plain_lines, _plain_lines, _known_lines), max_size=5))
    framing = draw(st.sampled_from(("length", "length", "chunked", "chunked", "close")))
    body = draw(_bodies)
    if framing == "length":
        lines.insert(draw(st.integers(0, len(lines))), b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        body, _ = draw(chunked())
        lines.insert(draw(st.integers(0, len(lines))), b"Transfer-Encoding: chunked")
    if status[:3] in (b"304", b"204"):
        body = b""
    return draw(_interims) + b"\r\n".join((b"HTTP/1.1 " + status, *lines, b"", body))


# What is done to valid bytes. Each is (bytes, a number that says where) -> bytes.

NASTY_LINES: Final = (
    b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: 0x5",
    b"Content-Length:\x0b5", b"Content-Length\t: 5", b"Content-Length: 5\0",
    b"Content-Length: 18446744073709551621",
    b"Content_Length: 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding:\xa0chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: xchunked", b'Transfer-Encoding: "chunked"', b"Transfer_Encoding: chunked",
    "Transfer-Encod\u0131ng: chunked".encode(), "Tran\u017ffer-Encoding: chunked".encode(),
    b"X: a\rTransfer-Encoding: chunked", b"X: a\nTransfer-Encoding: chunked", b"X: a\0b", b" folded",
    b"\tfolded",
    b"Host: other.test", b"Host:", b"Host: a b", b"no colon", b": no name", b"F(o: x", b"", b" ",
    b"Connection: Content-Length", b"Connection: transfer-encoding, x", b"Connection: close", b"Upgrade: h2c",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA", b"Expect: 200-ok",
    b"X-Forwarded_For: 1", b"Content-Length: 0", b"Trailer: Content-Length", b"GET /decoy HTTP/1.1",
)  # fmt: skip
_ENDS: Final = (
    b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\r\n\t", b"\0\r\n", b" \r\n", b"\r\n\r\n", b"", b"\x0b\r\n",
    b"\x85", b"\r\n\n",
)  # fmt: skip
_PIECES: Final = (
    b" ", b"\t", b"\0", b"\r", b"\n", b"\r\n", b"\x0b", b"\x0c", b"\x7f", b"\x85", b"\xa0", b"\xff",
    b":", b";",
    b"0", b"1", b"a", b"G", b"_", b"-", b"+", b",", b'"', b"#", b"0x", b"\xc2\xa0", b"chunked", b" HTTP/1.1",
    b"\x01", b"0\r\n\r\n", b"\r\n\r\n",
)  # fmt: skip
_NUMBER: Final = re.compile(rb"[0-9]+")

Mutation = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """One change, printable for a failing example."""

    kind: str
    where: int  # which of the places that fit, modulo their number
    what: bytes

    def __call__(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self.where % (len(data) + 1)
        if self.kind == "insert":
            return data[:at] + self.what + data[at:]
        if self.kind == "replace":
            return data[:at] + self.what + data[at + 1 :]
        if self.kind == "delete":
            return data[:at] + data[at + len(self.what) :]
        if self.kind == "number":
            return self._change_number(data)
        ends = [found.start() for found in re.finditer(rb"\r\n", data)]
        if not ends:
            return data
        end = ends[self.where % len(ends)]
        if self.kind == "line":
            return data[: end + 2] + self.what + b"\r\n" + data[end + 2 :]
        if self.kind == "end":
            return data[:end] + self.what + data[end + 2 :]
        begin = data.rfind(b"\r\n", 0, end) + 2 if data.rfind(b"\r\n", 0, end) >= 0 else 0
        line = data[begin:end]
        if self.kind == "case":
            return data[:begin] + line.swapcase() + data[end:]
        return data[:begin] + line + b"\r\n" + line + data[end:]  # "twice"

    def _change_number(self, data: bytes) -> bytes:
        found = list(_NUMBER.finditer(data))
        if not found:
            return data
        match = found[self.where % len(found)]
        digits = match[0]
        value = int(digits[:18])
        new = {
            b"+": b"%d" % (value + 1), b"-": b"%d" % max(0, value - 1), b"0": b"0", b"x": b"0x" + digits,
            b" ": digits + b" ", b"_": digits + b"_0", b"z": b"0" * 17 + digits, b"s": b"+" + digits,
        }.get(self.what[:1], self.what + digits)  # fmt: skip
        return data[: match.start()] + new + data[match.end() :]


_where = st.integers(0, 4000)
# A second framing header is what most smuggling comes to: it stands in the first head more often than not.
_FRAMING_LINES: Final = (
    b"Content-Length: 5", b"Content-Length: 0", b"content-length:6", b"Transfer-Encoding: chunked",
    b"transfer-encoding:\tchunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5",
)  # fmt: skip
changes = st.one_of(
    st.builds(Change, st.just("line"), st.integers(0, 4), st.sampled_from(_FRAMING_LINES)),
    st.builds(Change, st.just("line"), _where, st.sampled_from(NASTY_LINES)),
    st.builds(Change, st.just("line"), _where, st.sampled_from(NASTY_LINES)),
    st.builds(Change, st.just("end"), _where, st.sampled_from(_ENDS)),
    st.builds(Change, st.sampled_from(("insert", "replace", "delete")), _where, st.sampled_from(_PIECES)),
    st.builds(
        Change,
        st.just("number"),
        _where,
        st.sampled_from((b"+", b"-", b"0", b"x", b" ", b"_", b"z", b"s", b";")),
    ),
    st.builds(Change, st.sampled_from(("case", "twice")), _where, st.just(b"")),
)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Return what *valid* makes, more often than not with one to three changes."""
    data = draw(valid)
    for change in draw(st.lists(changes, max_size=3)):
        data = change(data)
    return data


streams = st.lists(mutated(requests()), min_size=1, max_size=4).map(b"".join)
valid_streams = st.lists(requests(), min_size=1, max_size=4).map(b"".join)


def cuttings(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return *data* in the pieces that *cuts*, modulo its length, make of it."""
    points = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(points)]


cuts = st.lists(st.integers(0, 4000), max_size=10)
