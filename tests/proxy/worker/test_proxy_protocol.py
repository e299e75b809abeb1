"""The PROXY header, as bytes: what is read, what is refused, and that no cut changes it."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.worker.proxy_protocol import (
    V1_BYTES_MAX,
    V2_BYTES_MAX,
    ProxyHeader,
    ProxyProtocolError,
    parse,
)
from tests.kit.proxy_header import v1, v2

FOUR = (("203.0.113.7", 56324), ("10.0.0.1", 443))
SIX = (("2001:db8::7", 56324), ("fd00::1", 443))

GOOD = {
    "v1 tcp4": (v1(*FOUR), *FOUR),
    "v1 tcp6": (v1(*SIX), *SIX),
    "v1 tcp6, longest": (
        b"PROXY TCP6 F F 65535 65535\r\n".replace(b"F", b":".join([b"ffff"] * 8)),
        *((":".join(["ffff"] * 8), 65535),) * 2,
    ),
    "v1 capitals and zeros": (
        b"PROXY TCP6 2001:0DB8::0007 FD00::1 0 1\r\n", ("2001:db8::7", 0), ("fd00::1", 1)),
    "v1 mapped": (
        b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:10.0.0.1 56324 443\r\n", *FOUR),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "v1 unknown with something": (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", None, None),
    "v2 tcp4": (v2(*FOUR), *FOUR),
    "v2 tcp6": (v2(*SIX), *SIX),
    "v2 tcp4 with TLVs": (v2(*FOUR, tlvs=b"\x03\x00\x04abcd\x04\x00\x00"), *FOUR),
    "v2 largest": (v2(*FOUR, tlvs=bytes(V2_BYTES_MAX - 28)), *FOUR),
    "v2 mapped": (v2(("::ffff:203.0.113.7", 56324), ("::ffff:10.0.0.1", 443)), *FOUR),
    "v2 local": (v2(command=0x20, family=0x00), None, None),
    "v2 local with addresses": (v2(*FOUR, command=0x20), None, None),
    "v2 local, any family": (v2(command=0x20, family=0x77, tlvs=b"abc"), None, None),
    "v2 unspecified": (v2(family=0x00, tlvs=b"x" * 9), None, None),
    "v2 udp": (v2(*FOUR, family=0x12), None, None),
    "v2 unix": (v2(family=0x31, tlvs=bytes(216)), None, None),
}  # fmt: skip

BAD = {
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00",
    "an empty line": b"\r\n\r\nGET / HTTP/1.1\r\n",
    "v1 lower case": b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 no CR": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    "v1 CR within": b"PROXY UNKNOWN\rx\r\n",
    "v1 too long": b"PROXY UNKNOWN " + b"x" * (V1_BYTES_MAX - 15) + b"\r\n",
    "v1 no end": b"PROXY " + b"x" * 200,
    "v1 two blanks": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 a blank behind": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
    "v1 a field less": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "v1 family": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 unknown spelt on": b"PROXY UNKNOWNX\r\n",
    "v1 other family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "v1 other family, too": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 an octet too large": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
    "v1 octal": b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
    "v1 zone": b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
    "v1 port too large": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "v1 port with zero": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "v1 port with sign": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "v2 version 1": v2(*FOUR, command=0x11),
    "v2 command": v2(*FOUR, command=0x22),
    "v2 family": v2(*FOUR, family=0x41),
    "v2 half a family": v2(*FOUR, family=0x10),
    "v2 too short": v2(family=0x11, tlvs=bytes(11)),
    "v2 too short for IPv6": v2(*FOUR, family=0x21),
    "v2 too long": v2(*FOUR, tlvs=bytes(V2_BYTES_MAX - 27)),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n", b"PROXY TCP4 9.9.9.9 9.9.9.9 9 9\r\n"])
def test_a_header_is_read_and_nothing_behind_it(name: str, behind: bytes) -> None:
    data, client, server = GOOD[name]
    assert parse(data + behind) == ProxyHeader(len(data), client, server)


@pytest.mark.parametrize("name", GOOD)
def test_a_part_of_a_header_waits_for_the_rest(name: str) -> None:
    """All of it belongs to the header, so all of it may be taken from the socket."""
    data = GOOD[name][0]
    assert all(parse(data[:end]) is None for end in range(len(data)))


@pytest.mark.parametrize("name", BAD)
def test_what_could_be_read_in_two_ways_is_refused(name: str) -> None:
    with pytest.raises(ProxyProtocolError):
        parse(BAD[name])


@pytest.mark.parametrize("name", ["a request", "a TLS hello", "v1 no end", "v2 version 1", "v2 too long"])
def test_it_is_refused_as_soon_as_nothing_can_mend_it(name: str) -> None:
    """Not at the time limit: whoever speaks HTTP to this port by mistake sees it at once."""
    data = {"a request": b"G", "a TLS hello": b"\x16", "v1 no end": BAD[name][:107],
            "v2 version 1": BAD[name][:13], "v2 too long": BAD[name][:16]}[name]  # fmt: skip
    assert parse(data[:-1]) is None if len(data) > 1 else True
    with pytest.raises(ProxyProtocolError):
        parse(data)


addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
ports = st.integers(0, 65535)


@given(addresses, ports, ports, st.booleans(), st.binary(max_size=300), st.integers(0, 400))
def test_whatever_a_sender_writes_is_what_is_read(
    pair: tuple[object, object], one: int, two: int, binary: bool, tail: bytes, cut: int
) -> None:
    """Any addresses, either version, cut anywhere: the same header, and the tail is left alone."""
    client, server = (str(pair[0]), one), (str(pair[1]), two)
    data = v2(client, server, tlvs=tail[:50]) if binary else v1(client, server)
    cut = min(cut, len(data))
    if cut < len(data):
        assert parse(data[:cut]) is None
    header = parse(data + tail)
    assert header is not None
    assert header.length_bytes == len(data)
    assert header.client == (_plain(client[0]), one)
    assert header.server == (_plain(server[0]), two)


def _plain(text: str) -> str:
    if ":" not in text:
        return text
    packed = socket.inet_pton(socket.AF_INET6, text)
    if packed[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return text


@given(st.binary(max_size=300), st.integers(0, 300))
def test_bytes_of_any_kind_are_refused_or_waited_for_or_read_the_same(noise: bytes, cut: int) -> None:
    """No other exception, and what a part has decided the whole does not decide otherwise."""
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"):
        data = start + noise
        try:
            early = parse(data[:cut])
        except ProxyProtocolError:
            with pytest.raises(ProxyProtocolError):
                parse(data)
            continue
        if early is not None:
            assert parse(data) == early


def test_the_helper_writes_what_the_specification_says() -> None:
    """Section 2.2: signature, 0x21, 0x11, length 12, addresses, ports."""
    assert v2(*FOUR) == (
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c"
        + bytes([203, 0, 113, 7, 10, 0, 0, 1])
        + struct.pack("!HH", 56324, 443)
    )
    assert v1(*FOUR) == b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n"
