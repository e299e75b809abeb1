"""What goes wrong between AWS and anyport, one fault after the other, under load: nobody notices.

No request fails that a live task could have served, and none is answered by another service. The numbers are
those of the fault list that the project works by. DNS names of backends are in `test_names_and_files`.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from discovery.simulator.faults import Fault
from discovery.simulator.ports import PortRange
from discovery.simulator.simulator import Simulator
from discovery.simulator.state import Task
from tests.kit.anyport import Anyport, free_port
from tests.kit.eventually import eventually

POLL_S = 0.3
TASKS = 3
SOME_POLLS_S = 1.5

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(120)]


class _User(threading.Thread):
    """Asks for one service without a pause, and keeps what was not its service's answer."""

    def __init__(self, port: int, service: str) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.answered = 0
        self.strangers: list[str] = []
        self.failures: list[object] = []
        self.last: dict[str, float] = {}  # by task, when the last request was sent that it answered
        self._port = port
        self._over = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._over.wait(0.003):
            sent_s = time.monotonic()
            try:
                connection.request("GET", "/", headers={"Host": f"{self.service}.test"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                self.failures.append(exc)
                continue
            owner = response.getheader("X-Service")
            if owner == self.service and response.status == 200:
                self.answered += 1
                self.last[response.getheader("X-Task", "")] = sent_s
            elif owner is not None:
                self.strangers.append(owner)
            else:
                self.failures.append((response.status, response.getheader("X-Anyport-Error")))
        connection.close()

    def stop(self) -> None:
        self._over.set()
        if self.ident is not None:
            self.join(30)


@dataclass
class Stage:
    simulator: Simulator
    anyport: Anyport
    users: dict[str, _User]

    def tasks(self, service: str) -> list[Task]:
        """Return the tasks of *service* that run and are to go on."""
        return [
            task
            for task in self.simulator.state.clusters["demo"].tasks.values()
            if task.group == f"service:{service}"
            and (task.last_status, task.desired_status) == ("RUNNING", "RUNNING")
        ]

    def scale(self, service: str, count: int) -> None:
        self.simulator.call("UpdateService", cluster="demo", service=service, desiredCount=count)

    def states(self, service: str) -> dict[str, str]:
        """Return the state of each row of *service* by task."""
        rows = self.anyport.table()
        return {row["task_arn"]: row["state"] for row in rows if row["service"] == service}

    def error(self) -> str:
        """Return what the source says is wrong, "" while all is well."""
        return str(self.anyport.readyz()["sources"][0]["error"])

    async def goes_on(self, length_s: float) -> None:
        """Return after *length_s*, and 20 more answers to everybody."""
        await asyncio.sleep(length_s)
        before = {name: user.answered for name, user in self.users.items()}
        await eventually(
            lambda: all(user.answered > before[name] + 20 for name, user in self.users.items()), within_s=20
        )

    def nobody_noticed(self, *but: str) -> None:
        """Assert that every request of every service, *but* these, was answered by its own service."""
        for name, user in self.users.items():
            assert user.strangers == []
            assert name in but or user.failures == []


@asynccontextmanager
async def _stage(
    folder: Path,
    *,
    counts: tuple[int, int] = (TASKS, TASKS),
    ports: PortRange | None = None,
    config: str = "",
    endpoint: Callable[[str], str] = str,
    environ: dict[str, str] | None = None,
) -> AsyncIterator[Stage]:
    """Run the services a and b behind a real anyport, each asked without a pause."""
    async with Simulator(speed=10, throttling=False, ports=ports) as simulator:
        await simulator.add_cluster("demo")
        await simulator.add_instance("demo")
        for name, count in zip("ab", counts, strict=True):
            _define(simulator, name, count)
        text = (
            f'[ecs]\nclusters = ["demo"]\ndomain = "test"\npoll_interval_s = {POLL_S}\ncall_timeout_s = 1\n'
            f'endpoint_url = "{endpoint(simulator.url)}"\nagent = "off"\n'
            f'[health]\npath = "/health"\ninterval_s = 0.5\ntimeout_s = 0.5\n{config}'
        )
        with Anyport(folder, text, environ={**simulator.environment, **(environ or {})}) as anyport:
            stage = Stage(simulator, anyport, {name: _User(anyport.port, name) for name in "ab"})

            def settled() -> bool:
                return all(
                    len(stage.tasks(name)) == count and list(stage.states(name).values()) == ["ready"] * count
                    for name, count in zip("ab", counts, strict=True)
                )

            try:
                await eventually(anyport.ready, within_s=30)
                await eventually(settled, within_s=30)
                for user in stage.users.values():
                    user.start()
                await eventually(
                    lambda: all(
                        stage.users[name].answered > 20
                        for name, count in zip("ab", counts, strict=True)
                        if count
                    ),
                    within_s=20,
                )
                yield stage
            finally:
                for user in stage.users.values():
                    user.stop()


def _define(simulator: Simulator, name: str, count: int) -> None:
    simulator.call(
        "RegisterTaskDefinition",
        family=name,
        containerDefinitions=[
            {
                "name": "app",
                "image": "anyport/app",
                "memory": 64,
                "essential": True,
                "portMappings": [{"containerPort": 8080}],
                "environment": [{"name": "LINGER_S", "value": "1.5"}],
            }
        ],
    )
    simulator.call(
        "CreateService", cluster="demo", serviceName=name, taskDefinition=name, desiredCount=count,
        launchType="EC2",
    )  # fmt: skip


# -- 36, 37, 39: the API does not answer, or with half an answer ----------------------------------------


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ([Fault(kind="throttle"), Fault(kind="error", status=500), Fault(kind="hang")], ""),
        ([Fault(kind="expired")], "credentials have expired"),
        (
            [
                Fault(kind="failed_page", page=1),
                Fault(kind="failures", operation="DescribeTasks", items=2, reason="INTERNAL"),
                Fault(kind="missing_fields", operation="DescribeTasks", fields=("tasks",)),
            ],
            "",
        ),
    ],
    ids=["36: no answer", "37: expired", "39: half an answer"],
)
async def test_an_api_in_trouble_takes_nothing_away_and_is_followed_again_afterwards(
    tmp_path: Path, faults: list[Fault], said: str
) -> None:
    async with _stage(tmp_path) as stage:
        for fault in faults:
            number = stage.simulator.faults.add(fault)
            await stage.goes_on(SOME_POLLS_S)
            if said:
                await eventually(lambda: said in stage.error(), within_s=30)
            stage.simulator.faults.clear(number)
        assert len(stage.states("a")) == len(stage.states("b")) == TASKS
        assert stage.anyport.ready(), "the last table still serves"
        stage.scale("a", TASKS + 1)
        await eventually(lambda: list(stage.states("a").values()) == ["ready"] * (TASKS + 1), within_s=60)
        await eventually(lambda: stage.error() == "", within_s=30)
    stage.nobody_noticed()


# -- 38: an answer that is empty -----------------------------------------------------------------------


async def test_38_an_empty_answer_is_believed_only_when_the_service_is_really_scaled_to_nothing(
    tmp_path: Path,
) -> None:
    async with _stage(tmp_path) as stage:
        stage.simulator.faults.empty("ListTasks")
        stage.simulator.faults.failures("DescribeTasks", items=100)
        await stage.goes_on(12)  # longer than it takes to confirm that tasks are missing
        assert len(stage.states("a")) == TASKS
        stage.simulator.faults.clear()
        await stage.goes_on(SOME_POLLS_S)
        stage.nobody_noticed()
        stage.scale("a", 0)
        await eventually(lambda: not stage.states("a"), within_s=30)
        await eventually(lambda: bool(stage.users["a"].failures), within_s=20)
    assert all(failure[0] == 503 for failure in _answers(stage.users["a"].failures))
    stage.nobody_noticed("a")


def _answers(failures: Iterable[object]) -> list[tuple[int, str]]:
    return [failure for failure in failures if isinstance(failure, tuple)]


# -- 40, 41: somebody else at the address -----------------------------------------------------------------


async def test_40_who_has_taken_over_a_port_gets_no_request_for_the_one_before_though_the_api_is_silent(
    tmp_path: Path,
) -> None:
    """The only host port goes from a to b while the API hangs; answers prove whose they are.

    What is known is older than two polls by then, so that a new connection has to prove whose it is first.
    Nobody asks for a meanwhile: else a refused connection would have given it away.
    """
    port = free_port()
    identity = 'identity_header = "X-Service"\n'
    async with _stage(tmp_path, counts=(1, 0), ports=PortRange(port, port), config=identity) as stage:
        (task,) = stage.tasks("a")
        stage.simulator.faults.hang()
        await eventually(lambda: _age_s(stage.anyport) > 4 * POLL_S, within_s=20)
        stage.users["a"].stop()
        stage.nobody_noticed("b")
        stage.scale("a", 0)
        await stage.simulator.kill_task(task.arn)
        await eventually(lambda: not stage.tasks("a"), within_s=20)
        stage.scale("b", 1)
        await eventually(lambda: bool(stage.tasks("b")), within_s=20)
        # What answers at the address of a now is b.
        user = stage.users["a"] = _User(stage.anyport.port, "a")
        user.start()
        await eventually(lambda: len(user.failures) > 200 or bool(user.strangers), within_s=30)
        assert (user.answered, user.strangers) == (0, [])
        stage.simulator.faults.clear()
        await eventually(lambda: list(stage.states("b").values()) == ["ready"], within_s=30)
        before = stage.users["b"].answered
        await eventually(lambda: stage.users["b"].answered > before + 20, within_s=20)
    stage.nobody_noticed("a", "b")


def _age_s(anyport: Anyport) -> float:
    """Return how old the knowledge of the cluster is."""
    return float(anyport.readyz()["sources"][0]["age_s"])


async def test_41_of_two_that_claim_one_address_the_newer_has_it_and_the_other_gets_nothing(
    tmp_path: Path,
) -> None:
    async with _stage(tmp_path) as stage:
        older, newer = stage.tasks("a")[0], stage.tasks("b")[0]
        newer.started_at = max(newer.started_at, older.started_at + 1)
        older.containers[0].bindings = list(newer.containers[0].bindings)
        for task in (older, newer):
            task.version += 1
        await eventually(lambda: stage.states("a").get(older.arn) == "down", within_s=20)
        await stage.goes_on(SOME_POLLS_S)
        (row,) = [row for row in stage.anyport.table() if row["task_arn"] == older.arn]
        assert newer.arn.rpartition("/")[2][:8] in row["reason"] or newer.arn in row["reason"]
        assert stage.states("b")[newer.arn] == "ready"
    stage.nobody_noticed()


# -- 42, 43: a task that is gone, and one that is going ------------------------------------------------------


async def test_42_a_task_that_is_dead_while_the_api_says_it_runs(tmp_path: Path) -> None:
    async with _stage(tmp_path) as stage:
        stage.simulator.faults.stale(3600)
        dead = stage.tasks("a")[0]
        await stage.simulator.kill_task(dead.arn)
        killed_s = time.monotonic()
        await eventually(lambda: stage.states("a").get(dead.arn) == "down", within_s=20)
        await stage.goes_on(SOME_POLLS_S)
        assert stage.users["a"].last[dead.arn] < killed_s + 1
    stage.nobody_noticed()


async def test_43_a_task_that_is_told_to_stop_ends_what_it_has_and_gets_nothing_new(tmp_path: Path) -> None:
    async with _stage(tmp_path) as stage:
        under_way = [asyncio.create_task(asyncio.to_thread(_slow, stage.anyport.port)) for _ in range(9)]
        await asyncio.sleep(0.2)  # of a second that they take
        stopping = stage.tasks("a")[0]
        stage.simulator.call("StopTask", cluster="demo", task=stopping.arn)
        await eventually(lambda: stage.states("a").get(stopping.arn) == "draining", within_s=20)
        told_s = time.monotonic()
        answers = await asyncio.gather(*under_way)
        assert {status for status, _ in answers} == {200}
        assert stopping.arn in {task for _, task in answers}
        await eventually(lambda: stopping.last_status == "STOPPED", within_s=20)
        await stage.goes_on(0)
        assert stage.users["a"].last[stopping.arn] < told_s + 0.3
    stage.nobody_noticed()


def _slow(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/slow?ms=1000", headers={"Host": "a.test"})
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("X-Task", "")
    finally:
        connection.close()


# -- 59: no DNS ----------------------------------------------------------------------------------------------

_RESOLVER = """
import os, socket
_ask = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    if host != "ecs.anyport.test":
        return _ask(host, *rest, **more)
    if os.path.exists({gone!r}):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _ask("127.0.0.1", *rest, **more)
socket.getaddrinfo = getaddrinfo
"""


async def test_59_the_name_of_the_api_does_not_resolve(tmp_path: Path) -> None:
    gone, hook = tmp_path / "gone", tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_RESOLVER.format(gone=str(gone)))

    def by_name(url: str) -> str:
        return url.replace("127.0.0.1", "ecs.anyport.test")

    async with _stage(tmp_path, endpoint=by_name, environ={"PYTHONPATH": str(hook)}) as stage:
        gone.touch()
        # A connection that is open needs no name: so those that are there must come to nothing.
        hanging = stage.simulator.faults.hang()
        await eventually(lambda: "cannot reach" in stage.error(), within_s=30)
        stage.simulator.faults.clear(hanging)
        await stage.goes_on(SOME_POLLS_S)
        assert len(stage.states("a")) == TASKS
        assert "cannot reach" in stage.error()
        gone.unlink()
        stage.scale("a", TASKS + 1)
        await eventually(lambda: list(stage.states("a").values()) == ["ready"] * (TASKS + 1), within_s=60)
    stage.nobody_noticed()
