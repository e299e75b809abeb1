"""Child processes: where they may listen, and that none survives the demo."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from proxy.demo import ports, specs
from proxy.demo.children import child, environment, tail, until
from proxy.demo.trial import ProgramError, try_out


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_busy_port_is_replaced_and_said() -> None:
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        busy = rival.getsockname()[1]
        chosen = ports.choose(busy)
    assert chosen.listener != busy
    assert len({chosen.listener, chosen.metrics, chosen.admin}) == 3
    assert any(f"port {busy} " in note and str(chosen.listener) in note for note in chosen.notes)


def test_a_port_shared_by_so_reuseport_is_busy_too() -> None:
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        rival.bind(("0.0.0.0", 0))
        rival.listen()
        assert ports.choose(rival.getsockname()[1]).listener != rival.getsockname()[1]


def test_a_free_port_is_taken() -> None:
    wish = free_port()
    assert ports.choose(wish).listener == wish


def test_children_see_neither_the_operators_aws_nor_his_overrides() -> None:
    inherited = {"PATH": "/bin", "AWS_PROFILE": "prod", "ANYPORT_WORKERS": "9"}
    assert environment(inherited, {"AWS_REGION": "x"}) == {"PATH": "/bin", "AWS_REGION": "x"}


@pytest.mark.asyncio
async def test_a_child_ends_with_its_context_even_if_it_ignores_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = "trap '' TERM; sleep 1000 & echo $! >> pids; echo ready; wait; wait"
    async with child(
        "sh", "-c", f"cd {tmp_path}; {stubborn}", env=os.environ, log=log, stop_within_s=0.2
    ) as process:
        assert await until(lambda: "ready" in tail(log), within_s=10)
    assert process.returncode == -signal.SIGKILL
    grandchild = int((tmp_path / "pids").read_text())
    assert await until(lambda: not is_alive(grandchild), within_s=5)


@pytest.mark.asyncio
async def test_a_child_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    # A parent in between, as the demo would be, that starts a child and is killed with -9.
    script = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from proxy.demo.children import child\n"
        "async def main():\n"
        "    log = Path(sys.argv[1])\n"
        "    async with child('sleep', '1000', env=os.environ, log=log, stop_within_s=1) as p:\n"
        "        print(p.pid, flush=True)\n"
        "        await p.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    # The child is a sleep only after its own exec; killing the parent before is covered by the pid check.
    assert await until(
        lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0], within_s=10
    )
    parent.kill()
    await parent.wait()
    assert await until(lambda: not is_alive(pid), within_s=5)


def spec(command: str) -> specs.Spec:
    return specs.own([f"mine={command}"], 3)[0]


def server(*lines: str) -> str:
    """Return a command that serves HTTP on $PORT and answers with *lines* for do_GET."""
    body = "; ".join(lines)
    return (
        f'exec {sys.executable} -c "import os, http.server as h; '
        f"c = type('C', (h.BaseHTTPRequestHandler,), {{'do_GET': lambda self: ({body})}}); "
        "h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), c).serve_forever()\""
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "health"), [(200, "http"), (302, "http"), (404, "tcp")])
async def test_a_trial_finds_the_check_that_suits_the_program(
    tmp_path: Path, status: int, health: str
) -> None:
    command = server(f"self.send_response({status}), self.end_headers()")
    tried = await try_out(spec(command), tmp_path, os.environ)
    assert (tried.health, tried.health_path) == (health, "/")


@pytest.mark.asyncio
async def test_a_program_that_ends_at_once_is_refused_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"(?s)service mine ended.*exit code 3.*no such database"):
        await try_out(spec("echo no such database >&2; exit 3"), tmp_path, os.environ)


@pytest.mark.asyncio
async def test_a_program_that_does_not_use_port_is_refused(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(ProgramError, match=r"does it use \$PORT"):
        await try_out(spec("exec sleep 1000"), tmp_path, os.environ, within_s=0.5)
    assert time.monotonic() - began_s < 10


@pytest.mark.asyncio
async def test_a_program_whose_root_fails_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="answers GET / with status 500"):
        await try_out(spec(server("self.send_response(500), self.end_headers()")), tmp_path, os.environ)
