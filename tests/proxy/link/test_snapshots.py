"""Snapshots on their way: whole or refused, in steps, and without work for what did not change."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.link import snapshots
from proxy.link.snapshots import Decoder, SnapshotError, TableSnapshot
from proxy.settings import BackendTls, IdentityCheck, Timeouts, WorkerSettings
from proxy.steps import ROWS_PER_STEP, finish
from tests.kit.workers import backend, service

SERVICES = (
    service(hosts=["web.example.com", "*.example.org"]),
    service("shop", slot=2, hosts=["shop.example.com"], path="/api"),
)
TABLE = TableSnapshot(
    revision=7,
    loaded=True,
    services=(
        SERVICES[0],
        replace(SERVICES[1], tls=BackendTls(name="shop.internal"), identity=IdentityCheck(header="x-task")),
    ),
    backends=(backend(1001), backend(1002, of="shop", healthy=False), backend(1003, draining=True)),
    settings=WorkerSettings(timeouts=Timeouts(connect_s=3.5), trusted_proxies=("10.0.0.0/8",)),
)


def taken(decoder: Decoder, snapshot: TableSnapshot) -> TableSnapshot:
    fd = snapshots.seal(snapshots.encode(snapshot))
    try:
        return finish(decoder.file(fd))
    finally:
        os.close(fd)


def test_what_comes_out_is_what_went_in() -> None:
    assert taken(Decoder(), TABLE) == TABLE
    assert snapshots.decode(snapshots.encode(TABLE)) == TABLE
    assert taken(Decoder(), snapshots.EMPTY) == snapshots.EMPTY


@given(st.text(max_size=20))
def test_any_text_stays_in_its_line(text: str) -> None:
    table = replace(TABLE, backends=(replace(TABLE.backends[0], reason=text, release="a\nb\r\x00"),))
    assert snapshots.decode(snapshots.encode(table)) == table


def test_a_row_that_did_not_change_is_the_same_object() -> None:
    """So a worker parses and compares what changed, and nothing else."""
    decoder = Decoder()
    before = taken(decoder, TABLE)
    sick = replace(TABLE.backends[0], healthy=False)
    after = taken(decoder, replace(TABLE, revision=8, backends=(sick, *TABLE.backends[1:])))
    assert after.backends[0] == sick
    assert all(a is b for a, b in zip(before.backends[1:], after.backends[1:], strict=True))
    assert all(a is b for a, b in zip(before.services, after.services, strict=True))


def test_rows_of_an_older_snapshot_are_forgotten() -> None:
    """Else a worker would hold every row that there has ever been."""
    decoder = Decoder()
    before = taken(decoder, TABLE)
    taken(decoder, replace(TABLE, backends=()))
    again = taken(decoder, TABLE)
    assert again == before
    assert again.backends[0] is not before.backends[0]


def test_a_snapshot_is_read_a_few_rows_at_a_time() -> None:
    """Ten thousand rows take tens of milliseconds: a worker must be able to serve in between."""
    rows = tuple(backend(port) for port in range(1, 20 * ROWS_PER_STEP + 1))
    read = 0
    lines = iter(snapshots.encode(replace(TABLE, backends=rows)).splitlines(keepends=True))

    def read_line() -> bytes:
        nonlocal read
        read += 1
        return next(lines, b"")

    per_step, seen = [], 0
    for _ in Decoder().lines(read_line):
        per_step.append(read - seen)
        seen = read
    assert read > 20 * ROWS_PER_STEP
    assert max(per_step) <= ROWS_PER_STEP + 1  # and the line of what there is one of


def _cuts() -> list[bytes]:
    whole = snapshots.encode(TABLE)
    lines = whole.splitlines(keepends=True)
    return [
        *(whole[:end] for end in range(0, len(whole) - 1, 7)),
        *(b"".join(lines[:count]) for count in range(len(lines))),
        whole + lines[-1],
        whole.replace(b'"format":', b'"form":'),
        whole.replace(b'"format":3', b'"format":2'),
        whole.replace(b'"port":1002', b'"porto":1002'),
        whole.replace(b'"services":2', b'"services":"2"'),
        b'{"format":3}\n',
        b"[]\n",
        b"2\n",
        b"\x00" * 64,
    ]


def test_half_a_snapshot_is_none() -> None:
    """And what was known before stays known: the next good one is taken as if nothing had been."""
    decoder = Decoder()
    before = taken(decoder, TABLE)
    for data in _cuts():
        fd = snapshots.seal(data)
        with pytest.raises(SnapshotError):
            finish(decoder.file(fd))
        os.close(fd)
        with pytest.raises(SnapshotError):
            snapshots.decode(data)
    assert all(a is b for a, b in zip(before.backends, taken(decoder, TABLE).backends, strict=True))
