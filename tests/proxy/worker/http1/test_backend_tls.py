"""Backends behind TLS: who is believed, what a failure is called, and that nothing is lost or invented."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from proxy.backend_tls import fingerprint
from proxy.link import scoreboard as sb
from proxy.link.snapshots import BackendRow
from proxy.settings import BackendTls
from tests.kit.backends import Script, ScriptedBackend, Visit, answering
from tests.kit.pki import authority_file, expired, pair_files, serving
from tests.kit.stage import Stage, settings, staged, words
from tests.kit.wire import Truncated, request, response
from tests.kit.workers import WorkerProcess, backend, service, wait_for

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
NAME = "tasks.test"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def leaf(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert(NAME)


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path) -> BackendTls:
    """Return the setting of a service whose tasks have certificates for `NAME` of *authority*."""
    return marked(BackendTls(name=NAME, ca=authority_file(tmp_path, authority)))


def marked(tls: BackendTls) -> BackendTls:
    """Return *tls* as the control process sends it."""
    return replace(tls, fingerprint=fingerprint(tls))


def route(stage: Stage, tls: BackendTls | None, *backends: ScriptedBackend | int, **changes: object) -> None:
    stage.worker.settings = settings(**changes)
    rows: list[BackendRow] = [backend(b if isinstance(b, int) else b.port) for b in backends]
    stage.worker.publish([replace(service(slot=stage.slot), tls=tls)], rows)


def saying(visit: Visit) -> ssl.SSLSocket:
    """Return the socket of *visit*, which speaks TLS."""
    assert isinstance(visit.sock, ssl.SSLSocket)
    return visit.sock


def closing(*steps: bytes, notify: bool) -> Script:
    """Return a script that answers with *steps* and ends, with or without the close_notify of TLS."""

    def script(visit: Visit) -> None:
        visit.read_request()
        for step in steps:
            visit.send(step)
        if notify:
            saying(visit).unwrap()

    return script


def no_bug(stage: Stage) -> None:
    assert stage.worker.failures("internal", 0) == 0


# --- what works -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V12, V13])
def test_a_verified_backend_serves_and_its_connection_is_used_again(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert, version: ssl.TLSVersion
) -> None:
    """The session tickets that follow a handshake are no unasked answer."""
    task = stage.backend(tls=serving(leaf, version=version))
    route(stage, trusting, task)
    for number in range(20):
        assert stage.ask(request(f"/{number}")).body == b"/%d" % number
    assert len(task.visits) == 1
    assert saying(task.visits[0]).version() == {V12: "TLSv1.2", V13: "TLSv1.3"}[version]
    assert saying(task.visits[0]).selected_alpn_protocol() is None
    no_bug(stage)


def test_the_name_is_asked_for_and_http_1_1_is_offered(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert
) -> None:
    asked: list[str | None] = []
    context = serving(leaf)
    context.set_alpn_protocols(["http/1.1"])
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    task = stage.backend(tls=context)
    route(stage, trusting, task)
    assert stage.ask(request()).status == 200
    assert asked == [NAME]
    assert saying(task.visits[0]).selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_large_bodies_pass_whole_in_both_directions(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert, method: str
) -> None:
    body = os.urandom(1_000_000)
    task = stage.backend(answering(lambda m: response(m.body or body)), tls=serving(leaf))
    route(stage, trusting, task)
    sent = body if method == "POST" else b""
    for _ in range(3):
        assert stage.ask(request(method=method, body=sent)).body == body
    assert len(task.visits) == 1


@pytest.mark.parametrize("notify", [True, False])
def test_a_slow_client_gets_all_of_what_the_backend_has_sent_before_it_closed(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert, notify: bool
) -> None:
    """While the client makes us pause, the end of the connection must not overtake the data before it.

    How much is on its way then depends on the buffers of this kernel, so it is tried with many sizes.
    """
    sizes = list(range(2_000_000, 7_000_000, 200_000))
    sent = threading.Event()

    def script(visit: Visit) -> None:
        visit.read_request()
        visit.send(response(bytes(sizes[visit.number]), "Connection: close"))
        sent.set()
        if notify:
            saying(visit).unwrap()

    task = stage.backend(script, tls=serving(leaf))
    route(stage, trusting, task)
    for size in sizes:
        sent.clear()
        client = stage.client(receive_buffer_bytes=4096)
        client.keep_received = False
        client.send(request())
        sent.wait(0.2)  # what has not fitted into the kernel by then will not
        assert len(client.read_response().body) == size
        client.close()


def test_an_unverified_backend_may_have_any_certificate_and_no_name_is_asked_for(stage: Stage) -> None:
    asked: list[str | None] = []
    context = serving(expired(trustme.CA(), "other.test"))
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    route(stage, marked(BackendTls(verify=False)), stage.backend(tls=context))
    assert stage.ask(request()).status == 200
    assert asked == [None]


def test_a_name_is_asked_for_without_verification_too(stage: Stage, leaf: trustme.LeafCert) -> None:
    asked: list[str | None] = []
    context = serving(leaf)
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    route(stage, marked(BackendTls(verify=False, name="a.test")), stage.backend(tls=context))
    assert stage.ask(request()).status == 200
    assert asked == ["a.test"]


def test_websockets_pass_over_tls_to_an_independent_server(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert
) -> None:
    def echo(peer: ServerConnection) -> None:
        for message in peer:
            peer.send(message)

    server = serve(echo, "127.0.0.1", 0, ssl=serving(leaf), max_size=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        route(stage, trusting, server.socket.getsockname()[1])
        with connect(f"ws://127.0.0.1:{stage.worker.port}/chat", max_size=None) as client:
            for size in (0, 125, 65_536, 1_000_000):
                message = os.urandom(size)
                client.send(message)
                assert client.recv(10) == message
            client.close(4001, "done")
            assert client.close_code == 4001
        wait_for(lambda: stage.cell(sb.TUNNELS) == 0, "the tunnel is over")
        wait_for(stage.settled, "nothing in flight")
    finally:
        server.shutdown()
        thread.join(5)
    no_bug(stage)


def echoing_until_bye(visit: Visit) -> None:
    """Accept a WebSocket, echo the bytes that follow, and end TLS properly after "bye"."""
    key = visit.read_request().get("sec-websocket-key")
    assert key is not None
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + guid, usedforsecurity=False).digest())
    visit.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
    visit.send(b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept)
    visit.read_until(b"bye")
    visit.send(b"x" * 300_000 + b"bye")
    saying(visit).unwrap()


def test_a_tunnel_that_the_backend_ends_is_whole_and_ends(
    authority: trustme.CA, leaf: trustme.LeafCert, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tls = marked(BackendTls(name=NAME, ca=authority_file(tmp_path, authority)))
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        route(stage, tls, stage.backend(echoing_until_bye, tls=serving(leaf)))
        client = stage.client()
        client.send(
            request(
                "/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ) + b"bye"
        )  # fmt: skip
        assert client.read_response().status == 101
        assert client.read_to_end() == b"x" * 300_000 + b"bye"
        wait_for(lambda: stage.cell(sb.TUNNELS) == 0, "the tunnel is over")
        wait_for(lambda: worker.head(sb.UPSTREAMS) == 0, "nothing is left open")
        assert worker.failures("internal", 0) == 0
        assert worker.stop() == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("version", [V12, V13])
def test_a_backend_that_asks_for_our_certificate_gets_it(
    stage: Stage,
    authority: trustme.CA,
    trusting: BackendTls,
    leaf: trustme.LeafCert,
    tmp_path: Path,
    version: ssl.TLSVersion,
) -> None:
    cert, key = pair_files(tmp_path, authority.issue_cert("proxy.test"))
    task = stage.backend(tls=serving(leaf, version=version, clients_of=authority))
    route(stage, marked(replace(trusting, cert=cert, key=key)), task)
    assert stage.ask(request()).status == 200
    shown = saying(task.visits[0]).getpeercert()
    assert shown is not None
    assert ("DNS", "proxy.test") in shown["subjectAltName"]


# --- what does not --------------------------------------------------------------------------------


class Silent:
    """A backend that takes a TCP connection and never says a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def close(self) -> None:
        self._listener.close()


# What these say, they say after the first words of the handshake: earlier, and they have refused to connect.


def resetting(visit: Visit) -> None:
    visit.more()
    visit.reset()


def ending(visit: Visit) -> None:
    visit.more()


def speaking_plain(visit: Visit) -> None:
    visit.more()
    visit.send(response())


def test_a_handshake_that_fails_is_tls_failed_and_nothing_was_delivered(
    authority: trustme.CA, leaf: trustme.LeafCert, tmp_path: Path
) -> None:
    """U03, with the reason in the log and nowhere else."""
    trusting = marked(BackendTls(name=NAME, ca=authority_file(tmp_path, authority)))
    cases: list[tuple[BackendTls, Script, ssl.SSLContext | None, str]] = [
        (replace(trusting, name="other.test"), answering(), serving(leaf), "untrusted: Hostname mismatch"),
        (trusting, answering(), serving(trustme.CA().issue_cert(NAME)), "untrusted: "),
        (marked(BackendTls(name=NAME)), answering(), serving(leaf), "untrusted: "),  # the system's store
        (trusting, answering(), serving(expired(authority, NAME)), "expired: "),
        (trusting, answering(), serving(leaf, version=V12, clients_of=authority), "handshake: "),
        (trusting, answering(), None, "handshake: "),  # plain, and it waits for a request
        (trusting, speaking_plain, None, "handshake: wrong version number"),
        (trusting, resetting, None, "handshake: the connection was closed"),
        (trusting, ending, None, "handshake: the connection was closed"),
        (BackendTls(ca=str(tmp_path / "no.pem"), name=NAME), answering(), serving(leaf), "handshake: the f"),
    ]
    with WorkerProcess() as worker:
        for slot, (tls, script, context, _) in enumerate(cases, 1):
            with staged(worker, slot) as stage:
                task = stage.backend(script, tls=context)
                route(stage, tls, task, connect_s=0.5)
                answer = stage.ask(request(method="POST", body=b"secret"))
                assert answer.status == 503
                assert words(answer) == ("tls_failed", ["delivered=no", "attempts=1"])
                assert b"secret" not in b"".join(visit.received for visit in task.visits)
                stage.wait_failure("tls_failed")
        wait_for(lambda: worker.head(sb.UPSTREAMS) == 0, "nothing is left open")
        assert worker.failures("internal", 0) == 0
        assert worker.stop() == 0
        lines = [json.loads(line) for line in worker.log.splitlines()]
    details = [line["detail"] for line in lines if "detail" in line]
    assert [d.startswith(case[3]) for d, case in zip(details, cases, strict=True)] == [True] * len(cases), (
        details
    )
    warnings = [line["warning"] for line in lines if "warning" in line]
    assert warnings == [f"TLS to backends: there is no file {tmp_path / 'no.pem'}"]


def test_a_handshake_that_stalls_ends_with_the_time_to_connect(stage: Stage, trusting: BackendTls) -> None:
    """F56: TCP stands, TLS does not come. All such waits of a request share one budget."""
    silent = [Silent() for _ in range(4)]
    try:
        route(stage, trusting, *(task.port for task in silent), connect_s=0.3, connect_total_s=0.5)
        answer = stage.ask(request())
        assert (answer.status, words(answer)) == (503, ("tls_failed", ["delivered=no", "attempts=2"]))
    finally:
        for task in silent:
            task.close()
    no_bug(stage)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_task_is_tried_whatever_the_method(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert, method: str
) -> None:
    good = stage.backend(tls=serving(leaf))
    stranger = stage.backend(tls=serving(trustme.CA().issue_cert(NAME)))
    plain = stage.backend()
    route(stage, trusting, good, stranger, plain, connect_s=0.5)
    for number in range(10):
        body = b"" if method == "GET" else b"once"
        assert stage.ask(request(f"/{number}", method=method, body=body)).body == b"/%d" % number
    assert len(good.requests) == 10
    assert stage.cell(sb.RETRIES) > 0
    assert not stranger.touched


def test_a_refused_connection_is_still_called_refused(stage: Stage, trusting: BackendTls) -> None:
    task = stage.backend()
    task.stop_listening()
    route(stage, trusting, task)
    assert words(stage.ask(request())) == ("connect_refused", ["delivered=no", "attempts=1"])


def test_plain_bytes_to_a_backend_that_wants_tls_are_no_success(stage: Stage, leaf: trustme.LeafCert) -> None:
    route(stage, None, stage.backend(tls=serving(leaf)))
    answer = stage.ask(request(method="POST", body=b"x"))
    assert answer.status == 502
    assert words(answer)[1] == ["delivered=yes", "attempts=1"]


def test_a_certificate_that_tls_1_3_asks_for_too_late_is_502(authority: trustme.CA, tmp_path: Path) -> None:
    """Its handshake ends for us before the backend has judged our certificate, so the request has left."""
    tls = marked(BackendTls(name=NAME, ca=authority_file(tmp_path, authority)))
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        task = stage.backend(tls=serving(authority.issue_cert(NAME), version=V13, clients_of=authority))
        route(stage, tls, task)
        answer = stage.ask(request(method="POST", body=b"x"))
        assert (answer.status, words(answer)[1]) == (502, ["delivered=yes", "attempts=1"])
        assert not task.requests
        assert worker.failures("internal", 0) == 0
        worker.stop()
        assert "TLS: tlsv13 alert certificate required" in worker.log.decode()


# --- ends -----------------------------------------------------------------------------------------


def test_a_body_that_ends_with_close_notify_is_whole(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert
) -> None:
    """S49: the one end of a body without a length that nobody on the way can have made."""
    task = stage.backend(closing(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def", notify=True), tls=serving(leaf))
    route(stage, trusting, task)
    answer = stage.ask(request())
    assert (answer.status, answer.body, answer.chunked) == (200, b"abcdef", True)


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_body_without_close_notify_is_cut_short(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert, sent: bytes
) -> None:
    """S49 and F56: a FIN alone is what anybody on the way can forge."""
    route(stage, trusting, stage.backend(closing(sent, notify=False), tls=serving(leaf)))
    client = stage.client()
    client.send(request())
    with pytest.raises((Truncated, ConnectionError)):
        client.read_response()
    stage.wait_failure("response_truncated")
    wait_for(stage.settled, "nothing in flight")


@pytest.mark.parametrize("notify", [True, False])
def test_a_kept_connection_that_the_backend_has_closed_costs_no_request(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert, notify: bool
) -> None:
    """F7."""
    task = stage.backend(closing(response(), notify=notify), tls=serving(leaf))
    route(stage, trusting, task)
    for number in range(10):
        assert stage.ask(request(method="POST", body=b"%d" % number)).status == 200
        wait_for(lambda: all(v.sock.fileno() < 0 for v in task.visits), "the backend has closed")
    assert [message.body for message in task.requests] == [b"%d" % number for number in range(10)]


def test_bytes_behind_a_response_are_never_the_next_answer(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert
) -> None:
    """S46 and S47, in the same record and in one of their own."""
    sent = threading.Semaphore(0)

    def script(visit: Visit) -> None:
        while True:
            target = visit.read_request().start.split(b" ")[1]
            pieces = [response(target), response(b"poison")]
            for data in pieces if visit.number % 2 else [b"".join(pieces)]:
                visit.send(data)
            sent.release()

    route(stage, trusting, stage.backend(script, tls=serving(leaf)))
    for number in range(20):
        assert stage.ask(request(f"/{number}")).body == b"/%d" % number
        assert sent.acquire(timeout=10)


# --- changes --------------------------------------------------------------------------------------


def test_a_new_authority_in_the_file_counts_from_the_next_connection_on(
    stage: Stage, authority: trustme.CA, leaf: trustme.LeafCert, tmp_path: Path
) -> None:
    """And a file that cannot be used leaves the one before in force."""
    successor = trustme.CA()
    old, new = stage.backend(tls=serving(leaf)), stage.backend(tls=serving(successor.issue_cert(NAME)))
    tls = BackendTls(name=NAME, ca=authority_file(tmp_path, authority))
    before = marked(tls)
    route(stage, before, old)
    assert stage.ask(request()).status == 200
    route(stage, before, new)
    assert stage.ask(request()).status == 503

    authority_file(tmp_path, successor)
    after = marked(tls)
    route(stage, after, new)
    assert stage.ask(request()).status == 200
    route(stage, after, old)
    assert stage.ask(request()).status == 503

    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense")
    route(stage, marked(tls), new)
    assert stage.ask(request()).status == 200


def test_files_are_read_with_the_table_and_not_for_a_request(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert
) -> None:
    route(stage, trusting, stage.backend(tls=serving(leaf)))
    os.unlink(trusting.ca)
    assert stage.ask(request()).status == 200


@pytest.mark.parametrize("change", [{"name": "other.test"}, {"fingerprint": "new"}, {"verify": False}])
def test_connections_made_under_another_setting_are_not_used_any_more(
    stage: Stage, trusting: BackendTls, authority: trustme.CA, change: dict[str, object]
) -> None:
    task = stage.backend(tls=serving(authority.issue_cert(NAME, "other.test")))
    route(stage, trusting, task)
    assert stage.ask(request()).status == 200
    wait_for(stage.settled, "the first is over")
    busy = stage.client()
    busy.send(b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 2\r\n\r\n1")
    wait_for(lambda: stage.cell(sb.IN_FLIGHT) == 1, "one is under way")
    route(stage, replace(trusting, **change), task)  # type: ignore[arg-type]
    busy.send(b"2")
    assert busy.read_response().status == 200
    assert len(task.visits) == 1
    for number in range(3):
        assert stage.ask(request(f"/{number}")).status == 200
    assert len(task.visits) == 2


def test_a_service_that_begins_to_speak_tls_leaves_its_plain_connections(
    stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert
) -> None:
    plain = stage.backend()
    route(stage, None, plain)
    assert stage.ask(request()).status == 200
    wait_for(lambda: not plain.visits[0].buffer, "the answer is out")
    route(stage, trusting, plain, connect_s=0.3)
    assert words(stage.ask(request()))[0] == "tls_failed"
    assert len(plain.requests) == 1


def test_many_at_once(stage: Stage, trusting: BackendTls, leaf: trustme.LeafCert) -> None:
    """Each gets its own answer, whoever's connection it comes on."""
    tasks = [stage.backend(tls=serving(leaf)) for _ in range(2)]
    route(stage, trusting, *tasks)
    clients = [stage.client() for _ in range(30)]
    for turn in range(5):
        for number, client in enumerate(clients):
            client.send(request(f"/{turn}/{number}"))
        for number, client in enumerate(clients):
            assert client.read_response().body == b"/%d/%d" % (turn, number)
    no_bug(stage)
