"""Heads that two programs could read in two ways, on the wire: refused, and no backend hears of them.

The cases are `tests.kit.desync.REFUSED`, each named by its row of the table of ambiguities: S1 to S5, S8 to
S18, S20, S28 to S35, S37, S38, S44, S52 and S54. (S53 is about HTTP/2, which this data plane does not speak.)
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.backends import ScriptedBackend
from tests.kit.desync import REFUSED
from tests.kit.stage import Stage, staged, words
from tests.kit.wire import request
from tests.kit.workers import WorkerProcess

_SLOT = 4000  # of a service that all rows share: they leave nothing behind on it
_REASONS = {
    400: ("bad_request", "host_missing"),
    405: ("protocol_refused",),
    414: ("head_too_large",),
    417: ("protocol_refused",),
    431: ("head_too_large",),
    501: ("protocol_refused",),
    505: ("protocol_refused",),
}
# Behind a head whose body has no length, or two: whatever is believed, a request begins somewhere in here.
_TAIL = b"0\r\n\r\n" + request("/smuggled") + request("/smuggled")


@pytest.fixture(scope="module")
def served(shared_worker: WorkerProcess) -> Iterator[tuple[Stage, ScriptedBackend]]:
    with staged(shared_worker, _SLOT) as stage:
        yield stage, stage.serve()


@pytest.mark.parametrize("row", REFUSED)
def test_no_backend_hears_of_it_and_the_connection_ends(
    served: tuple[Stage, ScriptedBackend], row: str
) -> None:
    """Rule 5, judged by what the backend received: only the request that another client sends afterwards."""
    stage, backend = served
    head, status = REFUSED[row]
    before = len(backend.requests)
    client = stage.client()
    client.send(head + _TAIL)

    answer = client.read_response()
    assert (answer.status, answer.get("connection")) == (status, b"close")
    reason, promises = words(answer)
    assert reason in _REASONS[status]
    assert promises == ["delivered=no", "attempts=0"]
    assert client.at_end()

    assert stage.ask(request("/canary")).body == b"/canary"
    assert [seen.start for seen in backend.requests[before:]] == [b"GET /canary HTTP/1.1"]
    assert len(backend.visits) == 1


@pytest.mark.parametrize("row", ["S1 CL then TE", "S13 folded TE", "S15 bare LF everywhere", "S16 CR CR LF"])
def test_what_was_asked_before_on_the_connection_is_answered(
    served: tuple[Stage, ScriptedBackend], row: str
) -> None:
    """Pipelined requests before the bad one are whole and unambiguous: they keep their answers, in order."""
    stage, backend = served
    before = len(backend.requests)
    client = stage.client()
    client.send(request("/1") + request("/2") + REFUSED[row][0] + _TAIL)

    assert [client.read_response().body for _ in range(2)] == [b"/1", b"/2"]
    assert client.read_response().status == REFUSED[row][1]
    assert client.at_end()
    assert len(backend.requests) == before + 2


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n",  # HTTP/0.9 as it was spoken: one line
        b"GET / HTTP/1.1\r\nHost: a.test\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
    ids=["S32 one line", "no blank line", "half a line", "TLS", "SSH"],
)
def test_half_a_head_is_no_request(served: tuple[Stage, ScriptedBackend], data: bytes) -> None:
    """S32: a client that ends before its head is whole has asked for nothing."""
    stage, backend = served
    before = len(backend.requests)
    client = stage.client()
    client.send(data)
    client.half_close()

    assert not client.read_to_end().startswith(b"HTTP/1.1 2")
    assert len(backend.requests) == before
