"""Whether an address is one that this very proxy listens on: a request sent there would come back to it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable


class OwnAddresses:
    """The places where *listeners* (ip, port) are reached from this host; "0.0.0.0" is each address of it.

    Seen from a container in bridge mode the host is another machine: its address is not known here.
    """

    def __init__(self, listeners: Iterable[tuple[str, int]]) -> None:
        self._listeners = [(ipaddress.ip_address(host), port) for host, port in listeners]

    def __call__(self, host: str, port: int) -> bool:
        """Return whether a connection to *host*, an IP literal, and *port* ends at one of them."""
        ip = ipaddress.ip_address(host)
        return any(
            port == own_port
            and (ip == own or (own.is_unspecified and ip.version == own.version and _local(host)))
            for own, own_port in self._listeners
        )


def _local(host: str) -> bool:
    """Return whether *host* is an address of this machine: only such a one can be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True
