"""What a worker tells the control process, the other way along its link: nobody listens where a backend
should, or somebody else does.

A refusal is the earliest sign that a task is gone, long before the API says so, and that its port may
soon be another's. Reports are hints: one that does not fit into the link is dropped.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import Final

import orjson

from discovery.model import BackendKey

_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody listened where this backend should."""

    service: str
    key: BackendKey


@dataclass(frozen=True, slots=True)
class Mistaken:
    """Who answers where this backend should did not prove to be it."""

    service: str
    key: BackendKey
    reason: str  # in the words of `policy.identity`


Report = Refused | Mistaken


def send(link: socket.socket, report: Report) -> None:
    """Send *report*, or nothing if the control process is far behind."""
    why = [report.reason] if isinstance(report, Mistaken) else []
    with contextlib.suppress(BlockingIOError):
        link.send(orjson.dumps([report.service, *report.key, *why]))


def receive(link: socket.socket) -> list[Report]:
    """Return the reports that wait in *link*. What cannot be read is left out."""
    reports: list[Report] = []
    while True:
        try:
            message = link.recv(_BYTES_MAX)
        except (BlockingIOError, ConnectionResetError):
            return reports
        if not message:
            return reports
        with contextlib.suppress(ValueError, TypeError):
            service, task_arn, container, port, *why = orjson.loads(message)
            key = BackendKey(task_arn, container, port)
            reports.append(Mistaken(service, key, *why) if why else Refused(service, key))
