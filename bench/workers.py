"""Two workers beside one: requests per second, and CPU per request.

On a machine with two cores the load and the backend compete with the second worker, so the rate can rise by
less than there is to gain; that CPU per request stays the same is what shows that workers do not get in each
other's way.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import click

from bench import peers, throughput
from bench.harness import Bench, Column, Sample, Server, compare, find, missing, running

_COLUMNS: Final = (
    Column("req/s", "per_s", 0),
    Column("cpu us/req", "cpu_us"),
    Column("p99 ms", "p99_ms", 2),
    Column("errors", "errors", 0, total=True),
)
_COUNTS: Final = (1, 2)


def run(bench: Bench) -> str:
    """Return the table."""
    wrk = find("wrk")
    if wrk is None:
        raise click.ClickException(missing("wrk"))
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        stack.enter_context(running(peers.web_backend(bench), (), bench.tmp))

        def measure(name: str, seconds: int) -> Sample:
            server = _with_workers(int(name.split()[0]))
            with running(server, (), bench.tmp) as pid:
                return throughput.load([wrk], pid, server, throughput.CASES["small"], seconds)

        samples = bench.interleaved([_name(count) for count in _COUNTS], measure)
    one = samples[_name(1)]
    faster = [a["per_s"] / b["per_s"] for a, b in zip(samples[_name(2)], one, strict=True)]
    title = f"workers: nothing is pinned; {cores} cores for proxy, load and backend together"
    best = f"2 workers over 1, round by round: {', '.join(f'{ratio:.2f}' for ratio in faster)}"
    return f"{title}\n{compare(samples, _COLUMNS)}\n{best}"


def _name(count: int) -> str:
    return f"{count} worker{'s' * (count > 1)}"


def _with_workers(count: int) -> Server:
    server = Server("anyport", peers.anyport_argv(peers.PLAIN), peers.ANYPORT_PORTS)
    return replace(server, env={"ANYPORT_WORKERS": str(count)})
