"""Measure anyport beside the proxies that are installed: `make bench ARGS="--case 10k"`.

One core runs the proxies, of which one at a time has work; the other runs the load (wrk) and the backend
(nginx). Rounds are interleaved (A B C A B C), so that a machine that gets slower does so for everyone, and
ratios are taken within a round. CPU time is that of a proxy's whole process tree. Everything is on loopback.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
BACKEND_PORTS = (32767, 32768, 32769)
START_S = 20.0  # until a proxy answers through to a backend
STOP_S = 10.0  # from SIGTERM to SIGKILL
WARM_UP_S = 1
TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
UNIT_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    path: str
    script_words: tuple[str, ...] = ()  # browser.lua knows them
    connections: int = 64


CASES = {
    "small": Case("/"),
    "10k": Case("/10k"),
    "close": Case("/", ("close",)),
    "post10k": Case("/post", ("post",)),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk says about one round."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int  # of sockets, and statuses other than 2xx and 3xx


@dataclass(frozen=True, slots=True)
class Sample:
    """One proxy in one round."""

    load: Load
    cpu_us: float  # per request


@dataclass(frozen=True, slots=True)
class Proxy:
    """A contestant; *ports* must be free, and the first is where its clients connect."""

    name: str
    argv: tuple[str, ...]
    ports: tuple[int, ...]


def parse_load(output: str) -> Load:
    """Read what `wrk --latency` prints."""

    def one(pattern: str) -> tuple[str, ...]:
        found = re.search(pattern, output)
        if found is None:
            raise click.ClickException(f"wrk printed nothing like {pattern!r}:\n{output}")
        return found.groups()

    def latency_ms(percent: int) -> float:
        number, unit = one(rf"\b{percent}%\s+([\d.]+)(us|ms|s|m)\b")
        return float(number) * UNIT_MS[unit]

    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return Load(
        requests=int(one(r"(\d+) requests in")[0]),
        requests_per_s=float(one(r"Requests/sec:\s+([\d.]+)")[0]),
        p50_ms=latency_ms(50),
        p99_ms=latency_ms(99),
        errors=sum(int(n) for match in (sockets, statuses) if match for n in match.groups()),
    )


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of ours / theirs, each pair from the same round."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(our / their if their else float("inf") for our, their in pairs)


def process_tree(pid: int) -> list[int]:
    """Return *pid* and all its descendants that live."""
    found = [pid]
    for parent in found:  # grows while we walk it
        # A process or thread may end between two looks.
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def cpu_us(pid: int) -> float:
    """Return the CPU time that the tree below *pid* has used, ended and awaited children included."""
    ticks = 0
    for member in process_tree(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name, in parentheses, may hold anything; utime, stime, cutime and cstime come well after it.
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks * TICK_US


def report(samples: dict[str, list[Sample]]) -> str:
    """Return the table: medians over the rounds, and ratios of CPU to each peer."""
    peers = [name for name in samples if name != "anyport"]
    columns = ["proxy", "cpu us/req", "req/s", "p50 ms", "p99 ms", "errors", *(f"cpu / {p}" for p in peers)]

    def middle(rows: list[Sample], value: Callable[[Sample], float]) -> float:
        return statistics.median(map(value, rows))

    lines = ["".join(f"{c:>15}" if c.startswith("cpu /") else f"{c:>11}" for c in columns)]
    for name, rows in samples.items():
        line = f"{name:>11}{middle(rows, lambda s: s.cpu_us):11.1f}"
        line += f"{middle(rows, lambda s: s.load.requests_per_s):11.0f}"
        line += f"{middle(rows, lambda s: s.load.p50_ms):11.2f}{middle(rows, lambda s: s.load.p99_ms):11.2f}"
        line += f"{sum(s.load.errors for s in rows):11d}"
        for peer in peers:
            ratio = median_ratio([s.cpu_us for s in rows], [s.cpu_us for s in samples[peer]])
            line += f"{ratio:15.2f}"
        lines.append(line)
    return "\n".join(lines)


def find(tool: str) -> str | None:
    """Return where *tool* is; Debian keeps daemons where a user's PATH does not look."""
    return shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")


def missing(tool: str) -> str:
    return f"{tool} is not installed: apt-get install {tool}"


def contestants(tmp: Path) -> list[Proxy]:
    """Return the proxies that can be run here; say which cannot."""
    found = []
    if nginx := find("nginx"):
        found.append(Proxy("nginx", nginx_argv(nginx, tmp / "nginx", "nginx.conf"), (9001,)))
    if haproxy := find("haproxy"):
        found.append(Proxy("haproxy", (haproxy, "-db", "-q", "-f", str(HERE / "haproxy.cfg")), (9002,)))
    else:
        click.echo(f"left out: {missing('haproxy')}")
    anyport = (sys.executable, "-m", "proxy", "run", "--config", str(HERE / "anyport.toml"))
    return [*found, Proxy("anyport", anyport, (9000, 9180, 9181))]


def nginx_argv(nginx: str, prefix: Path, config: str) -> tuple[str, ...]:
    (prefix / "files").mkdir(parents=True)
    (prefix / "files" / "10k").write_bytes(os.urandom(10 * 1024))
    return (nginx, "-p", str(prefix), "-e", "stderr", "-c", str(HERE / config))


def pins() -> tuple[list[str], list[str]]:
    """Return the prefixes that put the proxies on one CPU, and load and backend on another."""
    cpus, taskset = sorted(os.sched_getaffinity(0)), find("taskset")
    if len(cpus) < 2 or taskset is None:
        click.echo("not pinned to CPUs (that takes two, and taskset): latencies and rates say little")
        return [], []
    return [taskset, "-c", str(cpus[0])], [taskset, "-c", str(cpus[1])]


@contextmanager
def running(argv: Sequence[str], ports: Sequence[int], log: Path) -> Iterator[int]:
    """Run a server until the context ends; yields its pid once its first port answers GET / with 200."""
    for port in ports:
        if status(port) is not None:
            raise click.ClickException(f"port {port} of 127.0.0.1 is taken: stop what listens there")
    with log.open("wb") as output:
        # Its own session: Ctrl-C is ours to handle, and what it forks can be killed with it.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=HERE.parent,
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + START_S
        while status(ports[0]) != http.client.OK:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise click.ClickException(f"{log.stem} does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        finally:  # also after a second Ctrl-C
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def status(port: int) -> int | None:
    """Return the status of GET /; 0 if what listens there does not speak HTTP, None if nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def measure(wrk: Sequence[str], pid: int, port: int, case: Case, seconds: int) -> Sample:
    """Load one proxy for some seconds."""
    argv = [*wrk, "-t1", f"-c{case.connections}", f"-d{seconds}s", "--timeout", "5s", "--latency"]
    argv += ["-s", str(HERE / "browser.lua"), f"http://127.0.0.1:{port}{case.path}", "--", *case.script_words]
    before_us = cpu_us(pid)
    try:
        output = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 15).stdout
    except subprocess.SubprocessError as exc:
        raise click.ClickException(f"wrk failed: {exc}") from exc
    spent_us = cpu_us(pid) - before_us
    load = parse_load(output)
    if not load.requests:
        raise click.ClickException(f"no request was answered on port {port}:\n{output}")
    return Sample(load, spent_us / load.requests)


@click.command()
@click.option("--case", "case_name", type=click.Choice(list(CASES)), default="small", show_default=True)
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True)
@click.option(
    "--seconds", type=click.IntRange(1, 30), default=3, show_default=True, help="Length of a round."
)
def main(case_name: str, rounds: int, seconds: int) -> None:
    """Measure anyport beside nginx and HAProxy, on loopback and one core."""
    wrk, nginx, case = find("wrk"), find("nginx"), CASES[case_name]
    if wrk is None:
        raise click.ClickException(missing("wrk"))
    if nginx is None:
        raise click.ClickException(missing("nginx"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that everything is stopped
    with ExitStack() as stack:
        tmp = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anyport-bench-")))
        tmp.chmod(0o755)  # nginx's worker is another user when root runs this
        proxy_pin, load_pin = pins()
        backend = [*load_pin, *nginx_argv(nginx, tmp / "backend", "backend.conf")]
        stack.enter_context(running(backend, BACKEND_PORTS, tmp / "backend.log"))
        pids = {}
        proxies = contestants(tmp)
        for proxy in proxies:
            server = running([*proxy_pin, *proxy.argv], proxy.ports, tmp / f"{proxy.name}.log")
            pids[proxy.name] = stack.enter_context(server)
        click.echo(
            f"{case_name}: {rounds} interleaved rounds of {seconds} s, {case.connections} connections; "
            f"about {len(proxies) * (WARM_UP_S + rounds * seconds)} s"
        )
        samples: dict[str, list[Sample]] = {proxy.name: [] for proxy in proxies}
        for length_s in [WARM_UP_S, *[seconds] * rounds]:
            for proxy in proxies:
                sample = measure([*load_pin, wrk], pids[proxy.name], proxy.ports[0], case, length_s)
                samples[proxy.name].append(sample)
        click.echo(report({name: rows[1:] for name, rows in samples.items()}))  # the first was to warm up


if __name__ == "__main__":
    main()
