"""Two tasks, one address: the worker's side of ECS giving a dead task's host port to another service."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace

from proxy.link import scoreboard as sb
from tests.kit.backends import ScriptedBackend, Visit
from tests.kit.stage import Stage, settings
from tests.kit.wire import request, response
from tests.kit.workers import backend, service, wait_for

ROUNDS = 100


class _Tenant:
    """Answers with the name of whoever holds the address at the moment the request arrives."""

    def __init__(self) -> None:
        self.name = "a"
        self.strangers: list[str] = []

    def __call__(self, visit: Visit) -> None:
        holder = self.name  # a connection belongs to the process that accepted it
        while True:
            host = visit.read_request().get("host")
            if host != f"{holder}.test".encode():
                self.strangers.append(f"{holder} got a request for {host!r}")
            visit.send(response(holder.encode()))


def _publish(
    stage: Stage, holder: str, shared: ScriptedBackend, other: ScriptedBackend, generation: int
) -> None:
    """*holder* is at the shared address, the other service has only its own task."""
    a, b = service("a", slot=1001, hosts=["a.test"]), service("b", slot=1002, hosts=["b.test"])
    rest = "b" if holder == "a" else "a"
    rows = [
        backend(shared.port, of=holder, task=f"arn:{holder}:{generation}"),
        backend(other.port, of=rest, task=f"arn:{rest}:other"),
    ]
    stage.worker.publish([a, b], rows)


def test_a_hundred_handovers_bring_no_request_to_a_stranger(stage: Stage) -> None:
    """Rules 1 and 4: connections hang on the identity, so the newcomer starts with a fresh pool."""
    tenant = _Tenant()
    shared = stage.backend(tenant)

    def anybody(visit: Visit) -> None:
        while True:
            host = visit.read_request().get("host")
            assert host is not None
            visit.send(response(host[:1]))

    other = stage.backend(anybody)
    clients = {name: stage.client() for name in ("a", "b")}
    for number in range(ROUNDS):
        tenant.name = "ab"[number % 2]
        _publish(stage, tenant.name, shared, other, number)
        for _ in range(2):
            for name, client in clients.items():
                client.send(request(host=f"{name}.test"))
                assert client.read_response().body == name.encode()
    assert tenant.strangers == []
    assert len(shared.visits) == ROUNDS


def test_a_dial_overtaken_by_the_table_sends_nothing(stage: Stage) -> None:
    """The handshake may end at the newcomer's process; the request was meant for its predecessor.

    A full backlog holds the dial up until the table has changed; then the kernel's second SYN gets through.
    """
    with ExitStack() as stack:
        newcomer = stack.enter_context(socket.socket())
        newcomer.settimeout(5)
        newcomer.bind(("127.0.0.1", 0))
        newcomer.listen(0)
        stack.enter_context(socket.create_connection(newcomer.getsockname()))
        port = newcomer.getsockname()[1]
        stage.worker.settings = settings(connect_s=4.0)
        stage.worker.publish([service(slot=stage.slot)], [backend(port, task="arn:a")])
        client = stage.client()
        client.send(request())
        wait_for(lambda: stage.cell(sb.IN_FLIGHT) == 1, "the dial is under way")
        others = service("b", slot=1002, hosts=["b.test"])
        stage.worker.publish([service(slot=stage.slot), others], [backend(port, task="arn:b", of="b")])
        stack.enter_context(newcomer.accept()[0])
        late = stack.enter_context(newcomer.accept()[0])
        late.settimeout(5)
        assert late.recv(100) == b""
        assert client.read_response().status == 503


def test_a_suspended_backend_gets_nothing_and_its_requests_go_elsewhere(stage: Stage) -> None:
    """Rule 4: of two claims on one address the older is suspended at once, connections and all."""
    old, good = stage.backend(), stage.backend()
    client = stage.client()
    rows = [backend(old.port), backend(good.port)]
    stage.worker.publish([service(slot=stage.slot)], rows)
    for _ in range(20):
        client.send(request())
        assert client.read_response().status == 200
    before = len(old.requests)
    assert before > 0
    stage.worker.publish([service(slot=stage.slot)], [replace(rows[0], suspended=True), rows[1]])
    wait_for(lambda: stage.worker.head(sb.UPSTREAMS) == 1, "its idle connection is closed")
    for _ in range(20):
        client.send(request())
        assert client.read_response().status == 200
    assert len(old.requests) == before
