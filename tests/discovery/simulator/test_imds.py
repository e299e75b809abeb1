"""Instance metadata: version 2 only, and botocore's own fetcher as an independent client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from botocore.utils import InstanceMetadataRegionFetcher

from discovery.simulator.agent import InstanceServers
from discovery.simulator.state import Instance

TTL = "X-aws-ec2-metadata-token-ttl-seconds"


class Place:
    """One instance's metadata service, with a clock to turn."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.now = 1767323045.0
        self.instance = Instance(
            "arn:ci",
            "i-0a1b2c3d",
            "arn:aws:ecs:eu-west-1:111122223333:cluster/prod",
            "127.0.61.4",
            "eu-west-1b",
            1e9,
        )
        self.servers = InstanceServers(self.instance, lambda: (), "eu-west-1", clock=lambda: self.now)
        self._client = client

    async def token(self, ttl_s: str = "60", **headers: str) -> tuple[int, str]:
        url = f"{self.instance.imds_url}/latest/api/token"
        async with self._client.put(url, headers={TTL: ttl_s, **headers}) as answer:
            return answer.status, await answer.text()

    async def get(self, path: str, token: str) -> tuple[int, str]:
        headers = {"X-aws-ec2-metadata-token": token}
        async with self._client.get(f"{self.instance.imds_url}/latest/{path}", headers=headers) as answer:
            return answer.status, await answer.text()


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    async with aiohttp.ClientSession() as client:
        place = Place(client)
        await place.servers.start()
        yield place
        await place.servers.stop()


@pytest.mark.asyncio
async def test_who_and_where(place: Place) -> None:
    _, token = await place.token()
    for path, said in {
        "meta-data/instance-id": "i-0a1b2c3d",
        "meta-data/local-ipv4": "127.0.61.4",
        "meta-data/placement/availability-zone": "eu-west-1b",
        "meta-data/placement/region": "eu-west-1",
        "meta-data/placement/": "availability-zone\nregion",
    }.items():
        assert await place.get(path, token) == (200, said), path
    status, document = await place.get("dynamic/instance-identity/document", token)
    assert status == 200
    assert '"accountId": "111122223333"' in document
    assert '"instanceId": "i-0a1b2c3d"' in document
    assert (await place.get("meta-data/iam/security-credentials/", token))[0] == 404


@pytest.mark.asyncio
async def test_no_answer_without_a_valid_token(place: Place) -> None:
    assert (await place.get("meta-data/instance-id", "made-up"))[0] == 401
    _, token = await place.token("60")
    place.now += 61
    assert (await place.get("meta-data/instance-id", token))[0] == 401


@pytest.mark.asyncio
@pytest.mark.parametrize("ttl_s", ["0", "21601", "", "x", "-1"])
async def test_a_token_needs_a_life_time(place: Place, ttl_s: str) -> None:
    assert (await place.token(ttl_s))[0] == 400


@pytest.mark.asyncio
async def test_no_token_through_a_proxy(place: Place) -> None:
    assert (await place.token(**{"X-Forwarded-For": "192.0.2.1"}))[0] == 403


@pytest.mark.asyncio
async def test_a_spot_notice_comes_and_goes(place: Place) -> None:
    _, token = await place.token()
    assert (await place.get("meta-data/spot/instance-action", token))[0] == 404
    place.servers.spot_notice("terminate", 1767323165.0)
    assert await place.get("meta-data/spot/instance-action", token) == (
        200,
        '{"action": "terminate", "time": "2026-01-02T03:06:05Z"}',
    )
    place.servers.spot_notice(None)
    assert (await place.get("meta-data/spot/instance-action", token))[0] == 404


@pytest.mark.asyncio
async def test_botocore_finds_the_region(place: Place) -> None:
    fetcher = InstanceMetadataRegionFetcher(base_url=place.instance.imds_url + "/", num_attempts=1)
    assert await asyncio.to_thread(fetcher.retrieve_region) == "eu-west-1"
