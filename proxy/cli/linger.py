"""Holding the stop signal of a task back until no proxy sends it anything new.

Without a load balancer of its own, ECS sends SIGTERM to a task with no head start. But the agent does not
stop a container while another one that depends on it still runs. So this runs beside the app as a container
that depends on it (or as the parent of the app's process), and ends when the proxies have let go of the task.

Light on purpose, as it runs in every task: no asyncio, no AWS, nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from proxy.cli.fault import Fault
from proxy.cli.local import get, printable

EVERY_S: Final = 0.15  # between two questions
_PATIENCE_S: Final = 0.5  # for one answer: signals wait for it
_LOOK_AGAIN_S: Final = 1.0  # for who we are, where the agent does not say
_PORT: Final = 9180
_STOP: Final = frozenset((signal.SIGTERM, signal.SIGINT))
_NOT_OURS: Final = (signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ)
_KERNEL: Final = 0x80  # si_code SI_KERNEL: from the terminal, which the child hears too


@dataclass(frozen=True, slots=True)
class Myself:
    """The task this runs in, as the agent says; "" for what is unknown."""

    task_arn: str = ""
    network_mode: str = ""  # "bridge", "host" or "awsvpc"


def look(metadata_url: str) -> Myself:
    """Ask task metadata (version 4) who we are; nothing of it is known where it does not answer."""
    try:
        task = get(metadata_url, "/task", timeout_s=_PATIENCE_S).json()
        arn, modes = task["TaskARN"], [_mode(container) for container in task.get("Containers") or ()]
    except (Fault, KeyError, TypeError, AttributeError):
        return Myself()
    return Myself(str(arn), next((mode for mode in modes if mode), ""))


def _mode(container: Mapping[str, Any]) -> str:
    networks = container.get("Networks") or ()
    mode = str(networks[0].get("NetworkMode", "")) if networks else ""
    return {"default": "bridge"}.get(mode, mode)


def proxy_url(given: str, mode: str, routes: Callable[[], str]) -> str:
    """Return where to ask: as *given*, else the proxy on this host as *mode* reaches it; "" if unknown."""
    if given:
        return given
    if mode == "host":
        return f"http://127.0.0.1:{_PORT}"
    host = gateway(routes()) if mode == "bridge" else ""
    return f"http://{host}:{_PORT}" if host else ""


def gateway(routes: str) -> str:
    """Return the address of the default route in the text of /proc/net/route, "" if there is none."""
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000" and fields[2] != "00000000":
            return str(IPv4Address(bytes.fromhex(fields[2])[::-1]))
    return ""


def read_routes() -> str:
    """Return the kernel's table of IPv4 routes, "" where there is none to read."""
    try:
        return Path("/proc/net/route").read_text()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the proxy says about the drain of a task."""

    drained: bool
    text: str  # why not, or who says so


def ask(url: str, task_arn: str) -> Answer:
    """Ask the proxy at *url* whether every proxy has let go of the task. No answer is a no."""
    if not url:
        return Answer(False, "which proxy to ask is not known: set ANYPORT_URL or --proxy")
    if not task_arn:
        return Answer(False, "task metadata does not say which task this is")
    try:
        reply = get(url, f"/drained?task={quote(task_arn, safe='')}", timeout_s=_PATIENCE_S)
        said = reply.json()
        if reply.status != 200:
            return Answer(False, printable(f"HTTP {reply.status} from {url}: {said.get('error', '')}"))
        count = f"{int(said['acknowledged'])} of {int(said['proxies'])} proxies"
        return Answer(said["drained"] is True, printable(f"{count}: {said['reason']}"[:300]))
    except Fault as exc:
        return Answer(False, exc.message)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Answer(False, f"what {url} answers is not an answer of anyport")


@dataclass(slots=True)
class Hold:
    """One wait, from the stop signal to the moment at which nothing more need be held back."""

    ask: Callable[[], Answer]
    deadline_s: float  # never longer, all in all
    settle_s: float  # after the last proxy has let go: for the requests under way
    clock: Callable[[], float] = time.monotonic
    began_s: float = field(init=False)
    outcome: str = field(init=False, default="nothing asked yet")
    _asked: bool = field(init=False, default=False)
    _drained_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.began_s = self.clock()

    def step(self) -> bool:
        """Return whether it is over; asks, as long as the answer is not yes."""
        self._asked = True
        if self._drained_s is None:
            answer = self.ask()
            self.outcome = answer.text
            if answer.drained:
                self._drained_s = self.clock()
        now_s = self.clock()
        if self._drained_s is not None and now_s - self._drained_s >= self.settle_s:
            return True
        return now_s - self.began_s >= self.deadline_s

    def pause_s(self) -> float:
        """Return the seconds until the next step is due."""
        if not self._asked:
            return 0.0
        now_s = self.clock()
        left_s = self.began_s + self.deadline_s - now_s
        if self._drained_s is not None:
            return max(0.0, min(left_s, self._drained_s + self.settle_s - now_s))
        return max(0.0, min(left_s, EVERY_S))

    def report(self) -> str:
        """Return the line for the log."""
        took = f"after {self.clock() - self.began_s:.1f} s"
        return f"{'drained' if self._drained_s is not None else 'not drained'} {took}: {self.outcome}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to linger."""

    proxy: str  # URL; "" finds it
    metadata_url: str
    deadline_s: float
    settle_s: float
    now: bool = False  # hold nothing back
    say: Callable[[str], None]


class Linger:
    """Waits for the stop signal, holds it back, and is the parent of the app's process where there is one."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._myself = Myself()
        self._hold: Hold | None = None

    def run(self, command: Sequence[str] = ()) -> int:
        """Return the exit status: 0, or that of *command*, whose parent this then is.

        Raises `Fault` where the command cannot be started.
        """
        watched = signal.valid_signals() - set(_NOT_OURS)
        # Blocked and taken up one by one: none interrupts anything, none is lost, not even as process 1.
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        child = _spawn(command) if command else 0
        held_back = frozenset((signal.SIGTERM,)) if child else _STOP
        while True:
            self._look()
            got = _wait(watched, self._pause_s())
            number = got.si_signo if got is not None else 0
            if number == signal.SIGCHLD:
                status = _reap(child)
                if status is not None:
                    return status
            elif number in held_back or not number:
                if self._is_over(number):
                    self._options.say(self._report())
                    if not child:
                        return 0
                    self._hold, held_back = None, frozenset()  # what comes from now on is the child's
                    os.kill(child, signal.SIGTERM)
            elif child and got is not None and got.si_code != _KERNEL:
                os.kill(child, number)

    def _is_over(self, number: int) -> bool:
        """Return whether to let go: the wait is over, or signal *number* is the second one."""
        if self._hold is not None:
            return bool(number) or self._hold.step()
        if not number:
            return False
        if self._options.now:
            return True
        self._hold = Hold(self._ask, self._options.deadline_s, self._options.settle_s)
        return False

    def _ask(self) -> Answer:
        self._look()
        return ask(self._url(), self._myself.task_arn)

    def _url(self) -> str:
        return proxy_url(self._options.proxy, self._myself.network_mode, read_routes)

    def _look(self) -> None:
        if self._options.metadata_url and not self._myself.task_arn:
            self._myself = look(self._options.metadata_url)
            if self._myself.task_arn:
                where = self._url() or "a proxy that is not known: set ANYPORT_URL or --proxy"
                self._options.say(f"ready, for task {self._myself.task_arn.rpartition('/')[2]}; asks {where}")

    def _pause_s(self) -> float | None:
        if self._hold is not None:
            return self._hold.pause_s()
        return None if self._myself.task_arn or not self._options.metadata_url else _LOOK_AGAIN_S

    def _report(self) -> str:
        return self._hold.report() if self._hold is not None else "told to hold nothing back"


def _wait(watched: set[signal.Signals], timeout_s: float | None) -> signal.struct_siginfo | None:
    if timeout_s is None:
        return signal.sigwaitinfo(watched)
    return signal.sigtimedwait(watched, timeout_s)


def _spawn(command: Sequence[str]) -> int:
    try:
        return os.posix_spawnp(
            command[0], list(command), os.environ, setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ)
        )
    except OSError as exc:
        raise Fault(f"cannot start {command[0]}: {exc.strerror}", exit_code=127) from None


def _reap(child: int) -> int | None:
    """Take note of every process that has ended (as process 1 we get orphans); return the child's status."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code
