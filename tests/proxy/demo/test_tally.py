"""Counting: which failures are excused, and what the sums say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.demo.tally import Failure, Histogram, Kill, Score, Tick, ended_well, excuse, last_line
from proxy.demo.wire import decode_report, encode_report

KILLED = "arn:aws:ecs:eu-west-1:111122223333:task/demo/aaaa"
OTHER = "arn:aws:ecs:eu-west-1:111122223333:task/demo/bbbb"
KILL = Kill(service="web", task_arn=KILLED, started_s=10.0, ended_s=10.3)
POST = Failure(
    started_s=9.9,
    ended_s=10.1,
    user="web-http-1",
    service="web",
    method="POST",
    path="/echo",
    expected="200 from web",
    got="status 502",
    status=502,
    code="X01 closed_before_response",
)


def test_a_post_in_flight_on_a_killed_task_is_excused() -> None:
    assert excuse(POST, [KILL]) == "in flight on a task killed with -9"


def test_so_is_one_whose_connection_was_cut() -> None:
    assert excuse(replace(POST, status=0, code="", cut=True), [KILL])
    assert excuse(replace(POST, status=200, code="", cut=True, task=KILLED), [KILL])


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(replace(POST, method="GET"), id="a GET can be repeated"),
        pytest.param(replace(POST, method="WS"), id="a WebSocket reconnects"),
        pytest.param(replace(POST, service="api"), id="no task of that service was killed"),
        pytest.param(replace(POST, started_s=10.31, ended_s=10.4), id="sent after the kill"),
        pytest.param(replace(POST, started_s=9.0, ended_s=9.99), id="over before the kill"),
        pytest.param(replace(POST, status=503), id="503 says no task had it"),
        pytest.param(replace(POST, status=404), id="a route was lost"),
        pytest.param(replace(POST, status=0, cut=False), id="a timeout"),
        pytest.param(replace(POST, status=200, cut=True, task=OTHER), id="another task cut it"),
        pytest.param(replace(POST, status=200, got="an answer of service 'api'"), id="wrong service"),
    ],
)
def test_nothing_else_is_excused(failure: Failure) -> None:
    assert excuse(failure, [KILL]) == ""
    assert excuse(failure, []) == ""


def test_a_kill_that_has_not_ended_excuses_until_now() -> None:
    assert excuse(replace(POST, ended_s=99.0), [Kill(service="web", task_arn=KILLED, started_s=10.0)])


def test_begun_answers_are_excused_only_where_asked_for() -> None:
    cut = replace(POST, method="GET", status=200, cut=True)
    assert excuse(cut, [KILL]) == ""
    assert excuse(cut, [KILL], begun_answers=True)
    assert excuse(replace(cut, status=0), [KILL], begun_answers=True) == "", "not one byte had arrived"


def test_percentiles_are_within_five_percent() -> None:
    histogram = Histogram()
    for ms in range(1, 101):
        histogram.add(ms / 1000)
    assert histogram.percentile_s(50) == pytest.approx(0.050, rel=0.06)
    assert histogram.percentile_s(99) == pytest.approx(0.099, rel=0.06)
    assert Histogram().percentile_s(99) == 0.0


def test_reports_cross_the_pipe_unchanged() -> None:
    histogram = Histogram()
    histogram.add(0.01)
    tick = Tick(requests=3, sockets=2, messages=1, reconnects=1, latency=histogram.buckets)
    assert decode_report(encode_report(tick)) == tick
    assert decode_report(encode_report(POST)) == POST
    with pytest.raises(ValueError, match="not a report"):
        decode_report(b'{"tick": {"surprise": 1}}')


def test_score_adds_up_and_knows_the_rate_of_its_window() -> None:
    score = Score(window_s=2.0)
    for second in range(10):
        score.tick(Tick(requests=100, sockets=5, messages=10), float(second))
    assert (score.requests, score.sockets, score.messages) == (1000, 5, 100)
    assert score.rate() == pytest.approx(100.0)


def test_the_last_line_and_the_verdict() -> None:
    score = Score()
    assert not ended_well(score), "nothing was asked, so nothing was shown"
    score.tick(Tick(requests=42), 0.0)
    assert (
        last_line(score, deploys=3, replacements=11)
        == "42 requests, 0 failed, 3 deploys, 11 task replacements"
    )
    score.kills.append(KILL)
    assert score.judge(POST)
    assert ended_well(score)
    assert last_line(score, deploys=3, replacements=11) == (
        "42 requests, 0 failed, 3 deploys, 11 task replacements, "
        "1 excused (1 in flight on a task killed with -9)"
    )
    assert not score.judge(replace(POST, service="api"))
    assert not ended_well(score)
    assert last_line(score, deploys=3, replacements=11).startswith("42 requests, 1 failed, ")
