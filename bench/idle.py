"""Memory of an idle connection: ten thousand keep-alive connections, then as many WebSockets.

What the kernel keeps for the sockets is not in it; that is the same for everybody.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import click

from bench import peers, throughput
from bench.harness import Bench, Server, pss_kib, running, table

_COUNT: Final = 10_000
_WARM: Final = 200  # connections before the first look, so that code and pools are there
_SHARE_PERCENT: Final = 44  # of the files a proxy may open; it needs as many for backends, and some more
_SETTLE_S: Final = 1.0  # a proxy may free a connection's buffers a moment after its last use
_OPEN_CHAT: Final = (
    b"GET /chat HTTP/1.1\r\nHost: bench.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_PEERS: Final = ("nginx", "haproxy", "anyport")


def run(bench: Bench) -> str:
    """Return the table."""
    lines = []
    count = _fitting()
    for kind, backend, opening in (
        ("keep-alive", peers.web_backend(bench), throughput.request()),
        ("WebSocket", peers.chat_backend(bench), _OPEN_CHAT),
    ):
        with running(backend, bench.load_pin, bench.tmp):
            for server in peers.contestants(bench, only=_PEERS):
                before, after = _memory_kib(bench, server, opening, count)
                each = (after - before) / (count - _WARM)
                line = f"{before / 1024:.1f}", f"{after / 1024:.1f}", f"{each:.2f}"
                lines.append([kind, f"{count}", server.name, *line])
    titles = ["idle", "connections", "proxy", "PSS MiB before", "after", "KiB each"]
    return "idle: memory of the proxy's processes\n" + table(titles, lines)


def _fitting() -> int:
    """Return how many connections the limit on open files allows, and say so if they are too few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the proxies inherit it
    count = min(_COUNT, most * _SHARE_PERCENT // 100)
    if count < _COUNT:
        click.echo(f"{count} connections instead of {_COUNT}: a process may open {most} files here")
    return count


def _memory_kib(bench: Bench, server: Server, opening: bytes, count: int) -> tuple[int, int]:
    with running(server, bench.proxy_pin, bench.tmp) as pid, ExitStack() as stack:
        stack.enter_context(_opened(server.ports[0], opening, _WARM))
        time.sleep(_SETTLE_S)
        before = pss_kib(pid)
        stack.enter_context(_opened(server.ports[0], opening, count - _WARM))
        time.sleep(_SETTLE_S)
        return before, pss_kib(pid)


@contextmanager
def _opened(port: int, opening: bytes, count: int) -> Iterator[None]:
    """Hold *count* connections that have had one answer each."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), timeout=10)
            sockets.append(sock)
            sock.sendall(opening)
            if not sock.recv(65536).startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")):
                raise click.ClickException(f"no good answer on connection {len(sockets)}")
        yield
    finally:
        for sock in sockets:
            sock.close()
