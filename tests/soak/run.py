"""A soak: a whole anyport before backends that come and go, for a long time, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Final

from tests.kit.anyport import Anyport
from tests.kit.eventually import eventually
from tests.soak.clients import CROWD, World, visit_again
from tests.soak.evidence import Evidence, at_rest, series

ROOT: Final = Path(__file__).resolve().parent.parent.parent
KILL_AT: Final = 0.2  # of the run: a worker dies so early that its successor's memory has settled in time
REQUESTS_PER_S_MIN: Final = 50  # far below what is intended; fewer prove nothing
_RELOAD_S: Final = 4.0
_RESTART_S: Final = 3.0
_AWAY_S: Final = 1.0
_SETTLE_S: Final = 60.0
_BASELINE_LOOKS: Final = 20
_CONFIG: Final = """
[[service]]
name = "steady"
hosts = ["steady.test"]
static = [{steady}]
[[service]]
name = "rude"
hosts = ["rude.test"]
static = [{rude}]
[[service]]
name = "churn"
hosts = ["churn.test"]
static = [{churn}]
[health]
interval_s = 2.0
[timeouts]
client_idle_s = 3.0
upstream_idle_s = 2.0
linger_s = 1.0
drain_s = 5.0
stall_restart_s = 30.0
"""


class BackendProcess:
    """A backend on a port that stays the same however often it is killed."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.backend", str(self.port)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Soak:
    """One run of *for_s* seconds; *say* takes a line now and then on how it goes."""

    def __init__(
        self,
        folder: Path,
        for_s: float,
        *,
        say: Callable[[str], object] = lambda _: None,
        random: Random | None = None,
    ) -> None:
        self._for_s = for_s
        self._say = say
        self._random = random or Random(1)
        self.evidence = Evidence(requests_min=int(for_s * REQUESTS_PER_S_MIN))
        self._folder = folder
        self._stop = asyncio.Event()

    def run(self) -> Evidence:
        """Do it all and return what was seen."""
        with ExitStack() as stack:
            backends = [stack.enter_context(_backend()) for _ in range(6)]
            self._steady, self._rude, self._churn = backends[:2], backends[2:3], backends[3:]
            config = _CONFIG.format(
                steady=_addresses(self._steady),
                rude=_addresses(self._rude),
                churn=_addresses(self._churn),
            )
            self._anyport = stack.enter_context(Anyport(self._folder, config))
            self._anyport.wait_ready()
            asyncio.run(self._run())
            self.evidence.log = self._anyport.log
        return self.evidence

    async def _run(self) -> None:
        self._world = World(self._anyport.port, self._random)
        for _ in range(_BASELINE_LOOKS):  # health checks come and go
            for name, count in self._descriptors().items():
                self.evidence.baseline[name] = max(count, self.evidence.baseline.get(name, 0))
            await asyncio.sleep(0.1)
        until_s = time.monotonic() + self._for_s
        async with asyncio.TaskGroup() as tasks:
            for visit, count, pause_s in CROWD:
                for _ in range(count):
                    tasks.create_task(visit_again(self._world, visit, pause_s, self._stop))
            for work in (self._reload, self._restart, self._kill_worker):
                tasks.create_task(work())
            await self._watch(until_s)
            self._stop.set()
        await self._settle()
        self.evidence.wrong = self._world.wrong
        self.evidence.requests = self._world.requests

    # What happens to it

    async def _reload(self) -> None:
        while not await self._stopped_within(_RELOAD_S):
            self._configure(self._random.sample(self._churn, self._random.randint(1, len(self._churn))))

    async def _restart(self) -> None:
        while not await self._stopped_within(_RESTART_S):
            backend = self._random.choice(self._churn)
            await asyncio.to_thread(backend.kill)
            await self._stopped_within(_AWAY_S)
            await asyncio.to_thread(backend.start)

    async def _kill_worker(self) -> None:
        if await self._stopped_within(self._for_s * KILL_AT):
            return
        self._world.age += 1
        os.kill(self._anyport.children()["worker 0"], signal.SIGKILL)
        self._world.age += 1  # what was accepted between the two lines is lost as well
        self.evidence.killed += 1

    def _configure(self, churn: list[BackendProcess]) -> None:
        config = self._anyport.config
        head, mark, rest = config.read_text().partition('hosts = ["churn.test"]\n')
        config.write_text(
            head + mark + re.sub(r"static = .*", f"static = [{_addresses(churn)}]", rest, count=1)
        )
        self._anyport.process.send_signal(signal.SIGHUP)

    async def _stopped_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._stop.wait()
        except TimeoutError:
            return False

    # What is looked at

    async def _watch(self, until_s: float) -> None:
        """Measure the memory each second until the time has come."""
        told_s = time.monotonic()
        while time.monotonic() < until_s:
            for name, pid in self._processes().items():
                rss_bytes = _rss_bytes(pid)
                if rss_bytes:
                    self.evidence.memory.setdefault(name, []).append(rss_bytes)
            if time.monotonic() - told_s >= 30:
                told_s = time.monotonic()
                sizes = ", ".join(f"{name} {m[-1] / 1e6:.1f} MB" for name, m in self.evidence.memory.items())
                self._say(f"{until_s - told_s:.0f} s left, {self._world.requests} requests; {sizes}")
            await asyncio.sleep(1)

    async def _settle(self) -> None:
        """Wait until everything is as it was before, if it comes to that."""
        self._configure(self._churn)

        async def rests() -> bool:
            self.evidence.metrics = series(await asyncio.to_thread(self._anyport.metrics))
            self.evidence.left = self._descriptors()
            return at_rest(self.evidence.metrics) and all(
                self.evidence.left.get(name, count + 1) <= count
                for name, count in self.evidence.baseline.items()
            )

        with contextlib.suppress(AssertionError):  # what is not as before then is in the evidence
            await eventually(rests, within_s=_SETTLE_S)

    def _processes(self) -> dict[str, int]:
        return {"supervisor": self._anyport.process.pid, **self._anyport.children()}

    def _descriptors(self) -> dict[str, int]:
        return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in self._processes().items()}


@contextmanager
def _backend() -> Iterator[BackendProcess]:
    backend = BackendProcess()
    try:
        yield backend
    finally:
        backend.kill()


def _addresses(backends: list[BackendProcess]) -> str:
    return ", ".join(f'"127.0.0.1:{backend.port}"' for backend in backends)


def _rss_bytes(pid: int) -> int:
    """Return what the process has in memory; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
