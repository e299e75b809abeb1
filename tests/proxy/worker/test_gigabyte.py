"""A gigabyte in either direction, its beginning read slowly: every byte arrives, the worker does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.bulk import PATTERN, bulk_backend, consume, expected, produce, read_slowly
from tests.kit.stage import Stage, staged
from tests.kit.wire import request
from tests.kit.workers import WorkerProcess

GIGABYTE = 1_000_000_000
GROWTH_BYTES_MAX = 8_000_000
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bulk_port() -> Iterator[int]:
    with bulk_backend() as port:
        yield port


@pytest.fixture
def alone(bulk_port: int) -> Iterator[Stage]:
    """A stage before the bulk backend, on a worker of its own: its memory is that of this test."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        stage.route(bulk_port)
        assert stage.ask(request("/length/5")).body == PATTERN[:5]  # what a first request loads is there
        yield stage


def _memory_bytes(stage: Stage, field: str) -> int:
    """Return VmRSS, what the worker has in memory, or VmHWM, the most it ever had."""
    process = stage.worker.process
    assert process is not None
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_gigabyte_down(alone: Stage, framing: str) -> None:
    before_bytes = _memory_bytes(alone, "VmRSS")
    client = alone.client(receive_buffer_bytes=1_000_000)
    client.keep_received = False
    client.send(request(f"/{framing}/{GIGABYTE}"))
    head = client.read_head()
    assert head.chunked == (framing == "chunked")
    read_slowly(client)
    assert consume(client, GIGABYTE, chunked=head.chunked) == expected(GIGABYTE)
    assert _memory_bytes(alone, "VmHWM") - before_bytes < GROWTH_BYTES_MAX


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_gigabyte_up(alone: Stage, framing: str) -> None:
    before_bytes = _memory_bytes(alone, "VmRSS")
    client = alone.client()
    chunked = framing == "chunked"
    line = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {GIGABYTE}"
    client.send(request("/", line, method="POST"))
    produce(client.sock, GIGABYTE, chunked=chunked)
    assert client.read_response().body.decode() == str(expected(GIGABYTE))
    assert _memory_bytes(alone, "VmHWM") - before_bytes < GROWTH_BYTES_MAX
