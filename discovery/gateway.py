"""The default gateway: for a container in bridge mode it is the instance it runs on."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

_ROUTES: Final = Path("/proc/net/route")
_UP_GATEWAY: Final = 0x3  # RTF_UP | RTF_GATEWAY


def default_gateway(routes: Path = _ROUTES) -> str:
    """Return its IPv4 address, "" if there is none."""
    try:
        return read_routes(routes.read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return ""


def read_routes(text: str) -> str:
    """Return the gateway of the best default route of a `/proc/net/route`, "" if it has none."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        try:
            destination, gateway, flags, metric, mask = (
                int(fields[i], 16 if i != 6 else 10) for i in (1, 2, 3, 6, 7)
            )
            if destination == mask == 0 and flags & _UP_GATEWAY == _UP_GATEWAY and gateway:
                # The kernel prints the address as a number of its own byte order.
                found.append((metric, socket.inet_ntoa(bytes.fromhex(fields[2])[::-1])))
        except (IndexError, ValueError, OSError):
            continue
    return min(found)[1] if found else ""
