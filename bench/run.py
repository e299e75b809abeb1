"""Measure anyport beside the proxies that are installed: `make bench ARGS="--case 10k --case latency"`.

Without --case: what a request costs, in every kind of request, in one table for each kind.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from bench import change, handshakes, idle, latency, peers, routing, snapshot, throughput, websocket, workers
from bench.harness import Bench, pins

_OTHERS: Final[dict[str, Callable[[Bench], str]]] = {
    "latency": latency.run,
    "handshakes": handshakes.run,
    "websocket": websocket.run,
    "idle": idle.run,
    "workers": workers.run,
    "routing": lambda _: routing.run(),
    "snapshot": snapshot.run,
    "change": lambda _: change.run(),
}
CASES: Final = (*throughput.CASES, *_OTHERS)


@click.command()
@click.option(
    "--case", "cases", type=click.Choice([*CASES, "all"]), multiple=True, help="May be given often."
)
@click.option("--peers", "names", default=",".join(peers.KNOWN), show_default=True)
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True)
@click.option(
    "--seconds", type=click.IntRange(1, 30), default=3, show_default=True, help="Length of a round."
)
def main(cases: tuple[str, ...], names: str, rounds: int, seconds: int) -> None:
    """Measure anyport beside other proxies, on loopback and one core."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that everything is stopped
    chosen = tuple(names.split(","))
    if unknown := set(chosen) - set(peers.KNOWN):
        raise click.BadParameter(f"no such peer: {', '.join(sorted(unknown))}", param_hint="--peers")
    if "anyport" not in chosen:
        chosen = (*chosen, "anyport")
    proxy_pin, load_pin = pins()
    for name in CASES if "all" in cases else cases or throughput.CASES:
        with tempfile.TemporaryDirectory(prefix="anyport-bench-") as folder:
            tmp = Path(folder)
            tmp.chmod(0o755)  # nginx's worker is another user when root runs this
            bench = Bench(tmp, rounds, seconds, chosen, proxy_pin, load_pin)
            result = _OTHERS[name](bench) if name in _OTHERS else throughput.run(bench, name)
            if result:
                click.echo(f"{result}\n")


if __name__ == "__main__":
    main()
