"""What the backend is told about the client, and what it is not told."""

from __future__ import annotations

import socket

import pytest

from tests.kit.stage import Stage
from tests.kit.wire import request

FORGED = (
    "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443",
    "X-Forwarded-Host: evil.test", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6;proto=https",
)  # fmt: skip


def test_forwarding_headers_of_a_stranger_are_replaced(stage: Stage) -> None:
    """Anyone can send them; an application that trusts them would trust anyone."""
    backend = stage.serve()
    stage.ask(request("/", *FORGED))
    got = backend.requests[0]
    assert got.get("x-forwarded-for") == b"127.0.0.1"
    assert got.get("x-forwarded-proto") == b"http"
    assert got.get("x-forwarded-port") == str(stage.worker.port).encode()
    for name in ("x-forwarded-host", "x-real-ip", "forwarded"):
        assert got.get(name) is None
    assert b"6.6.6.6" not in got.raw_head


def test_forwarding_headers_of_a_trusted_proxy_are_appended_to(stage: Stage) -> None:
    """Behind a load balancer its word about the user is the only one there is."""
    backend = stage.serve(None, trusted_proxies=("10.0.0.0/8", "127.0.0.0/8"))
    stage.ask(request("/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2", "X-Forwarded-For: 3.3.3.3", *FORGED[1:]))
    got = backend.requests[0]
    assert got.get("x-forwarded-for") == b"1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1"
    assert got.get("x-forwarded-proto") == b"https"


@pytest.mark.parametrize("proto", ["gopher", "https, http", "\xff"])
def test_a_protocol_that_is_neither_http_nor_https_is_not_passed_on(stage: Stage, proto: str) -> None:
    """Applications build URLs of it."""
    backend = stage.serve(None, trusted_proxies=("127.0.0.1/32",))
    stage.ask(request("/", f"X-Forwarded-Proto: {proto}"))
    assert backend.requests[0].get("x-forwarded-proto") == b"http"


def test_trust_is_given_by_address(stage: Stage) -> None:
    """The list names networks; another client of the same worker stays a stranger."""
    backend = stage.serve(None, trusted_proxies=("127.0.0.9/32",))
    stage.ask(request("/", "X-Forwarded-For: 6.6.6.6"))
    assert backend.requests[0].get("x-forwarded-for") == b"127.0.0.1"
    with socket.create_connection(
        ("127.0.0.1", stage.worker.port), timeout=5, source_address=("127.0.0.9", 0)
    ) as trusted:
        trusted.sendall(request("/", "X-Forwarded-For: 6.6.6.6"))
        assert trusted.recv(1000).startswith(b"HTTP/1.1 200")
    assert backend.requests[1].get("x-forwarded-for") == b"6.6.6.6, 127.0.0.9"


def test_the_backend_sees_the_host_the_client_wrote(stage: Stage) -> None:
    """Applications make links and choose tenants by it."""
    backend = stage.serve()
    stage.ask(request(host="Web.Test:8080"))
    assert backend.requests[0].get("host") == b"Web.Test:8080"


def test_a_request_without_a_host_gets_an_empty_one(stage: Stage) -> None:
    """HTTP/1.0 allows it, the HTTP/1.1 that leaves does not (RFC 9112 section 3.2)."""
    backend = stage.serve()
    client = stage.client()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.read_response().status == 200
    assert backend.requests[0].all("host") == [b""]


def test_the_host_of_an_absolute_target_is_the_only_one_that_leaves(stage: Stage) -> None:
    backend = stage.serve()
    client = stage.client()
    client.send(b"GET http://web.test/x HTTP/1.0\r\n\r\n")
    assert client.read_response().status == 200
    assert backend.requests[0].all("host") == [b"web.test"]
    assert backend.requests[0].start == b"GET /x HTTP/1.1"


def test_hop_by_hop_headers_stay_on_their_hop(stage: Stage) -> None:
    """RFC 9110 section 7.6.1, in both directions."""
    from tests.kit.backends import answering  # noqa: PLC0415
    from tests.kit.wire import response  # noqa: PLC0415

    lines = ("Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=9", "TE: trailers", "X-End: 2")
    backend = stage.serve(answering(response(b"x", *lines, "Proxy-Connection: keep-alive")))
    answer = stage.ask(request("/", *lines))
    for message in (backend.requests[0], answer):
        for name in ("connection", "x-hop", "keep-alive", "te", "proxy-connection"):
            assert message.get(name) is None
        assert message.get("x-end") == b"2"


def test_each_request_has_one_id(stage: Stage) -> None:
    """The client's if it is fit to be logged, else ours; never two requests with the same."""
    backend = stage.serve()
    stage.ask(request("/", "X-Request-Id: abc-1"))
    stage.ask(request("/", 'X-Request-Id: a"b'))
    stage.ask(request())
    first, second, third = (r.get("x-request-id") for r in backend.requests)
    assert first == b"abc-1"
    assert second
    assert third
    assert b'"' not in second
    assert second != third
