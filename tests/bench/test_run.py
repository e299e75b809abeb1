"""The benchmark's arithmetic. That it runs is seen by running it: `make bench`."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click
import pytest

from bench.run import HERE, Load, Sample, cpu_us, median_ratio, parse_load, process_tree, report
from proxy.config import load

WRK = """\
Running 3s test @ http://127.0.0.1:9001/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.05ms  400.90us  15.22ms   99.10%
    Req/Sec    20.95k     1.02k   22.05k    83.33%
  Latency Distribution
     50%  950.00us
     75%    3.09ms
     90%    3.50ms
     99%    1.02s
  62500 requests in 3.00s, 12.34MB read
Requests/sec:  20833.33
Transfer/sec:      4.11MB
"""


def test_output_of_wrk_is_read_in_one_unit() -> None:
    assert parse_load(WRK) == Load(
        requests=62500, requests_per_s=20833.33, p50_ms=pytest.approx(0.95), p99_ms=1020.0, errors=0
    )


def test_errors_of_sockets_and_statuses_are_added_up() -> None:
    errors = (
        "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n"
    )
    assert parse_load(WRK.replace("Requests/sec", errors + "Requests/sec")).errors == 54321


def test_other_output_is_shown_to_the_user() -> None:
    with pytest.raises(click.ClickException, match="unable to connect"):
        parse_load("unable to connect to 127.0.0.1:9001 Connection refused\n")


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was half as fast in the second round, for both: the ratio of medians would be off.
    assert median_ratio([30.0, 60.0, 33.0], [10.0, 20.0, 30.0]) == 3.0
    assert median_ratio([1.0], [0.0]) == float("inf")
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1.0, 2.0], [1.0])


def test_report_has_medians_and_a_ratio_to_each_peer() -> None:
    def rounds(*costs_us: float) -> list[Sample]:
        return [Sample(Load(10, 1000.0, 1.5, 2.5, 1), cost_us) for cost_us in costs_us]

    table = report(
        {"nginx": rounds(10, 11, 12), "haproxy": rounds(20, 22, 24), "anyport": rounds(40, 44, 90)}
    )
    header, *rows = (line.split() for line in table.splitlines())
    assert header[-6:] == ["cpu", "/", "nginx", "cpu", "/", "haproxy"]
    assert rows == [
        ["nginx", "11.0", "1000", "1.50", "2.50", "3", "1.00", "0.50"],
        ["haproxy", "22.0", "1000", "1.50", "2.50", "3", "2.00", "1.00"],
        ["anyport", "44.0", "1000", "1.50", "2.50", "3", "4.00", "2.00"],
    ]


def test_cpu_of_children_counts_while_they_live_and_after() -> None:
    before_us = cpu_us(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint('burnt', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert {os.getpid(), child.pid} <= set(process_tree(os.getpid()))
        assert cpu_us(child.pid) >= 150_000
        assert cpu_us(os.getpid()) - before_us >= 150_000
        child.communicate("\n")
    assert child.pid not in process_tree(os.getpid())
    assert cpu_us(os.getpid()) - before_us >= 150_000


def test_own_cpu_counts() -> None:
    before_us, until_s = cpu_us(os.getpid()), time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    assert cpu_us(os.getpid()) - before_us >= 50_000


def test_a_process_that_is_gone_used_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert cpu_us(child.pid) == 0


def test_configuration_is_valid() -> None:
    config = load(HERE / "anyport.toml", {})
    assert config.workers == 1
    assert len(config.service[0].static) == 2
