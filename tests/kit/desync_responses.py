"""Response heads that must be refused: row S45 of the table of ambiguities, and the limits of S54."""

from __future__ import annotations


def ok(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])


def line(status_line: bytes) -> bytes:
    return status_line + b"\r\nContent-Length: 0\r\n\r\n"


REFUSED = {
    "CL and TE": ok(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "TE and CL": ok(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    "same CL twice": ok(b"Content-Length: 3", b"Content-Length: 3"),
    "different CL": ok(b"Content-Length: 3", b"content-length: 4"),
    "CL twice in a 204": ok(b"Content-Length: 3", b"content-length: 4").replace(b"200 OK", b"204 No Content"),
    **{
        f"CL {value!r}": ok(b"Content-Length: " + value)
        for value in (
            b"1_0", b"-1", b"+3", b"3, 3", b"3,3", b"", b"0x3", b"3 3", b"3;", b"3\xa0", b"\xd9\xa3", b"3.0",
            b"\xb2", b"9223372036854775808", b"18446744073709551616", b"abc", b"3\x0b",
        )
    },
    **{
        f"TE {value!r}": ok(b"Transfer-Encoding: " + value)
        for value in (
            b"gzip, chunked", b"gzip", b"identity", b"", b",chunked", b"chunked,", b"chunked, chunked",
            b"xchunked", b"chunked;x", b'"chunked"', b"chunked\xa0", b"chunked\x0b", b"chunked, identity",
        )
    },
    "CL of 5000 digits": ok(b"Content-Length: " + b"9" * 5000),
    "TE twice": ok(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "TE in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "TE look-alike": ok(b"Transfer_Encoding: chunked"),
    "CL look-alike": ok(b"Content_Length: 3"),
    "NUL in a value": ok(b"X: a\0"),
    "NUL in a name": ok(b"X\0: a"),
    "NUL in the status line": line(b"HTTP/1.1 200 O\0K"),
    "bare CR in a value": ok(b"X: a\rb"),
    "bare CR as a line end": ok(b"X: a\rContent-Length: 3"),
    "CR CR LF": ok(b"X: a\r"),
    "bare LF in a line": ok(b"X: a\nSet-Cookie: b"),
    "bare LF everywhere": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF behind the status line": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    **{f"CTL {c:#04x}": ok(b"X: a" + bytes([c])) for c in (1, 8, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F)},
    "obs-fold": ok(b"X: a", b" b"),
    "obs-fold with a tab": ok(b"X: a", b"\tb"),
    "folded TE": ok(b"Transfer-Encoding:", b" chunked"),
    "blank before the first header": ok(b" X: y"),
    "bad name": ok(b"X Y: a"),
    "name with a bracket": ok(b"X(: a"),
    "name with bytes of UTF-8": ok("Fö: x".encode()),
    "empty name": ok(b": a"),
    "space before colon": ok(b"X : a"),
    "space before the colon of CL": ok(b"Content-Length : 3"),
    "tab before colon": ok(b"Transfer-Encoding\t: chunked"),
    "no colon": ok(b"nonsense"),
    "a status line as a header": ok(b"HTTP/1.1 200 OK"),
    **{
        f"status line {value.decode('latin-1')!r}": line(value)
        for value in (
            b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 600 OK",
            b"HTTP/1.1 999 OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 2 0 OK", b"HTTP/1.1 0x2 OK",
            b"HTTP/1.1 2\xb20 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK",
            b"HTTP/1.1 OK", b"HTTP/1.1", b"HTTP/1.1 200OK", b"HTTP/2.0 200 OK", b"HTTP/2 200",
            b"HTTP/1.2 200 OK", b"HTTP/1.10 200 OK", b"HTTP/0.9 200 OK", b"HTTP/3.0 200 OK",
            b"http/1.1 200 OK", b"HTTPS/1.1 200 OK", b"ICY 200 OK", b" HTTP/1.1 200 OK",
            b"HTTP/1.1 200 O\x01K", b"HTTP/1.1 200 O\x7fK", b"HTTP/1.1 000 OK", b"HTTP/1.1 -20 OK",
        )
    },
    "an empty line before it": b"\r\n" + ok(b"Content-Length: 0"),
    "201 headers": ok(*[b"X-%d: y" % i for i in range(201)]),
    "10,000 headers": ok(*[b"X-%d: y" % i for i in range(10_000)]),
    "header of 65 KB": ok(b"X: " + b"y" * 65_536),
    **{
        f"Connection names {name.decode()}": ok(b"Connection: " + name, b"Content-Length: 0")
        for name in (b"Content-Length", b"transfer-encoding")
    },
}  # fmt: skip
