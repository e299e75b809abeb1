"""The commands, as a person at a terminal meets them: what is printed where, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxy.app import StartError
from proxy.cli import main
from proxy.cli.duration import seconds
from proxy.cli.local import base_url

ROW = {
    "service": "web",
    "task_arn": "arn:aws:ecs:eu-west-1:123456789012:task/prod/0123456789abcdef0123456789abcdef",
    "container": "app",
    "container_port": 8080,
    "address": "10.0.0.1:32768",
    "state": "ready",
    "reason": "",
    "zone": "eu-west-1a",
    "instance": "i-1",
    "release": "ecs-svc/1",
    "revision": 7,
}
DOWN = {**ROW, "state": "down", "reason": "HTTP 503\x1b[2J", "address": "10.0.0.2:32768", "zone": ""}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty directory with no `ANYPORT_…` variable."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ANYPORT_")]:
        monkeypatch.delenv(name)
    return tmp_path


class Answers:
    """A server that answers what a test tells it, in the place of anyport."""

    def __init__(self) -> None:
        self.by_path: dict[str, tuple[int, Any]] = {}
        self.authorization: list[str] = []
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answers.authorization.append(self.headers.get("Authorization", ""))
                status, value = answers.by_path.get(self.path, (404, {}))
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def answers() -> Iterator[Answers]:
    made = Answers()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody answers, as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "length_s"), [("20s", 20), ("2m", 120), ("500ms", 0.5), ("1h", 3600), ("7", 7), ("1.5s", 1.5)]
)
def test_durations(text: str, length_s: float) -> None:
    assert seconds(text) == length_s


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1 s", "1e9", "٣s", "1s2"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="20s, 2m or 500ms"):
        seconds(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["demo", "--for", "soon"],
        ["demo", "--for", "0"],
        ["demo", "--service", "x"],
        ["table", "--x"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: Output) -> None:
    assert main(arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("anyport 0.")


@pytest.mark.parametrize("command", ["run", "check", "table", "status", "healthcheck", "demo", "simulate"])
def test_every_command_has_help(command: str, capsys: Output) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: anyport " + command in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from proxy.cli import main; main(['--help']);"
        "print([m for m in ('pydantic', 'boto3', 'aiohttp', 'rich', 'uvloop') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# check


def test_check_of_a_good_file(elsewhere: Path, capsys: Output) -> None:
    (elsewhere / "config.toml").write_text('[ecs]\nclusters = ["prod"]')
    assert main(["check"]) == 0
    assert (
        capsys.readouterr().out
        == "config.toml: OK (listens on 0.0.0.0:8080; cluster prod; 0 services named)\n"
    )
    assert main(["check", "--json"]) == 0
    answer = {"ok": True, "config": "config.toml", "issues": [], "warnings": []}
    assert json.loads(capsys.readouterr().out) == answer


def test_check_says_what_discovery_is_given(elsewhere: Path, capsys: Output) -> None:
    text = '[ecs]\nclusters = ["prod"]\n[ecs.events]\nqueue = "auto"\n[fleet]\nkey = "0123456789abcdef"\n'
    (elsewhere / "config.toml").write_text(text + '[state]\npath = "/var/lib/anyport"\n')
    assert main(["check"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("; events on; in a fleet; state in /var/lib/anyport)\n")
    assert "0123456789abcdef" not in said


def test_check_of_a_bad_file_shows_everything(elsewhere: Path, capsys: Output) -> None:
    (elsewhere / "bad.toml").write_text("[ecs]\nclustrs = []\nregion = 1\n")
    assert main(["check", "--config", "bad.toml"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "bad.toml:2: [ecs]: unknown key `clustrs`\n    2 | clustrs = []\n" in shown.err
    assert "      | ^^^^^^^ did you mean `clusters`?" in shown.err
    assert "bad.toml:3: [ecs]: `region` must be a string in quotes" in shown.err
    assert main(["check", "--config", "bad.toml", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [issue["line"] for issue in found["issues"]] == [2, 3]


def test_which_file_is_read(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """The option, else ./config.toml, else $ANYPORT_CONFIG, else none."""
    for name in ("option.toml", "config.toml", "variable.toml"):
        (elsewhere / name).write_text('[ecs]\nclusters = ["prod"]')
    monkeypatch.setenv("ANYPORT_CONFIG", "variable.toml")
    assert main(["check", "--config", "option.toml"]) == 0
    assert main(["check"]) == 0
    (elsewhere / "config.toml").unlink()
    assert main(["check"]) == 0
    monkeypatch.delenv("ANYPORT_CONFIG")
    monkeypatch.setenv("ANYPORT_ECS__CLUSTERS", "prod")
    assert main(["check"]) == 0
    shown = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["option.toml", "config.toml", "variable.toml", "defaults and ANYPORT_… variables"]


# run


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], None]:
    """Return what puts a function in the place of the composition root."""

    def use(run: Callable[..., int]) -> None:
        module = types.ModuleType("proxy.app")
        module.run = run  # type: ignore[attr-defined]
        module.StartError = StartError  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "proxy.app", module)
        monkeypatch.setattr("proxy.app", module, raising=False)

    return use


def test_run_hands_over_the_file_and_what_was_in_it(
    elsewhere: Path, app: Callable[[Callable[..., int]], None]
) -> None:
    seen: list[Any] = []
    app(lambda path, config: seen.append((path, config.ecs.clusters)) or 5)
    (elsewhere / "config.toml").write_text('[ecs]\nclusters = ["prod"]')
    assert main(["run"]) == 5
    assert seen == [(Path("config.toml"), ("prod",))]


def test_run_with_a_missing_file_says_which_and_how_to_make_one(capsys: Output) -> None:
    assert main(["run", "--config", "nope.toml"]) == 2
    error = capsys.readouterr().err
    assert "nope.toml: no such file" in error
    assert "--config, or make one: printf" in error
    assert "Traceback" not in error


def test_run_with_nothing_to_route_says_what_to_add(capsys: Output) -> None:
    assert main(["run"]) == 2
    assert "nothing to route to" in capsys.readouterr().err


def test_a_port_in_use_is_two_lines(elsewhere: Path, capsys: Output) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = f'[ecs]\nclusters = ["prod"]\n[[listener]]\naddress = "{address}"'
        (elsewhere / "config.toml").write_text(text)
        assert main(["run"]) == 1
    error = capsys.readouterr().err
    assert f"cannot listen on {address} ([[listener]] number 1)" in error
    assert len(error.splitlines()) == 2


def test_ctrl_c_is_130_without_a_traceback(
    elsewhere: Path, app: Callable[[Callable[..., int]], None], capsys: Output
) -> None:
    def run(*_: object) -> int:
        raise KeyboardInterrupt

    app(run)
    (elsewhere / "config.toml").write_text('[ecs]\nclusters = ["prod"]')
    assert main(["run"]) == 130
    assert capsys.readouterr().err.strip() == ""


# table and status


def test_the_table_in_a_pipe_is_aligned_text(answers: Answers, capsys: Output) -> None:
    answers.by_path["/api/v1/table"] = (200, [DOWN, ROW])
    assert main(["table", "--url", f"http://{answers.address}"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "service", "state", "address", "container", "task", "zone", "instance", "release", "reason",
    ]  # fmt: skip
    assert first.split()[:6] == ["web", "ready", "10.0.0.1:32768", "app:8080", "01234567", "eu-west-1a"]
    assert header.index("task") == first.index("01234567") == second.index("01234567")
    assert second.endswith("HTTP 503?[2J")  # a reason cannot clear somebody's screen


def test_the_table_on_a_terminal_has_colours(
    answers: Answers, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.by_path["/api/v1/table"] = (200, [DOWN, ROW])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["table", "--url", answers.address]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[32mready" in shown
    assert "\x1b[31mdown" in shown
    assert "\x1b[2J" not in shown


def test_the_table_as_json_is_what_anyport_says(answers: Answers, capsys: Output) -> None:
    answers.by_path["/api/v1/table"] = (200, [ROW, {**ROW, "service": "other"}])
    assert main(["table", "--json", "--service", "web", "--url", answers.address]) == 0
    assert json.loads(capsys.readouterr().out) == [ROW]


def test_an_empty_table_says_where_to_look(answers: Answers, capsys: Output) -> None:
    answers.by_path["/api/v1/table"] = (200, [])
    assert main(["table", "--url", answers.address]) == 0
    assert "anyport status" in capsys.readouterr().out


def test_the_address_and_token_come_from_the_configuration(elsewhere: Path, answers: Answers) -> None:
    answers.by_path["/api/v1/table"] = (200, [])
    (elsewhere / "config.toml").write_text(
        f'[admin]\naddress = "{answers.address}"\ntoken = "abc"\nmistake = 1'
    )
    assert main(["table"]) == 0
    assert answers.authorization == ["Bearer abc"]


def test_status_is_shown_as_lines(answers: Answers, capsys: Output) -> None:
    answers.by_path["/api/v1/status"] = (
        200,
        {
            "ready": False,
            "reasons": ["table not loaded"],
            "sources": [{"source": "ecs", "error": ""}],
            "problems": [],
        },
    )
    assert main(["status", "--url", answers.address]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ready: no", "reasons:", "  - table not loaded",
        "sources:", "  - source: ecs", "    error: -", "problems: -",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ((401, {}), "refused"),
        ((500, {}), "HTTP 500"),
        ((200, b"<html>"), "not JSON"),
        ((200, {"a": 1}), "not a table"),
    ],
)
def test_a_strange_answer_is_explained(answers: Answers, capsys: Output, answer: Any, part: str) -> None:
    answers.by_path["/api/v1/table"] = answer
    assert main(["table", "--url", answers.address]) == 1
    error = capsys.readouterr().err
    assert part in error
    assert len(error.splitlines()) == 2


@pytest.mark.parametrize("command", ["table", "status", "healthcheck"])
def test_no_anyport_says_so(command: str, nobody: str, capsys: Output) -> None:
    assert main([command, "--url", f"http://{nobody}"]) == 1
    assert f"no anyport answers at {nobody}: Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://x", "http://", "http://a:b", "http://[x"])
def test_an_address_that_is_none(url: str) -> None:
    assert main(["table", "--url", url]) == 2


def test_a_silent_peer_does_not_hang_a_command(capsys: Output) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main(["table", "--url", where, "--timeout", "50ms"]) == 1
    assert "within 0.05 s" in capsys.readouterr().err


# healthcheck


def test_healthcheck_asks_the_metrics_address(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    answers.by_path["/healthz"] = (200, {})
    answers.by_path["/readyz"] = (503, {"ready": False, "reasons": ["table not loaded: ecs: no credentials"]})
    monkeypatch.setenv("ANYPORT_METRICS__ADDRESS", answers.address.replace("127.0.0.1", "0.0.0.0"))
    assert main(["healthcheck"]) == 0
    assert main(["healthcheck", "--ready"]) == 1
    assert "/readyz answered 503: table not loaded: ecs: no credentials" in capsys.readouterr().err


def test_healthcheck_does_not_judge_the_file(elsewhere: Path, answers: Answers) -> None:
    """A mistake is saved: the running proxy goes on with its old table, and must not be killed for it."""
    answers.by_path["/healthz"] = (200, {})
    (elsewhere / "config.toml").write_text(f'[metrics]\naddress = "{answers.address}"\n[ecs]\nclustrs = 3\n')
    assert main(["healthcheck"]) == 0


# demo and simulate


def test_the_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    module = types.ModuleType("proxy.demo.main")
    module.main = lambda **options: seen.append(options) or 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.demo.main", module)
    monkeypatch.setattr("proxy.demo.main", module, raising=False)
    command = ["demo", "--for", "20s", "--service", "a=b --port $PORT", "--service", "c=d", "--tasks", "2"]
    assert main([*command, "--port", "80"]) == 3
    assert seen == [{"for_s": 20.0, "services": ("a=b --port $PORT", "c=d"), "tasks": 2, "port": 80}]


@pytest.mark.parametrize("command", ["demo", "simulate"])
def test_without_the_simulators_packages_it_says_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([command]) == 1
    error = capsys.readouterr().err
    assert "needs moto" in error
    assert 'pip install "anyport[simulator]"' in error


# as a process


def test_the_module_and_a_closed_pipe(answers: Answers) -> None:
    answers.by_path["/api/v1/table"] = (200, [ROW] * 5000)
    command = [sys.executable, "-m", "proxy", "table", "--url", answers.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.readline()
        process.stdout.close()  # `anyport table | head -1`
        assert process.stderr.read() == b""
        assert process.wait(10) == 1


def test_ctrl_c_in_a_real_process(elsewhere: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "proxy", "table", "--url", where, "--timeout", "30s"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            silent.settimeout(10)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, error = process.communicate(timeout=10)
            assert (process.returncode, error.strip()) == (130, b"")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0:9180", "http://127.0.0.1:9180"),
        ("[::]:9180", "http://[::1]:9180"),
        ("10.0.0.1:80", "http://10.0.0.1:80"),
    ],
)
def test_a_server_on_every_interface_is_asked_on_loopback(address: str, url: str) -> None:
    assert base_url(address) == url
