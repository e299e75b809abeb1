"""WebSocket and other upgrades: after a 101 both sides are one stream of bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from proxy.link import scoreboard as sb
from tests.kit.backends import Script, Visit, answering, drain_send_queue
from tests.kit.stage import Stage, words
from tests.kit.wire import Message, request, response
from tests.kit.workers import wait_for

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def handshake(*lines: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return request(
        "/ws", "Connection: keep-alive, Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13", *lines,
    )  # fmt: skip


def switched(message: Message) -> bytes:
    key = message.get("sec-websocket-key")
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )


def tunnelling(behind: bytes = b"") -> Script:
    """Return a script that accepts a WebSocket and echoes the bytes that follow."""

    def script(visit: Visit) -> None:
        visit.send(switched(visit.read_request()) + behind)
        while True:
            data, visit.buffer = visit.buffer, b""
            if data:
                visit.send(data)
            if not visit.more():
                return

    return script


class EchoServer:
    """The library's own WebSocket server: an independent peer."""

    def __init__(self) -> None:
        import threading  # noqa: PLC0415

        self.server: Server = serve(self._echo, "127.0.0.1", 0, max_size=None)
        self.port: int = self.server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def _echo(self, peer: ServerConnection) -> None:
        for message in peer:
            peer.send(message)

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join(5)


def test_an_independent_client_and_server_talk_through(stage: Stage) -> None:
    """Text, binary, a message of 1 MB, ping and the closing handshake, with an implementation not ours."""
    server = EchoServer()
    try:
        stage.route(server.port)
        with connect(f"ws://127.0.0.1:{stage.worker.port}/chat", max_size=None) as client:
            wait_for(lambda: stage.cell(sb.TUNNELS) == 1, "the tunnel is counted")
            client.send("grüß dich")
            assert client.recv(5) == "grüß dich"
            for size in (0, 125, 65_536, 1_000_000):
                client.send(os.urandom(size))
                assert len(client.recv(10)) == size
            assert client.ping().wait(5)
            client.close(4001, "done")
            assert client.close_code == 4001
        wait_for(lambda: stage.cell(sb.TUNNELS) == 0, "the tunnel is over")
        wait_for(stage.settled, "nothing in flight")
        wait_for(lambda: stage.cell(sb.REQUESTS + 1) == 1, "it is counted as a GET with 1xx")
    finally:
        server.close()


def test_bytes_right_behind_the_handshake_are_not_lost(stage: Stage) -> None:
    """Both sides may start at once: the client with its request (S43), the backend with its 101."""
    stage.serve(tunnelling(b"welcome"))
    client = stage.client()
    client.send(handshake() + b"first")
    assert client.read_response().status == 101
    assert client.read_exactly(12) in (b"welcomefirst", b"firstwelcome")
    client.send(b"second")
    assert client.read_exactly(6) == b"second"


def test_the_handshake_arrives_with_its_headers(stage: Stage) -> None:
    backend = stage.serve(tunnelling())
    client = stage.client()
    client.send(handshake("Sec-WebSocket-Protocol: chat", "Origin: http://o.test"))
    head = client.read_response()
    assert (head.get("upgrade"), head.get("connection")) == (b"websocket", b"Upgrade")
    got = backend.requests[0]
    assert (got.get("upgrade"), got.get("connection")) == (b"websocket", b"Upgrade")
    assert (got.get("origin"), got.get("sec-websocket-protocol")) == (b"http://o.test", b"chat")
    assert got.get("x-forwarded-for") == b"127.0.0.1"


@pytest.mark.parametrize(
    "answer",
    [
        b"Upgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: chat\r\nSec-WebSocket-Accept: AAAA\r\n",
        b"",
    ],
)
def test_a_101_that_does_not_fit_is_an_upgrade_failed(stage: Stage, answer: bytes) -> None:
    """X09 and S40: a tunnel to something that has not understood would carry requests unseen."""
    stage.serve(answering(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + answer + b"\r\n"))
    answered = stage.ask(handshake())
    assert (answered.status, words(answered)[0]) == (502, "upgrade_failed")
    stage.wait_failure("upgrade_failed")


def test_a_101_nobody_asked_for_is_refused(stage: Stage) -> None:
    """F18."""
    stage.serve(answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"))
    assert words(stage.ask(request()))[0] == "upgrade_failed"


@pytest.mark.parametrize("value", ["tcp", "TLS/1.0", "websocket, h2c", "spdy/3.1", "web socket"])
def test_a_request_for_another_protocol_is_served_as_http_1_1(stage: Stage, value: str) -> None:
    """S42: only a WebSocket may take a connection out of sight, and a server may ignore any other wish."""
    backend = stage.serve()
    client = stage.client()
    client.send(request("/a", "Connection: Upgrade", f"Upgrade: {value}") + request("/b"))
    assert [client.read_response().body for _ in range(2)] == [b"/a", b"/b"]
    assert [seen.get("upgrade") for seen in backend.requests] == [None, None]
    assert [seen.get("connection") for seen in backend.requests] == [None, None]


def test_a_request_for_h2c_is_served_as_http_1_1(stage: Stage) -> None:
    """S42: the backend does not even see the wish."""
    backend = stage.serve()
    answer = stage.ask(
        request("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    )
    assert answer.status == 200
    got = backend.requests[0]
    assert got.get("upgrade") is None
    assert got.get("http2-settings") is None
    assert got.get("connection") is None


def test_bytes_behind_a_declined_upgrade_are_not_a_request(stage: Stage) -> None:
    """S43: the client may have meant them for the other protocol."""
    backend = stage.serve(answering(response(b"no", status="426 Upgrade Required")))
    client = stage.client()
    client.send(handshake() + request("/smuggled"))
    answer = client.read_response()
    assert (answer.status, answer.get("connection")) == (426, b"close")
    assert client.at_end()
    assert len(backend.requests) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_the_death_of_the_backend_closes_the_client(stage: Stage, how: str) -> None:
    """F47: the browser must notice, or it waits for messages that never come."""

    def script(visit: Visit) -> None:
        visit.send(switched(visit.read_request()))
        visit.read_exactly(3)
        visit.reset() if how == "rst" else visit.close()

    stage.serve(script)
    client = stage.client()
    client.send(handshake())
    client.read_response()
    client.send(b"die")
    assert client.at_end()
    client.close()
    wait_for(lambda: stage.cell(sb.TUNNELS) == 0, "the tunnel is over")
    wait_for(stage.settled, "nothing in flight")


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_the_death_of_the_client_closes_the_backend(stage: Stage, how: str) -> None:
    """F47, the other way round."""
    backend = stage.serve(tunnelling())
    client = stage.client()
    client.send(handshake())
    client.read_response()
    client.reset() if how == "rst" else client.close()
    wait_for(lambda: stage.cell(sb.TUNNELS) == 0, "the tunnel is over")
    wait_for(stage.settled, "nothing in flight")
    assert len(backend.visits) == 1


def test_a_silent_tunnel_ends_after_its_idle_time(stage: Stage) -> None:
    """X06: peers that vanished without a word must not hold sockets for ever."""
    stage.serve(tunnelling(), tunnel_idle_s=0.3)
    client = stage.client()
    client.send(handshake())
    client.read_response()
    assert client.at_end()
    stage.wait_failure("response_idle")


def test_half_a_tunnel_may_still_talk(stage: Stage) -> None:
    """A FIN ends one direction; the answer to what was said before it still comes."""

    def script(visit: Visit) -> None:
        visit.send(switched(visit.read_request()))
        while visit.more():
            pass
        visit.send(b"you said " + visit.buffer)

    stage.serve(script)
    client = stage.client()
    client.send(handshake())
    client.read_response()
    client.send(b"bye")
    client.half_close()
    assert client.read_to_end() == b"you said bye"
    wait_for(lambda: stage.cell(sb.TUNNELS) == 0, "the tunnel is over")


def _keepalive_timers(port: int) -> dict[int, float]:
    """Return, by remote port, in how many seconds TCP asks the far side of *port* for a sign of life."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = line.split()
        kind, when = timer.split(":")
        if state == "01" and int(local.partition(":")[2], 16) == port and kind == "02":
            found[int(remote.partition(":")[2], 16)] = int(when, 16) / os.sysconf("SC_CLK_TCK")
    return found


def test_both_sides_of_a_tunnel_are_asked_for_a_sign_of_life(stage: Stage) -> None:
    """tunnel_probe_after_s: a phone that has lost its network says nothing, for ever."""
    made = stage.serve(tunnelling(), tunnel_probe_after_s=40.0, tunnel_probe_every_s=20.0, tunnel_probes=3)
    client = stage.client()
    plain = stage.client()
    for one, data in ((client, handshake()), (plain, request(target="*", method="OPTIONS"))):
        one.send(data)
        one.read_response()
    upstream = made.visits[0].sock.getpeername()[1]

    def asked() -> bool:
        timers = _keepalive_timers(stage.worker.port)
        assert plain.sock.getsockname()[1] not in timers  # it has its idle time
        return (
            0 < timers.get(client.sock.getsockname()[1], 0) <= 40
            and 0 < _keepalive_timers(upstream).get(made.port, 0) <= 40
        )

    wait_for(asked, "both timers run")


def test_probes_are_within_what_the_kernel_takes(stage: Stage) -> None:
    """A number that is too large must not cost the tunnel."""
    stage.serve(tunnelling(), tunnel_probe_after_s=1e9, tunnel_probe_every_s=1e-3, tunnel_probes=10**9)
    client = stage.client()
    client.send(handshake())
    client.read_response()
    client.send(b"echo")
    assert client.read_exactly(4) == b"echo"


@pytest.mark.parametrize("deaf", ["client", "backend"])
def test_a_tunnel_that_has_ended_does_not_wait_for_ever_for_a_deaf_side(stage: Stage, deaf: str) -> None:
    """What is buffered may still go out; one that takes not a byte of it is dropped."""
    crowd = b"x" * 20_000_000  # more than the kernels' buffers; all of it fits into ours

    def script(visit: Visit) -> None:
        visit.send(switched(visit.read_request()))
        if deaf == "client":
            visit.send(crowd)
            drain_send_queue(visit.sock)
            visit.reset()
        else:
            visit.backend.going.wait(20)

    backend = stage.serve(script, client_write_s=0.5, buffer_bytes=50_000_000)
    client = stage.client(receive_buffer_bytes=16_384)
    client_port = client.sock.getsockname()[1]
    client.send(handshake())
    assert client.read_response().status == 101
    if deaf == "backend":
        client.send(crowd)
        drain_send_queue(client.sock)
        client.reset()
    wait_for(lambda: stage.cell(sb.TUNNELS) == 0, "the tunnel is over")
    wait_for(lambda: _open_sockets(stage, {backend.port, client_port}) == 0, "nothing is left of it")
    backend.going.set()


def _open_sockets(stage: Stage, ports: set[int]) -> int:
    """Return how many sockets the worker has that lead to one of *ports*."""
    process = stage.worker.process
    assert process is not None
    inodes = set()
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(link).partition("[")[2].rstrip("]"))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    remotes = [int(line[2].rpartition(":")[2], 16) for line in lines if line[9] in inodes]
    return sum(1 for port in remotes if port in ports)
