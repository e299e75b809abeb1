"""`anyport linger` as the agent meets it: a process that gets signals and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from proxy.cli.linger import Answer, Hold, Myself, ask, gateway, look, proxy_url
from tests.kit.workers import wait_for

TASK = "arn:aws:ecs:eu-west-1:123456789012:task/prod/0123456789abcdef0123456789abcdef"
QUESTION = f"/drained?task={quote(TASK, safe='')}"
YES = {"task": TASK, "drained": True, "proxies": 2, "acknowledged": 2, "reason": "it gets nothing new"}
NO = {**YES, "drained": False, "acknowledged": 1, "reason": "10.0.0.2 has not said so"}
METADATA = {"TaskARN": TASK, "Containers": [{"Networks": [{"NetworkMode": "host"}]}]}
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
"""


class Host:
    """The agent and the proxy of one instance, in one server."""

    def __init__(self) -> None:
        self.says: dict[str, tuple[int, Any]] = {"/v4/1/task": (200, METADATA), QUESTION: (200, NO)}
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                status, value = host.says.get(self.path, (404, {"error": "no such page"}))
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


class Lingering:
    """`anyport linger`, started; it has looked for its task once `ready`."""

    def __init__(self, host: Host, *arguments: str, command: str = "") -> None:
        argv = [sys.executable, "-m", "proxy", "linger", *arguments]
        environ = {
            **os.environ,
            "ANYPORT_URL": host.url,
            "ECS_CONTAINER_METADATA_URI_V4": f"{host.url}/v4/1",
        }
        self.host = host
        self.process = subprocess.Popen(
            [*argv, *(["--", "sh", "-c", command] if command else [])],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: "/v4/1/task" in host.asked, "it has asked who it is", 20)

    def tell(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def questions(self) -> int:
        return self.host.asked.count(QUESTION)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def lingering(host: Host) -> Iterator[Callable[..., Lingering]]:
    made: list[Lingering] = []

    def start(*arguments: str, command: str = "") -> Lingering:
        made.append(Lingering(host, *arguments, command=command))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def test_it_goes_when_every_proxy_has_let_go(host: Host, lingering: Callable[..., Lingering]) -> None:
    one = lingering("--deadline", "60s", "--settle", "10ms")
    assert one.questions() == 0, "nobody has told it to stop"
    one.tell()
    wait_for(lambda: one.questions() >= 3, "it asks again and again", 20)
    assert one.process.poll() is None
    host.says[QUESTION] = (200, YES)
    status, _, said = one.end()
    assert status == 0
    ready, done = said.splitlines()
    assert ready == f"anyport linger: ready, for task {TASK[-32:]}; asks {host.url}"
    assert done.startswith("anyport linger: drained after ")
    assert done.endswith("s: 2 of 2 proxies: it gets nothing new")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, NO), "1 of 2 proxies: 10.0.0.2 has not said so"),
        ((200, {**YES, "drained": "true"}), "2 of 2 proxies"),  # only what is plainly a yes is one
        ((429, {"error": "too many questions"}), "HTTP 429 from"),
        ((404, b"<html>"), "is not JSON"),
        ((200, {"ok": True}), "is not an answer of anyport"),
    ],
)
def test_after_the_deadline_it_goes_in_any_case(
    host: Host, lingering: Callable[..., Lingering], answer: tuple[int, Any], why: str
) -> None:
    host.says[QUESTION] = answer
    one = lingering("--deadline", "400ms", "--settle", "0s")
    one.tell()
    status, _, said = one.end()
    assert status == 0
    assert "not drained after" in said
    assert why in said
    assert one.questions() >= 1


def test_a_second_signal_ends_the_wait(lingering: Callable[..., Lingering]) -> None:
    one = lingering("--deadline", "60s")
    one.tell()
    wait_for(lambda: one.questions() >= 1, "it asks", 20)
    one.tell(signal.SIGINT)
    status, _, said = one.end()
    assert status == 0
    assert "not drained" in said


def test_in_an_incident_nothing_is_held_back(lingering: Callable[..., Lingering]) -> None:
    one = lingering("--now")
    one.tell()
    assert one.end()[0] == 0
    assert one.questions() == 0


def test_as_a_parent_it_holds_sigterm_back_and_passes_other_signals_on(
    host: Host, lingering: Callable[..., Lingering], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    app = (
        f"trap 'echo hup >> {seen}' HUP; trap 'echo term >> {seen}; exit 7' TERM; echo up >> {seen}; "
        "while :; do sleep 0.02; done"
    )
    one = lingering("--deadline", "60s", "--settle", "10ms", command=app)
    wait_for(seen.exists, "the app runs", 20)
    one.tell()
    wait_for(lambda: one.questions() >= 2, "it asks", 20)
    one.tell(signal.SIGHUP)
    wait_for(lambda: seen.read_text() == "up\nhup\n", "SIGHUP is passed on", 20)
    host.says[QUESTION] = (200, YES)
    status, _, said = one.end()
    assert (status, seen.read_text()) == (7, "up\nhup\nterm\n")
    assert "drained after" in said


@pytest.mark.parametrize(
    ("app", "expected"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_as_a_parent_it_ends_as_the_app_does(
    lingering: Callable[..., Lingering], app: str, expected: int
) -> None:
    assert lingering(command=f"sleep 0.1; {app}").end()[0] == expected


def test_the_app_gets_the_signals_of_a_fresh_process(lingering: Callable[..., Lingering]) -> None:
    """None blocked and none ignored, whatever this process does with them."""
    status, out, _ = lingering(command="grep -E 'Sig(Blk|Ign)' /proc/self/status").end()
    assert status == 0
    _, blocked, _, ignored = out.split()
    # posix_spawn(3) leaves two signals ignored that belong to the C library: 32 and 33.
    assert (int(blocked, 16), int(ignored, 16) & ~(3 << 31)) == (0, 0)


def test_orphans_of_the_app_do_not_end_it(host: Host, lingering: Callable[..., Lingering]) -> None:
    one = lingering("--deadline", "60s", command="(sleep 0.05 &) ; sleep 0.3; exit 4")
    assert one.end()[0] == 4


def test_an_app_that_is_not_there(host: Host) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "linger", "--", "/no/such/app"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert ended.returncode == 127
    assert ended.stderr == "anyport: cannot start /no/such/app: No such file or directory\n"


def test_settling_is_a_part_of_the_deadline() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "linger", "--deadline", "1s", "--settle", "1s"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "--settle is a part of --deadline" in ended.stderr


# -- where to ask, and for whom ------------------------------------------------------------------


def test_who_we_are(host: Host) -> None:
    assert look(f"{host.url}/v4/1") == Myself(TASK, "host")
    host.says["/v4/1/task"] = (
        200, {"TaskARN": TASK, "Containers": [{}, {"Networks": [{"NetworkMode": "default"}]}]}
    )  # fmt: skip
    assert look(f"{host.url}/v4/1") == Myself(TASK, "bridge")
    for bad in (b"nonsense", {}, [], {"TaskARN": TASK, "Containers": [3]}):
        host.says["/v4/1/task"] = (200, bad)
        assert look(f"{host.url}/v4/1") == Myself()


@pytest.mark.parametrize(
    ("given", "mode", "url"),
    [
        ("http://10.0.0.1:9180", "bridge", "http://10.0.0.1:9180"),
        ("", "host", "http://127.0.0.1:9180"),
        ("", "bridge", "http://172.17.0.1:9180"),
        ("", "awsvpc", ""),  # the host is not to be reached from there
        ("", "", ""),
    ],
)
def test_whom_to_ask(given: str, mode: str, url: str) -> None:
    assert proxy_url(given, mode, lambda: ROUTES) == url


def test_without_a_default_route_there_is_no_gateway() -> None:
    assert (
        gateway("")
        == gateway("Iface\tDestination\n")
        == gateway(ROUTES.replace("010011AC", "00000000"))
        == ""
    )


@pytest.mark.parametrize(
    ("url", "arn"), [("", TASK), ("http://127.0.0.1:1", TASK), ("http://127.0.0.1:1", "")]
)
def test_no_answer_is_a_no(url: str, arn: str) -> None:
    answer = ask(url, arn)
    assert not answer.drained
    assert answer.text


# -- the wait, on a clock of its own ---------------------------------------------------------------


def _wait(answers: list[bool], *, deadline_s: float, settle_s: float) -> tuple[float, int, str]:
    """Return how long it holds on, how often it asks, and what it says; the last answer repeats."""
    now_s, asked = 0.0, 0

    def question() -> Answer:
        nonlocal asked
        asked += 1
        return Answer(answers[min(asked, len(answers)) - 1], "because")

    hold = Hold(question, deadline_s, settle_s, lambda: now_s)
    while True:
        now_s += hold.pause_s()
        if hold.step():
            return round(now_s, 6), asked, hold.report()


def test_the_first_question_is_asked_at_once_and_the_settling_comes_after_the_yes() -> None:
    assert _wait([True], deadline_s=5, settle_s=0) == (0.0, 1, "drained after 0.0 s: because")
    assert _wait([True], deadline_s=5, settle_s=1) == (1.0, 1, "drained after 1.0 s: because")
    assert _wait([False, False, True], deadline_s=5, settle_s=1) == (1.3, 3, "drained after 1.3 s: because")


def test_it_never_holds_on_for_longer_than_the_deadline() -> None:
    assert _wait([False], deadline_s=0.5, settle_s=0) == (0.5, 5, "not drained after 0.5 s: because")
    held_s, _, said = _wait([False, False, False, True], deadline_s=1, settle_s=0.8)
    assert (held_s, said) == (1.0, "drained after 1.0 s: because")
