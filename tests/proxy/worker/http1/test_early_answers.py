"""A backend that answers before it has read the request (S50): the answer arrives, and nothing stays."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit
from tests.kit.stage import Stage, staged
from tests.kit.wire import Wire, response
from tests.kit.workers import WorkerProcess, wait_for

_UPLOAD_BYTES = 30_000_000
_PIECE_BYTES = 100_000
_REFUSAL = response(b"too big", "Connection: close", status="413 Content Too Large")


class _Upload:
    """A long request that is sent for as long as the other side takes it."""

    def __init__(self, client: Wire) -> None:
        self._client = client
        self.sent = 0  # pieces
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            head = b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: %d\r\n\r\n" % _UPLOAD_BYTES
            self._client.send(head)
            for _ in range(_UPLOAD_BYTES // _PIECE_BYTES):
                self._client.send(bytes(_PIECE_BYTES))
                self.sent += 1

    def wait_stalled(self) -> None:
        """Return once nobody takes more of it."""
        calm, seen = 0, -1
        while calm < 20:
            calm = calm + 1 if seen == self.sent else 0
            seen = self.sent
            self._thread.join(0.01)

    def join(self) -> None:
        self._thread.join()


def test_a_refusal_and_a_reset_for_the_rest_is_the_refusal(stage: Stage) -> None:
    """Closing with bytes unread is a reset, and our next write fails: the answer is there to be read all the
    same. At full speed the reset often comes between two events, so one upload would prove little."""

    def refusing(visit: Visit) -> None:
        visit.read_head()
        visit.read_exactly(1000)
        visit.send(_REFUSAL)

    stage.serve(refusing, linger_s=0.05)
    for _ in range(15):
        client = stage.client()
        sending = _Upload(client)
        answer = client.read_response("POST")
        assert (answer.status, answer.body) == (413, b"too big"), answer
        client.close()
        sending.join()


@pytest.fixture
def alone() -> Iterator[Stage]:
    """A stage on a worker of its own: all its connections are those of this test."""
    with WorkerProcess() as worker, staged(worker, 1) as made:
        yield made


def test_a_backend_that_answers_and_then_ignores_us_is_left(alone: Stage) -> None:
    """It reads no more and does not close: what it has not taken must not keep the connection for ever."""
    may_answer = threading.Event()

    def ignoring(visit: Visit) -> None:
        visit.read_head()
        assert may_answer.wait(30)
        visit.send(_REFUSAL)
        visit.backend.going.wait(30)

    alone.serve(ignoring, linger_s=0.05)
    client = alone.client()
    sending = _Upload(client)
    wait_for(lambda: alone.worker.head(sb.UPSTREAMS) == 1, "the backend has it")
    sending.wait_stalled()
    may_answer.set()
    assert client.read_response("POST").status == 413
    wait_for(lambda: alone.worker.head(sb.UPSTREAMS) == 0, "the backend's connection is closed")
    client.close()
    sending.join()
