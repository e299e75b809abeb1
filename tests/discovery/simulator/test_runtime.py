"""Tasks as real processes: how they start, stop, fail, and that none is ever left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from discovery.simulator.runtime import PortSpec, ProcessSpec, Runtime, RuntimeFailure
from tests.kit.eventually import alive, eventually

ADDRESS = "127.0.61.1"  # no other test's
# A server that is slow to say goodbye: it ends 0.2 s after SIGTERM, with the code 7.
POLITE = f"""exec {sys.executable} -c '
import http.server, os, signal, sys, threading
address = (os.environ["HOST"], int(os.environ["PORT"]))
server = http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler)
signal.signal(signal.SIGTERM, lambda *_: threading.Timer(0.2, os._exit, [7]).start())
server.serve_forever()
'"""


class Stage:
    """A runtime, and what it told."""

    def __init__(self) -> None:
        self.exits: list[tuple[int, int]] = []
        self.lines: list[tuple[str, str]] = []
        self.runtime = Runtime(
            on_exit=lambda pid, code: self.exits.append((pid, code)),
            on_output=lambda name, line: self.lines.append((name, line)),
        )

    async def start(self, *command: str, port: int | None = None, **environment: str) -> tuple[int, str]:
        """Returns pid and URL."""
        port = port or _free_port()
        listen = (PortSpec(ADDRESS, port, 8080),)
        pid = await self.runtime.start(ProcessSpec("web/1", command, environment, listen))
        return pid, f"http://{ADDRESS}:{port}/"

    async def exit_of(self, pid: int) -> int:
        await eventually(lambda: any(pid == exited for exited, _ in self.exits))
        return next(code for exited, code in self.exits if exited == pid)


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    async with stage.runtime:
        yield stage


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True), timeout=aiohttp.ClientTimeout(total=10)
    ) as session:
        yield session


async def answers(client: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with client.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientConnectorError:
        return False


@pytest.mark.asyncio
async def test_the_built_in_app_serves_lingers_and_ends_with_0(
    stage: Stage, client: aiohttp.ClientSession
) -> None:
    pid, url = await stage.start(SERVICE="web", TASK_ARN="arn:task", LINGER_S="0.3")
    await eventually(lambda: answers(client, url))
    async with client.get(url) as answer:
        assert (await answer.json())["pid"] == pid
    slow = asyncio.create_task(client.get(url + "slow?ms=600"))
    async with client.ws_connect(url + "ws") as ws:
        await ws.receive_json()
        stage.runtime.signal(pid, signal.SIGTERM)
        await ws.receive()
        assert ws.close_code == 1012
    async with aiohttp.ClientSession() as keeping, keeping.get(url) as answer:  # it still accepts
        assert answer.status == 200
        assert answer.headers["Connection"] == "close", "a pool must not keep it"
    async with await slow as answer:  # longer than it lingers
        assert answer.status == 200
    assert await stage.exit_of(pid) == 0


@pytest.mark.asyncio
async def test_exit_codes_are_those_a_container_shows(stage: Stage, client: aiohttp.ClientSession) -> None:
    killed, url = await stage.start()
    instant, instant_url = await stage.start(STOP="instant")
    await eventually(lambda: answers(client, url))
    await eventually(lambda: answers(client, instant_url))
    stage.runtime.signal(killed, signal.SIGKILL)
    stage.runtime.signal(instant, signal.SIGTERM)
    assert await stage.exit_of(killed) == 137
    assert await stage.exit_of(instant) == 143
    stage.runtime.signal(killed, signal.SIGTERM)  # too late is no error


@pytest.mark.asyncio
async def test_a_late_listener_can_be_stopped_before_it_listens(stage: Stage) -> None:
    pid, _ = await stage.start(START_DELAY_S="100")
    stage.runtime.signal(pid, signal.SIGTERM)
    assert await stage.exit_of(pid) == 0


@pytest.mark.asyncio
async def test_a_port_in_use_is_told(stage: Stage, client: aiohttp.ClientSession) -> None:
    _, url = await stage.start()
    await eventually(lambda: answers(client, url))
    port = int(url.rstrip("/").rpartition(":")[2])
    second, _ = await stage.start(port=port)
    assert await stage.exit_of(second) == 1
    relayed, _ = await stage.start(POLITE, port=port)
    assert await stage.exit_of(relayed) == 137, "a program that cannot be published is ended"
    assert any("cannot serve" in line for _, line in stage.lines)
    assert any(f"cannot publish {ADDRESS}:{port}" in line for _, line in stage.lines)


@pytest.mark.asyncio
async def test_a_command_is_published_while_it_listens_and_finishes_in_its_own_time(
    stage: Stage, client: aiohttp.ClientSession
) -> None:
    pid, url = await stage.start(POLITE)
    await eventually(lambda: answers(client, url))
    stage.runtime.signal(pid, signal.SIGTERM)
    assert await answers(client, url), "it still listens, so it is still reachable"
    assert await stage.exit_of(pid) == 7
    assert not await answers(client, url)
    assert any("GET /" in line for name, line in stage.lines if name == "web/1")


@pytest.mark.asyncio
async def test_a_shell_that_ends_first_does_not_take_a_polite_child_with_it(
    stage: Stage, tmp_path: Path
) -> None:
    """SIGTERM goes to the group; the shell dies of it at once, its child says goodbye first."""
    done = tmp_path / "done"
    goodbye = f"lambda *_: (time.sleep(0.2), open({str(done)!r}, 'w'), exit(0))"
    child = f"import signal, time; signal.signal(15, {goodbye})"
    pid, _ = await stage.start(
        f'{sys.executable} -c "{child}; print(1, flush=True); signal.pause()" & wait; true'
    )
    await eventually(lambda: ("web/1", "1") in stage.lines)
    stage.runtime.signal(pid, signal.SIGTERM)
    assert await stage.exit_of(pid) == 143
    assert done.exists()


@pytest.mark.asyncio
async def test_a_command_that_fails_at_once_is_told_with_its_output(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pid, _ = await stage.start("echo trouble with $SECRET >&2; exit 3", SECRET="paint")
        assert await stage.exit_of(pid) == 3
    assert "web/1 exited with code 3" in caplog.text
    assert "trouble with paint" in caplog.text


@pytest.mark.asyncio
async def test_an_argv_runs_without_a_shell(stage: Stage) -> None:
    pid, _ = await stage.start("printf", "%s", "$PORT; no newline")
    assert await stage.exit_of(pid) == 0
    assert ("web/1", "$PORT; no newline") in stage.lines
    missing, _ = await stage.start("no-such-program", "--port")
    assert await stage.exit_of(missing) == 127
    assert any("cannot run no-such-program" in line for _, line in stage.lines)


@pytest.mark.asyncio
async def test_a_command_gets_a_port_of_its_own_for_each_of_its_ports(stage: Stage) -> None:
    listen = tuple(PortSpec(ADDRESS, _free_port(), port) for port in (8080, 9090))
    spec = ProcessSpec("two", ("echo $HOST $PORT $PORT_8080 $PORT_9090",), {}, listen)
    await stage.exit_of(await stage.runtime.start(spec))
    host, port, first, second = next(line for name, line in stage.lines if name == "two").split()
    assert (host, port) == ("127.0.0.1", first)
    assert first != second


@pytest.mark.asyncio
async def test_nothing_is_left_behind_on_leaving(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stage = Stage()
    async with stage.runtime:
        app, _ = await stage.start()
        escaped = f"(setsid sh -c 'echo $$ >>{pids}; sleep 1000' &)"
        command, _ = await stage.start(f"{escaped}; echo $$ >>{pids}; sleep 1001 & wait")
        await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    assert not alive(app)
    assert not alive(command)
    assert not any(alive(int(pid)) for pid in pids.read_text().split())
    assert stage.exits == [], "leaving is no news"
    with pytest.raises(RuntimeFailure, match="stopping"):
        await stage.start()


@pytest.mark.asyncio
async def test_a_killed_zygote_takes_its_tasks_along_and_is_replaced(
    stage: Stage, client: aiohttp.ClientSession
) -> None:
    app, _ = await stage.start()
    command, url = await stage.start(POLITE)
    await eventually(lambda: answers(client, url))
    assert stage.runtime._zygote is not None
    os.kill(stage.runtime._zygote._process.pid, signal.SIGKILL)
    assert await stage.exit_of(app) == 137
    assert await stage.exit_of(command) == 137
    await eventually(lambda: not alive(app) and not alive(command))
    _, url = await stage.start()
    await eventually(lambda: answers(client, url))


_DOOMED = f"""
import asyncio
from discovery.simulator.aws import Moto
from discovery.simulator.runtime import PortSpec, ProcessSpec, Runtime

async def main():
    async with Moto() as moto, Runtime(on_exit=print) as runtime:
        app = await runtime.start(ProcessSpec("app", (), {{}}, ()))
        listen = (PortSpec("{ADDRESS}", 40000, 80),)
        sleeping = ProcessSpec("command", ("sleep 1000 & sleep 1001; wait",), {{}}, listen)
        command = await runtime.start(sleeping)
        print(app, command, runtime._zygote._process.pid, moto._process.pid, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_nothing_outlives_a_simulator_that_is_killed() -> None:
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _DOOMED], stdout=subprocess.PIPE, text=True
    ) as simulator:
        assert simulator.stdout is not None
        pids = [int(pid) for pid in (await asyncio.to_thread(simulator.stdout.readline)).split()]
        assert len(pids) == 4
        assert all(alive(pid) for pid in pids)
        simulator.kill()
    await eventually(lambda: not any(alive(pid) for pid in pids))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])
