"""PROXY headers as a load balancer writes them, and as one with a mistake would."""

from __future__ import annotations

import socket
import struct

Endpoint = tuple[str, int]

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v1(client: Endpoint, server: Endpoint) -> bytes:
    """Return the line of version 1."""
    family = "TCP6" if ":" in client[0] else "TCP4"
    return f"PROXY {family} {client[0]} {server[0]} {client[1]} {server[1]}\r\n".encode()


def v2(
    client: Endpoint | None = None,
    server: Endpoint | None = None,
    *,
    command: int = 0x21,
    family: int = -1,
    tlvs: bytes = b"",
) -> bytes:
    """Return the header of version 2; *family* by default as the addresses are."""
    addresses = b""
    if client is not None and server is not None:
        kind = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
        addresses = socket.inet_pton(kind, client[0]) + socket.inet_pton(kind, server[0])
        addresses += struct.pack("!HH", client[1], server[1])
        if family < 0:
            family = 0x21 if kind == socket.AF_INET6 else 0x11
    data = addresses + tlvs
    return _SIGNATURE + bytes([command, max(family, 0)]) + struct.pack("!H", len(data)) + data
