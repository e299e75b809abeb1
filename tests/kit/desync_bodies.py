"""Chunked bodies by row of the table of ambiguities: those that must be refused, and those that must not."""

from __future__ import annotations

REFUSED = {
    "S21 size line LF only": b"3\nabc\r\n0\r\n\r\n",
    "S21 data LF only": b"3\r\nabc\n0\r\n\r\n",
    "S21 last chunk LF only": b"3\r\nabc\r\n0\n\r\n",
    "S21 trailer LF only": b"0\r\nX: y\n\r\n",
    **{
        f"S22 size {size!r}": size + b"\r\nabc\r\n0\r\n\r\n"
        for size in (
            b"0x3", b"+3", b"0_3", b" 3", b"", b"\r3", b"-3", b"g", b"3\xa0", "\u0663".encode(), b"3\0",
            b"\t3", b"3,", b"0X3", b"3h", b"3.", b"\xef\xbc\x93", b"-0", b"+0", b'"3"', b"3 3", b"\x0b3",
            b"3\x0c", b"3\r",
        )
    },
    "S22 CR X": b"3\rX\nabc\r\n0\r\n\r\n",
    "S23 size then space": b"3 \r\nabc\r\n0\r\n\r\n",
    "S23 size then tab": b"3\t\r\nabc\r\n0\r\n\r\n",
    "S23 last size then space": b"3\r\nabc\r\n0 \r\n\r\n",
    "S23 space before an extension": b"3 ;a\r\nabc\r\n0\r\n\r\n",
    "S23 tab before an extension": b"3\t;a\r\nabc\r\n0\r\n\r\n",
    "S24 size of 16 digits": b"1000000000000000\r\n",
    "S24 size of 2^64 + 1": b"10000000000000001\r\na\r\n0\r\n\r\n",
    "S24 size of 2^63": b"8000000000000000\r\nabc\r\n0\r\n\r\n",
    "S24 size of -1 in 64 bits": b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "S24 size of 5000 digits": b"f" * 5000 + b"\r\nabc\r\n0\r\n\r\n",
    "S24 size of 2^64": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "S24 17 characters with zeros": b"0" * 16 + b"3\r\nabc\r\n0\r\n\r\n",
    "S24 line of 257 bytes": b"3;" + b"a" * 255 + b"\r\nabc\r\n0\r\n\r\n",
    "S25 CTL in extension": b"3;a\x01\r\nabc\r\n0\r\n\r\n",
    "S25 bare CR in extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "S25 bare LF in extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "S25 bare LF ends the line behind an extension": b"3;a\nabc\r\n0\r\n\r\n",
    "S25 bare CR ends the line behind an extension": b"3;a\rabc\r\n0\r\n\r\n",
    "S25 bare LF behind the extension of the last chunk": b"0;a\n\r\n",
    "S25 NUL in extension": b"3;a\0\r\nabc\r\n0\r\n\r\n",
    "S25 DEL in extension": b"3;a\x7f\r\nabc\r\n0\r\n\r\n",
    "S25 escaped line end in quotes": b'3;a="\\\r\n"\r\nabc\r\n0\r\n\r\n',
    "S25 other mark than a semicolon": b"3,a=b\r\nabc\r\n0\r\n\r\n",
    "S25 quote left open": b'3;a="b\r\nabc\r\n0\r\n\r\n',
    "S25 line end in quotes": b'3;a="\r\n"\r\nabc\r\n0\r\n\r\n',
    "S25 extensions of 17 KB": (b"1;" + b"e" * 250 + b"\r\na\r\n") * 70 + b"0\r\n\r\n",
    "S26 data too long": b"3\r\nabcd\r\n0\r\n\r\n",
    "S26 two other bytes behind the data": b"3\r\nabcde0\r\n\r\n",
    "S26 data without CRLF": b"3\r\nabc0\r\n\r\n",
    "S26 data too short": b"4\r\nabc\r\n0\r\n\r\n",
    "S26 an empty line too many": b"3\r\nabc\r\n\r\n0\r\n\r\n",
    "S26 CR X behind the data": b"3\r\nabc\rX0\r\n\r\n",
    "S26 LF CR behind the data": b"3\r\nabc\n\r0\r\n\r\n",
    "S27 a request in place of the trailers": b"0\r\nGET /smuggled HTTP/1.1\r\nHost: web.test\r\n\r\n",
    "S27 blank before the colon": b"0\r\nX : y\r\n\r\n",
    "S27 bare CR in trailer": b"0\r\nX: a\rb\r\n\r\n",
    "S27 empty name": b"0\r\n: y\r\n\r\n",
    "S27 CTL in trailer": b"0\r\nX: \x01\r\n\r\n",
    **{
        f"S27 trailer {name.decode()}": b"3\r\nabc\r\n0\r\nX: y\r\n" + name + b": 1\r\n\r\n"
        for name in (
            b"Content-Length", b"transfer-encoding", b"Host", b"CONNECTION", b"Trailer", b"TE", b"Upgrade",
            b"Expect", b"Authorization", b"Proxy-Authorization", b"Cookie", b"Set-Cookie", b"Forwarded",
            b"X-Forwarded-For", b"X-Forwarded-Anything", b"X-Real-IP", b"Content_Length",
        )
    },
    "S27 malformed trailer": b"0\r\nX y\r\n\r\n",
    "S27 folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "S27 NUL in trailer": b"0\r\nX: \0\r\n\r\n",
    "S27 trailers of 9 KB": b"0\r\n" + b"X: %b\r\n" % (b"y" * 900) * 10 + b"\r\n",
}  # fmt: skip

ACCEPTED = {  # the bytes, and the payload in them
    "two chunks": (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    "empty": (b"0\r\n\r\n", b""),
    "capital hex": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "S24 leading zeros": (b"0000000000000003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "S24 line of 256 bytes": (b"3;" + b"a" * 254 + b"\r\nabc\r\n0\r\n\r\n", b"abc"),
    "S25 extension": (b'3;a=b;c="d;\\"e"\r\nabc\r\n0;x\r\n\r\n', b"abc"),
    "S27 trailers": (b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"abc"),
    "line ends in the data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
}
