"""Rule 8: the memory of a connection is bounded, whatever the sizes and speeds of the two sides."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit, answering
from tests.kit.stage import Stage, staged
from tests.kit.wire import request, response
from tests.kit.workers import WorkerProcess, wait_for

LARGE = 50_000_000
SMALL, SMALL_COUNT = 200_000, 30  # together more than the kernel buffers, each one read of the worker
GROWTH_BYTES_MAX = 12_000_000  # far below what one side leaves unread, far above noise


@pytest.fixture
def alone() -> Iterator[Stage]:
    """A stage on a worker of its own: its memory is that of this test."""
    with WorkerProcess() as worker, staged(worker, 1) as made:
        yield made


def _rss_bytes(stage: Stage) -> int:
    process = stage.worker.process
    assert process is not None
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096


def _settled_rss_bytes(stage: Stage) -> int:
    """Return the memory after a second of the worker's clock: whatever flows has had its time."""
    until_ms = stage.worker.head(sb.HEARTBEAT_MS) + 1_000
    wait_for(lambda: stage.worker.head(sb.HEARTBEAT_MS) >= until_ms, "a second")
    return _rss_bytes(stage)


def _large_response(framing: str) -> bytes:
    block = bytes(range(256)) * 256
    if framing == "chunked":
        chunk = b"%x\r\n%b\r\n" % (len(block), block)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + chunk * (LARGE // len(block)) + b"0\r\n\r\n"
    return response(block * (LARGE // len(block)))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_response_flows_at_the_speed_of_its_reader(alone: Stage, framing: str) -> None:
    """While nobody reads, the backend waits too, not the proxy's memory."""
    alone.serve(answering(_large_response(framing)))
    assert alone.ask(request(method="OPTIONS", target="*")).status == 204
    before = _rss_bytes(alone)
    client = alone.client(receive_buffer_bytes=65_536)
    client.keep_received = False
    client.send(request())
    assert _settled_rss_bytes(alone) - before < GROWTH_BYTES_MAX
    body = client.read_response().body
    assert len(body) == LARGE // 65_536 * 65_536
    assert hashlib.md5(body, usedforsecurity=False).digest() == _digest(len(body))
    assert _rss_bytes(alone) - before < GROWTH_BYTES_MAX


def _digest(size: int) -> bytes:
    return hashlib.md5(bytes(range(256)) * (size // 256), usedforsecurity=False).digest()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload_flows_at_the_speed_of_its_backend(alone: Stage, framing: str) -> None:
    """F24: while the backend does not read, the client is not read either."""
    size = LARGE // 65_536 * 65_536

    def script(visit: Visit) -> None:
        visit.keep_received = False
        head = visit.read_head()
        visit.backend.going.wait(20)
        body = visit._chunks() if head.chunked else visit.read_exactly(size)
        visit.send(response(hashlib.md5(body, usedforsecurity=False).hexdigest().encode()))

    backend = alone.backend(script, receive_buffer_bytes=65_536)
    alone.route(backend)
    before = _rss_bytes(alone)
    block = bytes(range(256)) * 256
    client = alone.client()
    if framing == "chunked":
        client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        data = (b"%x\r\n%b\r\n" % (len(block), block)) * (size // len(block)) + b"0\r\n\r\n"
    else:
        client.send(request("/", f"Content-Length: {size}", method="POST"))
        data = block * (size // len(block))
    sender = threading.Thread(target=client.send, args=(data,))
    sender.start()
    assert _settled_rss_bytes(alone) - before < GROWTH_BYTES_MAX
    assert sender.is_alive(), "the client was not held back"
    backend.going.set()
    sender.join(20)
    assert client.read_response().body.decode() == _digest(size).hex()
    assert _rss_bytes(alone) - before < GROWTH_BYTES_MAX


def test_a_pipeline_of_large_responses_is_held_back_too(alone: Stage) -> None:
    """The buffer may still be full with the first response when the second begins."""
    big = response(b"x" * LARGE)

    def script(visit: Visit) -> None:
        for _ in range(SMALL_COUNT):
            visit.read_request()
            visit.send(response(b"x" * SMALL))
        visit.read_request()
        visit.send(big)

    alone.serve(script, buffer_bytes=4096)
    assert alone.ask(request(target="*", method="OPTIONS")).status == 204
    before = _rss_bytes(alone)
    client = alone.client(receive_buffer_bytes=65_536)
    client.keep_received = False
    client.send(request() * (SMALL_COUNT + 1))
    assert _settled_rss_bytes(alone) - before < GROWTH_BYTES_MAX
    sizes = [len(client.read_response().body) for _ in range(SMALL_COUNT + 1)]
    assert sizes == [SMALL] * SMALL_COUNT + [LARGE]


def test_answers_that_nobody_reads_do_not_pile_up(alone: Stage) -> None:
    """Each of them is small enough to come in one read; there is only no end of them."""
    size, count = 20_000, 3_000
    backend = alone.serve(answering(response(b"x" * size)))
    assert alone.ask(request(target="*", method="OPTIONS")).status == 204
    before = _rss_bytes(alone)
    client = alone.client(receive_buffer_bytes=65_536)
    client.keep_received = False
    client.send(request() * count)
    assert _settled_rss_bytes(alone) - before < GROWTH_BYTES_MAX
    assert len(backend.requests) < count
    assert [len(client.read_response().body) for _ in range(count)] == [size] * count


def test_requests_sent_ahead_wait_in_the_clients_own_buffers(alone: Stage) -> None:
    """S43: a pipeline is read no further than a head's worth while an answer is under way."""

    def script(visit: Visit) -> None:
        visit.read_request()
        visit.backend.going.wait(20)

    backend = alone.serve(script)
    before = _rss_bytes(alone)
    client = alone.client()
    client.send(request())
    wait_for(lambda: backend.touched == 1, "the first is under way")
    client.sock.setblocking(False)
    sent, flood = 0, request() * 2_000
    try:
        while sent < LARGE:
            sent += client.sock.send(flood)
    except BlockingIOError:
        pass
    assert sent < LARGE
    assert _settled_rss_bytes(alone) - before < GROWTH_BYTES_MAX


def test_a_tunnel_flows_at_the_speed_of_its_reader(alone: Stage) -> None:
    """F47: WebSocket messages of a gigabyte to a phone in a tunnel."""

    def script(visit: Visit) -> None:
        visit.read_request()
        visit.send(
            b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        visit.send(b"x" * LARGE)

    alone.serve(script)
    before = _rss_bytes(alone)
    client = alone.client(receive_buffer_bytes=65_536)
    client.keep_received = False
    client.send(
        request(
            "/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )  # fmt: skip
    client.read_response()
    assert _settled_rss_bytes(alone) - before < GROWTH_BYTES_MAX
    assert len(client.read_exactly(LARGE)) == LARGE
