"""Latency at half of what HAProxy can do at most: requests fall due by the clock, whoever stalls."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import click

from bench import peers, throughput
from bench.harness import Bench, Column, Sample, compare, cpu_us, find, missing, running

_CONNECTIONS: Final = 64
_COLUMNS: Final = (
    Column("p50 us", "p50_us", 0),
    Column("p90 us", "p90_us", 0),
    Column("p99 us", "p99_us", 0),
    Column("p99.9 us", "p999_us", 0),
    Column("max us", "max_us", 0),
    Column("cpu us/req", "cpu_us"),
    Column("waited", "late", 0, total=True),  # found no connection free when they fell due
    Column("errors", "errors", 0, total=True),
)


def run(bench: Bench) -> str:
    """Return the table."""
    wrk, pace = find("wrk"), bench.compiled("pace")
    if wrk is None:
        raise click.ClickException(missing("wrk"))
    with ExitStack() as stack:
        stack.enter_context(running(peers.web_backend(bench), bench.load_pin, bench.tmp))
        servers = {server.name: server for server in peers.contestants(bench)}
        if "haproxy" not in servers:
            return ""
        pids = {
            name: stack.enter_context(running(server, bench.proxy_pin, bench.tmp))
            for name, server in servers.items()
        }
        case = throughput.CASES["small"]
        most = throughput.load(
            [*bench.load_pin, wrk], pids["haproxy"], servers["haproxy"], case, bench.seconds
        )
        rate = most["per_s"] / 2

        def measure(name: str, seconds: int) -> Sample:
            before_us = cpu_us(pids[name])
            argv = (pace, str(servers[name].ports[0]), f"{rate:.0f}", str(_CONNECTIONS), str(seconds))
            sample = bench.load(*argv, given=throughput.request())
            spent_us = cpu_us(pids[name]) - before_us
            return {**sample, "cpu_us": spent_us / max(sample["requests"], 1)}

        samples = bench.interleaved(list(servers), measure)
        title = f"latency: {rate:.0f} requests a second on {_CONNECTIONS} connections, half of HAProxy's most"
        return f"{title}\n{compare(samples, _COLUMNS, ratio=Column('p99', 'p99_us'))}"
