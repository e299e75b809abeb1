"""The header of the PROXY protocol: who the client is, as a proxy in front of us says. Pure.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, versions 1 and 2. Where a sender leaves a
choice of reading, it is refused: a wrong address in `X-Forwarded-For` is worse than no connection.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

V1_BYTES_MAX: Final = 107  # the specification's, CRLF included
V2_BYTES_MAX: Final = 4096  # ours: addresses take 216 bytes at most, the rest are TLVs
HEADER_BYTES_MAX: Final = max(V1_BYTES_MAX, V2_BYTES_MAX)

_V1_START: Final = b"PROXY "
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45}) (\d{1,5}) (\d{1,5})")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")
_V2_START: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_BYTES: Final = 16
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the upper half
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}  # TCP over IPv4 and IPv6
# Valid, and nothing that an HTTP client can come by: UDP and unix sockets. As if nothing were said.
_NO_ADDRESS: Final = frozenset((0x00, 0x12, 0x22, 0x31, 0x32))

Endpoint = tuple[str, int]


class ProxyProtocolError(Exception):
    """The connection does not begin with a PROXY header. The argument says why."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header. Without addresses (`LOCAL`, `UNKNOWN`) those of the socket are the true ones."""

    length_bytes: int
    client: Endpoint | None = None
    server: Endpoint | None = None  # where the client meant to connect to


def parse(data: bytes) -> ProxyHeader | None:
    """Return the header that *data* begins with, or None: all of *data* belongs to one that goes on.

    Raises `ProxyProtocolError` as soon as no continuation can make it one.
    """
    if data.startswith(_V2_START[: len(data)]):
        return _parse_v2(data)
    if data.startswith(_V1_START[: len(data)]):
        return _parse_v1(data)
    raise ProxyProtocolError("the connection does not begin with a PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise ProxyProtocolError(f"the PROXY line is longer than {V1_BYTES_MAX} bytes")
        return None
    line = data[: end - 1]
    if data[end - 1 : end] != b"\r":
        raise ProxyProtocolError("the PROXY line does not end in CRLF")
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(end + 1)
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise ProxyProtocolError("the PROXY line is malformed")
    family, *texts = match.groups()
    client, server, client_port, server_port = (text.decode("ascii") for text in texts)
    version = 4 if family == b"TCP4" else 6
    return ProxyHeader(
        end + 1,
        (_address(client, version), _port(client_port)),
        (_address(server, version), _port(server_port)),
    )


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise ProxyProtocolError("the version or command of the PROXY header is unknown")
    if len(data) < _V2_FIXED_BYTES:
        return None
    command, family = data[12], data[13]
    length = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if length > V2_BYTES_MAX:
        raise ProxyProtocolError(f"the PROXY header is longer than {V2_BYTES_MAX} bytes")
    size = _ADDRESS_BYTES.get(family, 0)
    if command == _PROXY:
        if not size and family not in _NO_ADDRESS:
            raise ProxyProtocolError("the address family of the PROXY header is unknown")
        if size and length < _V2_FIXED_BYTES + 2 * size + 4:
            raise ProxyProtocolError("the PROXY header is too short for its addresses")
    if len(data) < length:
        return None
    if command == _LOCAL or not size:
        return ProxyHeader(length)
    at = _V2_FIXED_BYTES
    ports = at + 2 * size
    return ProxyHeader(
        length,
        (_packed(data[at : at + size]), int.from_bytes(data[ports : ports + 2], "big")),
        (_packed(data[at + size : ports]), int.from_bytes(data[ports + 2 : ports + 4], "big")),
    )


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ProxyProtocolError("an address of the PROXY line is malformed") from None
    if address.version != version:
        raise ProxyProtocolError("an address of the PROXY line is of the other family")
    return _plain(address)


def _port(text: str) -> int:
    port = int(text)  # one to five digits
    if port > 65535 or (text[0] == "0" and len(text) > 1):
        raise ProxyProtocolError("a port of the PROXY line is malformed")
    return port


def _packed(data: bytes) -> str:
    return _plain(ipaddress.ip_address(data))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return *address* as text; an IPv4 address in IPv6 clothes as what it is."""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
