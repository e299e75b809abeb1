"""A TCP connection to a backend, before anything is spoken on it."""

from __future__ import annotations

import asyncio
import select
import socket


def readable(fileno: int) -> bool:
    """Return whether a socket has something to read, which its end is too."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


async def connect(loop: asyncio.AbstractEventLoop, host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a socket connected to the address *host*, without delay and not blocking.

    Raises `TimeoutError`, or the `OSError` of what kept it from connecting; `ConnectionResetError` also if
    the backend ends it or speaks before it was asked anything: it would not take a request for one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(sock, (host, port))
        if readable(sock.fileno()):
            raise ConnectionResetError
        # On this host a dial to a dead port of the ephemeral range can be given that very port as its
        # source, and then TCP connects us to ourselves (simultaneous open, RFC 9293 section 3.5).
        if sock.getsockname()[1] == port and sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError
    except BaseException:
        sock.close()
        raise
    return sock
