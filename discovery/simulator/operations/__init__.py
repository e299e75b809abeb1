"""The operations of the ECS API, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from discovery.simulator.account import Account
from discovery.simulator.operations import clusters, definitions, instances, protection, services, tags, tasks
from discovery.simulator.wire import Json

Operation = Callable[[Account, Json], Json]

OPERATIONS: Final[Mapping[str, Operation]] = {
    **clusters.OPERATIONS,
    **definitions.OPERATIONS,
    **instances.OPERATIONS,
    **protection.OPERATIONS,
    **services.OPERATIONS,
    **tags.OPERATIONS,
    **tasks.OPERATIONS,
}

# What a stale read may answer from an older state; everything else changes something.
READS: Final = frozenset(name for name in OPERATIONS if name.startswith(("List", "Describe", "Get")))
