"""The demo's child processes: anyport itself and the users."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from proxy.demo.lifeline import tied

_LINE_BYTES: Final = 1 << 20


def environment(inherited: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return *inherited* without what steers AWS clients or anyport, and with *extra*.

    The demo must neither reach the operator's AWS account nor stumble over his overrides.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith(("AWS_", "ANYPORT_"))}
    return {**kept, **extra}


@asynccontextmanager
async def child(
    *command: str,
    env: Mapping[str, str],
    log: Path,
    stop_within_s: float,
    pipes: bool = False,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run *command* while the context lasts, in a process group of its own, so that Ctrl-C is ours alone.

    Its standard error, and without *pipes* its standard output, go to the file *log*. At the end it
    gets SIGTERM, and after *stop_within_s* SIGKILL with its whole group.
    """
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *tied(*command),
            stdin=asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if pipes else sink,
            stderr=sink,
            env=dict(env),
            limit=_LINE_BYTES,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await _stop(process, stop_within_s)


async def _stop(process: asyncio.subprocess.Process, within_s: float) -> None:
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(_end(process), within_s)
    # Whatever the leader left behind; the group's number is not reused while a member lives.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for the end, reading what is still in the pipe: a full one would keep the child alive."""
    if process.stdin is not None:
        process.stdin.close()
    if process.stdout is not None:
        while await process.stdout.read(_LINE_BYTES):
            pass
    await process.wait()


def tail(log: Path, lines: int = 20) -> str:
    """Return the last *lines* of a log file."""
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


async def until(condition: Callable[[], bool], *, within_s: float, every_s: float = 0.05) -> bool:
    """Return True as soon as *condition* holds, False if it does not within *within_s*."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while not condition():
        if loop.time() >= deadline_s:
            return False
        await asyncio.sleep(every_s)
    return True
