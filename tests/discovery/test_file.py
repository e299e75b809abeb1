"""Files that others write: replaced, written in place, half written, broken, and gone."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from discovery import file
from discovery.file import GONE_S, BadFile, FileSource, Listed
from discovery.loops import OwnAddresses
from discovery.model import Problem, Service, Snapshot
from tests.kit.eventually import eventually

NEVER_S = 3600.0


def parse(path: str, data: bytes) -> Sequence[Listed]:
    """Read {"service": ["ip:port", ...]}; "service!" is the same service, described otherwise."""
    try:
        found = json.loads(data)
    except ValueError:
        raise BadFile([Problem(f"file {path}", "is not JSON")]) from None
    listed = []
    for name, addresses in found.items():
        pairs = [address.rpartition(":") for address in addresses]
        places = [(host.strip("[]"), int(port)) for host, _, port in pairs]
        listed.append((Service(name=name.rstrip("!"), hosts=(f"{name}.test",)), places))
    return listed


class Play:
    """A source that looks when it is told to, and the newest that it has said."""

    def __init__(self, path: Path, **options: object) -> None:
        self._ahead_s = 0.0
        self.said: list[Snapshot] = []
        self.looks = 0
        self.source = FileSource(
            str(path),
            parse,
            is_own=OwnAddresses([("0.0.0.0", 8080)]),
            clock=lambda: time.monotonic() + self._ahead_s,
            wall=lambda: 1_700_000_000.0,
            look_s=NEVER_S,
            **options,  # type: ignore[arg-type]
        )

    @property
    def addresses(self) -> dict[str, list[str]]:
        return {name: [e.address for e in some] for name, some in self.said[-1].by_service.items()}

    @property
    def problems(self) -> list[str]:
        return [problem.what for problem in self.said[-1].problems]

    async def look(self, *, later_s: float = 1.0) -> None:
        """Return after one more look, *later_s* later."""
        self._ahead_s += later_s
        before = self.looks
        self.source.hurry()
        await eventually(lambda: self.looks > before)


@asynccontextmanager
async def following(path: Path, **options: object) -> AsyncIterator[Play]:
    play = Play(path, **options)
    account = play.source._account

    def counted(asked_s: float) -> None:
        account(asked_s)
        asyncio.get_running_loop().call_soon(count)  # after it has been said

    def count() -> None:
        play.looks += 1

    play.source._account = counted  # type: ignore[method-assign]

    async def listen() -> None:
        async for snapshot in play.source.watch():
            play.said.append(snapshot)

    listening = asyncio.create_task(listen())
    try:
        await eventually(lambda: play.looks > 0)
        yield play
        assert not listening.done(), "the source has ended"
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


def replace(path: Path, text: str) -> None:
    """Write *path* as programs do that care: beside it, then in its place."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


ONE, TWO = '{"web": ["10.0.0.1:80"]}', '{"web": ["10.0.0.2:80", "[::1]:80"], "shop": ["10.0.0.3:80"]}'


@pytest.mark.asyncio
async def test_what_a_file_says_is_known_at_once_and_after_it_has_been_replaced(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text(ONE)
    async with following(path) as play:
        assert play.addresses == {"web": ["10.0.0.1:80"]}
        assert play.said[-1].complete
        (endpoint,) = play.said[-1].endpoints
        assert (endpoint.task_arn, endpoint.container, endpoint.source) == (
            "file:10.0.0.1:80",
            "file",
            "file",
        )
        (told,) = play.source.told("file:10.0.0.1:80")
        assert (told.by, told.what, told.at_s) == ("file", str(path), 1_700_000_000.0)

        replace(path, TWO)
        await play.look()
        assert play.addresses == {"shop": ["10.0.0.3:80"], "web": ["10.0.0.2:80", "[::1]:80"]}


@pytest.mark.asyncio
async def test_a_file_that_is_written_in_place_is_read_when_it_holds_still(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text(TWO)
    async with following(path) as play:
        for text in ("", '{"web": []}', '{"web": ["10.0.0.9:80"]}'):
            path.write_text(text)  # on its way to the last one, each may be seen
            await play.look()
            assert "shop" in play.addresses, "it was different a moment ago"
        await play.look()
        assert play.addresses == {"web": ["10.0.0.9:80"]}


@pytest.mark.asyncio
async def test_a_broken_file_removes_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text(ONE)
    async with following(path) as play:
        replace(path, '{"web": [')
        await play.look()
        assert play.addresses == {"web": ["10.0.0.1:80"]}
        assert play.problems == ["is not JSON"]
        assert play.source.status.last_error == f"file {path}: is not JSON"
        refreshes, said = play.source.status.refreshes, len(play.said)
        await play.look()
        assert play.source.status.errors == {"malformed": 1}, "once, and not at each look"
        assert (play.source.status.refreshes, len(play.said)) == (refreshes, said)

        replace(path, TWO)
        await play.look()
        assert (len(play.addresses), play.problems) == (2, [])
        assert play.source.status.last_error == ""


@pytest.mark.asyncio
async def test_files_in_a_folder_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(ONE)
    (tmp_path / "b.json").write_text('{"shop": ["10.0.0.3:80"], "web": ["10.0.0.1:80", "10.0.0.4:80"]}')
    (tmp_path / ".c.json").write_text('{"hidden": ["10.0.0.9:80"]}')
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "lost.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.json").mkdir()
    async with following(tmp_path) as play:
        both = {"shop": ["10.0.0.3:80"], "web": ["10.0.0.1:80", "10.0.0.4:80"]}
        assert play.addresses == both
        (tmp_path / "b.json").unlink()
        await play.look()
        await play.look(later_s=GONE_S - 1.0)
        assert play.addresses == both, "for a moment it may only be on its way"
        await play.look(later_s=2.0)
        assert play.addresses == {"web": ["10.0.0.1:80"]}
        assert play.said[-1].services.keys() == {"web"}


@pytest.mark.asyncio
async def test_a_file_that_comes_back_has_never_been_gone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(ONE)
    path = tmp_path / "b.json"
    path.write_text('{"shop": ["10.0.0.3:80"]}')
    async with following(tmp_path) as play:
        path.unlink()
        await play.look()
        path.write_text('{"shop": ["10.0.0.3:80"]}')
        await play.look()
        path.unlink()
        await play.look(later_s=GONE_S + 1.0)
        assert "shop" in play.addresses


@pytest.mark.asyncio
@pytest.mark.parametrize("folder", [True, False])
async def test_where_nothing_is_left_what_was_said_still_counts(tmp_path: Path, folder: bool) -> None:
    """A disk that was taken away looks just like this."""
    path = tmp_path / "services.json"
    path.write_text(ONE)
    async with following(tmp_path if folder else path) as play:
        path.unlink()
        for _ in range(3):
            await play.look(later_s=GONE_S)
        assert play.addresses == {"web": ["10.0.0.1:80"]}
        assert "still counts" in play.problems[0]
        replace(path, "{}")
        await play.look()
        await play.look()  # the file system may have given it the number of the one that is gone
        assert (play.addresses, play.problems) == ({}, [])


@pytest.mark.asyncio
async def test_before_it_exists_nothing_has_been_answered(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    async with following(path) as play:
        assert not play.said[-1].complete
        assert play.problems == ["does not exist"]
        assert play.source.status.last_success_s is None
        path.write_text("{")
        await play.look()
        assert not play.said[-1].complete
        replace(path, ONE)
        await play.look()
        assert play.said[-1].complete


@pytest.mark.asyncio
async def test_an_empty_folder_is_an_answer(tmp_path: Path) -> None:
    async with following(tmp_path) as play:
        assert play.said[-1].complete
        assert (play.addresses, play.problems) == ({}, [])


@pytest.mark.asyncio
async def test_a_file_that_cannot_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "services.json"
    path.write_text(ONE)
    async with following(path) as play:
        with monkeypatch.context() as patch:
            patch.setattr(file, "BYTES_MAX", 10)
            replace(path, TWO)
            await play.look()
            assert play.addresses == {"web": ["10.0.0.1:80"]}
            assert "larger than" in play.problems[0]
        await play.look()
        assert (len(play.addresses), play.problems) == (2, [])


@pytest.mark.asyncio
async def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    os.mkfifo(path)
    async with following(path) as play:
        assert "neither a file nor a folder" in play.problems[0]
        assert not play.said[-1].complete


@pytest.mark.asyncio
async def test_two_files_that_describe_one_service_differently(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(ONE)
    (tmp_path / "b.json").write_text('{"web!": ["10.0.0.2:80"]}')
    async with following(tmp_path) as play:
        assert play.addresses == {"web": ["10.0.0.1:80"]}
        (problem,) = play.said[-1].problems
        assert problem.where == f"file {tmp_path / 'b.json'}, service web"
        assert f"is described otherwise in {tmp_path / 'a.json'}" in problem.what


@pytest.mark.asyncio
async def test_this_very_proxy_is_no_backend(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text('{"web": ["127.0.0.1:8080", "127.0.0.1:8081"]}')
    async with following(path) as play:
        assert play.addresses == {"web": ["127.0.0.1:8081"]}
        assert "this very proxy" in play.problems[0]


@pytest.mark.asyncio
async def test_services_of_the_configuration_are_known_without_an_address(tmp_path: Path) -> None:
    web = Service(name="web", hosts=("web.test",))
    async with following(tmp_path, services=[web]) as play:
        assert play.said[-1].services == {"web": web}
        (tmp_path / "a.json").write_text(ONE)
        await play.look()
        assert play.addresses == {"web": ["10.0.0.1:80"]}


@pytest.mark.asyncio
async def test_what_did_not_change_is_the_same_object(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text(TWO)
    async with following(path) as play:
        replace(path, TWO.replace("10.0.0.2", "10.0.0.8"))
        await play.look()
        before, after = play.said[-2:]
        assert after.by_service["shop"] is before.by_service["shop"]
        assert after.by_service["web"] != before.by_service["web"]
        said = len(play.said)
        replace(path, TWO.replace("10.0.0.2", "10.0.0.8") + " ")
        await play.look()
        assert len(play.said) == said


@pytest.mark.asyncio
async def test_a_bug_in_reading_is_reported_and_removes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "services.json"
    path.write_text(ONE)
    async with following(path) as play:
        replace(path, '{"web": 7}')
        await play.look()
        assert play.addresses == {"web": ["10.0.0.1:80"]}
        assert play.problems == ["internal error (TypeError), see the log"]
    assert "what it said last still stands" in caplog.text


@pytest.mark.asyncio
async def test_a_change_is_seen_without_being_told(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text(ONE)
    said: list[Snapshot] = []
    source = FileSource(str(path), parse, is_own=OwnAddresses([]), look_s=0.05)

    async def listen(heard: Callable[[Snapshot], None]) -> None:
        async for snapshot in source.watch():
            heard(snapshot)

    listening = asyncio.create_task(listen(said.append))
    await eventually(lambda: len(said) == 1)
    replace(path, TWO)
    await eventually(lambda: len(said) == 2)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
