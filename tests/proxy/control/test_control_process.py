"""The control process for real: started by command line, watched through its links."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.link import scoreboard
from proxy.link.snapshots import EMPTY, BackendRow, ServiceRow, TableSnapshot
from tests.kit.control import RunningControl, control, until


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def backend(port: int = 0) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Healthy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def config(port: int, *, more: str = "") -> str:
    return f"""
{more}
[health]
interval_s = 0.1
timeout_s = 0.09
unhealthy_threshold = 2

[[service]]
name = "web"
hosts = ["web.test"]
static = ["127.0.0.1:{port}"]
"""


def get(address: tuple[str, int], path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


def healthy(table: TableSnapshot) -> bool:
    return bool(table.backends) and all(row.healthy for row in table.backends)


def unhealthy(table: TableSnapshot) -> bool:
    return bool(table.backends) and not any(row.healthy for row in table.backends)


def acknowledge(running: RunningControl) -> None:
    """Do what a worker does on a new table and while it lives."""
    for head in running.board.heads():
        head[scoreboard.REVISION] = running.table.revision
        head[scoreboard.HEARTBEAT_MS] = int(time.monotonic() * 1000)


def test_every_link_gets_the_table(tmp_path: Path) -> None:
    with backend() as port, control(tmp_path, config(port)) as running:
        table = running.wait_for(healthy)
        assert table.loaded
        assert table.services == (ServiceRow(name="web", slot=1, hosts=("web.test",), path="/"),)
        # One worker gets a table before the others do.
        others = [*running.links[1:], running.supervisor_link]
        got = dict.fromkeys(others, EMPTY)

        def all_have_it() -> bool:
            for link in others:
                got[link] = running.receive(link) or got[link]
            return all(snapshot == table for snapshot in got.values())

        until(all_have_it, lambda: str(got))


def test_killing_the_backend_makes_it_unhealthy_with_a_reason(tmp_path: Path) -> None:
    with backend() as port:
        pass
    with control(tmp_path, config(port)) as running:
        running.wait_for(unhealthy)
        with backend(port):
            running.wait_for(healthy)
        table = running.wait_for(unhealthy)
        assert table.backends[0].reason == "health check: connection refused"
        with backend(port):
            running.wait_for(healthy)
    said = running.said()
    assert f"web task 127.0.0.1:{port} (static:{port}) unhealthy: health check: connection refused" in said
    assert "Traceback" not in said


def test_the_servers_tell_the_truth(tmp_path: Path) -> None:
    with backend() as port, control(tmp_path, config(port)) as running:
        running.wait_for(healthy)
        acknowledge(running)

        assert get(running.metrics_address, "/healthz") == (200, b"alive\n")
        assert get(running.metrics_address, "/readyz")[0] == 200
        assert (
            b'anyport_backends{service="web",state="ready"} 1.0'
            in get(running.metrics_address, "/metrics")[1]
        )
        (row,) = json.loads(get(running.admin_address, "/api/v1/table")[1])
        assert (row["service"], row["address"], row["state"]) == ("web", f"127.0.0.1:{port}", "ready")

        running.process.send_signal(signal.SIGTERM)
        until(lambda: get(running.metrics_address, "/readyz")[0] == 503)
        assert json.loads(get(running.metrics_address, "/readyz")[1])["draining"] is True
        assert running.process.poll() is None, "the first SIGTERM only drains"

        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(5) == 0


def test_it_ends_with_its_supervisor(tmp_path: Path) -> None:
    with backend() as port, control(tmp_path, config(port)) as running:
        running.wait_for(healthy)
        reader = os.open("/dev/null", os.O_RDONLY)
        os.dup2(reader, running.lifeline)  # closes the write end; the harness still closes the number
        os.close(reader)

        assert running.process.wait(5) == 0


def test_a_restart_keeps_verdicts_slots_and_rising_revisions(tmp_path: Path) -> None:
    """Rule 3: a new control process knows nothing, and nothing is taken away for that."""
    with backend() as port:
        row = BackendRow(
            service="web",
            task_arn=f"static:127.0.0.1:{port}",
            container="static",
            container_port=port,
            host="127.0.0.1",
            port=port,
            healthy=True,
            draining=False,
            source="static",
        )
        service = ServiceRow(name="web", slot=7, hosts=("web.test",), path="/")
        before = TableSnapshot(revision=41, loaded=True, services=(service,), by_service={"web": (row,)})
        with control(tmp_path, config(port), inherited=before) as running:
            seen: list[TableSnapshot] = []
            running.wait_for(lambda table: bool(table.revision and (seen.append(table) or True)))
            until(lambda: get(running.metrics_address, "/readyz")[0] in (200, 503))
            while (table := running.receive(running.links[0])) is not None:
                seen.append(table)

    assert seen[0].revision == 42
    for table in seen:
        assert table.loaded
        assert table.services[0].slot == 7
        assert healthy(table), "at no moment does a restart take a healthy backend away"


def test_reload_follows_a_good_file_and_refuses_a_bad_one(tmp_path: Path) -> None:
    with backend() as one, backend() as two, control(tmp_path, config(one)) as running:
        running.wait_for(healthy)
        file = tmp_path / "config.toml"

        file.write_text("[timeouts]\nconect_s = 1\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "conect_s" in running.said(), running.said)
        assert "Traceback" not in running.said()
        assert healthy(running.table)

        file.write_text(config(two, more="workers = 5\n[timeouts]\nconnect_s = 0.5"))
        running.process.send_signal(signal.SIGHUP)
        table = running.wait_for(lambda table: [row.port for row in table.backends if row.healthy] == [two])
        assert table.settings.timeouts.connect_s == 0.5
        assert "workers changed: this needs a restart" in running.said()


def test_a_broken_config_ends_the_start_with_words(tmp_path: Path) -> None:
    with control(tmp_path, "workers = 'many'\n") as running:
        assert running.process.wait(10) == 1
        assert "workers" in running.said()
        assert "Traceback" not in running.said()
