"""Host ports, given out the way the ECS agent does it since 1.70.

Upwards from a cursor through the dynamic range, skipping what is taken, and from the start again at
the end. The cursor lives in the agent's memory: after a restart the next port is the lowest free
one, most likely one that another task has only just left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from discovery.simulator.state import Instance


@dataclass(frozen=True, slots=True)
class PortRange:
    """Both ends included. The default is Linux's `ip_local_port_range`, which the agent reads."""

    first: int = 32768
    last: int = 60999

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.last <= 65535:
            raise ValueError(f"port range {self.first}-{self.last}: want 1 <= first <= last <= 65535")


class PortsExhaustedError(Exception):
    """The instance has no run of free host ports of that length left in its range."""


def allocate(instance: Instance, count: int, ports: PortRange, is_free: Callable[[int], bool]) -> list[int]:
    """Take *count* contiguous host ports of *instance* and move its cursor behind them.

    *is_free* says whether anything else on the machine has the port, and is asked only about ports
    that no task of the instance has. Raises PortsExhaustedError.
    """
    cursor = instance.next_host_port
    if not ports.first <= cursor <= ports.last:
        cursor = ports.first

    def usable(port: int) -> bool:
        return port not in instance.ports_in_use and is_free(port)

    last_start = ports.last - count + 1
    run = _first_run(cursor, last_start, count, usable)
    if not run:
        run = _first_run(ports.first, min(cursor - 1, last_start), count, usable)
    if not run:
        raise PortsExhaustedError(f"no {count} free host ports in a row from {ports.first} to {ports.last}")
    instance.ports_in_use.update(run)
    instance.next_host_port = run[-1] + 1
    return run


def release(instance: Instance, ports: Iterable[int]) -> None:
    """Give host ports back; the cursor stays where it is."""
    instance.ports_in_use.difference_update(ports)


def lose_cursor(instance: Instance) -> None:
    """What a restart of the agent does: what is in use is read from the containers, the cursor is not."""
    instance.next_host_port = 0


def _first_run(start: int, last_start: int, count: int, usable: Callable[[int], bool]) -> list[int]:
    while start <= last_start:
        for port in range(start, start + count):
            if not usable(port):
                start = port + 1
                break
        else:
            return list(range(start, start + count))
    return []
