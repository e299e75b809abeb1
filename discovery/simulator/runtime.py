"""What dockerd is to an agent: starts tasks as real processes, signals them, says how they ended.

The processes themselves belong to a zygote (see `discovery.simulator.zygote`). Whatever happens to
this process, the zygote sees its end of the control socket close, and no process is left behind.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

_KEPT_LINES = 50
_LINE_BYTES = 4096  # a longer line of output is cut
_OUTPUT_END_S = 0.2  # how long an exit waits for the rest of the output
_EARLY_EXIT_S = 1.0  # a command that ends sooner has most likely never worked
_KILLED = 137
# Below the ports the kernel gives to outgoing connections, so that none of them is in the way.
_INNER_PORTS = range(20000, 32768)


class RuntimeFailure(Exception):
    """A process could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One published port of a task: host:port outside is container_port inside."""

    host: str
    port: int
    container_port: int


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process of a task.

    An empty command is the built-in app, which listens on every host:port itself. One string is a
    line for `sh -c`, several are an argv; such a program must listen on 127.0.0.1:$PORT (or, with
    several ports, $PORT_<container port>), and a relay listens on host:port for it.
    """

    name: str  # prefix of its output
    command: tuple[str, ...]
    environment: Mapping[str, str]
    listen: tuple[PortSpec, ...]


@dataclass(slots=True)
class _Process:
    spec: ProcessSpec
    inner_ports: tuple[int, ...]
    started_s: float
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    pid: int = 0
    signalled: bool = False  # its end is no surprise
    announced: bool = False  # the caller of `start` knows the pid
    output_ended: bool = False
    exit_code: int | None = None
    reported: bool = False


class Runtime:
    """Async context manager around all task processes.

    `on_exit(pid, exit code)` is called in the event loop once nothing of a task is left and its
    ports are free; never before `start` has returned that pid, and not for what `__aexit__` kills.
    `on_output(name, line)` gets every line a task prints.
    """

    def __init__(
        self,
        *,
        on_exit: Callable[[int, int], None],
        on_output: Callable[[str, str], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._on_exit = on_exit
        self._on_output = on_output
        self._rng = rng or random.Random()
        self._zygote: _ZygoteLink | None = None
        self._processes: dict[int, _Process] = {}
        self._starting: dict[int, tuple[_Process, asyncio.Future[int]]] = {}
        self._ids = itertools.count(1)
        self._outputs: set[asyncio.BaseTransport] = set()
        self._no_outputs = asyncio.Event()
        self._no_outputs.set()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._zygote = _ZygoteLink(self._on_message, self._on_zygote_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._zygote is not None:
            zygote, self._zygote = self._zygote, None
            await zygote.end()
        self._fail_starting("the simulator is stopping")
        self._processes.clear()
        for transport in tuple(self._outputs):
            transport.close()
        await self._no_outputs.wait()

    async def start(self, spec: ProcessSpec) -> int:
        """Start the process; returns its pid once it exists, which is before it listens.

        Raises RuntimeFailure when the machine can start no more.
        """
        process, routes, environment = self._prepare(spec)
        read_fd, write_fd = os.pipe()
        try:
            await self._collect_output(process, read_fd)
            zygote = self._link()
            number = next(self._ids)
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._starting[number] = (process, done)
            zygote.send(
                {
                    "do": "start",
                    "id": number,
                    "command": spec.command,
                    "environment": environment,
                    "routes": routes,
                },
                write_fd,
            )
        finally:
            os.close(write_fd)
        pid = await done
        process.announced = True
        if process.exit_code is not None:
            asyncio.get_running_loop().call_soon(self._report_exit, process)
        return pid

    def signal(self, pid: int, number: int) -> None:
        """Send signal *number* to the whole task. Nothing happens if it has ended."""
        if self._zygote is not None and pid in self._processes:
            self._processes[pid].signalled = True
            self._zygote.send({"do": "signal", "pid": pid, "number": number})

    def output(self, pid: int) -> tuple[str, ...]:
        """The last lines a running (or just now ending) process printed."""
        process = self._processes.get(pid)
        return tuple(process.lines) if process else ()

    # Starting

    def _link(self) -> _ZygoteLink:
        if self._closed:
            raise RuntimeFailure("the simulator is stopping")
        if self._zygote is None:  # it was killed: its tasks are gone, the next ones get a new one
            self._zygote = _ZygoteLink(self._on_message, self._on_zygote_end)
        return self._zygote

    def _prepare(self, spec: ProcessSpec) -> tuple[_Process, list[tuple[str, int, int]], dict[str, str]]:
        started_s = asyncio.get_running_loop().time()
        environment = {**os.environ, **spec.environment}
        if not spec.command:
            environment["HOST"] = ",".join(port.host for port in spec.listen)
            environment["PORT"] = ",".join(str(port.port) for port in spec.listen)
            return _Process(spec, (), started_s), [], environment
        inner: list[int] = []
        for _ in spec.listen:
            inner.append(self._free_port(set(inner)))
        environment["HOST"] = "127.0.0.1"
        for port, number in zip(spec.listen, inner, strict=True):
            environment.setdefault(f"PORT_{port.container_port}", str(number))
        if inner:
            environment["PORT"] = str(inner[0])
        routes = [(port.host, port.port, number) for port, number in zip(spec.listen, inner, strict=True)]
        return _Process(spec, tuple(inner), started_s), routes, environment

    def _free_port(self, taken: set[int]) -> int:
        taken = taken.union(*(process.inner_ports for process in self._processes.values()))
        for _ in range(1000):
            port = self._rng.choice(_INNER_PORTS)
            if port not in taken and _can_bind(port):
                return port
        raise RuntimeFailure(
            f"no free port from {_INNER_PORTS.start} to {_INNER_PORTS.stop - 1} on 127.0.0.1"
        )

    async def _collect_output(self, process: _Process, read_fd: int) -> None:
        def ended(transport: asyncio.BaseTransport) -> None:
            self._outputs.discard(transport)
            if not self._outputs:
                self._no_outputs.set()
            process.output_ended = True
            self._report_exit(process)

        def line(text: str) -> None:
            process.lines.append(text)
            if self._on_output is not None:
                self._on_output(process.spec.name, text)

        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: _Lines(line, ended), os.fdopen(read_fd, "rb", buffering=0)
        )
        self._outputs.add(transport)
        self._no_outputs.clear()

    # What the zygote says

    def _on_message(self, message: dict[str, Any]) -> None:
        if "started" in message:
            process, done = self._starting.pop(message["started"])
            process.pid = message["pid"]
            self._processes[process.pid] = process
            if done.cancelled():  # nobody will ever ask for it
                process.announced = process.reported = True
                self.signal(process.pid, 9)
            else:
                done.set_result(process.pid)
        elif "refused" in message:
            _, done = self._starting.pop(message["refused"])
            if not done.cancelled():
                done.set_exception(RuntimeFailure(message["why"]))
        else:
            process = self._processes[message["exited"]]
            process.exit_code = message["code"]
            if process.reported:
                del self._processes[process.pid]
            elif process.output_ended:
                self._report_exit(process)
            else:
                asyncio.get_running_loop().call_later(_OUTPUT_END_S, self._report_exit, process, True)

    def _report_exit(self, process: _Process, output_or_not: bool = False) -> None:
        ready = process.announced and process.exit_code is not None
        if not ready or process.reported or not (process.output_ended or output_or_not) or self._closed:
            return
        assert process.exit_code is not None
        process.reported = True
        lived_s = asyncio.get_running_loop().time() - process.started_s
        if not process.signalled and (process.exit_code not in (0, _KILLED) or lived_s < _EARLY_EXIT_S):
            log.warning(
                "%s exited with code %d after %.1f s. %s",
                process.spec.name,
                process.exit_code,
                lived_s,
                "Its last output:\n  " + "\n  ".join(process.lines)
                if process.lines
                else "It printed nothing.",
            )
        try:
            self._on_exit(process.pid, process.exit_code)
        finally:
            self._processes.pop(process.pid, None)

    def _on_zygote_end(self) -> None:
        self._zygote = None
        if self._closed:
            return
        self._fail_starting("the process that starts tasks was killed")
        for process in tuple(self._processes.values()):
            process.exit_code = _KILLED
            self._report_exit(process, True)

    def _fail_starting(self, why: str) -> None:
        for _, done in self._starting.values():
            if not done.done():
                done.set_exception(RuntimeFailure(why))
        self._starting.clear()


class _ZygoteLink:
    """A zygote process and the control socket to it."""

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._received = b""
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            # -P: nothing in the user's folder may stand in for a module of ours. A session of its
            # own: Ctrl-C in a terminal must reach the simulator only, which then stops the tasks.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "discovery.simulator.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    def send(self, message: dict[str, Any], *fds: int) -> None:
        """Messages are small and answered in milliseconds; a zygote that takes none has been stopped."""
        data = json.dumps(message).encode() + b"\n"
        try:
            sent = socket.send_fds(self._socket, [data], fds)
            if sent < len(data):
                self._send_rest(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            return  # `_read` sees the end and reports it

    def _send_rest(self, data: bytes) -> None:
        """A start message larger than the socket's buffer: wait, as no other may come in between."""
        self._socket.setblocking(True)
        try:
            self._socket.sendall(data)
        finally:
            self._socket.setblocking(False)

    def _read(self) -> None:
        try:
            data = self._socket.recv(64 * 1024)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._process.wait()  # it has closed its socket, so this is the end of it
            self._on_end()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))

    async def end(self) -> None:
        """Close the socket and wait until the zygote has killed its children and is gone."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        await asyncio.to_thread(self._process.wait)


class _Lines(asyncio.Protocol):
    """The output of one process, line by line."""

    def __init__(
        self, on_line: Callable[[str], None], on_end: Callable[[asyncio.BaseTransport], None]
    ) -> None:
        self._on_line = on_line
        self._on_end = on_end
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line[:_LINE_BYTES].decode(errors="replace"))
        if len(self._rest) > _LINE_BYTES:
            self._on_line(self._rest[:_LINE_BYTES].decode(errors="replace"))
            self._rest = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._on_line(self._rest.decode(errors="replace"))
        assert self._transport is not None
        self._on_end(self._transport)


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
