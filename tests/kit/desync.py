"""Request heads that must be refused, by row of the desync table, with the status each one gets."""

from __future__ import annotations


def get(*lines: bytes, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([method + b" " + target + b" " + version, b"Host: a.test", *lines, b"", b""])


def post(*lines: bytes) -> bytes:
    return get(*lines, method=b"POST")


REFUSED = {
    "S1 CL then TE": (post(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    "S1 TE then CL": (post(b"Transfer-Encoding: chunked", b"Content-Length: 3"), 400),
    "S2 same CL twice": (post(b"Content-Length: 3", b"Content-Length: 3"), 400),
    "S2 CL list": (post(b"Content-Length: 3, 3"), 400),
    "S3 different CL": (post(b"Content-Length: 3", b"content-length: 4"), 400),
    **{
        f"S4 CL {value!r}": (post(b"Content-Length: " + value), 400)
        for value in (b"+3", b"0x3", b"1_0", b"-1", b"3 3", b"", b"3\xa0", b"\xd9\xa3", b"3;", b"\xb2")
    },
    "S4 CL with VT": (post(b"Content-Length: 3\x0b"), 400),
    "S5 CL 2^63": (post(b"Content-Length: 9223372036854775808"), 400),
    "S5 CL 2^64": (post(b"Content-Length: 18446744073709551616"), 400),
    "S5 CL of 5000 digits": (post(b"Content-Length: " + b"9" * 5000), 400),
    "S8 TE twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "S8 chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked"), 400),
    "S9 gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked"), 501),
    "S9 gzip": (post(b"Transfer-Encoding: gzip"), 501),
    **{
        f"S9 TE {value!r}": (post(b"Transfer-Encoding: " + value), 400)
        for value in (b",chunked", b"chunked;x", b'"chunked"', b"chunked\xa0", b"", b"chunked,")
    },
    "S9 TE with VT": (post(b"Transfer-Encoding: \x0bchunked"), 400),
    "S10 space before colon": (post(b"Transfer-Encoding : chunked"), 400),
    "S10 tab before colon": (post(b"Content-Length\t: 3"), 400),
    "S10 CTL in name": (get(b"Tran\x01sfer: x"), 400),
    "S11 Transfer_Encoding": (post(b"Transfer_Encoding: chunked"), 400),
    "S11 Content_Length": (post(b"content_LENGTH: 3"), 400),
    "S11 X_Forwarded_For": (get(b"X_Forwarded_For: 1"), 400),
    "S11 X-Forwarded_For": (get(b"X-Forwarded_For: 1"), 400),
    "S11 X_Forwarded-Proto": (get(b"X_Forwarded-Proto: https"), 400),
    "S11 X_Real_IP": (get(b"X_Real_IP: 1"), 400),
    "S11 long s": (post("Tran\u017ffer-Encoding: chunked".encode()), 400),
    "S11 dotless i": (post("Transfer-Encod\u0131ng: chunked".encode()), 400),
    "S11 UTF-8 space": (post(b"\xc2\xa0Transfer-Encoding: chunked"), 400),
    "S12 HTTP/1.0 with TE": (post(b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "S13 obs-fold": (get(b"X: a", b" b"), 400),
    "S13 folded TE": (post(b"Transfer-Encoding:", b" chunked"), 400),
    "S14 space before the first header": (b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n", 400),
    "S14 line of one space": (get(b" "), 400),
    "S15 bare LF in a line": (get(b"X: a\nY: b"), 400),
    "S16 bare CR in a value": (get(b"X: a\rb"), 400),
    "S16 CR CR LF": (get(b"X: a\r"), 400),
    "S17 NUL in a value": (get(b"X: a\0b"), 400),
    "S17 NUL in a name": (get(b"X\0: a"), 400),
    "S17 NUL in the target": (get(target=b"/\0"), 400),
    **{
        f"S18 CTL {c:#04x} in a value": (get(b"X: a" + bytes([c])), 400)
        for c in (*range(1, 9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)
    },
    "S20 empty name": (get(b": x"), 400),
    "S20 no colon": (get(b"Foo"), 400),
    "S20 bracket in name": (get(b"F(o: x"), 400),
    "S20 UTF-8 in name": (get("Fö: x".encode()), 400),
    "S28 Host and URL disagree": (get(target=b"http://b.test/"), 400),
    "S28 userinfo": (get(target=b"http://u@a.test/"), 400),
    "S28 ftp": (get(target=b"ftp://a.test/"), 400),
    "S28 no authority": (get(target=b"http:///x"), 400),
    "S29 authority-form of GET": (get(target=b"a.test:80"), 400),
    "S29 CONNECT": (get(target=b"a.test:443", method=b"CONNECT"), 405),
    "S29 CONNECT with a path": (get(method=b"CONNECT"), 405),
    "S30 GET *": (get(target=b"*"), 400),
    "S31 no Host": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
    "S31 no header at all": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "S31 Host twice": (get(b"Host: a.test"), 400),
    **{
        f"S31 Host {value!r}": (b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", 400)
        for value in (b"", b"a b", b"a/b", b"a@b", b"a,b", b"a:x", b"a:", b"a:1234567", b"a\x80", b"[::1")
    },
    "S32 HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "S33 HTTP/1.2": (get(version=b"HTTP/1.2"), 400),
    "S33 HTTP/1.10": (get(version=b"HTTP/1.10"), 400),
    "S33 HTTP/2.0": (get(version=b"HTTP/2.0"), 505),
    "S33 HTTP/3.0": (get(version=b"HTTP/3.0"), 505),
    "S33 HTTP/0.9 named": (get(version=b"HTTP/0.9"), 400),
    "S33 lower case": (get(version=b"http/1.1"), 400),
    "S33 blank behind": (get(version=b"HTTP/1.1 "), 400),
    "S33 Unicode digit": (get(version="HTTP/1.\uff11".encode()), 400),
    "S34 two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 tab": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 space in the target": (get(target=b"/a b"), 400),
    "S34 leading space": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    **{
        f"S35 target byte {c:#04x}": (get(target=b"/a" + bytes([c])), 400)
        for c in (0x01, 0x09, 0x0B, 0x1F, 0x23, 0x7F, 0x80, 0xA0, 0xFF)
    },
    "S37 TRACE": (get(method=b"TRACE"), 405),
    "S37 TRACK": (get(method=b"TRACK"), 405),
    "S37 method of 33 bytes": (get(method=b"A" * 33), 400),
    "S37 method is no token": (get(method=b"G@T"), 400),
    "S37 no method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S38 other Expect": (post(b"Expect: y 100-continue", b"Content-Length: 1"), 417),
    "S38 Expect list": (post(b"Expect: 100-continue, x", b"Content-Length: 1"), 417),
    "S38 Expect twice": (post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 1"), 417),
    **{
        f"S44 Connection names {name.decode()}": (get(b"Connection: close, " + name), 400)
        for name in (
            b"Host", b"Content-Length", b"transfer-encoding", b"Cookie", b"Authorization", b"Forwarded",
            b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Real-IP", b"X-Request-Id",
        )
    },
    "S52 HTTP/1.0 GET with a body": (get(b"Content-Length: 3", version=b"HTTP/1.0"), 400),
    "S52 HTTP/1.0 DELETE": (get(b"Content-Length: 3", version=b"HTTP/1.0", method=b"DELETE"), 400),
    "S54 header of 33 KB": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 33_000 + b"\r\n\r\n", 431),
    "S54 130 headers": (get(*[b"X-%d: y" % i for i in range(130)]), 431),
    "S54 URI of 20 KB": (get(target=b"/" + b"a" * 20_000), 414),
    "S54 URI of 1 MB": (get(target=b"/" + b"a" * 1_000_000), 414),
}  # fmt: skip
