"""What the benchmark programs share. That those run is seen by running them: `make bench`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from bench.harness import (
    HERE,
    WARM_UP_S,
    Bench,
    Column,
    compare,
    cpu_us,
    find,
    median_ratio,
    process_tree,
    pss_kib,
    table,
)


def bench(tmp: Path) -> Bench:
    return Bench(tmp, rounds=2, seconds=3, peers=("nginx", "anyport"), proxy_pin=(), load_pin=())


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was half as fast in the second round, for both: the ratio of medians would be off.
    assert median_ratio([30.0, 60.0, 33.0], [10.0, 20.0, 30.0]) == 3.0
    assert median_ratio([1.0], [0.0]) == float("inf")
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1.0, 2.0], [1.0])


def test_a_comparison_has_medians_sums_and_a_ratio_to_each_peer() -> None:
    samples = {
        "nginx": [{"cpu": 10.0, "bad": 1.0}, {"cpu": 11.0, "bad": 0.0}, {"cpu": 12.0, "bad": 0.0}],
        "haproxy": [{"cpu": 20.0, "bad": 0.0}, {"cpu": 22.0, "bad": 0.0}, {"cpu": 24.0, "bad": 0.0}],
        "anyport": [{"cpu": 40.0, "bad": 2.0}, {"cpu": 44.0, "bad": 3.0}, {"cpu": 90.0, "bad": 0.0}],
    }
    columns = Column("us", "cpu"), Column("errors", "bad", 0, total=True)
    header, *rows = compare(samples, columns, ratio=Column("us", "cpu")).splitlines()
    assert header.split() == ["proxy", "us", "errors", "us", "/", "nginx", "us", "/", "haproxy"]
    assert [row.split() for row in rows] == [
        ["nginx", "11.0", "1", "1.00", "0.50"],
        ["haproxy", "22.0", "0", "2.00", "1.00"],
        ["anyport", "44.0", "5", "4.00", "2.00"],
    ]
    assert "/" not in compare(samples, columns)


def test_a_column_is_as_wide_as_what_stands_in_it() -> None:
    assert table(["a", "long title"], [["value", "1"], ["b", "22"]]) == (
        "    a  long title\nvalue           1\n    b          22"
    )


def test_rounds_are_interleaved_and_the_first_is_to_warm_up(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def measure(name: str, seconds: int) -> dict[str, float]:
        asked.append((name, seconds))
        return {"turn": len(asked)}

    samples = bench(tmp_path).interleaved(["a", "b"], measure)
    assert asked == [("a", WARM_UP_S), ("b", WARM_UP_S), *[("a", 3), ("b", 3)] * 2]
    assert samples == {"a": [{"turn": 3}, {"turn": 5}], "b": [{"turn": 4}, {"turn": 6}]}


def test_load_programs_print_a_value_per_line(tmp_path: Path) -> None:
    script = "import sys; print('bytes', len(sys.stdin.read())); print('p50_us 1.5')"
    assert bench(tmp_path).load(sys.executable, "-c", script, given=b"abc") == {"bytes": 3, "p50_us": 1.5}
    with pytest.raises(click.ClickException, match="no such thing"):
        bench(tmp_path).load(sys.executable, "-c", "raise SystemExit('no such thing')")


@pytest.mark.skipif(find("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("source", sorted(HERE.glob("*.c")), ids=lambda path: path.stem)
def test_c_programs_compile_without_a_warning(source: Path, tmp_path: Path) -> None:
    argv = [find("cc") or "", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "out"), str(source)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    usage = subprocess.run([str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert usage.stderr.startswith(f"usage: {source.stem} ")


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
        assert pss_kib(os.getpid()) > pss_kib(child.pid) > 0
        child.communicate("\n")
    assert child.pid not in process_tree(os.getpid())
    assert cpu_us(os.getpid()) - before_us >= 150_000


def test_own_cpu_counts() -> None:
    before_us, until_s = cpu_us(os.getpid()), time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    assert cpu_us(os.getpid()) - before_us >= 50_000


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert cpu_us(child.pid) == 0
    assert pss_kib(child.pid) == 0
