"""Request heads that must be refused, by row of the desync table, with the status each one gets."""

from __future__ import annotations


def get(*lines: bytes, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([method + b" " + target + b" " + version, b"Host: a.test", *lines, b"", b""])


def post(*lines: bytes) -> bytes:
    return get(*lines, method=b"POST")


def bare(*lines: bytes, method: bytes = b"GET", target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a head without the Host header that `get` adds."""
    return b"\r\n".join([method + b" " + target + b" " + version, *lines, b"", b""])


REFUSED = {
    "S1 CL then TE": (post(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    "S1 TE then CL": (post(b"Transfer-Encoding: chunked", b"Content-Length: 3"), 400),
    "S1 CL 0 then TE": (post(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 400),
    "S1 CL and TE far apart": (post(b"content-length: 3", b"A: b", b"TRANSFER-ENCODING: chunked"), 400),
    "S1 on GET": (get(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    "S1 with an unknown coding": (post(b"Content-Length: 3", b"Transfer-Encoding: gzip"), 400),
    "S2 same CL twice": (post(b"Content-Length: 3", b"Content-Length: 3"), 400),
    **{
        f"S2 CL list {value!r}": (post(b"Content-Length: " + value), 400)
        for value in (b"3, 3", b"3,3", b"3,", b",3", b"3, 4", b"0, 3")
    },
    "S2 the same CL, far apart": (post(b"Content-Length: 3", b"A: b", b"CONTENT-LENGTH: 3"), 400),
    "S2 the same CL three times": (post(*[b"Content-Length: 0"] * 3), 400),
    "S3 different CL": (post(b"Content-Length: 3", b"content-length: 4"), 400),
    **{
        f"S4 CL {value!r}": (post(b"Content-Length: " + value), 400)
        for value in (
            b"+3", b"0x3", b"1_0", b"-1", b"3 3", b"", b"3\xa0", b"\xd9\xa3", b"3;", b"\xb2", b"-0", b"3.0",
            b"3e0", b"0b1", b"0o3", b"3h", b'"3"', b"\xef\xbc\x93", b"--3", b"3-", b"3\t3", b"\xa03",
            b"\x853", b"one",
        )
    },
    "S4 CL with VT": (post(b"Content-Length: 3\x0b"), 400),
    "S4 CL with FF before it": (post(b"Content-Length: \x0c3"), 400),
    "S4 CL with NUL": (post(b"Content-Length: 3\0"), 400),
    "S5 CL 2^63": (post(b"Content-Length: 9223372036854775808"), 400),
    "S5 CL 2^64": (post(b"Content-Length: 18446744073709551616"), 400),
    "S5 CL of 2^64 + 3": (post(b"Content-Length: 18446744073709551619"), 400),
    "S5 CL of 2^32 squared": (post(b"Content-Length: 340282366920938463463374607431768211456"), 400),
    "S5 CL of 20 digits with zeros": (post(b"Content-Length: 00000000000000000003"), 400),
    "S5 CL of 5000 digits": (post(b"Content-Length: " + b"9" * 5000), 400),
    "S8 TE twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "S8 chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked"), 400),
    "S8 identity, then chunked": (post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"), 400),
    "S8 chunked, then identity": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), 400),
    "S8 gzip, then chunked, far apart": (
        post(b"transfer-encoding: gzip", b"A: b", b"Transfer-encoding: chunked"), 400
    ),
    "S8 empty, then chunked": (post(b"Transfer-Encoding:", b"Transfer-Encoding: chunked"), 400),
    **{
        f"S9 TE {value!r}": (post(b"Transfer-Encoding: " + value), 501)
        for value in (
            b"gzip", b"gzip, chunked", b"gzip,chunked", b"identity", b"identity, chunked", b"xchunked",
            b"chunk", b"chunked-x", b"deflate, gzip, chunked", b"'chunked'", b"GZIP",
        )
    },
    **{
        f"S9 TE {value!r}": (post(b"Transfer-Encoding: " + value), 400)
        for value in (
            b",chunked", b"chunked;x", b'"chunked"', b"chunked\xa0", b"", b"chunked,", b"chunked, gzip",
            b"x chunked", b"chunked x", b"[chunked]", b"chunked;q=1", b"chunked, identity", b"chunked\x85",
            b"\xa0chunked", b"chun\xc4\xb7ed", b"chunked, ", b", ,chunked", b"ch\tunked", b"\\chunked",
            b"chunked:", b"c,hunked,chunked,",
        )
    },
    "S9 TE with VT": (post(b"Transfer-Encoding: \x0bchunked"), 400),
    "S9 TE with FF behind": (post(b"Transfer-Encoding: chunked\x0c"), 400),
    "S9 TE with NUL": (post(b"Transfer-Encoding: chunked\0"), 400),
    "S9 TE with bare CR before it": (post(b"Transfer-Encoding: \rchunked"), 400),
    "S9 TE behind a bare LF": (post(b"X: y\nTransfer-Encoding: chunked"), 400),
    "S10 space before colon": (post(b"Transfer-Encoding : chunked"), 400),
    "S10 tab before colon": (post(b"Content-Length\t: 3"), 400),
    "S10 space before the colon of Host": (bare(b"Host : a.test"), 400),
    "S10 space before the colon of any header": (get(b"X : y"), 400),
    "S10 space in the name": (post(b"Transfer Encoding: chunked"), 400),
    **{
        f"S10 byte {c:#04x} before colon": (post(b"Transfer-Encoding" + bytes([c]) + b": chunked"), 400)
        for c in (0x01, 0x08, 0x0B, 0x0C, 0x0D, 0x1C, 0x7F, 0x85, 0xA0)
    },
    "S10 CTL in name": (get(b"Tran\x01sfer: x"), 400),
    "S11 Transfer_Encoding": (post(b"Transfer_Encoding: chunked"), 400),
    "S11 Content_Length": (post(b"content_LENGTH: 3"), 400),
    "S11 Transfer_Encoding beside CL": (post(b"Content-Length: 3", b"TRANSFER_ENCODING: chunked"), 400),
    "S11 X_Forwarded_Host": (get(b"x_forwarded_host: b.test"), 400),
    "S11 X_Request_Id": (get(b"X_Request-Id: 1"), 400),
    "S11 en dash": (post("Transfer\u2013Encoding: chunked".encode()), 400),
    "S11 Kelvin sign": (post("Transfer-Encoding: chun\u212aed".encode()), 400),
    "S11 zero-width space": (post("Transfer-Encoding\u200b: chunked".encode()), 400),
    "S11 X_Forwarded_For": (get(b"X_Forwarded_For: 1"), 400),
    "S11 X-Forwarded_For": (get(b"X-Forwarded_For: 1"), 400),
    "S11 X_Forwarded-Proto": (get(b"X_Forwarded-Proto: https"), 400),
    "S11 X_Real_IP": (get(b"X_Real_IP: 1"), 400),
    "S11 long s": (post("Tran\u017ffer-Encoding: chunked".encode()), 400),
    "S11 dotless i": (post("Transfer-Encod\u0131ng: chunked".encode()), 400),
    "S11 UTF-8 space": (post(b"\xc2\xa0Transfer-Encoding: chunked"), 400),
    "S12 HTTP/1.0 with TE": (post(b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "S12 HTTP/1.0 with TE and keep-alive": (
        post(b"Connection: keep-alive", b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0"), 400
    ),
    "S12 HTTP/1.0 with an unknown coding": (
        get(b"Transfer-Encoding: gzip", method=b"POST", version=b"HTTP/1.0"), 400
    ),
    "S13 obs-fold": (get(b"X: a", b" b"), 400),
    "S13 obs-fold with a tab": (get(b"X: a", b"\tb"), 400),
    "S13 folded CL": (post(b"Content-Length:", b" 3"), 400),
    "S13 CL folded into another header": (post(b"X: a", b" Content-Length: 3"), 400),
    "S13 folded Host": (bare(b"Host:", b" a.test"), 400),
    "S13 folded TE with a coding before it": (post(b"Transfer-Encoding: chunked", b" , identity"), 400),
    "S13 folded TE": (post(b"Transfer-Encoding:", b" chunked"), 400),
    "S14 space before the first header": (b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n", 400),
    "S14 tab before the first header": (b"GET / HTTP/1.1\r\n\tHost: a.test\r\n\r\n", 400),
    "S14 framing header behind a blank": (post(b" Content-Length: 3"), 400),
    "S14 line of one space": (get(b" "), 400),
    "S14 line of one tab": (get(b"\t"), 400),
    "S14 line of one space first": (b"GET / HTTP/1.1\r\n \r\nHost: a.test\r\n\r\n", 400),
    "S15 bare LF in a line": (get(b"X: a\nY: b"), 400),
    "S15 bare LF behind the request line": (b"GET / HTTP/1.1\nHost: a.test\r\n\r\n", 400),
    "S15 bare LF everywhere": (b"GET / HTTP/1.1\nHost: a.test\n\n", 400),
    "S15 bare LF as the blank line": (b"GET / HTTP/1.1\r\nHost: a.test\r\n\n", 400),
    "S15 LF CR": (b"GET / HTTP/1.1\r\nHost: a.test\n\r\n\r\n", 400),
    "S16 bare CR in a value": (get(b"X: a\rb"), 400),
    "S16 CR CR LF": (get(b"X: a\r"), 400),
    "S16 bare CR as a line end": (get(b"X: a\rY: b"), 400),
    "S16 bare CR before a framing header": (post(b"X: a\rContent-Length: 3"), 400),
    "S16 bare CR in a name": (get(b"X\rY: a"), 400),
    "S16 line of one CR": (get(b"\r"), 400),
    "S16 bare CR behind the version": (b"GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n", 400),
    "S16 bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "S16 bare CR before everything": (b"\rGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "S17 NUL in a value": (get(b"X: a\0b"), 400),
    "S17 NUL in a name": (get(b"X\0: a"), 400),
    "S17 NUL in the target": (get(target=b"/\0"), 400),
    "S17 NUL in the method": (get(method=b"G\0T"), 400),
    "S17 NUL in the version": (get(version=b"HTTP/1.1\0"), 400),
    "S17 NUL before everything": (b"\0" + get(), 400),
    "S17 NUL in Host": (bare(b"Host: a.test\0"), 400),
    **{
        f"S18 CTL {c:#04x} in a value": (get(b"X: a" + bytes([c])), 400)
        for c in (*range(1, 9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)
    },
    "S20 empty name": (get(b": x"), 400),
    "S20 no colon": (get(b"Foo"), 400),
    "S20 a second request line": (get(b"GET /x HTTP/1.1"), 400),
    "S20 a second request line with a colon": (get(b"GET http://x/ HTTP/1.1"), 400),
    "S20 colon alone": (get(b":"), 400),
    **{
        f"S20 name with {char!r}": (get(b"F" + char.encode() + b"o: x"), 400)
        for char in '"(),/;<=>?@[\\]{}'
    },
    "S20 UTF-8 in name": (get("Fö: x".encode()), 400),
    "S28 Host and URL disagree": (get(target=b"http://b.test/"), 400),
    "S28 userinfo": (get(target=b"http://u@a.test/"), 400),
    "S28 ports disagree": (get(target=b"http://a.test:81/"), 400),
    "S28 Host and URL disagree in HTTP/1.0": (get(target=b"http://b.test/", version=b"HTTP/1.0"), 400),
    "S28 ftp": (get(target=b"ftp://a.test/"), 400),
    **{
        f"S28 {target.decode()}": (get(target=target), 400)
        for target in (
            b"http:///x", b"http:/a.test/", b"http:a.test", b"http://", b"ws://a.test/",
            b"file:///etc/passwd", b"http://a.test@b.test/", b"http://b.test\\@a.test/",
            b"http://a.test:80:80/", b"http://a.test:x/", b"http://a.test/#x", b"http://[::1/",
            b"http//a.test/", b"://a.test/", b"http://a.test,b.test/",
        )
    },
    "S28 no slash before the path": (get(target=b"index.html"), 400),
    "S28 query alone": (get(target=b"?a=b"), 400),
    "S28 backslash": (get(target=b"\\x"), 400),
    "S28 absolute URL without a Host header": (bare(target=b"http://a.test/"), 400),
    "S29 authority-form of GET": (get(target=b"a.test:80"), 400),
    "S29 authority-form without a port": (get(target=b"a.test"), 400),
    "S29 authority-form of OPTIONS": (get(target=b"a.test:80", method=b"OPTIONS"), 400),
    "S29 CONNECT": (get(target=b"a.test:443", method=b"CONNECT"), 405),
    "S29 CONNECT without a port": (get(target=b"a.test", method=b"CONNECT"), 405),
    "S29 CONNECT with a URL": (get(target=b"http://a.test/", method=b"CONNECT"), 405),
    "S29 CONNECT with a path": (get(method=b"CONNECT"), 405),
    "S30 GET *": (get(target=b"*"), 400),
    "S30 POST *": (get(target=b"*", method=b"POST"), 400),
    "S30 OPTIONS **": (get(target=b"**", method=b"OPTIONS"), 400),
    "S30 OPTIONS */": (get(target=b"*/", method=b"OPTIONS"), 400),
    "S30 options *": (get(target=b"*", method=b"options"), 400),
    "S31 no Host": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
    "S31 no header at all": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "S31 Host twice": (get(b"Host: a.test"), 400),
    "S31 two Hosts": (get(b"host: b.test"), 400),
    "S31 two Hosts, far apart": (get(b"A: b", b"C: d", b"HOST: b.test"), 400),
    "S31 second Host empty": (get(b"Host:"), 400),
    "S31 Host twice in HTTP/1.0": (get(b"Host: a.test", version=b"HTTP/1.0"), 400),
    "S31 empty Host in HTTP/1.0": (bare(b"Host:", version=b"HTTP/1.0"), 400),
    **{
        f"S31 Host {value!r}": (bare(b"Host: " + value), 400)
        for value in (
            b"", b"a b", b"a/b", b"a@b", b"a,b", b"a:x", b"a:", b"a:1234567", b"a\x80", b"[::1", b"a\tb",
            b"a\\b", b"a?b", b"a#b", b"a<b", b'a"b', b"a|b", b"a^b", b"a:80:80", b"a:-1", b"a:+80", b"a:8 0",
            b"a:80@b", b"[::1]x", b"[::1]:", b"[g::1]", b"[]", b"::1", b"http://a.test", b":80", b"a:65536",
            b"a:99999", b"a:\xd9\xa3", b"u:p@a.test", "\u0430.test".encode(), b"a.test/../b",
        )
    },
    "S32 HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "S32 HTTP/0.9 with a header": (b"GET /\r\nHost: a.test\r\n\r\n", 400),
    "S32 HTTP/0.9 with a blank behind": (b"GET / \r\n\r\n", 400),
    "S32 method alone": (b"GET\r\nHost: a.test\r\n\r\n", 400),
    "S33 HTTP/1.2": (get(version=b"HTTP/1.2"), 400),
    "S33 HTTP/1.10": (get(version=b"HTTP/1.10"), 400),
    "S33 HTTP/2.0": (get(version=b"HTTP/2.0"), 505),
    "S33 HTTP/3.0": (get(version=b"HTTP/3.0"), 505),
    "S33 HTTP/9.9": (get(version=b"HTTP/9.9"), 505),
    "S33 the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 400),
    "S33 HTTP/0.9 named": (get(version=b"HTTP/0.9"), 400),
    **{
        f"S33 {version.decode()!r}": (get(version=version), 400)
        for version in (
            b"HTTP/1.9", b"HTTP/1.01", b"HTTP/01.1", b"HTTP/1.", b"HTTP/1", b"HTTP/.1", b"HTTP/1.1.1",
            b"HTTP/11", b"HTTP/2", b"HTTP/+1.1", b"HTTP/-1.1", b"HTTPS/1.1", b"HTTP /1.1", b"HTTP/ 1.1",
            b"HTTP/1,1", b"HTTP/1.1x", b"ICY/1.1", b"HTTP/10.1", b"Http/1.1", b"HTTP-1.1", b"HTTP/1.1\t", b"",
        )
    },
    "S33 lower case": (get(version=b"http/1.1"), 400),
    "S33 blank behind": (get(version=b"HTTP/1.1 "), 400),
    "S33 Unicode digit": (get(version="HTTP/1.\uff11".encode()), 400),
    "S34 two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 tab": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 space in the target": (get(target=b"/a b"), 400),
    "S34 two spaces before the version": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 tab before the version": (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 VT before the version": (b"GET /\x0bHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 FF before the target": (b"GET\x0c/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 a second request in the line": (b"GET / HTTP/1.1 GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S34 an empty line of LF before it": (b"\n" + get(), 400),
    "S34 an empty line with a blank before it": (b" \r\n" + get(), 400),
    "S34 leading space": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    **{
        f"S35 target byte {c:#04x}": (get(target=b"/a" + bytes([c])), 400)
        for c in (*range(1, 0x20), 0x23, 0x7F, 0x80, 0x85, 0xA0, 0xC3, 0xFF)
    },
    "S37 TRACE": (get(method=b"TRACE"), 405),
    "S37 TRACK": (get(method=b"TRACK"), 405),
    "S37 method of 33 bytes": (get(method=b"A" * 33), 400),
    "S37 method is no token": (get(method=b"G@T"), 400),
    **{
        f"S37 method {method.decode()}": (get(method=method), 400)
        for method in (b"GET:", b"GET/", b"(GET)", b"G,T", b'"GET"', b"GET\\", b"[GET]", b"G=T")
    },
    "S37 method of 10,000 bytes": (get(method=b"A" * 10_000), 414),
    "S37 no method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "S38 other Expect": (post(b"Expect: y 100-continue", b"Content-Length: 1"), 417),
    **{
        f"S38 Expect {value!r}": (post(b"Expect: " + value, b"Content-Length: 1"), 417)
        for value in (
            b"", b"100-continu", b"100-continue;x", b"x=100-continue", b"100-continue,", b'"100-continue"',
            b"100", b"100-continue 100-continue", b"200-ok", b"100-continue\xa0",
        )
    },
    "S38 other Expect without a body": (get(b"Expect: tea"), 417),
    "S38 Expect list": (post(b"Expect: 100-continue, x", b"Content-Length: 1"), 417),
    "S38 Expect twice": (post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 1"), 417),
    **{
        f"S44 Connection names {name.decode()}": (get(b"Connection: close, " + name), 400)
        for name in (
            b"Host", b"Content-Length", b"transfer-encoding", b"Cookie", b"Authorization", b"Forwarded",
            b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Real-IP", b"X-Request-Id",
            b"X-Forwarded-Port", b"X-Forwarded-Prefix", b"x-forwarded-client-cert", b"X-Anyport-Attempt",
            b"X-Anyport-Error",
        )
    },
    "S44 named in a second Connection header": (get(b"Connection: close", b"Connection: cookie"), 400),
    "S44 named behind an empty member": (get(b"Connection: , ,\tHOST"), 400),
    "S52 HTTP/1.0 GET with a body": (get(b"Content-Length: 3", version=b"HTTP/1.0"), 400),
    "S52 HTTP/1.0 HEAD with a body": (get(b"Content-Length: 3", version=b"HTTP/1.0", method=b"HEAD"), 400),
    "S52 HTTP/1.0 GET with a body and keep-alive": (
        get(b"Connection: keep-alive", b"Content-Length: 3", version=b"HTTP/1.0"), 400
    ),
    "S52 HTTP/1.0 DELETE": (get(b"Content-Length: 3", version=b"HTTP/1.0", method=b"DELETE"), 400),
    "S54 header of 20 KB": (get(b"X: " + b"a" * 20_000), 431),
    "S54 name of 20 KB": (get(b"a" * 20_000 + b": x"), 431),
    "S54 101 headers": (get(*[b"X-%d: y" % i for i in range(100)]), 431),
    "S54 10,000 headers": (get(*[b"X-%d: y" % i for i in range(10_000)]), 431),
    "S54 many large headers": (get(*[b"X-%d: " % i + b"a" * 9_000 for i in range(5)]), 431),
    "S54 header of 33 KB": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 33_000 + b"\r\n\r\n", 431),
    "S54 130 headers": (get(*[b"X-%d: y" % i for i in range(130)]), 431),
    "S54 URI of 20 KB": (get(target=b"/" + b"a" * 20_000), 414),
    "S54 URI of 1 MB": (get(target=b"/" + b"a" * 1_000_000), 414),
}  # fmt: skip
