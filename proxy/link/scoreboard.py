"""One shared memory map of plain 64-bit integers: a row per worker, a block per service in each row.

A worker writes only its own row, the control process only reads; so no lock, no message, and an
increment costs a tenth of a microsecond. A worker that restarts keeps its row's counters (they must
never fall) and zeroes its gauges. The map's memory is touched, and so paid for, block by block.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Final

from proxy.errors import ERRORS

# Upper bounds of the latency histogram, in microseconds; one more bucket takes the rest.
BUCKETS_US: Final = (
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
)  # fmt: skip

# A method outside this list counts as OTHER: label values must not come from clients.
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "OTHER")
# Why a TLS handshake with a client has failed.
TLS_FAILURES: Final = (
    "not_tls", "unsupported", "refused_by_client", "no_certificate", "timeout", "gone", "other",
)  # fmt: skip
# Why a connection to a listener with `proxy_protocol` was closed.
PROXY_REFUSALS: Final = ("untrusted", "malformed", "timeout")
CODE_CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")  # none: cut before any status was sent

# Offsets within the block of a service.
REQUESTS: Final = 0  # [method][code class]
DURATION: Final = REQUESTS + len(METHODS) * len(CODE_CLASSES)  # [bucket], not cumulative
DURATION_SUM_US: Final = DURATION + len(BUCKETS_US) + 1
IN_FLIGHT: Final = DURATION_SUM_US + 1  # gauge
TUNNELS: Final = IN_FLIGHT + 1  # gauge
RETRIES: Final = TUNNELS + 1
REQUEST_BYTES: Final = RETRIES + 1  # body bytes from clients
RESPONSE_BYTES: Final = REQUEST_BYTES + 1  # body bytes to clients
FAILURES: Final = RESPONSE_BYTES + 1  # [slot of the error]
_BLOCK_GAUGES: Final = (IN_FLIGHT, TUNNELS)
_BLOCK: Final = 128
assert FAILURES + len(ERRORS) <= _BLOCK

# Offsets within the head of a row.
PID: Final = 0
REVISION: Final = 1  # gauge: the snapshot this worker routes by; its acknowledgement
STARTS: Final = 2
CLIENTS: Final = 3  # gauge: open client connections
CLIENTS_TOTAL: Final = 4
UPSTREAMS: Final = 5  # gauge: open backend connections
UPSTREAM_CONNECTS: Final = 6
UPSTREAM_REUSES: Final = 7
SNAPSHOTS_REJECTED: Final = 8
LOG_LINES_DROPPED: Final = 9
DRAINING: Final = 10  # gauge: 1 after SIGTERM
HEARTBEAT_MS: Final = 11  # gauge: monotonic clock at the last beat of the loop
LOOP_LAG_MAX_US: Final = 12  # gauge: the longest stall of the last 15 to 30 s
STALLS: Final = 13  # times the loop stood still for longer than STALL_US
ACCEPTING: Final = 14  # gauge: 1 once the worker takes connections
DRAIN_MS: Final = 15  # gauge: `drain_s`, and ...
UPSTREAM_EXTRA_BYTES: Final = 17  # responses with bytes behind their end
UPSTREAM_UNSOLICITED: Final = 18  # kept backend connections that spoke without having been asked
UPSTREAM_CLOSED: Final = 19  # kept backend connections that the backend closed
TAKING: Final = 20  # gauge: the snapshot that this worker is about to route by; 0: none
BROKE_ON: Final = 21  # the snapshot that this worker refused, or the one before it was taking when it ended
STALL_RESTART_MS: Final = 16  # ... `stall_restart_s` as this worker has them, for the supervisor
PROXY_REFUSED: Final = 32  # [reason], connections without a PROXY header to believe
TLS_HANDSHAKES: Final = 40  # that were completed
CERTIFICATES_REJECTED: Final = 41  # pairs of files that could not be loaded
TLS_FAILED: Final = 42  # [reason], handshakes that were not completed
_HEAD: Final = 64
STALL_US: Final = 100_000
_HEAD_GAUGES: Final = (
    REVISION, CLIENTS, UPSTREAMS, DRAINING, HEARTBEAT_MS, LOOP_LAG_MAX_US, ACCEPTING, DRAIN_MS,
    STALL_RESTART_MS, TAKING,
)  # fmt: skip

SERVICE_SLOTS: Final = 4096  # slot 0 takes requests of no service and services beyond the last slot
NO_SERVICE: Final = 0
_ROW: Final = _HEAD + SERVICE_SLOTS * _BLOCK


class Scoreboard:
    """A map of `rows` rows. Make it with `create` in the supervisor, `attach` it everywhere else."""

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self.rows = rows
        self._map = mmap.mmap(fd, rows * _ROW * 8)
        self._cells = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, rows: int) -> Scoreboard:
        fd = os.memfd_create("anyport-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(fd, rows * _ROW * 8)
        return cls(fd, rows)

    @classmethod
    def attach(cls, fd: int) -> Scoreboard:
        return cls(fd, os.fstat(fd).st_size // (_ROW * 8))

    def head(self, row: int) -> memoryview[int]:
        """Return the head of *row*; index it with the constants above."""
        return self._cells[row * _ROW : row * _ROW + _HEAD]

    def block(self, row: int, slot: int) -> memoryview[int]:
        """Return the block of the service in *slot* within *row*."""
        start = row * _ROW + _HEAD + slot * _BLOCK
        return self._cells[start : start + _BLOCK]

    def begin(self, row: int, pid: int) -> None:
        """Take *row* over from a predecessor: counters stay, the head's gauges start at zero."""
        head = self.head(row)
        head[BROKE_ON] = head[TAKING]
        for gauge in _HEAD_GAUGES:
            head[gauge] = 0
        head[STARTS] += 1
        head[PID] = pid

    def begin_block(self, row: int, slot: int) -> memoryview[int]:
        """Return the block of *slot* for the worker of *row*, which calls this once before it counts.

        Not done for all slots in `begin`: the first touch of a page is what makes it cost memory.
        """
        block = self.block(row, slot)
        for gauge in _BLOCK_GAUGES:
            block[gauge] = 0
        return block

    def totals(self, slot: int) -> list[int]:
        """Return the block of the service in *slot*, summed over the workers."""
        return [sum(column) for column in zip(*(self.block(r, slot) for r in range(self.rows)), strict=True)]

    def heads(self) -> Iterator[memoryview[int]]:
        """Yield the head of each row, in order."""
        return (self.head(row) for row in range(self.rows))
