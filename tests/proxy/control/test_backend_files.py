"""Files for TLS to backends are followed: a usable change goes on, the rest is said and changes nothing."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
import trustme

from discovery.model import Service, Tls
from proxy.backend_tls import fingerprint
from proxy.control.backend_files import BackendFiles
from tests.kit.eventually import eventually
from tests.kit.pki import authority_file


class Looks:
    """A `sleep` that lasts until the test wants the next look."""

    def __init__(self) -> None:
        self.asleep = 0
        self._turns: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, _seconds: float) -> None:
        self.asleep += 1
        await self._turns.get()

    async def once(self) -> None:
        """Let one look happen and return after it."""
        before = self.asleep
        self._turns.put_nowait(None)
        await eventually(lambda: self.asleep > before)


def read(path: str) -> str:
    return Path(path).read_text()


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def service(name: str, tls: Tls | None) -> Service:
    return Service(name=name, hosts=("*",), tls=tls)


def named(*services: Service) -> dict[str, Service]:
    return {one.name: one for one in services}


def test_services_get_their_names_and_share_what_their_files_hold(tmp_path: Path) -> None:
    ca = authority_file(tmp_path, trustme.CA())
    files = BackendFiles(on_change=lambda: None)
    found = files.settings(
        named(
            service("a", Tls(name="a.test", ca=ca)),
            service("b", Tls(name="b.test", ca=ca)),
            service("c", None),
        )
    )
    assert found.keys() == {"a", "b"}
    assert (found["a"].name, found["b"].name) == ("a.test", "b.test")
    assert found["a"].ca == ca
    assert found["a"].fingerprint == found["b"].fingerprint == fingerprint(found["a"])


@pytest.mark.asyncio
async def test_new_content_is_a_change_once(tmp_path: Path) -> None:
    ca = authority_file(tmp_path, trustme.CA())
    looks, changes = Looks(), []
    files = BackendFiles(on_change=lambda: changes.append(1), sleep=looks)
    services = named(service("a", Tls(name="a.test", ca=ca)))
    first = files.settings(services)["a"].fingerprint
    task = asyncio.create_task(files.run())
    await eventually(lambda: looks.asleep == 1)
    await looks.once()
    assert not changes

    authority_file(tmp_path, trustme.CA())
    await looks.once()
    await looks.once()
    assert len(changes) == 1
    assert files.settings(services)["a"].fingerprint not in ("", first)
    task.cancel()


@pytest.mark.asyncio
async def test_what_cannot_be_used_is_said_once_and_the_former_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = authority_file(tmp_path, trustme.CA())
    good = read(ca)
    looks, changes = Looks(), []
    files = BackendFiles(on_change=lambda: changes.append(1), sleep=looks)
    services = named(service("a", Tls(name="a.test", ca=ca)))
    before = files.settings(services)
    task = asyncio.create_task(files.run())
    await eventually(lambda: looks.asleep == 1)
    caplog.set_level(logging.ERROR, "anyport.control")
    write(ca, good[:100])
    await looks.once()
    await looks.once()
    os.unlink(ca)
    await looks.once()
    assert files.settings(services) == before
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("what they held before stays in use" in line for line in said)
    assert "holds no certificate" in said[0]
    assert "there is no file" in said[1]

    write(ca, good)
    await looks.once()
    assert not changes, "it is what the workers have"
    task.cancel()


@pytest.mark.asyncio
async def test_files_that_come_later_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "anyport.control")
    looks, changes = Looks(), []
    files = BackendFiles(on_change=lambda: changes.append(1), sleep=looks)
    services = named(service("a", Tls(name="a.test", ca=str(tmp_path / "ca.pem"))))
    assert files.settings(services)["a"].fingerprint == ""
    assert "their services cannot be reached" in caplog.text
    task = asyncio.create_task(files.run())
    await eventually(lambda: looks.asleep == 1)
    authority_file(tmp_path, trustme.CA())
    await looks.once()
    assert changes
    assert files.settings(services)["a"].fingerprint
    task.cancel()


@pytest.mark.asyncio
async def test_files_of_a_service_that_left_are_not_looked_at_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "anyport.control")
    ca = authority_file(tmp_path, trustme.CA())
    looks = Looks()
    files = BackendFiles(on_change=lambda: None, sleep=looks)
    files.settings(named(service("a", Tls(name="a.test", ca=ca))))
    files.settings({})
    os.unlink(ca)
    task = asyncio.create_task(files.run())
    await eventually(lambda: looks.asleep == 1)
    await looks.once()
    assert not caplog.records
    task.cancel()
