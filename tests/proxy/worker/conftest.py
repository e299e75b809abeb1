"""One worker process for all tests of the data plane: each test gets its own service and counters on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.kit.stage import Stage, staged
from tests.kit.workers import WorkerProcess

_slots = itertools.count(1)


@pytest.fixture(scope="session")
def shared_worker() -> Iterator[WorkerProcess]:
    with WorkerProcess() as worker:
        yield worker
        assert worker.stop() == 0


@pytest.fixture
def stage(shared_worker: WorkerProcess) -> Iterator[Stage]:
    with staged(shared_worker, next(_slots)) as made:
        yield made
