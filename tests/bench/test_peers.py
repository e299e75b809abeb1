"""The contestants' configurations: whatever a case changes in them must still be there to be changed."""

from __future__ import annotations

from pathlib import Path

import h11
import pytest

from bench import peers, throughput
from bench.harness import HERE
from bench.routing import world
from proxy.config import load
from proxy.link.cells import Cells
from proxy.policy.backends import Table


@pytest.mark.parametrize("name", peers.CONFIG)
def test_each_peer_can_be_put_behind_tls(name: str, tmp_path: Path) -> None:
    text = (HERE / peers.CONFIG[name]).read_text()
    secured = peers.changed(text, peers.SECURED[name], tmp_path)
    assert f"{tmp_path}/c" in secured
    assert "FOLDER" not in secured


def test_haproxy_keeps_sessions_for_the_sticky_case(tmp_path: Path) -> None:
    text = (HERE / peers.CONFIG["haproxy"]).read_text()
    assert "cookie" not in text
    assert peers.changed(text, peers.WITH_SESSIONS["haproxy"], tmp_path).count("cookie") == 3


def test_a_configuration_that_has_changed_its_words_is_noticed(tmp_path: Path) -> None:
    for text in ("", "listen 1; listen 1;"):
        with pytest.raises(ValueError, match="listen 1"):
            peers.changed(text, {"listen 1": "listen 2"}, tmp_path)


def test_configuration_of_anyport_is_valid(tmp_path: Path) -> None:
    config = load(peers.PLAIN, {})
    assert config.workers == 1
    assert len(config.service[0].static) == len(peers.BACKEND_PORTS)


def test_the_request_of_the_small_case_is_the_one_that_wrk_sends() -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(throughput.request())
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    headers = dict(event.headers)
    assert headers[b"host"] == b"bench.example.com"
    assert len(headers[b"cookie"]) > 128
    assert {b"user-agent", b"accept", b"referer", b"sec-fetch-mode"} <= set(headers)
    assert b"content-type" not in headers


@pytest.mark.parametrize(("backends", "services"), [(10, 1), (10, 100), (100, 10)])
def test_a_world_has_what_its_size_says(backends: int, services: int) -> None:
    table = Table(lambda slot: Cells(memoryview(bytearray(8 * 128)).cast("q")))
    table.apply(world(backends, services))
    found = [table.router.find(f"service-{n}.example.com".encode(), b"/") for n in range(services)]
    assert sum(len(service.eligible) for service in found if service is not None) == backends
