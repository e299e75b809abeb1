"""The notice of a Spot interruption, on the simulator's instance metadata."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from discovery.ecs.instance.spot import SpotFeed, read_notice
from discovery.ecs.ledger.ledger import Ledger
from discovery.identity import Identity
from discovery.simulator.agent import InstanceServers
from discovery.simulator.state import Instance
from discovery.whoami import Whoami
from tests.kit.eventually import eventually

CLUSTER = "arn:aws:ecs:eu-west-1:111122223333:cluster/prod"
ID = "i-0a1b2c3d"


class Place:
    """An instance, and the feed that watches what becomes of it."""

    def __init__(self) -> None:
        self.instance = Instance("arn:ci", ID, CLUSTER, "127.0.61.33", "eu-west-1b", 1e9)
        self.servers = InstanceServers(self.instance, lambda: (), "eu-west-1")
        self.ledger = Ledger()
        self.whoami = Whoami.told(Identity(ec2_id=ID))
        self.heard = 0
        self.told: list[tuple[str, str]] = []

    def feed(self, **environ: str) -> SpotFeed:
        return SpotFeed(
            self.ledger,
            self._hear,
            whoami=self.whoami,
            tell=lambda ec2_id, notice: self.told.append((ec2_id, notice)),
            environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.instance.imds_url, **environ},
            interval_s=0.01,
        )

    def _hear(self, *, complete: bool = False, asked_s: float | None = None) -> None:
        assert not complete
        self.heard += 1

    def notice(self) -> str:
        return self.ledger.notices.get(ID, "")


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    await place.servers.start()
    yield place
    await place.servers.stop()


@pytest.mark.asyncio
async def test_a_notice_is_told_and_taken_back(place: Place) -> None:
    watching = asyncio.create_task(place.feed().run())
    for action in ("terminate", "stop", "hibernate"):
        place.servers.spot_notice(action, 2e9)
        await eventually(lambda a=action: place.notice() == f"Spot interruption: {a}")  # type: ignore[misc]
    heard = place.heard
    assert heard == 3
    place.servers.spot_notice(None)
    await eventually(lambda: place.notice() == "")
    actions = ("terminate", "stop", "hibernate")
    assert place.told == [*((ID, f"Spot interruption: {action}") for action in actions), (ID, "")]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_notice_that_an_event_has_told_of_stays(place: Place) -> None:
    place.ledger.hear_notice(ID, "Spot interruption: terminate")
    watching = asyncio.create_task(place.feed().run())
    place.servers.spot_notice("stop")
    await eventually(lambda: place.notice() == "Spot interruption: stop")
    await place.servers.stop()  # no word is no news
    await asyncio.sleep(0.05)
    assert place.notice() == "Spot interruption: stop"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    place.ledger.hear_notice(ID, "Spot interruption: terminate")
    await place.servers.start()
    place.servers.spot_notice(None)
    watching = asyncio.create_task(place.feed().run())
    await asyncio.sleep(0.05)
    assert place.notice() == "Spot interruption: terminate"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.asyncio
async def test_it_ends_where_imds_is_switched_off(place: Place) -> None:
    await asyncio.wait_for(place.feed(AWS_EC2_METADATA_DISABLED="true").run(), 5)


@pytest.mark.asyncio
async def test_nobody_is_asked_on_a_machine_that_has_not_said_what_it_is(place: Place) -> None:
    place.whoami = Whoami.told(Identity())
    place.servers.spot_notice("terminate")
    watching = asyncio.create_task(place.feed().run())
    await asyncio.sleep(0.05)
    assert place.notice() == ""
    place.whoami.learn(Identity(ec2_id=ID))
    await eventually(lambda: place.notice() == "Spot interruption: terminate")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"action": "dance"}', b'{"action": ["stop"]}', b"\xff"]
)
def test_nonsense_is_no_notice(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_notice(body)
    assert read_notice(None) == ""
