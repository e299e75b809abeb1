"""`anyport demo` as a person runs it: real cluster, real anyport, real users, real kills."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

LAST_LINE = re.compile(
    r"(\d+) requests, 0 failed, (\d+) deploys, (\d+) task replacements"
    r"(, \d+ excused \(\d+ in flight on a task killed with -9\))?"
)
SERVER = (
    "import http.server, os\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.send_header('Content-Length', '3'); self.end_headers()\n"
    "        self.wfile.write(b'ok\\n')\n"
    "    def log_message(self, *args): pass\n"
    "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Marked:
    """Finds every process of one demo: all of them inherit a variable of its environment."""

    def __init__(self) -> None:
        value = uuid4().hex
        self._mark = f"DEMO_TEST={value}".encode()
        self.environment = {**os.environ, "DEMO_TEST": value}

    def alive(self) -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(f"{folder.name} {(folder / 'cmdline').read_bytes().decode()}")
            except OSError:
                continue  # it ended just now, or is somebody else's
        return found

    def none_left(self, within_s: float) -> bool:
        deadline_s = time.monotonic() + within_s
        while self.alive():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.05)
        return True


@pytest.fixture
def marked() -> Iterator[Marked]:
    processes = Marked()
    yield processes
    for line in processes.alive():
        os.kill(int(line.split()[0]), signal.SIGKILL)


def command(*options: str) -> Sequence[str]:
    return (sys.executable, "-m", "proxy", "demo", *options)


def run(marked: Marked, *options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options),
        check=False,
        env=marked.environment | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_whole_job(marked: Marked, tmp_path: Path) -> None:
    done = run(marked, "--for", "10s", folder=tmp_path)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    last = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert last, report
    requests, deploys, replacements = map(int, last.groups()[:3])
    assert requests > 500, report
    assert deploys >= 1, report
    assert replacements >= 3, report
    assert "KILL -9" in done.stdout
    assert "WebSocket messages" in done.stdout
    assert marked.none_left(within_s=1.0), marked.alive()
    assert list(tmp_path.glob("anyport-demo-*")) == [], "the folder of a good run is removed"


def test_a_program_that_does_not_start(marked: Marked, tmp_path: Path) -> None:
    done = run(marked, "--service", "mine=echo no config file found >&2; exit 2", folder=tmp_path)
    assert done.returncode == 1
    assert "the program of service mine ended" in done.stderr
    assert "no config file found" in done.stderr
    assert "Traceback" not in done.stderr


def start(marked: Marked, *options: str, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Return a demo whose users have begun, and the file it writes to."""
    out = folder / "out"
    with out.open("w") as sink:
        demo = subprocess.Popen(
            command(*options),
            env=marked.environment | {"TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + 60
    while not re.search(r"[1-9]\d* requests/s", out.read_text()):
        assert demo.poll() is None, out.read_text()
        assert time.monotonic() < deadline_s, out.read_text()
        time.sleep(0.1)
    return demo, out


def test_a_program_of_ones_own_until_ctrl_c(marked: Marked, tmp_path: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    demo, out = start(marked, "--service", f"mine=exec {sys.executable} {program}", folder=tmp_path)
    os.killpg(demo.pid, signal.SIGINT)  # to the whole group, as a terminal does
    assert demo.wait(timeout=40) == 0, out.read_text()
    assert LAST_LINE.fullmatch(out.read_text().splitlines()[-1]), out.read_text()
    assert "Health check: GET /" in out.read_text()
    assert marked.none_left(within_s=1.0), marked.alive()


def test_kill_9_leaves_no_process(marked: Marked, tmp_path: Path) -> None:
    demo, out = start(marked, folder=tmp_path)
    assert len(marked.alive()) > 10, "the tasks, anyport's processes, the users"
    demo.kill()
    assert demo.wait(timeout=40) == -signal.SIGKILL, out.read_text()
    assert marked.none_left(within_s=10.0), marked.alive()
