"""Listeners that want a PROXY header: whom they believe, and what becomes of the request behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.link import scoreboard as sb
from proxy.settings import ListenerSettings
from tests.kit.backends import answering
from tests.kit.proxy_header import v1, v2
from tests.kit.stage import Stage, staged
from tests.kit.wire import Message, Wire, request, response
from tests.kit.workers import WorkerProcess, wait_for

CLIENT, SERVER = ("203.0.113.7", 56324), ("10.0.0.1", 443)
CLIENT_6, SERVER_6 = ("2001:db8::7", 56324), ("fd00::1", 8443)
LISTENERS = (ListenerSettings(proxy_protocol=True), ListenerSettings())


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    """A worker whose first listener wants the header and whose second does not."""
    with WorkerProcess(listeners=2) as made:
        yield made


@pytest.fixture
def stage(worker: WorkerProcess) -> Iterator[Stage]:
    with staged(worker, 1) as made:
        yield made


def _headers(request: Message) -> bytes:
    return response(b"; ".join(
        name + b"=" + value for name, value in request.headers if name.startswith(b"x-forwarded"))
    )  # fmt: skip


def _serve(stage: Stage, *, trusted: tuple[str, ...] = ("127.0.0.0/8",), **changes: float) -> None:
    stage.serve(answering(_headers), trusted_proxies=trusted, listeners=LISTENERS, **changes)


def _refused(stage: Stage, why: str) -> int:
    return stage.worker.head(sb.PROXY_REFUSED + sb.PROXY_REFUSALS.index(why))


def _told(host: str, port: int) -> bytes:
    return f"x-forwarded-for={host}; x-forwarded-proto=http; x-forwarded-port={port}".encode()


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (v1(CLIENT, SERVER), _told("203.0.113.7", 443)),
        (v2(CLIENT, SERVER), _told("203.0.113.7", 443)),
        (v2(CLIENT, SERVER, tlvs=b"\x04\x00\x03abc"), _told("203.0.113.7", 443)),
        (v1(CLIENT_6, SERVER_6), _told("2001:db8::7", 8443)),
        (v2(CLIENT_6, SERVER_6), _told("2001:db8::7", 8443)),
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 13])
def test_the_named_client_is_the_one_the_backend_hears_of(
    stage: Stage, header: bytes, seen: bytes, cut: int
) -> None:
    """With the request in the same packet, and with the header in two."""
    _serve(stage)
    client = stage.client()
    client.send(header[:cut])
    client.send(header[cut:] + request() + request())
    assert client.read_response().body == seen
    assert client.read_response().body == seen


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(command=0x20), v2(CLIENT, SERVER, family=0x12)])
def test_a_header_without_addresses_leaves_those_of_the_socket(stage: Stage, header: bytes) -> None:
    """LOCAL is the load balancer itself, which checks our health."""
    _serve(stage)
    answer = _ask(stage, header + request())
    assert answer.body == _told("127.0.0.1", stage.worker.ports[0])


def _ask(stage: Stage, data: bytes, **options: int) -> Message:
    client = stage.client(**options)
    client.send(data)
    return client.read_response()


def test_a_client_behind_the_load_balancer_cannot_forge_its_address(stage: Stage) -> None:
    """The header is the load balancer's word, X-Forwarded-For the client's: only a trusted one's counts."""
    _serve(stage, trusted=("127.0.0.0/8", "203.0.113.0/24"))
    forged = request("/", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https")
    assert _ask(stage, v1(("198.51.100.1", 1), SERVER) + forged).body == _told("198.51.100.1", 443)
    assert _ask(stage, b"PROXY UNKNOWN\r\n" + forged).body == _told("127.0.0.1", stage.worker.ports[0])
    believed = b"x-forwarded-for=1.2.3.4, 203.0.113.7; x-forwarded-proto=https; x-forwarded-port=443"
    assert _ask(stage, v1(CLIENT, SERVER) + forged).body == believed


def test_who_is_not_trusted_is_closed_unheard(stage: Stage) -> None:
    """Else anyone could take any address."""
    before = _refused(stage, "untrusted")
    _serve(stage, trusted=("10.0.0.0/8",))
    client = stage.client()
    assert client.at_end()
    wait_for(lambda: _refused(stage, "untrusted") == before + 1, "it is counted")


@pytest.mark.parametrize(
    "data",
    [
        request(),
        b"PROXY TCP4 1.2.3.4\r\n" + request(),
        v2(CLIENT, SERVER, family=0x99),
        b"PROXY " + b"x" * 120,
    ],
)
def test_a_connection_without_a_header_is_closed_at_once(stage: Stage, data: bytes) -> None:
    """Nothing is answered and nothing forwarded: what follows may be meant for somebody else."""
    before = _refused(stage, "malformed")
    made = stage.serve(trusted_proxies=("127.0.0.1/32",), listeners=LISTENERS)
    client = stage.client()
    client.send(data)
    assert client.at_end()
    assert made.touched == 0
    wait_for(lambda: _refused(stage, "malformed") == before + 1, "it is counted")


def test_a_header_that_does_not_come_is_not_waited_for(stage: Stage) -> None:
    """Half of one, and none at all; a connection that only looks whether the port is open is no failure."""
    before, malformed = _refused(stage, "timeout"), _refused(stage, "malformed")
    _serve(stage, proxy_header_s=0.3)
    silent, slow, probe = stage.client(), stage.client(), stage.client()
    slow.send(v1(CLIENT, SERVER)[:20])
    probe.close()
    assert silent.at_end()
    assert slow.at_end()
    wait_for(lambda: _refused(stage, "timeout") == before + 2, "they are counted")
    half = stage.client()
    half.send(b"PROXY ")
    half.half_close()
    assert half.at_end()
    wait_for(lambda: _refused(stage, "malformed") == malformed + 1, "it is counted")
    wait_for(lambda: stage.worker.head(sb.CLIENTS) == 0, "all are gone")


def test_other_listeners_know_of_no_such_header(stage: Stage) -> None:
    """There it is a malformed request."""
    _serve(stage)
    with Wire.connect(stage.worker.ports[1]) as client:
        client.send(v1(CLIENT, SERVER) + request())
        assert client.read_response().status == 400
    with Wire.connect(stage.worker.ports[1]) as client:
        client.send(request())
        assert client.read_response().body == _told("127.0.0.1", stage.worker.ports[1])
