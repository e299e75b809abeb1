"""What crosses between the demo and its users' process: a plan one way, JSON lines the other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import orjson

from proxy.demo.tally import Failure, Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One service as its users see it."""

    service: str
    host: str  # of the Host header
    http_users: int
    socket_users: int = 0
    built_in: bool = True  # False: the operator's own program, of which only GET / is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who asks for what."""

    url: str  # "http://127.0.0.1:8080", the fixed port
    targets: tuple[Target, ...]
    think_s: float = 0.08  # mean pause of a user between two requests


def encode_plan(plan: Plan) -> str:
    return orjson.dumps(plan).decode()


def decode_plan(text: str) -> Plan:
    raw = orjson.loads(text)
    targets = tuple(Target(**target) for target in raw.pop("targets"))
    return Plan(targets=targets, **raw)


def encode_report(report: Tick | Failure) -> bytes:
    """Return *report* as one line."""
    kind = "tick" if isinstance(report, Tick) else "failure"
    option = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    return orjson.dumps({kind: report}, option=option)


def decode_report(line: bytes) -> Tick | Failure:
    """Return the report in *line*; raise `ValueError` if it is none."""
    raw = orjson.loads(line)
    try:
        if "failure" in raw:
            return Failure(**raw["failure"])
        tick = raw["tick"]
        latency = Counter({int(bucket): count for bucket, count in tick.pop("latency").items()})
        return Tick(latency=latency, **tick)
    except (KeyError, TypeError) as exc:
        raise ValueError(f"not a report of the users: {line[:200]!r}") from exc
