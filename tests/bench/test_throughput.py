"""What wrk says."""

from __future__ import annotations

import click
import pytest

from bench.throughput import parse

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
    assert parse(WRK) == {
        "requests": 62500,
        "per_s": 20833.33,
        "p50_ms": pytest.approx(0.95),
        "p99_ms": 1020.0,
        "errors": 0,
    }


def test_errors_of_sockets_and_statuses_are_added_up() -> None:
    errors = (
        "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n"
    )
    assert parse(WRK.replace("Requests/sec", errors + "Requests/sec"))["errors"] == 54321


def test_other_output_is_shown_to_the_user() -> None:
    with pytest.raises(click.ClickException, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:9001 Connection refused\n")
