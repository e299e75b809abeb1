"""`anyport simulate` from outside: a process, its output, its signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from discovery.simulator.serve import main

DEADLINE_S = 30.0


@contextmanager
def served(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    code = f"import sys; from discovery.simulator.serve import main; sys.exit(main(*{arguments!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# Without instances nobody has to wait for EC2.
@pytest.mark.parametrize(("number", "instances"), [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_it_prints_what_to_export_and_ends_cleanly(number: int, instances: int) -> None:
    with served("127.0.0.1:0", "demo", instances, 50.0) as process:
        assert process.stdout is not None
        exported: dict[str, str] = {}
        for line in process.stdout:
            if found := re.fullmatch(r"export (\w+)=(.*)\n", line):
                exported[found[1]] = found[2]
            if "deployment of chat to chat:1 is COMPLETED" in line:
                break
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} <= set(exported)
        with urllib.request.urlopen(exported["AWS_ENDPOINT_URL"] + "/_simulator/health") as answer:
            shown = json.load(answer)["clusters"]["demo"]
        assert (shown["instances"], shown["services"]) == (instances, 3)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(DEADLINE_S) == 0


def test_a_port_in_use_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(address, "demo", 1, 1.0) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"simulate: cannot listen on {address}: Address already in use.")
    assert said.count("\n") == 1


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:http", ":1", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(address, "demo", 1, 1.0) == 1
    assert "host:port" in capsys.readouterr().err


def test_killed_outright_it_leaves_no_process() -> None:
    with served("127.0.0.1:0", "demo", 1, 50.0) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "deployment of web to web:1 is COMPLETED" in line:
                break
        family = descendants(process.pid)
        assert len(family) >= 5  # moto, the zygote, and tasks
        process.kill()
        process.wait(DEADLINE_S)
        deadline = time.monotonic() + DEADLINE_S
        while left := family & set(parents()):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


def parents() -> dict[int, int]:
    """The parent of every process of the machine but zombies."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended in the meantime
            status, parent, *_ = file.read_text().rpartition(")")[2].split()
            if status != "Z":
                found[int(file.parent.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    tree, found = parents(), {pid}
    while more := {child for child, parent in tree.items() if parent in found} - found:
        found |= more
    return found - {pid}
