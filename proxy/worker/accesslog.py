"""One JSON line per finished request, written in batches and never waited for."""

from __future__ import annotations

import os
import select
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from proxy.link import scoreboard as sb

_LINES_MAX: Final = 2_000  # kept while nobody reads; beyond that lines are dropped and counted
_PIPE_ATOMIC_BYTES: Final = 4096  # POSIX PIPE_BUF: a writable pipe takes this much without blocking


def now() -> str:
    """Return the time of a line, in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AccessLogWriter:
    """Lines to the descriptor *fd*. A reader that stalls costs lines, not requests."""

    def __init__(self, fd: int, head: memoryview[int]) -> None:
        self._head = head
        self._lines: list[bytes] = []
        self._rest = b""
        try:
            # A descriptor of our own for the same file: O_NONBLOCK on the shared one would reach
            # every process that writes to it.
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
            self._poll: select.poll | None = None
        except OSError:
            self._fd = os.dup(fd)  # a socket, or a pipe of another user: ask before each small write
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLOUT)

    def add(self, record: dict[str, Any]) -> None:
        """Take one finished request. Bytes that are not text arrive escaped, whatever they are."""
        if len(self._lines) >= _LINES_MAX:
            self._head[sb.LOG_LINES_DROPPED] += 1
            return
        self._lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write what the reader takes without blocking; the rest stays for the next call."""
        if not self._lines and not self._rest:
            return
        data = self._rest + b"".join(self._lines)
        self._lines.clear()
        try:
            while data:
                if self._poll is not None and not self._poll.poll(0):
                    break
                written = os.write(self._fd, data[:_PIPE_ATOMIC_BYTES] if self._poll is not None else data)
                data = data[written:]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self._head[sb.LOG_LINES_DROPPED] += data.count(b"\n")
            data = b""
        if data.count(b"\n") > _LINES_MAX:
            # Only whole lines are dropped, and never the one that is half written.
            keep = data.find(b"\n") + 1
            self._head[sb.LOG_LINES_DROPPED] += data.count(b"\n") - 1
            data = data[:keep]
        self._rest = data

    def close(self) -> None:
        self.flush()
        os.close(self._fd)
