"""CPU per request and requests per second, with wrk asking as fast as it gets answers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from bench import peers
from bench.harness import (
    HERE,
    Bench,
    Column,
    Sample,
    Server,
    compare,
    cpu_us,
    find,
    missing,
    pss_kib,
    running,
)

_UNIT_MS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    path: str
    script_words: tuple[str, ...] = ()  # browser.lua knows them
    connections: int = 64
    tls: bool = False
    sticky: bool = False  # sessions, with a cookie


CASES: Final = {
    "small": Case("/"),
    "sticky": Case("/", ("sticky",), sticky=True),
    "10k": Case("/10k"),
    "1m": Case("/1m", connections=16),
    "close": Case("/", ("close",)),
    "post10k": Case("/post", ("post",)),
    "tls": Case("/", tls=True),
}
_CPU: Final = Column("cpu us/req", "cpu_us")
_COLUMNS: Final = (
    _CPU,
    Column("req/s", "per_s", 0),
    Column("p50 ms", "p50_ms", 2),
    Column("p99 ms", "p99_ms", 2),
    Column("PSS MiB", "pss_mib"),
    Column("errors", "errors", 0, total=True),
)
_RATIO: Final = Column("cpu", "cpu_us")


def run(bench: Bench, name: str) -> str:
    """Return the table of the case *name*, "" if it cannot be run here."""
    case = CASES[name]
    if case.sticky and not peers.STICKY.exists():
        click.echo(f"left out: {name} (anyport has no sessions yet)")
        return ""
    wrk = find("wrk")
    if wrk is None:
        raise click.ClickException(missing("wrk"))
    with ExitStack() as stack:
        backend = peers.web_backend(bench)
        stack.enter_context(running(backend, bench.load_pin, bench.tmp))
        servers = {
            server.name: server
            for server in peers.contestants(
                bench,
                only=("floor", "haproxy", "anyport") if case.sticky else peers.KNOWN,
                tls=case.tls,
                sticky=case.sticky,
            )
        }
        pids = {
            server.name: stack.enter_context(running(server, bench.proxy_pin, bench.tmp))
            for server in servers.values()
        }

        def measure(proxy: str, seconds: int) -> Sample:
            return load([*bench.load_pin, wrk], pids[proxy], servers[proxy], case, seconds)

        samples = bench.interleaved(list(servers), measure)
        title = (
            f"{name}: {bench.rounds} interleaved rounds of {bench.seconds} s, {case.connections} connections"
        )
        return f"{title}\n{compare(samples, _COLUMNS, ratio=_RATIO)}"


def load(wrk: Sequence[str], pid: int, server: Server, case: Case, seconds: int) -> Sample:
    """Ask one proxy for some seconds."""
    url = f"{'https' if server.tls else 'http'}://127.0.0.1:{server.ports[0]}{case.path}"
    argv = [*wrk, "-t1", f"-c{case.connections}", f"-d{seconds}s", "--timeout", "5s", "--latency"]
    argv += ["-s", str(HERE / "browser.lua"), url, "--", *case.script_words]
    before_us = cpu_us(pid)
    try:
        output = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 15).stdout
    except subprocess.SubprocessError as exc:
        raise click.ClickException(f"wrk failed: {exc}") from exc
    spent_us = cpu_us(pid) - before_us
    sample = parse(output)
    if not sample["requests"]:
        raise click.ClickException(f"no request was answered by {server.name}:\n{output}")
    return {**sample, "cpu_us": spent_us / sample["requests"], "pss_mib": pss_kib(pid) / 1024}


def parse(output: str) -> Sample:
    """Read what `wrk --latency` prints."""

    def one(pattern: str) -> tuple[str, ...]:
        found = re.search(pattern, output)
        if found is None:
            raise click.ClickException(f"wrk printed nothing like {pattern!r}:\n{output}")
        return found.groups()

    def latency_ms(percent: int) -> float:
        number, unit = one(rf"\b{percent}%\s+([\d.]+)(us|ms|s|m)\b")
        return float(number) * _UNIT_MS[unit]

    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return {
        "requests": int(one(r"(\d+) requests in")[0]),
        "per_s": float(one(r"Requests/sec:\s+([\d.]+)")[0]),
        "p50_ms": latency_ms(50),
        "p99_ms": latency_ms(99),
        "errors": sum(int(n) for match in (sockets, statuses) if match for n in match.groups()),
    }


def request(script: Path = HERE / "browser.lua") -> bytes:
    """Return the request of the case "small" as bytes, as *script* has it."""
    headers = re.findall(
        r'wrk\.headers\["([^"]+)"\] =\s*"([^"]*)"', script.read_text().partition("for _,")[0]
    )
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    return ("GET / HTTP/1.1\r\n" + "".join(lines) + "\r\n").encode()
