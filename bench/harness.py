"""What the benchmark programs share: servers that run for a while, what they cost, rounds, tables.

One core runs the proxies, of which one at a time has work; the other runs the load and the backend. Rounds
are interleaved (A B C A B C), so that a machine that gets slower does so for everyone, and ratios are taken
within a round. CPU time and memory are those of a proxy's whole process tree. Everything is on loopback.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import ssl
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
WARM_UP_S = 1
_START_S = 20.0  # until a proxy answers through to a backend
_STOP_S = 10.0  # from SIGTERM to SIGKILL
_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")

Sample = dict[str, float]  # what one round says of one proxy, by names that carry their units


@dataclass(frozen=True, slots=True)
class Bench:
    """The run that a program is part of."""

    tmp: Path  # a folder of its own, readable for every user
    rounds: int
    seconds: int  # of a round
    peers: tuple[str, ...]  # who may take part
    proxy_pin: tuple[str, ...]  # prefixes of commands that choose a CPU
    load_pin: tuple[str, ...]

    def compiled(self, name: str) -> str:
        """Return the program that *name*.c is compiled to."""
        program = self.tmp / name
        if not program.exists():
            cc = find("cc")
            if cc is None:
                raise click.ClickException(missing("gcc"))
            subprocess.run([cc, "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True)
        return str(program)

    def load(self, *argv: str, given: bytes = b"") -> Sample:
        """Run a load program of ours, and return the `name value` lines that it prints."""
        done = subprocess.run([*self.load_pin, *argv], input=given, capture_output=True, check=False)
        if done.returncode:
            raise click.ClickException(f"{argv[0]} failed: {done.stderr.decode(errors='replace')}")
        lines = done.stdout.decode().split("\n")
        return {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line)}

    def interleaved(
        self, names: Sequence[str], measure: Callable[[str, int], Sample]
    ) -> dict[str, list[Sample]]:
        """Call measure(name, seconds) for each name in each round; the first, to warm up, is not kept."""
        samples: dict[str, list[Sample]] = {name: [] for name in names}
        for length_s in [WARM_UP_S, *[self.seconds] * self.rounds]:
            for name in names:
                samples[name].append(measure(name, length_s))
        return {name: rows[1:] for name, rows in samples.items()}


@dataclass(frozen=True, slots=True)
class Server:
    """Something to start; *ports* must be free, and GET / on the first is answered once it runs."""

    name: str
    argv: tuple[str, ...]
    ports: tuple[int, ...]
    tls: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def running(server: Server, pin: Sequence[str], tmp: Path) -> Iterator[int]:
    """Run *server* until the context ends; yields its pid once it answers GET / with 200."""
    for port in server.ports:
        if status(port) is not None:
            raise click.ClickException(f"port {port} of 127.0.0.1 is taken: stop what listens there")
    log = tmp / f"{server.name}.log"
    with log.open("wb") as output:
        # Its own session: Ctrl-C is ours to handle, and what it forks can be killed with it.
        process = subprocess.Popen(
            [*pin, *server.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=HERE.parent,
            env={**os.environ, **server.env},
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + _START_S
        while status(server.ports[0], tls=server.tls) != http.client.OK:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise click.ClickException(f"{server.name} does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
        finally:  # also after a second Ctrl-C
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def status(port: int, *, tls: bool = False) -> int | None:
    """Return the status of GET /; 0 if what listens there does not speak HTTP, None if nothing listens."""
    connection: http.client.HTTPConnection
    if tls:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=trusting())
    else:
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


def trusting() -> ssl.SSLContext:
    """Return a client's context that takes the certificate of the benchmark."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def find(tool: str) -> str | None:
    """Return where *tool* is; Debian keeps daemons where a user's PATH does not look."""
    places = (
        os.environ.get("PATH", os.defpath),
        "/usr/local/sbin",
        "/usr/sbin",
        str(HERE.parent / ".venv/bin"),
    )
    return shutil.which(tool, path=":".join(places))


def missing(tool: str) -> str:
    return f"{tool} is not installed: apt-get install {tool}"


def pins() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the prefixes that put the proxies on one CPU, and load and backend on another."""
    cpus, taskset = sorted(os.sched_getaffinity(0)), find("taskset")
    if len(cpus) < 2 or taskset is None:
        click.echo("not pinned to CPUs (that takes two, and taskset): latencies and rates say little")
        return (), ()
    return (taskset, "-c", str(cpus[0])), (taskset, "-c", str(cpus[1]))


# What a process tree uses


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
    return ticks * _TICK_US


def pss_kib(pid: int) -> int:
    """Return the memory of the tree below *pid*, what processes share divided among them."""
    total = 0
    for member in process_tree(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total


# Tables


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the median of *key* over the rounds, or the sum."""

    title: str
    key: str
    decimals: int = 1
    total: bool = False

    def of(self, rows: Sequence[Sample]) -> str:
        values = [row[self.key] for row in rows]
        return f"{sum(values) if self.total else statistics.median(values):.{self.decimals}f}"


def compare(
    samples: Mapping[str, Sequence[Sample]], columns: Sequence[Column], *, ratio: Column | None = None
) -> str:
    """Return the table of all contestants, with a column of ratios of *ratio* to each of the peers."""
    peers = [name for name in samples if name != "anyport"] if ratio else []
    titles = ["proxy", *(c.title for c in columns), *(f"{ratio.title} / {p}" for p in peers if ratio)]
    lines = []
    for name, rows in samples.items():
        ratios = (
            median_ratio([s[ratio.key] for s in rows], [s[ratio.key] for s in samples[peer]])
            for peer in peers
            if ratio
        )
        lines.append([name, *(c.of(rows) for c in columns), *(f"{r:.2f}" for r in ratios)])
    return table(titles, lines)


def table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return *lines* below *titles*, every column as wide as it must be."""
    rows = [list(titles), *map(list, lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of ours / theirs, each pair from the same round."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(our / their if their else float("inf") for our, their in pairs)
