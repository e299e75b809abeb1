"""Listeners with TLS: a real worker, real handshakes."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import itertools
import os
import socket
import ssl
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.link import scoreboard as sb
from proxy.settings import Certificate, ListenerSettings, Timeouts, WorkerSettings
from proxy.steps import finish
from proxy.worker.tls import ListenersTls, ListenerTls, server_context
from proxy.worker.tls_connection import TlsConnection
from tests.kit.backends import Script, ScriptedBackend, Visit, after_request, answering, resetting
from tests.kit.certificates import Authority, names_of
from tests.kit.wire import Message, Wire, request, response
from tests.kit.workers import WorkerProcess, backend, service, wait_for

_slots = itertools.count(1)


class Scene:
    """A worker with a TLS listener (0) and a plain one (1), and one backend."""

    def __init__(self, authority: Authority, stack: ExitStack, worker: WorkerProcess) -> None:
        self.authority = authority
        self.worker = worker
        self._stack = stack
        self.slot = next(_slots)

    def route(
        self, script: Script | None = None, *, tls: tuple[Certificate, ...], **timeouts: float
    ) -> ScriptedBackend:
        made = self._stack.enter_context(ScriptedBackend(script or answering()))
        self.worker.settings = WorkerSettings(
            timeouts=Timeouts(lb_drain_s=0, **timeouts),
            listeners=(ListenerSettings(tls=tls), ListenerSettings()),
        )
        self.worker.publish([service(slot=self.slot)], [backend(made.port)])
        return made

    def follow(self, *tls: Certificate) -> None:
        """Publish other certificates."""
        listeners = (ListenerSettings(tls=tls), ListenerSettings())
        self.worker.settings = replace(self.worker.settings, listeners=listeners)
        self.worker.publish([], [])

    def connect(
        self, name: str | None = "web.test", context: ssl.SSLContext | None = None, **options: Any
    ) -> tuple[Wire, ssl.SSLSocket]:
        """Return a connection to the TLS listener, after the handshake."""
        plain = Wire.connect(self.worker.ports[0], **options).sock
        context = context or self.authority.client()
        sock = context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False)
        self._stack.enter_context(sock)
        return Wire(sock), sock

    def raw(self) -> Wire:
        return self._stack.enter_context(Wire.connect(self.worker.ports[0]))

    def failed(self, reason: str) -> int:
        return self.worker.head(sb.TLS_FAILED + sb.TLS_FAILURES.index(reason))


@pytest.fixture(scope="module")
def running() -> Iterator[WorkerProcess]:
    with WorkerProcess(listeners=2) as worker:
        yield worker
        assert worker.stop() == 0
        assert worker.failures("internal", 0) == 0


@pytest.fixture
def scene(running: WorkerProcess, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(Authority(tmp_path), stack, running)


# Which certificate


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("web.test", "web.test"),
        ("WEB.test", "web.test"),
        ("a.shop.test", "*.shop.test"),
        ("shop.test", "shop.test"),
    ],
)
def test_the_certificate_fits_the_name_asked_for(scene: Scene, asked: str, shown: str) -> None:
    web, shop = scene.authority.issue("w", "web.test"), scene.authority.issue("s", "*.shop.test", "shop.test")
    scene.route(tls=(web, shop))

    wire, sock = scene.connect(asked)
    wire.send(request())

    assert shown in names_of(sock)
    assert wire.read_response().status == 200


@pytest.mark.parametrize("asked", [None, "unknown.test", "a.b.shop.test", "127.0.0.1"])
def test_the_first_one_is_for_whoever_names_no_other(scene: Scene, asked: str | None) -> None:
    web, shop = scene.authority.issue("w", "web.test"), scene.authority.issue("s", "*.shop.test")
    scene.route(tls=(web, shop))

    wire, sock = scene.connect(asked, scene.authority.client(check_hostname=False))
    wire.send(request())

    assert names_of(sock) == {"web.test"}
    assert wire.read_response().status == 200


@pytest.mark.parametrize(
    ("asked", "found"),
    [("a.test", "exact"), ("A.Test.", "exact"), ("b.test", "wild"), ("b.a.test", "first"), ("test", "first"),
     ("", "first"), (None, "first"), (".test", "first"), ("*.test", "wild")],
)  # fmt: skip
def test_exact_before_wildcard_before_first(asked: str | None, found: str) -> None:
    tls, contexts = ListenerTls(), {name: server_context() for name in ("first", "exact", "wild", "late")}
    names = {"first": ("other",), "wild": ("*.test",), "exact": ("a.test",), "late": ("a.test", "*.test")}
    tls.offer([(names[key], contexts[key]) for key in names])

    assert tls.find(asked) is contexts[found]


def test_without_any_certificate_nobody_is_served(scene: Scene) -> None:
    before = scene.failed("no_certificate")
    scene.route(tls=(Certificate(cert="/nowhere.pem", key="/nowhere.key"),))

    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        scene.connect()

    wait_for(lambda: scene.failed("no_certificate") == before + 1, "it is counted")


# The protocol


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_served(scene: Scene, version: ssl.TLSVersion) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    before = scene.worker.head(sb.TLS_HANDSHAKES)

    wire, sock = scene.connect(
        context=scene.authority.client(minimum_version=version, maximum_version=version)
    )
    wire.send(request())

    assert sock.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
    assert wire.read_response().status == 200
    assert scene.worker.head(sb.TLS_HANDSHAKES) == before + 1


def old_client(authority: Authority) -> ssl.SSLContext:
    context = authority.client()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def weak_client(authority: Authority) -> ssl.SSLContext:
    context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")  # CBC: encrypted and authenticated apart
    return context


@pytest.mark.parametrize(
    ("client", "alert"), [(old_client, "PROTOCOL_VERSION"), (weak_client, "HANDSHAKE_FAILURE")]
)
def test_what_is_not_good_enough_gets_its_alert(scene: Scene, client: Any, alert: str) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    before = scene.failed("unsupported")

    with pytest.raises(ssl.SSLError, match=alert):
        scene.connect(context=client(scene.authority))

    wait_for(lambda: scene.failed("unsupported") == before + 1, "it is counted")


def test_http_1_1_is_what_is_offered(scene: Scene) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    context = scene.authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])

    _, sock = scene.connect(context=context)

    assert sock.selected_alpn_protocol() == "http/1.1"


def test_a_client_that_does_not_trust_us_is_counted_as_that(scene: Scene) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    before = scene.failed("refused_by_client")

    with pytest.raises(ssl.SSLCertVerificationError):
        scene.connect(context=ssl.create_default_context())

    wait_for(lambda: scene.failed("refused_by_client") == before + 1, "it is counted")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_even_after_a_new_certificate(scene: Scene, version: ssl.TLSVersion) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    context = scene.authority.client(minimum_version=version, maximum_version=version)
    wire, sock = scene.connect(context=context)
    wire.send(request())
    wire.read_response()  # TLS 1.3 sends its tickets after the handshake
    session = sock.session

    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    plain = Wire.connect(scene.worker.ports[0]).sock
    with context.wrap_socket(plain, server_hostname="web.test", session=session) as again:
        assert again.session_reused


# What is not TLS


@pytest.mark.parametrize(
    "junk", [request(), b"\x00" * 600, b"SSH-2.0-OpenSSH_9.2\r\n", bytes(range(256)) * 3, b"x" * 400_000]
)
def test_what_is_not_tls_is_closed_cleanly_and_counted(scene: Scene, junk: bytes) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    before = scene.failed("not_tls")
    wire = scene.raw()

    wire.send(junk)

    wire.read_to_end()  # a reset would raise
    wait_for(lambda: scene.failed("not_tls") == before + 1, "it is counted")


def test_a_handshake_has_its_time(scene: Scene) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),), tls_handshake_s=0.1)
    before = scene.failed("timeout")
    silent, slow = scene.raw(), scene.raw()
    slow.send(hello("web.test")[:20])

    assert silent.at_end()
    assert slow.at_end()

    assert scene.failed("timeout") == before + 2


def test_who_leaves_during_the_handshake_is_counted(scene: Scene) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    before = scene.failed("gone")

    with Wire.connect(scene.worker.ports[0]):
        pass
    with Wire.connect(scene.worker.ports[0]) as wire:
        wire.send(hello("web.test"))
        wire.reset()

    wait_for(lambda: scene.failed("gone") == before + 2, "both are counted")
    wait_for(lambda: scene.worker.head(sb.CLIENTS) == 0, "they are forgotten")


def test_nothing_of_it_is_a_bug_or_leaves_a_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path)
    with WorkerProcess() as worker:
        listener = ListenerSettings(tls=(authority.issue("w", "web.test"),))
        worker.settings = WorkerSettings(timeouts=Timeouts(lb_drain_s=0), listeners=(listener,))
        worker.publish([], [])
        names = (b"web.\xff\xfe\xfd\xfc", b"web.\x00est", b"web test", b"web.TEST")
        greetings = [hello("web.test").replace(b"web.test", name.ljust(8, b"x")) for name in names]
        cut = [hello("web.test")[:size] for size in (1, 5, 40, 100)]
        for data in [*greetings, *cut, b"\x16\x03\x01\xff\xff" + b"\x00" * 1000, os.urandom(3000), request()]:
            with Wire.connect(worker.port) as wire:
                wire.send(data)
                wire.half_close()
                wire.at_end()
        wait_for(lambda: worker.head(sb.CLIENTS) == 0, "all are gone")

        assert worker.failures("internal", 0) == 0
        assert worker.stop() == 0

    assert worker.log == b""
    assert capfd.readouterr().err == ""


def hello(name: str) -> bytes:
    """Return the first bytes of a client that asks for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


# Requests and responses


def test_the_backend_is_told_that_it_was_https(scene: Scene) -> None:
    made = scene.route(tls=(scene.authority.issue("w", "web.test"),))
    wire, _ = scene.connect()

    wire.send(request("/", "X-Forwarded-Proto: http"))
    wire.read_response()

    assert made.requests[0].get("x-forwarded-proto") == b"https"
    assert made.requests[0].get("x-forwarded-port") == str(scene.worker.ports[0]).encode()


@pytest.mark.parametrize(("said", "told"), [((), b"https"), (("X-Forwarded-Proto: http",), b"http")])
def test_a_trusted_proxy_knows_better_if_it_says_anything(
    scene: Scene, said: tuple[str, ...], told: bytes
) -> None:
    made = scene.route(tls=(scene.authority.issue("w", "web.test"),))
    scene.worker.settings = replace(scene.worker.settings, trusted_proxies=("127.0.0.0/8",))
    scene.worker.publish([service(slot=scene.slot)], [backend(made.port)])
    wire, _ = scene.connect()

    wire.send(request("/", *said))
    wire.read_response()

    assert made.requests[0].get("x-forwarded-proto") == told


def test_several_listeners_plain_and_tls(scene: Scene) -> None:
    made = scene.route(tls=(scene.authority.issue("w", "web.test"),))
    wire, _ = scene.connect()
    wire.send(request("/tls"))
    wire.read_response()

    with Wire.connect(scene.worker.ports[1]) as plain:
        plain.send(request("/plain"))
        assert plain.read_response().status == 200

    assert [seen.get("x-forwarded-proto") for seen in made.requests] == [b"https", b"http"]


def test_a_listener_can_be_given_tls_and_lose_it_again(scene: Scene) -> None:
    pair = scene.authority.issue("w", "web.test")
    made = scene.route(tls=())
    with Wire.connect(scene.worker.ports[0]) as kept:
        kept.send(request())
        kept.read_response()

        scene.follow(pair)
        scene.connect()
        kept.send(request())
        kept.read_response()

    scene.follow()
    with Wire.connect(scene.worker.ports[0]) as plain:
        plain.send(request())
        assert plain.read_response().status == 404  # there is no service in this table
    assert made.touched


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 3_000_000])
def test_bodies_of_any_size_both_ways(scene: Scene, size: int) -> None:
    body = os.urandom(size)

    def echo(message: Message) -> bytes:
        return response(message.body)

    scene.route(answering(echo), tls=(scene.authority.issue("w", "web.test"),))
    wire, _ = scene.connect()

    wire.send(request("/", method="POST", body=body) if size else request())

    assert wire.read_response().body == body


def test_bytes_one_by_one(scene: Scene) -> None:
    """Any cut of what a client sends means the same, in the handshake as well."""
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    plain = scene.raw()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = scene.authority.client().wrap_bio(incoming, outgoing, server_hostname="web.test")

    def until_done(step: Any) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                plain.send_pieces(outgoing.read())
                incoming.write(plain.sock.recv(65_536))

    until_done(client.do_handshake)
    client.write(request("/one/by/one"))
    answer = b""
    while b"/one/by/one" not in answer:
        answer += until_done(lambda: client.read(65_536))


def test_pipelined_requests_in_many_records_at_once(scene: Scene) -> None:
    made = scene.route(tls=(scene.authority.issue("w", "web.test"),))
    plain = scene.raw()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = scene.authority.client().wrap_bio(incoming, outgoing, server_hostname="web.test")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.send(outgoing.read())
            incoming.write(plain.sock.recv(65_536))
    for number in range(8):  # a record each
        client.write(request(f"/{number}"))

    plain.send(outgoing.read())

    wait_for(lambda: len(made.requests) == 8, "all of them arrive")
    assert [seen.start.split()[1] for seen in made.requests] == [b"/%d" % number for number in range(8)]


def test_a_slow_reader_gets_everything(scene: Scene) -> None:
    body = os.urandom(2_000_000)
    scene.route(answering(response(body)), tls=(scene.authority.issue("w", "web.test"),))
    wire, _ = scene.connect(receive_buffer_bytes=4096)

    wire.send(request("/", "Connection: close"))

    assert wire.read_response().body == body
    assert wire.at_end()


def test_a_websocket(scene: Scene) -> None:
    key, guid = b"AQIDBAUGBwgJCgsMDQ4PEA==", b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + guid).digest())

    def script(visit: Visit) -> None:
        visit.read_head()
        visit.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x02hi"
        )
        visit.send(visit.read_exactly(8))

    scene.route(script, tls=(scene.authority.issue("w", "web.test"),))
    wire, _ = scene.connect()
    frame = b"\x81\x82\0\0\0\0ok"

    asked = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    wire.send(request("/", *asked, f"Sec-WebSocket-Key: {key.decode()}"))
    assert wire.read_response().status == 101
    wire.send(frame)

    assert wire.read_exactly(12) == b"\x81\x02hi" + frame
    assert wire.at_end()


# Ends


def test_connection_close_ends_with_close_notify(scene: Scene) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    wire, sock = scene.connect()

    wire.send(request("/", "Connection: close"))
    wire.read_response()

    assert sock.recv(1) == b""  # an end without close_notify would raise
    sock.unwrap()


@pytest.mark.parametrize("end", [after_request, resetting])
@pytest.mark.parametrize("head", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
def test_a_truncated_response_is_visibly_so(scene: Scene, end: Any, head: bytes) -> None:
    body = b"5\r\nhello\r\n" if b"chunked" in head else b"hello"
    scene.route(
        end(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body), tls=(scene.authority.issue("w", "web.test"),)
    )
    wire, _ = scene.connect()

    wire.send(request())

    # Truncated would mean that close_notify has come, as at the end of something whole.
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        wire.read_response()


def test_a_client_that_has_said_all_still_gets_its_response(scene: Scene) -> None:
    scene.route(tls=(scene.authority.issue("w", "web.test"),))
    plain = scene.raw()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = scene.authority.client().wrap_bio(incoming, outgoing, server_hostname="web.test")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.send(outgoing.read())
            incoming.write(plain.sock.recv(65_536))
    client.write(request("/last"))
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()  # close_notify goes right behind the request

    plain.send(outgoing.read())
    incoming.write(plain.read_to_end())

    assert b"/last" in client.read(65_536)


def test_a_broken_record_ends_the_connection(scene: Scene) -> None:
    made = scene.route(tls=(scene.authority.issue("w", "web.test"),))
    wire, sock = scene.connect()
    wire.send(request())
    wire.read_response()

    socket.socket.send(sock, b"\x17\x03\x03\x00\x20" + b"\x00" * 32)

    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        wire.read_to_end()
    wait_for(lambda: scene.worker.head(sb.CLIENTS) == 0, "it is forgotten")
    assert len(made.requests) == 1


def test_idle_connections_are_closed_when_the_worker_drains(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    listener = ListenerSettings(tls=(authority.issue("w", "web.test"),))
    settings = WorkerSettings(timeouts=Timeouts(lb_drain_s=0), listeners=(listener,))
    with WorkerProcess(settings=settings) as worker, ScriptedBackend(answering()) as made:
        worker.publish([service()], [backend(made.port)])
        plain = Wire.connect(worker.port).sock
        with authority.client().wrap_socket(plain, server_hostname="web.test") as sock:
            wire = Wire(sock)
            wire.send(request())
            wire.read_response()

            assert worker.stop() == 0

            assert wire.more() is False


# New certificates


def test_a_new_certificate_is_for_new_connections_and_the_others_go_on(scene: Scene) -> None:
    old = scene.authority.issue("w", "web.test")
    made = scene.route(tls=(old,))
    wire, sock = scene.connect()
    wire.send(request())
    wire.read_response()

    new = scene.authority.issue("w", "web.test", "new.test")
    assert (new.cert, new.key) == (old.cert, old.key)
    scene.follow(new)
    scene.worker.publish([service(slot=scene.slot)], [backend(made.port)])

    assert names_of(scene.connect("new.test")[1]) == {"web.test", "new.test"}
    wire.send(request())
    assert wire.read_response().status == 200
    assert names_of(sock) == {"web.test"}


@pytest.mark.parametrize("spoil", ["cert", "key"])
def test_a_pair_that_cannot_be_loaded_leaves_the_old_one(scene: Scene, spoil: str, tmp_path: Path) -> None:
    old = scene.authority.issue("w", "web.test")
    scene.route(tls=(old,))
    before = scene.worker.head(sb.CERTIFICATES_REJECTED)
    (tmp_path / f"w.{'pem' if spoil == 'cert' else 'key'}").write_text("nonsense")

    scene.follow(replace(old, fingerprint="other"))

    assert names_of(scene.connect()[1]) == {"web.test"}
    assert scene.worker.head(sb.CERTIFICATES_REJECTED) == before + 1

    new = scene.authority.issue("w", "web.test", "new.test")
    scene.follow(new)
    assert names_of(scene.connect()[1]) == {"web.test", "new.test"}


def test_files_newer_than_what_was_announced_wait_until_they_are(scene: Scene) -> None:
    old = scene.authority.issue("w", "web.test")
    scene.route(tls=(old,))
    new = scene.authority.issue("w", "web.test", "new.test")

    scene.follow(replace(new, fingerprint="one in between"))
    assert names_of(scene.connect()[1]) == {"web.test"}

    scene.follow(new)
    assert names_of(scene.connect()[1]) == {"web.test", "new.test"}


def test_a_new_worker_takes_a_good_pair_whatever_was_announced(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = replace(authority.issue("w", "web.test"), fingerprint="an older one")
    settings = WorkerSettings(timeouts=Timeouts(lb_drain_s=0), listeners=(ListenerSettings(tls=(pair,)),))
    with WorkerProcess(settings=settings) as worker:
        worker.publish([], [])
        plain = Wire.connect(worker.port).sock
        with authority.client().wrap_socket(plain, server_hostname="web.test") as sock:
            assert names_of(sock) == {"web.test"}


# The connection by itself


class Bytes:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None: ...

    def close(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class State:
    """As much of a worker's state as a connection needs."""

    full = False
    now_s = 0.0
    settings = WorkerSettings()

    def __init__(self) -> None:
        self.head = memoryview(bytearray(8 * 64)).cast("q")
        self.watched: set[Any] = set()
        self.clients: set[Any] = set()


class App(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data


class Alone:
    """A connection without a worker, after the handshake, and its client. Everybody else may forget `app`."""

    def __init__(self, authority: Authority, **client: Any) -> None:
        pair = authority.issue("w", "web.test")
        context, tls, self.below = server_context(), ListenerTls(), Bytes()
        context.load_cert_chain(pair.cert, pair.key)
        tls.offer([((), context)])
        self.state = State()
        self.connection = TlsConnection(self.state, tls, self._make)  # type: ignore[arg-type]
        self.connection.connection_made(self.below)  # type: ignore[arg-type]
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = authority.client(**client)
        self.client = context.wrap_bio(self.incoming, self.outgoing, server_hostname="web.test")
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.connection.data_received(self.outgoing.read())
            self.incoming.write(self.below.written)
            self.below.written = b""
        assert not self.state.watched

    def _make(self) -> App:
        made = App()
        self.app = weakref.ref(made)
        return made

    def received(self) -> bytes:
        app = self.app()
        assert app is not None
        return app.received


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64, 1000, 16_384, 16_390, 65_536])
def test_records_may_be_cut_anywhere(tmp_path: Path, version: ssl.TLSVersion, cut: int) -> None:
    alone = Alone(Authority(tmp_path), minimum_version=version, maximum_version=version)
    pieces = [b"a" * 100, b"b", os.urandom(16_384), os.urandom(5000), os.urandom(300)]
    for piece in pieces:
        alone.client.write(piece)
    wire = alone.outgoing.read()

    for at in range(0, len(wire), cut):
        alone.connection.data_received(wire[at : at + cut])

    assert alone.received() == b"".join(pieces)


def test_an_ended_connection_leaves_no_circle_behind(tmp_path: Path) -> None:
    alone = Alone(Authority(tmp_path))
    gc.disable()
    try:
        alone.connection.connection_lost(None)
        assert alone.app() is None
    finally:
        gc.enable()


class Timers:
    """A loop that keeps what is to be called later."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def call_later(self, _delay_s: float, call: Any, *args: Any) -> Any:
        timer = Timer(self, lambda: call(*args))
        self.waiting.append(timer)
        return timer


class Timer:
    def __init__(self, timers: Timers, call: Any) -> None:
        self._timers = timers
        self._call = call

    def cancel(self) -> None:
        self._timers.waiting.remove(self)

    def fire(self) -> None:
        self.cancel()
        self._call()


def test_what_could_not_be_loaded_is_tried_again(tmp_path: Path) -> None:
    authority, timers = Authority(tmp_path), Timers()
    head = memoryview(bytearray(8 * 64)).cast("q")
    certificates = ListenersTls(timers, head)  # type: ignore[arg-type]
    pair = authority.issue("w", "web.test")
    Path(pair.key).rename(tmp_path / "away")

    finish(certificates.follow([ListenerSettings(tls=(pair,))]))
    assert certificates.get(0).find("web.test") is None
    timers.waiting[0].fire()
    assert certificates.get(0).find("web.test") is None
    assert head[sb.CERTIFICATES_REJECTED] == 2

    (tmp_path / "away").rename(pair.key)
    timers.waiting[0].fire()
    assert certificates.get(0).find("web.test") is not None
    assert timers.waiting == []


def test_a_newer_table_ends_the_retries_of_the_older(tmp_path: Path) -> None:
    timers = Timers()
    certificates = ListenersTls(timers, memoryview(bytearray(8 * 64)).cast("q"))  # type: ignore[arg-type]
    finish(certificates.follow([ListenerSettings(tls=(Certificate(cert="/no", key="/no"),))]))
    assert len(timers.waiting) == 1

    finish(certificates.follow([ListenerSettings()]))
    assert timers.waiting == []


def test_a_pair_is_loaded_once_for_all_listeners_and_not_again_for_the_same_content(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("w", "web.test")
    certificates = ListenersTls(Timers(), memoryview(bytearray(8 * 64)).cast("q"))  # type: ignore[arg-type]
    listeners = [ListenerSettings(tls=(pair,)), ListenerSettings(tls=(pair,))]
    finish(certificates.follow(listeners))
    context = certificates.get(0).find(None)
    Path(pair.key).unlink()

    finish(certificates.follow(listeners))

    assert certificates.get(0).find(None) is context is certificates.get(1).find(None)
