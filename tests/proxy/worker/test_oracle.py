"""The oracle: backends that record every byte, random faults, and the promises checked against the record."""

from __future__ import annotations

import random
import re

from proxy.errors import BY_REASON
from tests.kit.backends import Visit, refused_port
from tests.kit.stage import Stage, words
from tests.kit.wire import Message, Truncated, request, response
from tests.kit.workers import backend, service

SEQUENCES = 1_500
BACKENDS = 4
ADDRESS = re.compile(rb"\d+\.\d+\.\d+\.\d+|arn:")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"
_METHODS = ("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")


class _Chaos:
    """What each backend does next, and which canaries it has seen."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.fault = "ok"
        self.seen: list[bytes] = []  # canaries of the requests whose head arrived, in order

    def __call__(self, visit: Visit) -> None:
        while True:
            first = visit.more() if not visit.buffer else True
            if not first:
                return
            fault = self.fault
            if fault == "rst at the first byte":
                self._note(visit)
                visit.reset()
                return
            message = visit.read_request()
            self._note(visit, message)
            canary = message.get("x-canary") or b""
            body = b"" if message.start.startswith(b"HEAD") else canary
            if fault == "ok":
                visit.send(response(canary)[: -len(canary)] + body)
            elif fault == "close after":
                visit.send(response(canary, "Connection: close")[: -len(canary)] + body)
                return
            elif fault == "fin":
                return
            elif fault == "rst":
                visit.reset()
                return
            elif fault == "half a head":
                visit.send(_HEAD[:20])
                return
            elif fault == "half a body":
                visit.send(_HEAD + canary[:3])
                return
            elif fault == "garbage":
                visit.send(b"\0\1\2garbage\r\n\r\n")
                return
            elif fault == "extra":
                visit.send(response(canary)[: -len(canary)] + body + b"HTTP/1.1 200 OK\r\n\r\nevil")
            elif fault == "stale":  # fine now, gone at the next request
                visit.send(response(canary)[: -len(canary)] + body)
                visit.reset()
                return

    def _note(self, visit: Visit, message: Message | None = None) -> None:
        if message is not None:
            self.seen.append(message.get("x-canary") or b"")
            return
        found = re.search(rb"X-Canary: (\w+)", visit.buffer)
        self.seen.append(found[1] if found else b"?")


FAULTS = (
    "ok", "ok", "close after", "fin", "rst", "half a head", "half a body", "garbage", "extra", "stale",
    "rst at the first byte",
)  # fmt: skip


def test_what_an_error_says_about_delivery_is_true(stage: Stage) -> None:
    """No 503 has a byte at a backend, no delivered=no is wrong, nobody gets another one's answer, a request
    that must not be repeated arrives at most once, and no address leaves."""
    rng = random.Random(20)
    chaos = [_Chaos(rng) for _ in range(BACKENDS)]
    live = [stage.backend(each) for each in chaos]
    client = stage.client()
    kinds: dict[str, int] = {}
    for number in range(SEQUENCES):
        if number % 10 == 0:
            chosen = rng.sample(live, rng.randint(0, 3))
            rows = [backend(b.port) for b in chosen]
            rows += [backend(refused_port()) for _ in range(rng.choice((0, 0, 1, 3)))]
            stage.worker.publish([service(slot=stage.slot)], rows)
        for each in chaos:
            each.fault = rng.choice(FAULTS)
        canary = b"c%07d" % number
        method = rng.choice(_METHODS)
        client.send(request("/", f"X-Canary: {canary.decode()}", method=method))
        try:
            answer = client.read_response(method)
        except (Truncated, ConnectionError):
            kinds["cut"] = kinds.get("cut", 0) + 1
            client = stage.client()
            continue
        arrived = sum(each.seen.count(canary) for each in chaos)
        assert not ADDRESS.search(answer.raw_head + answer.body)
        if method in ("POST", "PATCH"):
            assert arrived <= 1
        assert arrived <= 2
        if answer.status == 200:
            kinds["ok"] = kinds.get("ok", 0) + 1
            assert arrived >= 1
            assert answer.body in (canary, b"")
            assert (answer.body == b"") == (method == "HEAD")
        else:
            word, (delivered, _) = words(answer)
            kinds[word] = kinds.get(word, 0) + 1
            assert answer.status == BY_REASON[word].status
            assert (answer.status == 503) == (delivered == "delivered=no")
            if delivered == "delivered=no":
                assert arrived == 0, f"{word} for {canary!r} says {delivered}"
        if answer.get("connection") == b"close":
            client = stage.client()
    assert {"ok", "cut", "no_task", "connect_refused", "closed_before_response", "response_malformed"} <= set(
        kinds
    ), kinds
