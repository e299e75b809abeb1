"""TLS handshakes: what one costs the proxy, the first of a client and one that resumes a session.

Each comes with one small request and ends its connection. The clients are plain Python, on the load's core:
where they are slower than a proxy, the rate is theirs, and the CPU per handshake says more.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Final

import click

from bench import peers
from bench.harness import HERE, Bench, Column, Sample, compare, cpu_us, running, trusting

_CLIENTS: Final = 4
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: bench.example.com\r\nConnection: close\r\n\r\n"
_CPU: Final = Column("cpu us/handshake", "cpu_us", 0)
_COLUMNS: Final = (_CPU, Column("per s", "per_s", 0), Column("resumed %", "resumed_percent", 0))
_PEERS: Final = ("nginx", "haproxy", "caddy", "envoy", "anyport")


def run(bench: Bench) -> str:
    """Return one table for full handshakes and one for resumed ones."""
    tables = []
    with ExitStack() as stack:
        stack.enter_context(running(peers.web_backend(bench), bench.load_pin, bench.tmp))
        servers = {s.name: s for s in peers.contestants(bench, tls=True, only=_PEERS)}
        pids = {
            name: stack.enter_context(running(server, bench.proxy_pin, bench.tmp))
            for name, server in servers.items()
        }
        for kind in ("full", "resumed"):

            def measure(name: str, seconds: int, kind: str = kind) -> Sample:
                before_us = cpu_us(pids[name])
                sample = _clients(bench, servers[name].ports[0], seconds, kind)
                spent_us = cpu_us(pids[name]) - before_us
                return {
                    "cpu_us": spent_us / max(sample["handshakes"], 1),
                    "per_s": sample["handshakes"] / seconds,
                    "resumed_percent": 100 * sample["resumed"] / max(sample["handshakes"], 1),
                }

            samples = bench.interleaved(list(servers), measure)
            title = f"handshakes, {kind}: TLS 1.3, ECDSA P-256, one small request on each connection"
            tables.append(f"{title}\n{compare(samples, _COLUMNS, ratio=Column('cpu', 'cpu_us'))}")
    return "\n\n".join(tables)


def _clients(bench: Bench, port: int, seconds: int, kind: str) -> Sample:
    argv = [*bench.load_pin, sys.executable, "-m", "bench.handshakes", str(port), str(seconds), kind]
    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=HERE.parent) for _ in range(_CLIENTS)]
    total: Sample = {"handshakes": 0, "resumed": 0}
    for child in children:
        output, _ = child.communicate(timeout=seconds + 20)
        if child.returncode:
            raise click.ClickException("a TLS client failed")
        for name, value in json.loads(output).items():
            total[name] += value
    return total


def _client(port: int, seconds: float, kind: str) -> Sample:
    """Connect, ask and leave, for some seconds."""
    context, session, done, resumed = trusting(), None, 0, 0
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="bench.example.com", session=session) as secure,
        ):
            secure.sendall(_REQUEST)
            while secure.recv(65536):
                pass
            done += 1
            resumed += bool(secure.session_reused)
            session = secure.session if kind == "resumed" else None
    return {"handshakes": done, "resumed": resumed}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_client(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])))
