"""The table anyport routes by, as its admin API tells it, and what changed in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One backend of `/api/v1/table`."""

    service: str
    task_arn: str
    container: str
    container_port: int
    address: str
    state: str  # "ready", "draining" or "down"
    reason: str
    zone: str
    instance: str
    release: str

    @property
    def task(self) -> str:
        """The first eight digits of the task's id: enough to tell the tasks of a demo apart."""
        return self.task_arn.rsplit("/", 1)[-1][:8]


def read(answer: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Return the rows of an answer of the admin API, by service and age of appearance."""
    names = Row.__dataclass_fields__.keys()
    return tuple(Row(**{name: row[name] for name in names}) for row in answer)


def ready(rows: Iterable[Row], service: str) -> frozenset[str]:
    """Return the ARNs of the tasks of *service* that take new requests."""
    return frozenset(row.task_arn for row in rows if row.service == service and row.state == "ready")


def changes(before: Iterable[Row], after: Iterable[Row]) -> list[str]:
    """Return one line per service that differs, such as "web: + 1a2b3c4d ready on 127.0.1.1:32769"."""
    old = {(row.task_arn, row.container, row.container_port): row for row in before}
    new = {(row.task_arn, row.container, row.container_port): row for row in after}
    told: dict[str, list[str]] = {}
    for key, row in new.items():
        was = old.get(key)
        if was is None:
            told.setdefault(row.service, []).append(f"+ {row.task} {row.state} on {row.address}")
        elif was.state != row.state:
            told.setdefault(row.service, []).append(f"{row.task} {was.state} -> {row.state}")
    for key, row in old.items():
        if key not in new:
            told.setdefault(row.service, []).append(f"- {row.task} gone")
    return [f"{service}: {', '.join(items)}" for service, items in sorted(told.items())]
