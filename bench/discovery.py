"""What discovery costs at 1,000 services, 10,000 tasks and 300 instances: `python -m bench.discovery`.

The whole of anyport asks a paper account (`paper`) over HTTP, with AWS's throttling on, and hears events from
a queue. A cold start counts from the start of the process. CPU time and memory are those of control.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from bench.harness import table
from bench.paper import CLUSTER, QUEUE
from tests.kit.anyport import Anyport

_SIZE: Final = (1_000, 10, 300)  # services, tasks of each, instances
_CONFIG: Final = """
[ecs]
clusters = ["{cluster}"]
domain = "test"
endpoint_url = "{url}"
region = "eu-west-1"
[ecs.events]
queue = "{url}{queue}"
[health]
kind = "{health}"
interval_s = 60
"""
_ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": "paper",
    "AWS_SECRET_ACCESS_KEY": "paper",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_SQS: Final = ("ReceiveMessage", "DeleteMessageBatch", "GetQueueAttributes")


@contextmanager
def paper(services: int, tasks: int, instances: int, definitions: int) -> Iterator[str]:
    """Run the account in a process of its own; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.paper", *map(str, (services, tasks, instances, definitions))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)


def cold(definitions: int, health: str, steady_s: int, changes: int) -> dict[str, str]:
    """Start anyport with nothing known, and look at what it does; return what was measured, in words."""
    with paper(*_SIZE, definitions) as url, tempfile.TemporaryDirectory() as folder:
        config = _CONFIG.format(cluster=CLUSTER, url=url, queue=QUEUE, health=health)
        began_s = time.monotonic()
        with Anyport(Path(folder), config, workers=1, environ=_ENVIRONMENT) as anyport:
            loaded_s = _until_loaded(anyport) - began_s
            used = _calls(url)
            result = {
                "definitions": str(definitions),
                "checks": health,
                "backends": f"{len(anyport.table())}",
                "first table": f"{loaded_s:.1f} s",
                "calls": str(sum(used.values())),
                "throttled": f"{_metric(anyport, 'anyport_discovery_errors_total'):.0f}",
                "CPU": f"{_metric(anyport, 'process_cpu_seconds_total'):.1f} s",
            }
            if steady_s:
                result |= _steady(url, steady_s)
            if changes:
                result |= _changes(anyport, url, changes)
            return result | {"RSS": f"{_rss_mib(anyport):.0f} MiB"}


def _until_loaded(anyport: Anyport) -> float:
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s:
        try:
            if anyport.readyz()["table"]["loaded"]:
                return time.monotonic()
        except OSError:
            pass
        time.sleep(0.1)
    raise click.ClickException(f"no table within three minutes:\n{anyport.log[-2000:]}")


def _steady(url: str, seconds: int) -> dict[str, str]:
    """Count calls while ten tasks a minute change, once events are trusted."""
    _change(url)
    time.sleep(15)  # a poll after the first events, and they are trusted
    before, began_s = _calls(url), time.monotonic()
    while time.monotonic() - began_s < seconds:
        time.sleep(6)
        _change(url)
    minutes = (time.monotonic() - began_s) / 60
    made = {name: count - before.get(name, 0) for name, count in _calls(url).items()}
    of_ecs = sum(count for name, count in made.items() if name not in _SQS)
    return {
        "calls a minute": f"{of_ecs / minutes:.1f}",
        "of SQS": f"{sum(made.get(name, 0) for name in _SQS) / minutes:.1f}",
    }


def _changes(anyport: Anyport, url: str, count: int) -> dict[str, str]:
    """Return the CPU time that the control process takes for one task that is replaced by another."""
    pid = anyport.children()["control"]

    def used_s() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def over(seconds: float, changes: int) -> float:
        before = used_s()
        for _ in range(max(1, changes)):
            if changes:
                _change(url)
            time.sleep(seconds / max(1, changes))
        return used_s() - before

    length_s = count * 0.1
    idle_s = over(length_s, 0)
    return {"CPU for a task replaced": f"{(over(length_s, count) - idle_s) / count * 1000:.1f} ms"}


def _calls(url: str) -> dict[str, int]:
    return dict(_ask(url, "GET", "/_paper/calls"))


def _change(url: str) -> None:
    _ask(url, "POST", "/_paper/change")


def _ask(url: str, method: str, path: str) -> Any:  # noqa: ANN401 - any JSON
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path)
        return json.load(connection.getresponse())
    finally:
        connection.close()


def _metric(anyport: Anyport, name: str) -> float:
    return sum(float(found) for found in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", anyport.metrics(), re.M))


def _rss_mib(anyport: Anyport) -> float:
    return _metric(anyport, "process_resident_memory_bytes") / 2**20


@click.command()
@click.option("--definitions", default="250,1000", show_default=True, help="How many, one run for each.")
@click.option("--health", type=click.Choice(["none", "tcp", "http"]), default="none", show_default=True)
@click.option("--steady", "steady_s", type=int, default=240, show_default=True, help="Seconds; 0: not.")
@click.option("--changes", type=int, default=200, show_default=True)
def main(definitions: str, health: str, steady_s: int, changes: int) -> None:
    """Measure discovery of a large cluster."""
    for number, one in enumerate(definitions.split(",")):
        measured = cold(int(one), health, 0 if number else steady_s, 0 if number else changes)
        click.echo(table(list(measured), [list(measured.values())]) + "\n")


if __name__ == "__main__":
    main()
