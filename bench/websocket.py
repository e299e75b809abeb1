"""What a WebSocket message and its answer cost: 32 bytes each way, one at a time on each connection."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from bench import peers
from bench.harness import Bench, Column, Sample, compare, cpu_us, running

_CONNECTIONS: Final = 64
_COLUMNS: Final = (
    Column("cpu us/echo", "cpu_us", 2),
    Column("echoes/s", "per_s", 0),
    Column("p50 us", "p50_us", 0),
    Column("p99 us", "p99_us", 0),
)


def run(bench: Bench) -> str:
    """Return the table."""
    chat = bench.compiled("chat")
    with ExitStack() as stack:
        stack.enter_context(running(peers.chat_backend(bench), bench.load_pin, bench.tmp))
        servers = {server.name: server for server in peers.contestants(bench)}
        pids = {
            name: stack.enter_context(running(server, bench.proxy_pin, bench.tmp))
            for name, server in servers.items()
        }

        def measure(name: str, seconds: int) -> Sample:
            before_us = cpu_us(pids[name])
            argv = (chat, "talk", str(servers[name].ports[0]), str(_CONNECTIONS), str(seconds))
            sample = bench.load(*argv)
            return {**sample, "cpu_us": (cpu_us(pids[name]) - before_us) / max(sample["messages"], 1)}

        samples = bench.interleaved(list(servers), measure)
        title = f"websocket: {_CONNECTIONS} connections, an echo is a message there and one back"
        return f"{title}\n{compare(samples, _COLUMNS, ratio=Column('cpu', 'cpu_us'))}"
