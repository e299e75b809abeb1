"""Checks against real sockets: what each kind of answer, and of silence, is called."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from discovery.model import BackendKey, Endpoint, HealthCheck, Service
from proxy.control.health.check import Checker, Target, target
from proxy.policy.verdict import CheckResult

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def says(data: bytes, seen: list[bytes] | None = None) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(data)
        await writer.drain()

    return answer


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


def at(port: int, check: HealthCheck | None = None, host: str = "127.0.0.1") -> Target:
    return Target(
        service="web",
        key=BackendKey("arn:task/1", "app", 80),
        host=host,
        port=port,
        check=check or HealthCheck(timeout_s=5.0),
        host_header="web.test",
    )


async def ask(
    answer: Answer, check: HealthCheck | None = None, host: str = "127.0.0.1"
) -> CheckResult | None:
    async with serving(answer, host) as port, Checker() as checker:
        return await checker.check(at(port, check, host))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK, CheckResult(True, "HTTP 200")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", CheckResult(True, "HTTP 302")),
        (b"HTTP/1.0 503 Busy\r\n\r\n", CheckResult(False, "HTTP 503")),
        (b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n", CheckResult(False, "HTTP 404")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", CheckResult(True, "HTTP 200")),
        (b"SSH-2.0-OpenSSH_9.6\r\n", CheckResult(False, "the answer is not HTTP")),
        (b"", CheckResult(False, "closed without an answer")),
    ],
    ids=["200", "redirect", "503", "404", "short-body", "not-http", "closed"],
)
async def test_answers(data: bytes, expected: CheckResult) -> None:
    assert await ask(says(data)) == expected


@pytest.mark.asyncio
async def test_silence_is_a_timeout_that_says_how_long() -> None:
    check = HealthCheck(timeout_s=0.05)

    assert await ask(silent, check) == CheckResult(False, "timeout after 0.05 s")


@pytest.mark.asyncio
async def test_an_endless_body_costs_no_more_than_its_beginning() -> None:
    assert await ask(endless) == CheckResult(True, "HTTP 200")


@pytest.mark.asyncio
async def test_a_closed_port_is_refused_over_http_and_tcp() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take it
        port = sock.getsockname()[1]
        async with Checker() as checker:
            for check in (HealthCheck(), HealthCheck(kind="tcp")):
                assert await checker.check(at(port, check)) == CheckResult(False, "connection refused")


@pytest.mark.asyncio
async def test_tcp_needs_only_the_handshake() -> None:
    assert await ask(silent, HealthCheck(kind="tcp")) == CheckResult(True, "connected")


@pytest.mark.asyncio
async def test_the_request_is_plain_and_on_a_connection_of_its_own() -> None:
    seen: list[bytes] = []
    check = HealthCheck(path="/health?deep=%2F1", timeout_s=5.0)
    data = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with serving(says(data, seen)) as port, Checker() as checker:
        for _ in range(2):
            await checker.check(at(port, check))

    assert len(seen) == 2
    for head in seen:
        assert head.startswith(b"GET /health?deep=%2F1 HTTP/1.1\r\n")
        assert b"\r\nHost: web.test\r\n" in head
        assert b"\r\nConnection: close\r\n" in head
        assert b"cookie" not in head.lower()


@pytest.mark.asyncio
async def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        assert await ask(says(OK), host="::1") == CheckResult(True, "HTTP 200")
    except OSError as exc:
        pytest.skip(f"no IPv6 loopback here: {exc}")


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (Service(name="web", hosts=("*", "*.a.test", "b.test", "c.test")), "b.test"),
        (Service(name="web", hosts=("*.a.test",)), "web"),
        (Service(name="web", hosts=("b.test",), health=HealthCheck(host="h.test")), "h.test"),
    ],
)
def test_the_host_header_is_what_the_service_answers_to(service: Service, expected: str) -> None:
    endpoint = Endpoint(
        service="web", task_arn="a", container="c", container_port=80, host="127.0.0.1", port=1
    )

    assert target(endpoint, service).host_header == expected


ARN = "arn:aws:ecs:eu-west-1:111122223333:task/prod/4d590253bb114126b7afa7b58eea9221"
BY_HEADER = HealthCheck(timeout_s=5.0, identity_header="x-service")
BY_BODY = HealthCheck(timeout_s=5.0, identity_body=True)
BY_EITHER = HealthCheck(timeout_s=5.0, identity_header="x-service", identity_body=True)
UNPROVEN = CheckResult(False, "identity not proven", foreign=True)
SHOP = CheckResult(False, 'identity mismatch: answered as "shop"', foreign=True)


def named(value: bytes, body: bytes = b"", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nX-Service: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (status, value, len(body)) + body


def unnamed(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("check", "data", "expected"),
    [
        (BY_HEADER, named(b"web"), CheckResult(True, "HTTP 200")),
        (BY_HEADER, named(b"shop"), SHOP),
        (BY_HEADER, unnamed(b"web"), UNPROVEN),
        (BY_BODY, unnamed(b"this is web"), CheckResult(True, "HTTP 200")),
        (BY_BODY, unnamed(b"x" * 60_000 + b" web"), CheckResult(True, "HTTP 200")),
        (BY_BODY, unnamed(b"this is shop"), UNPROVEN),
        (BY_BODY, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nweb", CheckResult(True, "HTTP 200")),
        (BY_EITHER, unnamed(b"web"), CheckResult(True, "HTTP 200")),
        (BY_EITHER, named(b"shop", b"web"), SHOP),
        # An error page that names nobody is a failed check like any other; one that names another is not.
        (BY_HEADER, unnamed(b"", b"503 Busy"), CheckResult(False, "HTTP 503")),
        (BY_HEADER, named(b"web", b"", b"503 Busy"), CheckResult(False, "HTTP 503")),
        (BY_HEADER, named(b"shop", b"", b"503 Busy"), SHOP),
        (HealthCheck(timeout_s=5.0), named(b"shop"), CheckResult(True, "HTTP 200")),
    ],
)
async def test_the_answer_says_whose_it_is(check: HealthCheck, data: bytes, expected: CheckResult) -> None:
    assert await ask(says(data), check) == expected


@pytest.mark.asyncio
async def test_a_task_may_echo_its_own_name() -> None:
    async with Checker() as checker:
        for proof in (ARN, ARN.rpartition("/")[2]):
            async with serving(says(named(proof.encode()))) as port:
                wanted = replace(at(port, BY_HEADER), key=BackendKey(ARN, "app", 80))
                assert await checker.check(wanted) == CheckResult(True, "HTTP 200")
                other = replace(wanted, key=BackendKey(ARN.replace("4d", "5e"), "app", 80))
                found = await checker.check(other)
                assert found is not None
                assert found.foreign


@pytest.mark.asyncio
async def test_an_endless_body_is_searched_no_further_than_its_beginning() -> None:
    assert await ask(endless, BY_BODY) == UNPROVEN
