"""Upgrades: a successor takes the ports over, and nobody notices."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from proxy.app import systemd_sockets
from proxy.link import handoff
from proxy.link.handoff import Giver, HandoffError, Offer, take
from proxy.link.sockets import listen
from tests.kit.anyport import Anyport, free_port
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.traffic import traffic
from tests.kit.wire import Wire, request, response
from tests.kit.workers import wait_for


@pytest.fixture
def hello() -> Iterator[int]:
    with ScriptedBackend(answering(response(b"hello"))) as backend:
        yield backend.port


def _config(port: int) -> str:
    return (
        f'[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:{port}"]\n'
        '[service.health]\nkind = "none"\n[timeouts]\ndrain_s = 5.0\nlb_drain_s = 0.0\n'
    )


def _ask(port: int) -> bytes:
    with Wire.connect(port) as client:
        client.send(request("/", "Connection: close"))
        return client.read_response().body


@pytest.mark.slow
def test_three_upgrades_under_load_are_not_noticed(tmp_path: Path, hello: int) -> None:
    """0 refused, 0 reset, 0 failed, whatever the numbers of workers before and after."""
    environ = {"ANYPORT_HANDOFF": str(tmp_path / "handoff")}
    with ExitStack() as stack:
        running = stack.enter_context(Anyport(tmp_path, _config(hello), workers=2, environ=environ))
        running.wait_ready()
        with traffic(running.port) as tally, _asking_whether_ready(running) as answers:
            for number, workers in enumerate((3, 1, 2)):
                wait_for(lambda before=tally.answered: tally.answered > before + 200, "traffic", 30)
                successor = stack.enter_context(
                    running.successor(f"successor-{number}", ANYPORT_WORKERS=str(workers))
                )
                wait_for(lambda new=successor: "has taken over" in new.log, "the take-over", 30)
                assert running.process.wait(30) == 0
                assert len(successor.children()) == workers + 1
                running = successor
            wait_for(lambda before=tally.answered: tally.answered > before + 200, "traffic", 30)

    assert tally.failures == []
    assert answers
    assert all(answers), "a load balancer that asks both hears no other answer"


@contextmanager
def _asking_whether_ready(anyport: Anyport) -> Iterator[list[bool]]:
    """Ask /readyz for the length of the context; False: not ready, refused, or no answer."""
    answers: list[bool] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.002):
            answers.append(anyport.ready())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join(20)


def test_a_successor_that_cannot_start_changes_nothing(tmp_path: Path, hello: int) -> None:
    """A bad version must not take the good one along, and the next one may try again."""
    (tmp_path / "sitecustomize.py").write_text(
        'import os, sys\nif "proxy.worker" in sys.orig_argv:\n    os._exit(3)\n'
    )
    environ = {"ANYPORT_HANDOFF": str(tmp_path / "handoff")}
    with Anyport(tmp_path, _config(hello), workers=1, environ=environ) as running:
        running.wait_ready()
        with running.successor("bad", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}") as bad:
            assert bad.process.wait(30) == 1
            assert "this anyport could not take over: worker 0 exited with 3" in bad.log
            assert "Traceback" not in bad.log
        wait_for(lambda: "the successor did not take over" in running.log, "it is said")
        assert _ask(running.port) == b"hello"
        assert running.ready()
        with running.successor("good") as good:
            wait_for(lambda: "has taken over" in good.log, "the take-over", 30)
            assert running.process.wait(30) == 0
            assert _ask(running.port) == b"hello"


def test_sigterm_to_a_successor_that_is_not_ready_leaves_the_sockets_alone(
    tmp_path: Path, hello: int
) -> None:
    """It must not stop handshakes on sockets that are still another's."""
    (tmp_path / "sitecustomize.py").write_text(
        'import sys, time\nif "proxy.control" in sys.orig_argv:\n    time.sleep(60)\n'
    )
    environ = {"ANYPORT_HANDOFF": str(tmp_path / "handoff")}
    with Anyport(tmp_path, _config(hello), workers=1, environ=environ) as running:
        running.wait_ready()
        with running.successor("slow", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}") as slow:
            wait_for(lambda: _hears(slow.children().get("worker 0", 0), signal.SIGUSR2), "a worker", 30)
            slow.process.send_signal(signal.SIGTERM)
            assert slow.process.wait(30) == 0
        assert _ask(running.port) == b"hello"
        assert running.ready()


def _hears(pid: int, number: signal.Signals) -> bool:
    """Return whether the process has a handler for the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_predecessor_that_dies_halfway_is_succeeded(tmp_path: Path, hello: int) -> None:
    """The sockets are in two hands for a moment; one is enough."""
    (tmp_path / "sitecustomize.py").write_text(
        'import pathlib, sys, time\nif "proxy.worker" in sys.orig_argv:\n'
        f'    while not pathlib.Path("{tmp_path}/go").exists():\n        time.sleep(0.01)\n'
    )
    environ = {"ANYPORT_HANDOFF": str(tmp_path / "handoff")}
    with Anyport(tmp_path, _config(hello), workers=1, environ=environ) as running:
        running.wait_ready()
        with running.successor(
            "next", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
        ) as successor:
            wait_for(lambda: "taking over" in successor.log, "it has begun", 30)
            orphan = running.children()["worker 0"]
            running.process.kill()
            wait_for(lambda: "has ended before this one was ready" in successor.log, "it is noticed", 30)
            # Until it has noticed as well it may accept, and take its connections with it.
            wait_for(lambda: _ended(orphan), "its worker has ended", 30)
            with Wire.connect(running.port) as client:
                client.send(request())
                (tmp_path / "go").touch()
                assert client.read_response().body == b"hello"
            assert stat.S_ISSOCK((tmp_path / "handoff").stat().st_mode), "and can be succeeded itself"


def test_listeners_may_come_and_go_with_an_upgrade(tmp_path: Path, hello: int) -> None:
    environ = {"ANYPORT_HANDOFF": str(tmp_path / "handoff")}
    other = free_port()
    with Anyport(tmp_path, _config(hello), workers=1, environ=environ) as running:
        running.wait_ready()
        with (
            traffic(running.port, steady=0, paused=0, single=3) as tally,
            running.successor("next", ANYPORT_LISTENER__0__ADDRESS=f"127.0.0.1:{other}") as successor,
        ):
            wait_for(lambda: "has taken over" in successor.log, "the take-over", 30)
            wait_for(lambda: bool(tally.failures), "the old address is gone")
            assert running.process.wait(30) == 0
            assert _ask(other) == b"hello"
    assert all(failure.startswith("connect: ") for failure in tally.failures), "nobody who was in is lost"


# The socket


class _Said(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def giver(tmp_path: Path) -> Iterator[Giver]:
    made = Giver(str(tmp_path / "handoff"), say=_Said())
    yield made
    made.close()


def test_only_its_owner_may_use_it(giver: Giver, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "handoff").stat().st_mode) == 0o600


def test_another_user_gets_nothing(giver: Giver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode of the file is one lock, the credentials of the connection are the other."""
    monkeypatch.setattr(handoff, "_same_user", lambda _: False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(tmp_path / "handoff"))
        assert not _serve(giver, _nothing)
        assert stranger.recv(64) == b""
    with pytest.raises(HandoffError, match="another user's"):
        take(str(tmp_path / "handoff"))


def test_credentials_are_those_of_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        assert handoff._same_user(one)
        monkeypatch.setattr(handoff, "_ROOT", -1)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert not handoff._same_user(one)


def _serve(giver: Giver, offer: Callable[[], Offer]) -> bool:
    """Let *giver* do what there is to do, as the supervisor does."""
    return giver.serve(select.select(giver.filenos(), [], [], 10)[0], offer)


def _nothing() -> Offer:
    raise AssertionError("asked for sockets")


def test_all_that_is_offered_arrives_and_works(giver: Giver, tmp_path: Path) -> None:
    """More sockets than fit into one message, and the table."""
    sockets = [listen("127.0.0.1", 0) for _ in range(70)]
    reader, writer = os.pipe()
    os.write(writer, b"table")
    offer = Offer(sockets=[sock.fileno() for sock in sockets], snapshot=reader, held=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(str(tmp_path / "handoff"))
        assert not _serve(giver, lambda: offer)
        taken = handoff.Predecessor(channel)
        assert [sock.getsockname() for sock in taken.sockets] == [sock.getsockname() for sock in sockets]
        assert not any(os.get_inheritable(sock.fileno()) for sock in taken.sockets)
        assert os.read(taken.snapshot, 10) == b"table"
        assert taken.held
        assert not taken.gone()
        taken.release()
    assert _serve(giver, lambda: offer)
    for sock in (*sockets, *taken.sockets):
        sock.close()
    for fd in (reader, writer, taken.snapshot):
        os.close(fd)


def test_only_one_successor_at_a_time(giver: Giver, tmp_path: Path) -> None:
    offer = Offer(sockets=(), snapshot=-1, held=False)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as second,
    ):
        for channel in (first, second):
            channel.connect(str(tmp_path / "handoff"))
            _serve(giver, lambda: offer)
        handoff.Predecessor(first)
        with pytest.raises(HandoffError, match="another successor"):
            handoff.Predecessor(second)


def test_what_is_left_of_a_dead_one_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "handoff"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    assert take(str(path)) is None
    Giver(str(path), say=_Said()).close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        Giver(str(path), say=_Said())
    assert path.read_text() == "precious"


def test_the_path_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "handoff"
    old, new = Giver(str(path), say=_Said()), Giver(str(path), say=_Said())
    old.close()
    assert path.exists()
    new.close()
    assert not path.exists()


def test_a_path_that_cannot_be_used_is_one_clear_line(tmp_path: Path, hello: int) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    environ = {"ANYPORT_HANDOFF": str(path)}
    with Anyport(tmp_path, _config(hello), environ=environ) as anyport:
        assert anyport.process.wait(30) == 1
    assert f"cannot use {path} (`handoff`)" in anyport.log
    assert "Traceback" not in anyport.log
    assert path.read_text() == "precious"


# systemd


def test_sockets_of_systemd_are_used_and_left_open_for_the_next(tmp_path: Path, hello: int) -> None:
    """Socket activation: who connects during a restart waits in the queue that systemd holds."""
    with listen("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        anyport = Anyport(tmp_path, _config(hello), workers=2)
        config = anyport.config.read_text().replace(f":{anyport.port}", f":{port}")
        anyport.config.write_text(config)
        for _ in range(2):
            with Wire.connect(port) as waiting:
                waiting.send(request())
                process = _activate(held, anyport)
                try:
                    assert waiting.read_response().body == b"hello"
                finally:
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(30) == 0


def _activate(held: socket.socket, anyport: Anyport) -> subprocess.Popen[bytes]:
    launcher = (
        "import os, sys\n"
        f"os.dup2({held.fileno()}, 3)\n"
        "environ = {**os.environ, 'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}\n"
        "os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environ)\n"
    )
    command = ["-m", "proxy", "run", "--config", str(anyport.config)]
    return subprocess.Popen([sys.executable, "-c", launcher, *command], pass_fds=[held.fileno()])


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": "me"},
    ],
)
def test_what_was_meant_for_another_process_is_not_used(environ: dict[str, str]) -> None:
    given = {name: str(os.getpid()) if value == "me" else value for name, value in environ.items()}
    assert systemd_sockets(given) == []
    assert given == {}, "and a child must not believe it either"
