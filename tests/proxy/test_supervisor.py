"""What survives what: the supervisor keeps sockets, links and the newest table for the next child."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.kit.anyport import Anyport
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.traffic import traffic
from tests.kit.workers import wait_for


class _Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            time.sleep(1.0)  # the backend is slow, the test waits for nothing
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hello() -> Iterator[int]:
    """Serve "hello" on the port returned."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hello)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def _config(port: int) -> str:
    return (
        f'[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:{port}"]\n'
        "[health]\ninterval_s = 1.0\ntimeout_s = 0.9\n[timeouts]\ndrain_s = 5.0\nlb_drain_s = 0.0\n"
    )


def _get(anyport: Anyport, path: str = "/") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", anyport.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_no_request_fails_while_the_control_process_is_killed_and_back(tmp_path: Path, hello: int) -> None:
    """The control plane may die at any time: workers go on with their last table."""
    with Anyport(tmp_path, _config(hello)) as anyport:
        anyport.wait_ready()
        before = anyport.table()
        old = anyport.children()["control"]
        answers: list[int] = []
        killed_s = time.monotonic()
        os.kill(old, signal.SIGKILL)
        while anyport.children().get("control") in (None, old) or not anyport.ready():
            answers.append(_get(anyport)[0])
            assert time.monotonic() - killed_s < 5, "control is back with a full table in under 5 s"

        assert answers
        assert set(answers) == {200}
        after = anyport.table()
        assert [row["state"] for row in after] == ["ready"]
        assert after[0]["revision"] >= before[0]["revision"], "a revision never falls"


def test_a_killed_worker_is_back_within_a_second_and_serves_its_accept_queue(
    tmp_path: Path, hello: int
) -> None:
    """The listening socket is the supervisor's: who connected while the worker was dead only waits."""
    with Anyport(tmp_path, _config(hello), workers=1) as anyport:
        anyport.wait_ready()
        old = anyport.children()["worker 0"]
        os.kill(old, signal.SIGKILL)
        killed_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", anyport.port), timeout=5) as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = waiting.recv(65536)
        waited_s = time.monotonic() - killed_s

        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert anyport.children()["worker 0"] != old
        assert "worker 0 was killed by SIGKILL" in anyport.log
        # The promise is 1 s; twice that leaves room for a busy machine without letting a back-off through.
        assert waited_s < 2


def test_a_worker_started_while_control_is_down_has_a_table(tmp_path: Path, hello: int) -> None:
    """The supervisor holds the newest snapshot, so two failures at once are not an outage."""
    with Anyport(tmp_path, _config(hello), workers=1) as anyport:
        anyport.wait_ready()
        children = anyport.children()
        os.kill(children["control"], signal.SIGSTOP)
        try:
            os.kill(children["worker 0"], signal.SIGKILL)
            assert _get(anyport) == (200, b"hello")
        finally:
            os.kill(children["control"], signal.SIGCONT)


def test_sigterm_finishes_what_is_in_flight_and_leaves_no_process(tmp_path: Path, hello: int) -> None:
    """A deploy of anyport itself must not cut a request, and exits 0."""
    with Anyport(tmp_path, _config(hello)) as anyport:
        anyport.wait_ready()
        pids = list(anyport.children().values())
        with socket.create_connection(("127.0.0.1", anyport.port), timeout=10) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: 'requests_in_flight{service="web"} 1.0' in anyport.metrics(), "in flight")
            anyport.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: client.recv(65536), b""))

        assert answer.endswith(b"hello")
        assert b"Connection: close\r\n" in answer
        assert anyport.process.wait(20) == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_reload_does_not_delay_the_end(tmp_path: Path, hello: int) -> None:
    """Signals are counted to know when to press; a SIGHUP of an hour ago is no request to stop."""
    with Anyport(tmp_path, _config(hello)) as anyport:
        anyport.wait_ready()
        anyport.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "configuration reloaded" in anyport.log, "the reload")
        anyport.process.send_signal(signal.SIGTERM)

        assert anyport.process.wait(4) == 0  # less than the drain time and the grace after it


def test_a_killed_supervisor_takes_its_children_along(tmp_path: Path, hello: int) -> None:
    """Otherwise the next start would find the port taken by orphans."""
    with Anyport(tmp_path, _config(hello)) as anyport:
        anyport.wait_ready()
        pids = list(anyport.children().values())
        anyport.process.kill()

        wait_for(lambda: not [p for p in pids if Path(f"/proc/{p}").exists()], "the children have ended")


def test_a_taken_port_is_one_clear_line_even_against_another_anyport(tmp_path: Path, hello: int) -> None:
    """SO_REUSEPORT would share the port silently and half of the clients would meet the wrong one."""
    with Anyport(tmp_path, _config(hello)) as anyport:
        anyport.wait_ready()
        second = subprocess.run(
            [sys.executable, "-m", "proxy", "run", "--config", str(anyport.config)],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    assert second.returncode != 0
    assert f"cannot listen on 127.0.0.1:{anyport.port}" in second.stderr
    assert "another process has it" in second.stderr
    assert "Traceback" not in second.stderr


def test_reloads_under_load_are_not_noticed(tmp_path: Path) -> None:
    """SIGHUP: not one connection is dropped, whatever changes and whether or not it can be used."""
    with ScriptedBackend(answering()) as backend:
        static = f'static = ["127.0.0.1:{backend.port}"]\n[service.health]\nkind = "none"\n'
        config = f'[[service]]\nname = "web"\nhosts = ["*"]\n{static}'
        with Anyport(tmp_path, config, workers=2) as anyport:
            anyport.wait_ready()
            base = anyport.config.read_text()
            with traffic(anyport.port, single=0) as tally:
                wait_for(lambda: tally.connections == 8, "all are connected")
                for added in (
                    f'[[service]]\nname = "other"\nhosts = ["other.test"]\n{static}',
                    "",
                    "[limits]\nbuffer_bytes = 32768\n",
                    "[limits]\nnonsense = 1\n",
                    '[access_log]\nrequests = "off"\n',
                ):
                    anyport.config.write_text(base + added)
                    reloads = _reloads(anyport)
                    anyport.process.send_signal(signal.SIGHUP)
                    wait_for(lambda before=reloads: _reloads(anyport) > before, "the reload")
                    wait_for(lambda before=tally.answered: tally.answered > before + 50, "traffic")
            assert "nonsense" in anyport.log
    assert tally.failures == []
    assert tally.connections == 8


def _reloads(anyport: Anyport) -> int:
    return anyport.log.count("configuration reloaded") + anyport.log.count("was not reloaded")


def test_all_descriptors_that_may_be_had_are_used(tmp_path: Path, hello: int) -> None:
    """Containers often start with a soft limit of 1024, which is 500 clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))  # inherited by what is started now
    try:
        anyport = Anyport(tmp_path, _config(hello)).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ExitStack() as stack:
        stack.push(anyport)
        anyport.wait_ready()
        for pid in (anyport.process.pid, *anyport.children().values()):
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            line = next(line for line in limits if line.startswith("Max open files")).split()
            assert line[3] == line[4], "the soft limit is the hard one"
