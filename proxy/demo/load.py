"""The users' process: `python -m proxy.demo.load PLAN`, JSON lines on standard output.

It ends when its standard input does: on a wish of the demo, and when the demo is gone.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable
from typing import Final

from proxy.demo.tally import Failure, Tick
from proxy.demo.users import HttpUser, Log, SocketUser
from proxy.demo.wire import Plan, decode_plan, encode_report

REPORT_EVERY_S: Final = 0.25


async def play(plan: Plan, ended: asyncio.Event, report: Callable[[Tick | Failure], None]) -> None:
    """Play every user of *plan* until *ended*; each finishes what it has begun."""
    log = Log(report)
    seeds = random.Random()
    async with asyncio.TaskGroup() as group:
        users = []
        for target in plan.targets:
            for number in range(1, target.http_users + 1):
                user = HttpUser(
                    f"{target.service}-http-{number}",
                    target,
                    plan.url,
                    log,
                    think_s=plan.think_s,
                    rng=random.Random(seeds.random()),
                )
                users.append(group.create_task(user.run(ended)))
            for number in range(1, target.socket_users + 1):
                chatter = SocketUser(
                    f"{target.service}-socket-{number}",
                    target,
                    plan.url,
                    log,
                    rng=random.Random(seeds.random()),
                )
                users.append(group.create_task(chatter.run(ended)))
        while not all(user.done() for user in users):
            await asyncio.wait(users, timeout=REPORT_EVERY_S)
            report(log.take())


async def _main(plan: Plan) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    lifeline = sys.stdin.fileno()

    def listen() -> None:
        if not os.read(lifeline, 4096):
            loop.remove_reader(lifeline)
            ended.set()

    loop.add_reader(lifeline, listen)

    def report(what: Tick | Failure) -> None:
        # A pipe to the demo, which reads all the time: the write does not wait.
        sys.stdout.buffer.write(encode_report(what))
        sys.stdout.buffer.flush()

    await play(plan, ended, report)


if __name__ == "__main__":
    try:
        asyncio.run(_main(decode_plan(sys.argv[1])))
    except BrokenPipeError:
        sys.exit(1)  # the demo is gone
