"""Old news about a backend is proven before a request goes to it: on the very connection it goes on."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from discovery.model import BackendKey
from proxy.backend_tls import fingerprint
from proxy.link import reports
from proxy.link import scoreboard as sb
from proxy.link.reports import Mistaken, Report
from proxy.settings import BackendTls, IdentityCheck
from tests.kit.backends import Script, ScriptedBackend, Visit, after_request, answering, stalling
from tests.kit.pki import authority_file, serving
from tests.kit.stage import Stage, settings, words
from tests.kit.wire import Message, request, response
from tests.kit.workers import backend, service, wait_for

CHECK = IdentityCheck(path="/health?deep=1", host="web.test", header="x-service", timeout_s=5.0)
BY_BODY = replace(CHECK, header="", body=True)


def told(stage: Stage) -> list[Report]:
    return reports.receive(stage.worker.near)


def is_proof(asked: Message) -> bool:
    return asked.start == b"GET /health?deep=1 HTTP/1.1"


def named(name: str, *lines: str, body: bytes = b"") -> Script:
    """Return a script that answers as service *name*: every request, the question whose it is among them."""

    def make(asked: Message) -> bytes:
        return response(body or name.encode(), f"X-Service: {name}", *lines)

    return answering(make)


def proving(answer: bytes) -> Script:
    """Return a script that gives *answer* to the question whose it is, and then serves."""
    return answering(lambda asked: answer if is_proof(asked) else response(b"served"))


def route(
    stage: Stage,
    *backends: ScriptedBackend,
    check: IdentityCheck | None = CHECK,
    confirm: bool = True,
    tls: BackendTls | None = None,
    **changes: object,
) -> None:
    stage.worker.settings = settings(**changes)
    rows = [replace(backend(b.port), confirm=confirm) for b in backends]
    stage.worker.publish([replace(service(slot=stage.slot), identity=check, tls=tls)], rows)


def key(of: ScriptedBackend) -> BackendKey:
    row = backend(of.port)
    return BackendKey(row.task_arn, row.container, row.container_port)


@pytest.fixture(autouse=True)
def _no_reports_of_others(stage: Stage) -> None:
    told(stage)


def test_the_right_task_is_asked_once_for_each_connection(stage: Stage) -> None:
    web = stage.backend(named("web"))
    route(stage, web)
    for _ in range(3):
        assert stage.ask(request("/page")).body == b"web"
    first, *rest = web.requests
    assert is_proof(first)
    assert first.all("host") == [b"web.test"]
    assert [asked.start for asked in rest] == [b"GET /page HTTP/1.1"] * 3
    assert len(web.visits) == 1, "the request goes on the connection that was proven"
    assert told(stage) == []


def test_the_wrong_task_gets_nothing_but_the_question(stage: Stage) -> None:
    """Rule 4: the port is another service's by now, and the client still gets its page."""
    shop, web = stage.backend(named("shop")), stage.backend(named("web"))
    route(stage, shop, web)
    for number in range(20):
        answer = stage.ask(request(f"/{number}", method="POST", body=b"mine"))
        assert answer.body == b"web"
    assert shop.requests
    assert all(is_proof(asked) for asked in shop.requests)
    said = 'identity mismatch: answered as "shop"'
    assert Mistaken("web", key(shop), said) in told(stage)


def test_where_only_the_wrong_task_is_left_the_client_is_told_that_nothing_was_sent(stage: Stage) -> None:
    shop = stage.backend(named("shop"))
    route(stage, shop)
    answer = stage.ask(request("/mine", method="POST", body=b"mine"))
    assert (answer.status, words(answer)) == (503, ("identity_mismatch", ["delivered=no", "attempts=1"]))
    assert [asked.start for asked in shop.requests] == [b"GET /health?deep=1 HTTP/1.1"]
    assert b"shop" not in answer.body


@pytest.mark.parametrize(("check", "confirm"), [(CHECK, False), (None, True), (None, False)])
def test_fresh_news_and_services_without_a_proof_cost_no_question(
    stage: Stage, check: IdentityCheck | None, confirm: bool
) -> None:
    shop = stage.backend(named("shop"))
    route(stage, shop, check=check, confirm=confirm)
    assert stage.ask(request("/page")).status == 200
    assert [asked.start for asked in shop.requests] == [b"GET /page HTTP/1.1"]


def test_a_kept_connection_is_used_as_it_is(stage: Stage) -> None:
    """A connection that stands cannot have moved to another task."""
    web = stage.backend(named("shop"))  # it could not prove itself, and need not
    route(stage, web, confirm=False)
    assert stage.ask(request("/1")).status == 200
    route(stage, web, confirm=True)
    assert stage.ask(request("/2")).status == 200
    assert [asked.start for asked in web.requests] == [b"GET /1 HTTP/1.1", b"GET /2 HTTP/1.1"]


def chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (CHECK, response(b"", "X-Service: web")),
        (CHECK, b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(b"", "X-Service: web")),
        (CHECK, response(b"down", "x-service:web", status="503 Busy")),  # ill, but the right one
        (BY_BODY, response(b"this is web")),
        (BY_BODY, chunked(b"this is web")),
    ],
    ids=["header", "interim", "ill", "body", "chunked"],
)
def test_what_proves_a_task_keeps_its_connection(stage: Stage, check: IdentityCheck, answer: bytes) -> None:
    web = stage.backend(proving(answer))
    route(stage, web, check=check)
    assert stage.ask(request("/page")).body == b"served"
    assert len(web.visits) == 1


def test_a_task_may_echo_its_own_arn_and_no_other(stage: Stage) -> None:
    web = stage.backend(named("web"))
    web.script = named(key(web).task_arn)
    route(stage, web)
    assert stage.ask(request("/page")).status == 200
    other = stage.backend(named(key(web).task_arn))
    route(stage, other)
    assert stage.ask(request("/page")).status == 503


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (response(b"web"), "identity not proven"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "identity not proven"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "identity not proven: the answer is not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "identity not proven: the answer is not HTTP"),
        (response(b"", "X-Service: web", "X-Service: shop"), 'identity mismatch: answered as "shop"'),
        (response(b"", "X-Service: sh\xa0p\xff"), 'identity mismatch: answered as "sh?pÿ"'),
    ],
    ids=["unnamed", "204", "ssh", "101", "both", "unprintable"],
)
def test_what_proves_nothing_is_reported_in_words_for_people(stage: Stage, answer: bytes, said: str) -> None:
    odd = stage.backend(after_request(answer))
    route(stage, odd)
    reply = stage.ask(request("/mine"))
    assert (reply.status, words(reply)[0]) == (503, "identity_mismatch")
    assert told(stage) == [Mistaken("web", key(odd), said)]


@pytest.mark.parametrize(
    "answer",
    [
        response(b"web", "X-Service: web", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nX-Service: web\r\n\r\nweb",
        b"HTTP/1.1 200 OK\r\nX-Service: web\r\n\r\nweb",
        response(b"x" * 1_000_000, "X-Service: web"),
        response(b"", "X-Service: web") + b"extra",
    ],
    ids=["close", "1.0", "to the end", "large", "extra"],
)
def test_a_connection_that_ends_with_its_proof_is_followed_by_another(stage: Stage, answer: bytes) -> None:
    def script(visit: Visit) -> None:
        first = visit.read_request()
        visit.send(answer if is_proof(first) else response(b"served"))

    web = stage.backend(script)
    route(stage, web)
    assert stage.ask(request("/page")).body == b"served"
    assert [asked.start for asked in web.requests] == [
        b"GET /health?deep=1 HTTP/1.1",
        b"GET /page HTTP/1.1",
    ]


def test_silence_is_waited_for_no_longer_than_a_check_would(stage: Stage) -> None:
    mute, web = stage.backend(stalling(b"HTTP/1.1 200 OK\r\n")), stage.backend(named("web"))
    quick = replace(CHECK, timeout_s=0.1)
    route(stage, mute, web, check=quick)
    for _ in range(5):
        assert stage.ask(request("/page")).body == b"web"
    route(stage, mute, check=quick)
    answer = stage.ask(request("/page"))
    assert (answer.status, words(answer)[0]) == (503, "connect_timeout")
    assert told(stage) == [], "it has not said that it is somebody else"


def test_who_hangs_up_on_the_question_is_as_good_as_refusing(stage: Stage) -> None:
    deaf, web = stage.backend(after_request()), stage.backend(named("web"))
    route(stage, deaf, web)
    for _ in range(5):
        assert stage.ask(request("/page")).body == b"web"


def test_over_tls_too(stage: Stage, tmp_path: Path) -> None:
    authority = trustme.CA()
    context: Callable[[], ssl.SSLContext] = lambda: serving(authority.issue_cert("tasks.test"))  # noqa: E731
    tls = BackendTls(name="tasks.test", ca=authority_file(tmp_path, authority))
    tls = replace(tls, fingerprint=fingerprint(tls))
    shop, web = stage.backend(named("shop"), tls=context()), stage.backend(named("web"), tls=context())
    route(stage, shop, web, tls=tls)
    for _ in range(10):
        assert stage.ask(request("/page")).body == b"web"
    assert all(is_proof(asked) for asked in shop.requests)
    assert [is_proof(asked) for asked in web.requests] == [True, *[False] * 10]


def test_nothing_is_left_behind(stage: Stage) -> None:
    """Connections are counted once, whoever held them meanwhile."""
    wait_for(lambda: stage.worker.head(sb.UPSTREAMS) == 0, "those of other tests are closed")
    shop, web = stage.backend(named("shop")), stage.backend(named("web", "Connection: close"))
    route(stage, shop, web)
    for _ in range(10):
        assert stage.ask(request("/page")).body == b"web"
    wait_for(lambda: stage.worker.head(sb.UPSTREAMS) == 0, "every connection is closed")
    assert stage.settled()
