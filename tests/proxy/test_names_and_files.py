"""Backends outside ECS through the whole of anyport: a name that changes, a file that is replaced."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path

import pytest

from tests.kit.anyport import Anyport
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.dns_server import dns_server
from tests.kit.eventually import eventually
from tests.kit.wire import response


def _ask(port: int, host: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.mark.asyncio
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_addresses_follow_their_name_and_their_file(tmp_path: Path) -> None:
    async with dns_server() as server:
        with (
            ScriptedBackend(answering(response(b"first")), host="127.0.0.1") as first,
            ScriptedBackend(answering(response(b"second")), host="127.0.0.2", port=first.port) as second,
        ):
            server.say("elb.test", "A", "127.0.0.1", ttl_s=1)
            services = tmp_path / "services.json"
            services.write_text(f'{{"service": [{{"name": "shop", "static": ["127.0.0.1:{first.port}"]}}]}}')
            config = (
                f'[dns]\nservers = ["127.0.0.1:{server.port}"]\n[file]\npath = "services.json"\n'
                f'[[service]]\nname = "web"\nhosts = ["web.test"]\ndns = ["elb.test:{first.port}"]\n'
                '[[service]]\nname = "shop"\nhosts = ["shop.test"]\n'
            )
            with Anyport(tmp_path, config, workers=1) as anyport:

                async def told(host: str) -> str:
                    return await asyncio.to_thread(_ask, anyport.port, host)

                async def says(host: str, text: str) -> bool:
                    return await told(host) == text

                await asyncio.to_thread(anyport.wait_ready)
                assert {await told("web.test"), await told("shop.test")} == {"first"}

                services.with_suffix(".new").write_text(
                    services.read_text().replace("127.0.0.1", "127.0.0.2")
                )
                services.with_suffix(".new").replace(services)
                server.say("elb.test", "A", "127.0.0.2", ttl_s=1)
                await eventually(lambda: says("web.test", "second"))
                await eventually(lambda: says("shop.test", "second"))
                rows = await asyncio.to_thread(anyport.table)
                assert sorted((r["service"], r["address"], r["state"]) for r in rows) == [
                    ("shop", f"127.0.0.2:{second.port}", "ready"),
                    ("web", f"127.0.0.1:{first.port}", "draining"),
                    ("web", f"127.0.0.2:{second.port}", "ready"),
                ]

                asked = len(server.asked)
                server.mood = "servfail"
                services.write_text("{")
                await eventually(lambda: len(server.asked) > asked + 2)
                status = await asyncio.to_thread(anyport.readyz)
                assert status["ready"]
                assert [await told(host) for host in ("web.test", "shop.test")] == ["second"] * 2
