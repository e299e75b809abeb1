"""The process that starts every simulated task: plain Python, one thread, forks in milliseconds.

It imports the built-in app once and then forks per task, because importing an HTTP server costs
half a second and forking costs a few milliseconds. It is the parent of all tasks, so that it can
tell their exit codes, signal them without a race and clean up after them: when its control
connection reaches its end, for whatever reason, it kills everything it started and ends too.

Messages are JSON lines. In: `start` (with one file descriptor for the task's output) and `signal`.
Out: `started`, `refused` and `exited`. `discovery.simulator.runtime` is the other side.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from discovery.simulator import app, userland_proxy

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_HELD_BACK = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}  # until a child has its handlers in place
_SETTLE_POLL_S = 0.02
_RELAY_END_S = 1.0
_SHUTDOWN_S = 3.0


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the lifeline alone has to do."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def shown_exit_code(wait_status: int) -> int:
    """The exit code as a container shows it: 128 + n when signal n ended the process."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def group_alive(group: int) -> bool:
    """Whether any process is left in the process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(slots=True)
class _Child:
    """A task: its process (leader of a group of the same id) and the relay in front of it, if any."""

    pid: int
    relay: int = 0
    exit_code: int | None = None
    stopping: bool = False  # a signal was sent that lets it end in its own time
    relay_deadline: float = 0.0


class Zygote:
    """`run` serves the control socket until its end, then leaves no process behind."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        self._relays: dict[int, _Child] = {}
        self._received = b""
        self._outputs: list[int] = []
        self._lifeline_r, self._lifeline_w = os.pipe()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        os.set_blocking(self._wake_r, False)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        try:
            while True:
                settling = any(child.exit_code is not None for child in self._children.values())
                timeout_s = _SETTLE_POLL_S if settling else None
                readable, _, _ = select.select([self._control.fileno(), self._wake_r], [], [], timeout_s)
                if self._wake_r in readable:
                    os.read(self._wake_r, 4096)
                if self._control.fileno() in readable and not self._receive():
                    return
                self._reap()
        except (BrokenPipeError, ConnectionResetError):  # the other side is gone
            return
        finally:
            self._shut_down()

    # Messages

    def _receive(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, 64 * 1024, 16)
        self._outputs += fds
        if not data:
            return False
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["do"] == "start":
                self._start(message)
            else:
                self._signal(message["pid"], message["number"])
        return True

    def _send(self, message: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")

    # Starting

    def _start(self, message: dict[str, Any]) -> None:
        output = self._outputs.pop(0)
        try:
            child = self._fork_task(message, output)
        except OSError as exc:
            self._send({"refused": message["id"], "why": str(exc)})
        else:
            self._children[child.pid] = child
            self._send({"started": message["id"], "pid": child.pid})
        finally:
            os.close(output)

    def _fork_task(self, message: dict[str, Any], output: int) -> _Child:
        command: list[str] = message["command"]
        environment: dict[str, str] = message["environment"]
        routes = [userland_proxy.Route(*route) for route in message["routes"]]
        if not command:
            return _Child(self._fork(output, lambda: app.run(environment, lifeline_fd=self._lifeline_r)))
        argv = ["/bin/sh", "-c", command[0]] if len(command) == 1 else command
        child = _Child(self._fork(output, lambda: _execute(argv, environment)))
        if routes:
            group = child.pid
            try:
                child.relay = self._fork(
                    output,
                    lambda: userland_proxy.run(routes, lifeline_fd=self._lifeline_r, group=group),
                )
            except OSError:
                _kill_group(group)
                raise
            self._relays[child.relay] = child
        return child

    def _fork(self, output: int, body: Callable[[], int]) -> int:
        """Fork a child in a process group of its own that runs *body* and exits with what it returns."""
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        pid = os.fork()
        if pid == 0:
            self._be_child(parent, output, body)
        # Both sides set it, so that neither a signal nor an exec can come before it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        return pid

    def _be_child(self, parent: int, output: int, body: Callable[[], int]) -> NoReturn:
        code = 1
        try:
            os.setpgid(0, 0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for fd in (self._lifeline_w, self._wake_r, self._wake_w):
                os.close(fd)
            nowhere = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nowhere, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(nowhere)
            os.close(output)
            code = body()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    # Stopping

    def _signal(self, pid: int, number: int) -> None:
        child = self._children.get(pid)
        if child is None:
            return  # it ended; the message that says so is on its way
        if number != signal.SIGKILL:
            child.stopping = True
            if child.relay:
                os.kill(child.relay, signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if child := self._children.get(pid):
                child.exit_code = shown_exit_code(status)
                if not child.stopping:
                    _kill_group(pid)  # as when process 1 of a container ends
            elif child := self._relays.pop(pid, None):
                child.relay = 0
                if child.exit_code is None:
                    _kill_group(child.pid)  # a program that cannot be reached is of no use
        for child in [child for child in self._children.values() if child.exit_code is not None]:
            self._settle(child)

    def _settle(self, child: _Child) -> None:
        """Report an exit once nothing of the task is left: its ports may be given away at once."""
        if group_alive(child.pid):
            return
        if child.relay:
            now = time.monotonic()
            if not child.relay_deadline:
                child.relay_deadline = now + _RELAY_END_S
                os.kill(child.relay, signal.SIGUSR1)
            elif now > child.relay_deadline:
                os.kill(child.relay, signal.SIGKILL)
            return
        del self._children[child.pid]
        self._send({"exited": child.pid, "code": child.exit_code})

    def _shut_down(self) -> None:
        """Kill all that is left, also what escaped its process group: we are its subreaper."""
        signal.set_wakeup_fd(-1)
        for child in self._children.values():
            _kill_group(child.pid)
        for relay in self._relays:
            os.kill(relay, signal.SIGKILL)
        deadline = time.monotonic() + _SHUTDOWN_S
        while time.monotonic() < deadline:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                for orphan in _own_children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(orphan, signal.SIGKILL)
                time.sleep(0.005)


def _execute(argv: list[str], environment: dict[str, str]) -> int:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would pass that on
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606
    except OSError as exc:
        sys.stderr.write(f"cannot run {argv[0]}: {exc.strerror}\n")
    return 127


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _own_children() -> list[int]:
    try:
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]
    except OSError:  # not Linux, or a kernel without it
        return []


def main() -> None:
    """`python -m discovery.simulator.zygote <descriptor of the control socket>`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    control.setblocking(True)
    gc.collect()
    gc.freeze()  # so that collections in the children do not copy the pages they share
    Zygote(control).run()


if __name__ == "__main__":
    main()
