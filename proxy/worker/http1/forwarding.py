"""What the backend is told of the client: X-Forwarded-For, -Proto and -Port."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from proxy.worker.http1.head import RequestHead


@lru_cache(maxsize=4096)
def forwarding_headers(peer: str, port: int, proto: bytes = b"http") -> bytes:
    """Return the header lines for a client at address *peer* that came in on *port*."""
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Port: %d\r\n" % (
        peer.encode(),
        proto,
        port,
    )


def forwarding_through(head: RequestHead, peer: str, port: int, own: bytes = b"http") -> bytes:
    """Return the header lines of a request that a trusted proxy at *peer* has passed on.

    *own* is the scheme of its connection to us, for where it does not say how the client came.
    """
    known, proto = head.forwarded_for, head.forwarded_proto.lower()
    lines = forwarding_headers(peer, port, proto if proto in (b"http", b"https") else own)
    return lines.replace(b"X-Forwarded-For: ", b"X-Forwarded-For: %b, " % known, 1) if known else lines


@lru_cache(maxsize=1024)
def within(peer: str, networks: tuple[str, ...]) -> bool:
    """Return whether the address *peer* lies in one of *networks*, given as CIDRs."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network) for network in networks)
