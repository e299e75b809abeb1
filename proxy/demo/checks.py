"""The container health checks of the operator's programs, which on a real instance Docker would run.

Without one ECS takes a task for healthy as soon as its process exists, and stops the old tasks of a
deploy before the new ones listen: an outage that no proxy can hide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

CHECK_EVERY_S: Final = 0.1
HEALTHY_AFTER_S: Final = 1.25  # of answering; on AWS it is 5 s at least, the shortest interval of a check


class Address(NamedTuple):
    """Where a running task that is not yet healthy ought to answer."""

    task_arn: str
    host: str
    port: int


async def accepts(address: Address) -> bool:
    """Return whether a connection to *address* is accepted."""
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def check(
    unhealthy: Callable[[], Iterable[Address]],
    say_healthy: Callable[[str], None],
    *,
    answers: Callable[[Address], Awaitable[bool]] = accepts,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Say of each task that it is healthy once it has answered for `HEALTHY_AFTER_S`; until cancelled."""
    since_s: dict[str, float] = {}
    while True:
        waiting = list(unhealthy())
        # A task whose listener is up once is not asked again: every question is a line in its log.
        for address in waiting:
            if address.task_arn not in since_s and await answers(address):
                since_s[address.task_arn] = clock()
        still = {address.task_arn for address in unhealthy()}
        for arn in sorted(still & since_s.keys()):
            if clock() - since_s[arn] >= HEALTHY_AFTER_S:
                say_healthy(arn)
        since_s = {arn: at_s for arn, at_s in since_s.items() if arn in still}
        await sleep(CHECK_EVERY_S)
