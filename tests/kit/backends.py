"""A backend on a real socket that does what its script says, well-behaved or not, and records everything."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.kit.wire import TIMEOUT_S, Message, Truncated, Wire, response

Script = Callable[["Visit"], None]


class Visit(Wire):
    """One accepted connection, as a script sees it."""

    def __init__(self, sock: socket.socket, backend: ScriptedBackend, number: int) -> None:
        super().__init__(sock)
        self.backend = backend
        self.number = number  # of this connection, from 0

    def read_request(self) -> Message:
        message = super().read_request()
        self.backend.requests.append(message)
        return message


class ScriptedBackend:
    """Accepts connections on *host* and runs *script* on each, in a thread of its own.

    When the script returns, the connection is closed. What it received is in `visits[i].received`. With *tls*
    the script begins after the handshake, and not at all if that fails.
    """

    def __init__(
        self,
        script: Script,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        receive_buffer_bytes: int = 0,
        backlog: int = 128,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self._tls = tls
        self.requests: list[Message] = []
        self.visits: list[Visit] = []
        self.failures: list[BaseException] = []  # a script that raised: a bug in the test
        self.going = threading.Event()  # scripts that stall wait for it; set by `close` at the latest
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer_bytes:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._listener.bind((host, port))
        self._listener.listen(backlog)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def touched(self) -> int:
        """How many connections have brought at least one byte."""
        return sum(1 for visit in self.visits if visit.received)

    def stop_listening(self) -> None:
        """Refuse connections from now on; those there are stay."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()

    def close(self) -> None:
        self.going.set()
        self.stop_listening()
        self._acceptor.join(5)
        for visit in self.visits:
            with contextlib.suppress(OSError):
                visit.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for visit in self.visits:
            visit.close()
        assert not self.failures, f"a script failed: {self.failures!r}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            visit = Visit(sock, self, len(self.visits))
            self.visits.append(visit)
            thread = threading.Thread(target=self._run, args=(visit,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, visit: Visit) -> None:
        try:
            if self._tls is not None:
                shake_hands(visit, self._tls)
            self.script(visit)
        except (OSError, Truncated):
            pass  # the proxy has closed, or `close` did: the usual end of a keep-alive loop
        except BaseException as exc:
            self.failures.append(exc)
        finally:
            visit.close()


def shake_hands(visit: Visit, context: ssl.SSLContext) -> None:
    """Begin TLS on *visit*; if that fails, end so that the other side can read the alert, and raise."""
    sock = context.wrap_socket(visit.sock, server_side=True, do_handshake_on_connect=False)
    visit.sock = sock
    try:
        sock.do_handshake()
    except ssl.SSLError:
        visit.sock = socket.socket(fileno=sock.detach())
        visit.sock.settimeout(TIMEOUT_S)
        visit.sock.shutdown(socket.SHUT_WR)
        while visit.sock.recv(65_536):
            pass
        raise


def answering(make: Callable[[Message], bytes] | bytes | None = None) -> Script:
    """Return a script that answers every request on a kept connection.

    *make* is the answer, or a function from the request to it; by default the target comes back.
    """

    def script(visit: Visit) -> None:
        while True:
            request = visit.read_request()
            if isinstance(make, bytes):
                visit.send(make)
            elif make is not None:
                visit.send(make(request))
            else:
                visit.send(response(request.start.split(b" ")[1]))

    return script


def after_request(*steps: bytes) -> Script:
    """Return a script that reads one request, sends *steps* one by one and closes (FIN)."""

    def script(visit: Visit) -> None:
        visit.read_request()
        for step in steps:
            visit.send(step)

    return script


def resetting(*steps: bytes) -> Script:
    """Return a script that reads one request, sends *steps* and ends the connection with RST."""

    def script(visit: Visit) -> None:
        visit.read_request()
        for step in steps:
            visit.send(step)
        if steps:
            drain_send_queue(visit.sock)
        visit.reset()

    return script


def drain_send_queue(sock: socket.socket) -> None:
    """Return once the other side's kernel has everything: a reset would throw the rest away."""
    import fcntl  # noqa: PLC0415
    import termios  # noqa: PLC0415

    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]:
        threading.Event().wait(0.001)


def stalling(*steps: bytes) -> Script:
    """Return a script that reads one request, sends *steps* and then says nothing more."""

    def script(visit: Visit) -> None:
        visit.read_request()
        for step in steps:
            visit.send(step)
        visit.backend.going.wait(30)

    return script


def refused_port() -> int:
    """Return a port of 127.0.0.1 where nothing listens.

    It is bound for a moment only; the kernel does not hand it out again soon.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
