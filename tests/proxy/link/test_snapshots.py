"""Snapshots on their way: whole or refused, in steps, and without work for what did not change."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.link import snapshots
from proxy.link.snapshots import Decoder, Encoder, SnapshotError, TableSnapshot, by_service
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
    by_service=by_service(
        (
            backend(1001),
            backend(1002, of="shop", healthy=False),
            replace(backend(1003, draining=True), source="ecs:prod", confirm=True),
        )
    ),
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
    row = replace(TABLE.backends[0], reason=text, release="a\nb\r\x00")
    table = replace(TABLE, by_service={"web": (row,), "shop": ()})
    assert snapshots.decode(snapshots.encode(table)) == table


def test_a_row_that_did_not_change_is_the_same_object() -> None:
    """So a worker parses and compares what changed, and nothing else."""
    decoder = Decoder()
    before = taken(decoder, TABLE)
    sick = replace(TABLE.backends[0], healthy=False)
    rows = by_service((sick, *TABLE.backends[1:]))
    after = taken(decoder, replace(TABLE, revision=8, by_service=rows))
    assert after.backends[0] == sick
    assert all(a is b for a, b in zip(before.backends[1:], after.backends[1:], strict=True))
    assert all(a is b for a, b in zip(before.services, after.services, strict=True))
    assert after.by_service["shop"] is before.by_service["shop"]
    assert after.by_service["web"] is not before.by_service["web"]


def test_rows_of_an_older_snapshot_are_forgotten() -> None:
    """Else a worker would hold every row that there has ever been."""
    decoder = Decoder()
    before = taken(decoder, TABLE)
    taken(decoder, replace(TABLE, by_service={}))
    again = taken(decoder, TABLE)
    assert again == before
    assert again.backends[0] is not before.backends[0]


def test_a_snapshot_is_read_a_few_rows_at_a_time() -> None:
    """Ten thousand rows take tens of milliseconds: a worker must be able to serve in between."""
    rows = tuple(backend(port) for port in range(1, 20 * ROWS_PER_STEP + 1))
    read = 0

    class Counting(io.BytesIO):
        def readline(self, *_: Any) -> bytes:
            nonlocal read
            read += 1
            return super().readline()

    per_step, seen = [], 0
    table = replace(TABLE, by_service={"web": rows})
    for _ in Decoder().lines(Counting(snapshots.encode(table))):
        per_step.append(read - seen)
        seen = read
    assert read > 20 * ROWS_PER_STEP
    assert max(per_step) <= ROWS_PER_STEP + 2  # and the lines of what there is one of


def _cuts() -> list[bytes]:
    whole = snapshots.encode(TABLE)
    lines = whole.splitlines(keepends=True)
    return [
        *(whole[:end] for end in range(0, len(whole) - 1, 7)),
        *(b"".join(lines[:count]) for count in range(len(lines))),
        whole + lines[-1],
        whole.replace(b'"format":', b'"form":'),
        whole.replace(b'"format":5', b'"format":4'),
        whole.replace(b"1002", b"1002,1"),
        whole.replace(b'"rows":', b'"raws":'),
        whole.replace(b'"rows":2', b'"rows":"2"'),
        whole.replace(b'"services":2', b'"services":"2"'),
        b'{"format":5}\n',
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


def test_a_service_that_did_not_change_is_not_written_anew() -> None:
    """A change of one task costs the lines of one service, and of those only its own."""
    encoder = Encoder()
    before = encoder.parts(TABLE)
    sick = replace(TABLE.by_service["web"][0], healthy=False)
    web = (sick, *TABLE.by_service["web"][1:])
    table = replace(TABLE, revision=8, by_service={**TABLE.by_service, "web": web})
    after = encoder.parts(table)
    assert after[2] is before[2]
    assert after[1] != before[1]
    assert snapshots.decode(b"".join(after)) == table


_lists = st.lists(st.sampled_from([*TABLE.backends, *(backend(port) for port in range(5))]), max_size=6)


@given(st.lists(st.tuples(_lists, st.booleans()), max_size=8))
def test_however_tables_follow_each_other_each_arrives_as_it_is(
    history: list[tuple[list[Any], bool]],
) -> None:
    encoder, decoder = Encoder(), Decoder()
    for revision, (rows, both) in enumerate(history):
        table = replace(
            TABLE,
            revision=revision,
            services=TABLE.services if both else TABLE.services[:1],
            by_service={"web": (), **({"shop": ()} if both else {}), **by_service(rows)},
        )
        wanted = {row.name: table.by_service[row.name] for row in table.services}
        found = finish(decoder.lines(io.BytesIO(b"".join(encoder.parts(table)))))
        assert found == replace(table, by_service=wanted)
        assert found == snapshots.decode(snapshots.encode(table))
