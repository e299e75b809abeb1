"""What was known is known again after a restart, for as long as it may be; a bad file is set aside."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from discovery import keep
from discovery.ecs import shapes
from discovery.ecs.disk import Disk
from discovery.ecs.ledger.ledger import Ledger
from discovery.model import SourceStatus
from tests.kit import ecs_json as j

NOW_S = 1_800_000_000.0


class Proxy:
    """A ledger with its disk; time stands still between two `seconds`."""

    def __init__(
        self, folder: Path, *, started_at: float = NOW_S, cluster: str = "prod", **more: Any
    ) -> None:
        self.monotonic_s = 50.0  # a machine that has just booted: knowledge may be older than it
        self.wall_s = started_at
        self.ledger = Ledger(clock=lambda: self.monotonic_s, wall_clock=lambda: self.wall_s)
        self.status = SourceStatus()
        self.heard: list[tuple[bool, float | None]] = []
        self.ticks = asyncio.Semaphore(0)
        self.idle = asyncio.Event()
        self.disk = Disk(
            self.ledger, self.hear, folder=str(folder), cluster=cluster, where="eu-west-1",
            status=self.status, clock=lambda: self.monotonic_s, wall_clock=lambda: self.wall_s,
            sleep=self._sleep, **more,
        )  # fmt: skip
        self._running = asyncio.create_task(self.disk.run())

    def hear(self, *, complete: bool = False, asked_s: float | None = None) -> None:
        self.heard.append((complete, asked_s))
        if complete:
            self.status.asked_s = self.monotonic_s if asked_s is None else asked_s

    async def _sleep(self, seconds: float) -> None:
        self.idle.set()
        await self.ticks.acquire()

    async def loaded(self) -> None:
        await asyncio.wait_for(self.idle.wait(), 20)

    async def seconds(self, count: int) -> None:
        await self.loaded()
        for _ in range(count):
            self.idle.clear()
            self.monotonic_s += 1.0
            self.wall_s += 1.0
            self.ticks.release()
            await self.loaded()

    async def stop(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    def learn(self) -> None:
        self.ledger.hear_definition(shapes.task_definition(j.definition()))
        self.ledger.hear_instance(shapes.container_instance(j.instance()))
        self.ledger.hear_address(j.ec2_id(1), "10.0.0.1")
        self.ledger.hear_task(shapes.task(j.task(1)), by="api")
        self.hear(complete=True)

    def tasks(self) -> list[str]:
        return sorted(task.arn for task in self.ledger.tasks())


async def a_file(folder: Path) -> Path:
    before = Proxy(folder)
    await before.loaded()
    before.learn()
    await before.seconds(4)
    await before.stop()
    assert before.disk.path.exists()
    return before.disk.path


@pytest.mark.asyncio
async def test_what_was_known_is_known_after_a_restart_and_as_old_as_it_is(tmp_path: Path) -> None:
    await a_file(tmp_path)

    after = Proxy(tmp_path, started_at=NOW_S + 100)
    await after.loaded()

    assert after.tasks() == [j.task_arn(1)]
    assert after.ledger.addresses == {j.ec2_id(1): "10.0.0.1"}
    assert set(after.ledger.definitions) == {j.definition_arn("web:42")}
    assert after.heard == [(True, pytest.approx(after.monotonic_s - 100))]
    assert after.ledger.told(j.task_arn(1))[0].by == "disk"
    await after.stop()


@pytest.mark.asyncio
@pytest.mark.parametrize("age_s", [901.0, -3600.0])
async def test_tasks_that_may_have_changed_since_are_not_used_and_definitions_are(
    tmp_path: Path, age_s: float
) -> None:
    await a_file(tmp_path)

    after = Proxy(tmp_path, started_at=NOW_S + age_s)
    await after.loaded()

    assert after.tasks() == []
    assert after.heard == []
    assert set(after.ledger.definitions) == {j.definition_arn("web:42")}
    await after.stop()


@pytest.mark.asyncio
async def test_beside_a_table_that_is_newer_only_definitions_are_used(tmp_path: Path) -> None:
    """A control process that starts again has the workers' table: a task that has left it is gone."""
    await a_file(tmp_path)

    after = Proxy(tmp_path, started_at=NOW_S + 1, needed=lambda: False)
    await after.loaded()

    assert after.tasks() == []
    assert after.heard == []
    assert set(after.ledger.definitions) == {j.definition_arn("web:42")}
    await after.stop()


@pytest.mark.asyncio
async def test_news_is_believed_before_the_disk(tmp_path: Path) -> None:
    await a_file(tmp_path)

    after = Proxy(tmp_path, started_at=NOW_S + 10)
    after.ledger.hear_gone(j.task_arn(1), by="api")
    after.ledger.hear_task(shapes.task(j.task(2)), by="api")
    after.hear(complete=True)
    await after.loaded()

    assert after.tasks() == [j.task_arn(2)]
    assert after.status.asked_s == after.monotonic_s
    await after.stop()


@pytest.mark.asyncio
async def test_an_outage_does_not_make_what_is_kept_any_younger(tmp_path: Path) -> None:
    """A proxy that is started again and again while ECS is silent must not renew what it has only read."""
    await a_file(tmp_path)
    for number in range(1, 4):
        again = Proxy(tmp_path, started_at=NOW_S + 200 * number)
        await again.seconds(90)
        await again.stop()

    after = Proxy(tmp_path, started_at=NOW_S + 901)
    await after.loaded()

    assert after.tasks() == []
    await after.stop()


@pytest.mark.asyncio
async def test_what_is_confirmed_again_and_again_stays_young_on_disk(tmp_path: Path) -> None:
    before = Proxy(tmp_path)
    await before.loaded()
    before.learn()
    for _ in range(40):
        await before.seconds(50)
        before.hear(complete=True)
    await before.stop()

    after = Proxy(tmp_path, started_at=before.wall_s + 100)
    await after.loaded()

    assert after.tasks() == [j.task_arn(1)]
    assert after.monotonic_s - (after.status.asked_s or 0) < 100 + 120
    await after.stop()


@pytest.mark.asyncio
async def test_many_changes_are_few_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    monkeypatch.setattr(keep, "save", lambda path, payload: writes.append(path))
    proxy = Proxy(tmp_path)
    await proxy.loaded()
    proxy.hear(complete=True)
    for number in range(30):
        proxy.ledger.hear_task(shapes.task(j.task(number + 1)), by="events")
        await proxy.seconds(1)

    assert 5 <= len(writes) <= 11
    await proxy.stop()


@pytest.mark.asyncio
async def test_half_an_answer_does_not_replace_a_whole_one(tmp_path: Path) -> None:
    path = await a_file(tmp_path)
    content = path.read_bytes()

    after = Proxy(tmp_path, started_at=NOW_S + 5000)
    await after.loaded()
    after.ledger.hear_task(shapes.task(j.task(7)), by="api")
    await after.seconds(100)

    assert path.read_bytes() == content
    await after.stop()


def _said(**more: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = keep.load(path, most_bytes=1 << 20)
        assert content is not None
        raw = orjson.loads(zlib.decompress(content))
        keep.save(path, zlib.compress(orjson.dumps({**raw, **more})))

    return change


def _garbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_garbled, "checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "bytes"),
        (lambda path: path.write_bytes(b"not ours"), "not written by anyport"),
        (lambda path: path.chmod(0o644), "mode is 0644"),
        (lambda path: keep.save(path, b"not compressed"), "not compressed"),
        (lambda path: keep.save(path, zlib.compress(b"[]")), "not an object"),
        (_said(version=2), "version 2"),
        (_said(cluster="staging eu-west-1"), "another cluster"),
        (_said(cluster="prod us-east-1"), "another cluster"),
        (_said(confirmed_at="today"), "when it was confirmed"),
        (_said(facts={"tasks": [{}]}), "missing"),
    ],
)
async def test_a_bad_file_is_set_aside_and_told_of(
    tmp_path: Path, spoil: Callable[[Path], object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = await a_file(tmp_path)
    spoil(path)

    after = Proxy(tmp_path, started_at=NOW_S + 10)
    await after.loaded()

    assert (after.tasks(), after.ledger.definitions, after.heard) == ([], {}, [])
    assert why in after.disk.trouble
    assert "Traceback" not in caplog.text
    (aside,) = os.scandir(tmp_path)
    assert ".kept.bad-" in aside.name
    assert aside.name in after.disk.trouble
    after.learn()
    await after.seconds(4)
    assert path.exists()
    assert after.disk.trouble == ""
    await after.stop()


@pytest.mark.asyncio
async def test_a_disk_that_fails_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("a file where the folder should be")
    proxy = Proxy(blocked)
    await proxy.loaded()
    proxy.learn()
    for number in range(5):
        proxy.ledger.hear_task(shapes.task(j.task(number + 10)), by="api")
        await proxy.seconds(5)

    told = [record for record in caplog.records if "cannot write" in record.getMessage()]
    assert len(told) == 1
    assert "a restart will have to do without" in proxy.disk.trouble
    blocked.unlink()
    proxy.ledger.hear_task(shapes.task(j.task(20)), by="api")
    await proxy.seconds(5)
    assert proxy.disk.trouble == ""
    assert proxy.disk.path.exists()
    await proxy.stop()


@pytest.mark.asyncio
async def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await a_file(tmp_path)
    content = path.read_bytes()
    proxy = Proxy(tmp_path, started_at=NOW_S + 10)
    await proxy.loaded()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    proxy.ledger.hear_task(shapes.task(j.task(2)), by="api")
    await proxy.seconds(5)

    assert "No space left on device" in proxy.disk.trouble
    assert path.read_bytes() == content
    await proxy.stop()


@pytest.mark.asyncio
async def test_clusters_of_one_name_have_files_of_their_own(tmp_path: Path) -> None:
    status = SourceStatus()
    paths = {
        Disk(Ledger(), lambda **_: None, folder=str(tmp_path), cluster=name, where=where, status=status).path
        for name, where in [
            ("prod", ""), ("prod", "eu-west-1"), ("prod", "us-east-1"), ("prod/", "x"), ("../prod", "x"),
            ("prod", "https://ecs.test"),
        ]
    }  # fmt: skip

    assert len(paths) == 6
    assert {path.parent for path in paths} == {tmp_path}


@pytest.mark.asyncio
async def test_nothing_secret_is_on_disk(tmp_path: Path) -> None:
    path = await a_file(tmp_path)
    content = keep.load(path, most_bytes=1 << 20)
    assert content is not None

    assert path.stat().st_mode & 0o777 == 0o600
    assert b"hunter2" not in zlib.decompress(content)
    assert b"DATABASE_PASSWORD" not in zlib.decompress(content)
