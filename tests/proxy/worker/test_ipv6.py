"""IPv6 on both sides: listener, clients, names, backends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config import load
from proxy.link.sockets import listen
from proxy.settings import ListenerSettings
from tests.kit.anyport import Anyport, free_port
from tests.kit.backends import ScriptedBackend, answering, refused_port
from tests.kit.proxy_header import v2
from tests.kit.stage import Stage, settings, staged, words
from tests.kit.wire import Message, Wire, request, response
from tests.kit.workers import WorkerProcess, backend, service, wait_for


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    with WorkerProcess(host="::1") as made:
        yield made


@pytest.fixture
def stage(worker: WorkerProcess) -> Iterator[Stage]:
    with staged(worker, 1) as made:
        yield made


def _headers(request: Message) -> bytes:
    wanted = (b"host", b"x-forwarded-for", b"x-forwarded-port")
    return response(b"|".join(value for name, value in request.headers if name in wanted))


def _route(stage: Stage, *ports: int, **changes: object) -> None:
    stage.worker.settings = settings(**changes)
    stage.worker.publish(
        [service(slot=1, hosts=("[::1]", "*"))], [backend(port, host="::1") for port in ports]
    )


def test_a_request_goes_from_ipv6_to_ipv6(stage: Stage) -> None:
    """The address in X-Forwarded-For is bare, the one in Host in brackets, as ever."""
    made = stage.backend(answering(_headers), host="::1")
    _route(stage, made.port)
    for host in ("[::1]", f"[::1]:{stage.worker.port}", "web.test"):
        answer = stage.ask(request(host=host))
        assert answer.status == 200
        assert set(answer.body.split(b"|")) == {host.encode(), b"::1", str(stage.worker.port).encode()}


def test_a_trusted_network_of_ipv6(stage: Stage) -> None:
    """X-Forwarded-For goes on from there."""
    made = stage.backend(answering(_headers), host="::1")
    data = request("/", "X-Forwarded-For: 2001:db8::9")
    _route(stage, made.port, trusted_proxies=("::/64",))
    assert b"2001:db8::9, ::1" in stage.ask(data).body.split(b"|")
    _route(stage, made.port, trusted_proxies=("2001:db8::/32", "0.0.0.0/0"))
    assert b"::1" in stage.ask(data).body.split(b"|")


def test_a_proxy_header_over_ipv6(stage: Stage) -> None:
    made = stage.backend(answering(_headers), host="::1")
    _route(stage, made.port, trusted_proxies=("::1/128",), listeners=(ListenerSettings(proxy_protocol=True),))
    assert b"2001:db8::7" in stage.ask(v2(("2001:db8::7", 1), ("fd00::1", 443)) + request()).body.split(b"|")


def test_a_port_without_a_listener_is_refused_there_too(stage: Stage) -> None:
    _route(stage, refused_port(), refused_port())
    answer = stage.ask(request())
    assert (answer.status, words(answer)[0]) == (503, "connect_refused")
    assert b"::" not in answer.body


@pytest.mark.parametrize("host", ["[::1", "::1", "[::g]", "[::1]x", "[::1]:", "[::1]:99999999"])
def test_a_host_that_only_looks_like_an_address_is_refused(stage: Stage, host: str) -> None:
    """Without its brackets nobody can tell address from port."""
    _route(stage)
    assert stage.ask(request(host=host)).status == 400


def test_a_listener_of_ipv6_leaves_ipv4_to_another() -> None:
    """[::] and 0.0.0.0 on one port are two listeners: an IPv4 client never comes as ::ffff:10.0.0.1."""
    with listen("::", 0) as six, listen("0.0.0.0", six.getsockname()[1]) as four:
        with socket.create_connection(("127.0.0.1", six.getsockname()[1])):
            sock, peer = four.accept()
            sock.close()
        assert peer[0] == "127.0.0.1"


def test_all_of_anyport_over_ipv6(tmp_path: Path) -> None:
    """Address in the configuration, static backend, health check, request."""
    port = free_port()
    with ScriptedBackend(answering(_headers), host="::1") as made:
        config = (
            f'[[listener]]\naddress = "[::1]:{port}"\n'
            f'[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["[::1]:{made.port}"]\n'
        )
        with Anyport(tmp_path, config, workers=1) as proxy:
            proxy.wait_ready()
            assert [row["address"] for row in proxy.table()] == [f"[::1]:{made.port}"]
            assert f"[::1]:{port}" in proxy.log
            with Wire.connect(port, host="::1") as client:
                client.send(request(host=f"[::1]:{port}"))
                answer = client.read_response()
            wait_for(lambda: "anyport_requests_total" in proxy.metrics(), "it is counted")
    assert answer.status == 200
    assert b"::1" in answer.body.split(b"|")


def test_addresses_of_ipv6_in_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'trusted_proxies = ["fd00::/8"]\n'
        '[[listener]]\naddress = "[::]:8080"\n[[listener]]\naddress = "0.0.0.0:8080"\n'
        '[[service]]\nname = "a"\nhosts = ["*"]\nstatic = ["[fd00::1]:80"]\n'
    )
    assert [listener.address for listener in load(file, {}).listener] == ["[::]:8080", "0.0.0.0:8080"]
