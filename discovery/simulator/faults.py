"""Faults on demand: what goes wrong at AWS, for the next so many calls or until it is cleared."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Json = dict[str, Any]

Kind = Literal[
    "throttle",  # ThrottlingException "Rate exceeded"
    "error",  # HTTP 5xx, see `status`
    "hang",  # no answer for `seconds`, or for ever
    "empty",  # an answer without a single item, and without a word of why
    "failed_page",  # HTTP 5xx for the `page`-th page of a List operation; the others are right
    "stale",  # a right answer, `seconds` old
    "missing_fields",  # the members named in `fields` are left out, wherever they stand
    "failures",  # the first `items` of a Describe answer come back in `failures[]`, with `reason`
    "expired",  # ExpiredTokenException
    "denied",  # AccessDeniedException
    "events_lost",  # events that never arrive
    "events_twice",  # events that arrive twice
    "events_late",  # events that arrive `seconds` late, behind those that happened after them
]
KINDS: tuple[str, ...] = get_args(Kind)
_OF_EVENTS = frozenset(("events_lost", "events_twice", "events_late"))


class FaultError(ValueError):
    """The description of a fault makes no sense; the text says what would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    kind: Kind
    operation: str = ""  # "DescribeTasks", "DescribeInstances"; "" for every one, EC2's and SQS's too
    count: int | None = None  # how many calls (or events) it spoils; None: every one until cleared
    seconds: float = 0.0  # of "stale", "hang", "events_late"; a hang of 0 lasts until the client gives up
    share: float = 1.0  # of the faults of events: which part of them it spoils, by chance
    status: int = 500  # of "error" and "failed_page"
    page: int = 2  # of "failed_page", counting from 1
    fields: tuple[str, ...] = ()  # of "missing_fields": ("networkBindings", "version")
    items: int = 1  # of "failures"
    reason: str = "MISSING"  # of "failures"

    @classmethod
    def from_json(cls, value: object) -> Fault:
        """Read what the control API was sent. Raises FaultError."""
        if not isinstance(value, dict):
            raise FaultError('a fault is a JSON object, such as {"kind": "throttle", "count": 3}')
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise FaultError(f"unknown member {unknown[0]!r}; a fault has {', '.join(sorted(known))}")
        if value.get("kind") not in KINDS:
            raise FaultError(f"kind must be one of {', '.join(KINDS)}")
        if "fields" in value:
            value = {**value, "fields": tuple(value["fields"])}
        return cls(**value)


@dataclass(slots=True)
class _Standing:
    fault: Fault
    left: int | None


class Faults:
    """The faults in force. Each call to the API takes the ones that apply to it."""

    def __init__(self) -> None:
        self._standing: dict[int, _Standing] = {}
        self._ids = itertools.count(1)

    def add(self, fault: Fault) -> int:
        """Put *fault* in force; the number clears it again."""
        number = next(self._ids)
        self._standing[number] = _Standing(fault, fault.count)
        return number

    def clear(self, number: int | None = None) -> None:
        """End one fault, or all."""
        if number is None:
            self._standing.clear()
        else:
            self._standing.pop(number, None)

    def __iter__(self) -> Iterator[Fault]:
        return iter([standing.fault for standing in self._standing.values()])

    def as_json(self) -> list[Json]:
        """What stands, with its number and how many calls it will still spoil."""
        return [
            {"id": number, **asdict(standing.fault), "left": standing.left}
            for number, standing in self._standing.items()
        ]

    def take(self, operation: str, page: int = 1) -> list[Fault]:
        """The faults that this call meets, each counted down."""
        met = [
            (number, standing)
            for number, standing in self._standing.items()
            if standing.fault.operation in ("", operation)
            and standing.fault.kind not in _OF_EVENTS
            and (standing.fault.kind != "failed_page" or standing.fault.page == page)
        ]
        return self._count_down(met)

    def take_event(self, rng: random.Random) -> list[Fault]:
        """The faults that this event meets, each counted down."""
        met = [
            (number, standing)
            for number, standing in self._standing.items()
            if standing.fault.kind in _OF_EVENTS and rng.random() < standing.fault.share
        ]
        return self._count_down(met)

    def _count_down(self, met: list[tuple[int, _Standing]]) -> list[Fault]:
        for number, standing in met:
            if standing.left is not None:
                standing.left -= 1
                if standing.left <= 0:
                    del self._standing[number]
        return [standing.fault for _, standing in met]

    # The same in one word, for tests: simulator.faults.throttle("ListTasks", count=3)

    def throttle(self, operation: str = "", count: int | None = None) -> int:
        return self.add(Fault(kind="throttle", operation=operation, count=count))

    def error(self, operation: str = "", count: int | None = None, status: int = 500) -> int:
        return self.add(Fault(kind="error", operation=operation, count=count, status=status))

    def hang(self, operation: str = "", count: int | None = None, seconds: float = 0.0) -> int:
        return self.add(Fault(kind="hang", operation=operation, count=count, seconds=seconds))

    def empty(self, operation: str = "ListTasks", count: int | None = None) -> int:
        return self.add(Fault(kind="empty", operation=operation, count=count))

    def failed_page(self, operation: str = "ListTasks", page: int = 2, count: int | None = None) -> int:
        return self.add(Fault(kind="failed_page", operation=operation, page=page, count=count))

    def stale(self, seconds: float, operation: str = "", count: int | None = None) -> int:
        return self.add(Fault(kind="stale", operation=operation, seconds=seconds, count=count))

    def missing_fields(self, *names: str, operation: str = "", count: int | None = None) -> int:
        return self.add(Fault(kind="missing_fields", operation=operation, fields=names, count=count))

    def failures(
        self,
        operation: str = "DescribeTasks",
        items: int = 1,
        reason: str = "MISSING",
        count: int | None = None,
    ) -> int:
        return self.add(Fault(kind="failures", operation=operation, items=items, reason=reason, count=count))

    def expired(self, operation: str = "", count: int | None = None) -> int:
        return self.add(Fault(kind="expired", operation=operation, count=count))

    def denied(self, operation: str = "", count: int | None = None) -> int:
        return self.add(Fault(kind="denied", operation=operation, count=count))

    def events_lost(self, count: int | None = None, share: float = 1.0) -> int:
        return self.add(Fault(kind="events_lost", count=count, share=share))

    def events_twice(self, count: int | None = None, share: float = 1.0) -> int:
        return self.add(Fault(kind="events_twice", count=count, share=share))

    def events_late(self, seconds: float, count: int | None = None, share: float = 1.0) -> int:
        return self.add(Fault(kind="events_late", seconds=seconds, count=count, share=share))


# What a fault does to a right answer.

ITEMS = frozenset(
    ("taskArns", "tasks", "serviceArns", "services", "containerInstanceArns", "containerInstances",
     "clusterArns", "clusters", "taskDefinitionArns", "families", "protectedTasks")
)  # fmt: skip
_ARN_OF = {
    "tasks": "taskArn",
    "services": "serviceArn",
    "containerInstances": "containerInstanceArn",
    "clusters": "clusterArn",
}


def spoil(answer: Json, fault: Fault) -> Json:
    """*answer* as *fault* lets it through; the same object where it does nothing to it."""
    if fault.kind == "empty":
        kept = {key: [] if key in ITEMS else value for key, value in answer.items() if key != "nextToken"}
        return {**kept, "failures": []} if "failures" in kept else kept
    if fault.kind == "missing_fields":
        return {
            key: _without(value, frozenset(fault.fields))
            for key, value in answer.items()
            if key not in fault.fields
        }
    if fault.kind == "failures":
        return _fail_items(answer, fault)
    return answer


def _fail_items(answer: Json, fault: Fault) -> Json:
    for name, arn in _ARN_OF.items():
        if name in answer:
            lost = answer[name][: fault.items]
            entries = [{"arn": item[arn], "reason": fault.reason} for item in lost]
            failures = [*answer.get("failures", ()), *entries]
            return {**answer, name: answer[name][fault.items :], "failures": failures}
    return answer


def _without(value: Any, names: frozenset[str]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    return value
