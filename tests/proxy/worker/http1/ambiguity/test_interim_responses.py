"""Expect and 1xx responses, on the wire: S38 to S40 of the table of ambiguities."""

from __future__ import annotations

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit, after_request, answering, stalling
from tests.kit.stage import Stage, words
from tests.kit.wire import request, response
from tests.kit.workers import wait_for

_EXPECTS = request("/", "Expect: 100-continue", "Content-Length: 5", method="POST")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _reads_body_and_answers(visit: Visit) -> None:
    visit.send(response(visit.read_request().body))


def test_s38_the_backend_is_asked_and_its_100_relayed(stage: Stage) -> None:
    """S38: only the backend knows whether it wants the body, and none of it goes before it says so."""

    def script(visit: Visit) -> None:
        head = visit.read_head()
        assert head.get("expect") == b"100-continue"
        assert not visit.buffer
        visit.send(b"HTTP/1.1 100 Continue\r\nX-Queue: 1\r\n\r\n")
        visit.send(response(visit.read_exactly(5)))

    stage.serve(script)
    client = stage.client()
    client.send(_EXPECTS)
    assert client.read_response(interim=True).status == 100
    client.send(b"abcde")
    assert client.read_response(interim=True).body == b"abcde"


def test_s38_a_backend_that_says_nothing_gets_the_body_after_a_second(stage: Stage) -> None:
    """S38 and F21: many servers do not know 100, and their clients would wait for each other."""
    stage.serve(_reads_body_and_answers)
    client = stage.client()
    client.send(_EXPECTS)
    assert client.read_response(interim=True).status == 100
    client.send(b"abcde")
    answer = client.read_response(interim=True)
    assert (answer.status, answer.body, answer.get("connection")) == (200, b"abcde", None)
    client.send(request("/next"))
    assert client.read_response().body == b""


def test_s38_a_late_100_is_not_relayed_a_second_time(stage: Stage) -> None:
    """The client has been told already; a second 100 could pass for the final answer."""

    def script(visit: Visit) -> None:
        visit.read_head()
        body = visit.read_exactly(5)
        visit.send(_CONTINUE + response(body))

    stage.serve(script)
    client = stage.client()
    client.send(_EXPECTS)
    assert client.read_response(interim=True).status == 100
    client.send(b"abcde")
    assert client.read_response(interim=True).status == 200


def test_s38_a_body_that_does_not_wait_is_forwarded_at_once(stage: Stage) -> None:
    stage.serve(answering(lambda seen: _CONTINUE + response(seen.body)))
    client = stage.client()
    client.send(_EXPECTS + b"abcde")
    assert client.read_response(interim=True).body == b"abcde"


def test_s38_what_never_comes_after_100_ends_with_the_body_timeout(stage: Stage) -> None:
    """The second of waiting replaces nothing: a client that is silent after it is given up as any other."""
    stage.serve(stalling(), request_body_s=0.3)
    client = stage.client()
    client.send(_EXPECTS)
    assert client.read_response(interim=True).status == 100
    answer = client.read_response(interim=True)
    assert (answer.status, words(answer)[0]) == (408, "body_timeout")


def test_s38_http_1_0_does_not_know_expectations(stage: Stage) -> None:
    """RFC 9110 section 10.1.1: ignored, so nothing waits, and no 1xx goes to it."""
    made = stage.serve(answering(lambda seen: _CONTINUE + response(seen.body)))
    client = stage.client()
    client.send(b"POST / HTTP/1.0\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nabcde")
    assert client.read_until(b"\r\n").startswith(b"HTTP/1.1 200")
    assert made.requests[0].get("expect") is None


def test_s38_an_expectation_the_client_wants_dropped_does_not_leave_it_waiting(stage: Stage) -> None:
    """`Connection: Expect`: the backend does not see it, the client waits for 100 all the same."""
    made = stage.serve(_reads_body_and_answers)
    client = stage.client()
    client.send(
        request("/", "Connection: expect", "Expect: 100-continue", "Content-Length: 5", method="POST")
    )
    assert client.read_response(interim=True).status == 100
    client.send(b"abcde")
    assert client.read_response().body == b"abcde"
    assert made.requests[0].get("expect") is None


@pytest.mark.parametrize("status", ["200 OK", "417 Expectation Failed", "401 Unauthorized"])
@pytest.mark.parametrize("first", [b"", _CONTINUE], ids=["final", "100, then final"])
def test_s39_a_final_answer_before_the_body_ends_both_connections(
    stage: Stage, status: str, first: bytes
) -> None:
    """S39: whether the body still comes is open on both sides; as the next request it would be anybody's."""

    def script(visit: Visit) -> None:
        while True:
            head = visit.read_head()
            visit.backend.requests.append(head)
            visit.send((first if head.get("expect") else b"") + response(b"no", status=status))

    made = stage.serve(script)
    client = stage.client()
    client.send(request("/", "Expect: 100-continue", "Content-Length: 65", method="POST"))
    answer = client.read_response()
    assert (answer.body, answer.get("connection")) == (b"no", b"close")
    client.send(request("/smuggled").ljust(65, b"\n"))
    assert client.at_end()
    assert stage.ask(request("/canary")).body == b"no"
    assert [seen.start.split()[1] for seen in made.requests] == [b"/", b"/canary"]
    assert len(made.visits) == 2


def test_s39_an_expectation_without_a_body_waits_for_nothing(stage: Stage) -> None:
    """S39: there is no body whose state could be open, so both connections are kept."""
    made = stage.serve(answering(lambda seen: _CONTINUE + response(seen.start.split()[1])))
    client = stage.client()
    for number in range(5):
        client.send(request(f"/{number}", "Expect: 100-continue"))
        answer = client.read_response(interim=True)
        assert (answer.status, answer.body) == (200, b"/%d" % number)
    assert len(made.visits) == 1


def test_s40_early_hints_are_relayed_to_a_1_1_client_only(stage: Stage) -> None:
    hints = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nX: y\r\nContent-Length: 5\r\n\r\n"
    )
    stage.serve(answering(hints * 8 + response(b"ok")))
    client = stage.client()
    client.send(request())
    for _ in range(8):
        interim = client.read_response(interim=True)
        assert (interim.status, interim.headers) == (103, ((b"link", b"</a.css>"),))
    assert client.read_response(interim=True).body == b"ok"
    old = stage.client()
    old.send(b"GET / HTTP/1.0\r\n\r\n")
    assert old.read_until(b"\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("line", [b"100 Continue", b"102 Processing", b"104 Upload", b"199 Own"])
def test_s40_other_interim_responses_end_here(stage: Stage, line: bytes) -> None:
    """S40: a client that did not ask may take any of them for the final answer."""
    stage.serve(answering(b"HTTP/1.1 " + line + b"\r\nX: y\r\n\r\n" + response(b"ok")))
    client = stage.client()
    client.send(request())
    assert client.read_response(interim=True).body == b"ok"


@pytest.mark.parametrize("line", [b"100 Continue", b"103 Early Hints", b"102 Processing"])
@pytest.mark.parametrize("final", [b"", response(b"late")], ids=["endless", "with an end"])
def test_s40_a_flood_of_interim_responses_ends_the_exchange(stage: Stage, line: bytes, final: bytes) -> None:
    """S40 and F18: each is small, and without a bound they would go on as long as the backend likes."""
    made = stage.serve(stalling((b"HTTP/1.1 " + line + b"\r\n\r\n") * 9 + final))
    answer = stage.ask(request())
    assert (answer.status, words(answer)[0]) == (502, "response_malformed")
    wait_for(lambda: not stage.worker.head(sb.UPSTREAMS), "its connection is closed")
    assert len(made.requests) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        _CONTINUE + b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_s40_a_101_nobody_asked_for_makes_no_tunnel(stage: Stage, head: bytes) -> None:
    """S40: what follows it is not HTTP, and would be the answer to the next request."""
    made = stage.serve(after_request(head, response(b"evil")))
    client = stage.client()
    client.send(request() + request("/next"))
    for _ in range(2):
        answer = client.read_response(interim=True)
        assert (answer.status, words(answer)[0]) == (502, "upgrade_failed")
    assert len(made.visits) == 2
