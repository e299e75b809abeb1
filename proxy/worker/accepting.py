"""What `syscalls.accept` is, in plain Python."""

from __future__ import annotations

import socket
from typing import Any


def accept(fd: int, /) -> tuple[int, Any]:
    """Return (descriptor, address) of the next connection at *fd*, which will not block."""
    listening = socket.socket(fileno=fd)
    try:
        sock, peername = listening.accept()
    finally:
        listening.detach()  # not ours to close
    sock.setblocking(False)
    return sock.detach(), peername
