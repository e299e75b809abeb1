"""Waiting for something to become true, with a deadline and without guessing how long it takes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path


async def eventually(holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = 10.0) -> None:
    """Return as soon as *holds* does; AssertionError after *within_s*."""
    deadline = time.monotonic() + within_s
    while True:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {holds}")
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
