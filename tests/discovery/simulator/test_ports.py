"""Host ports are given out the way the agent does it."""

from __future__ import annotations

import pytest

from discovery.simulator.ports import PortRange, PortsExhaustedError, allocate, lose_cursor, release
from discovery.simulator.state import Instance

NARROW = PortRange(100, 104)


def everything_free(_port: int) -> bool:
    return True


@pytest.fixture
def instance() -> Instance:
    return Instance("arn", "i-1", "cluster", "127.0.1.1", "eu-west-1a", 0.0)


def take(instance: Instance, count: int = 1) -> list[int]:
    return allocate(instance, count, NARROW, everything_free)


def test_upwards_and_not_at_once_again(instance: Instance) -> None:
    assert take(instance) == [100]
    release(instance, [100])
    assert [take(instance)[0] for _ in range(4)] == [101, 102, 103, 104]


def test_from_the_start_again_at_the_end(instance: Instance) -> None:
    for _ in range(5):
        take(instance)
    release(instance, [102])
    assert take(instance) == [102]


def test_a_restart_of_the_agent_makes_it_reuse_ports_at_once(instance: Instance) -> None:
    for _ in range(3):
        take(instance)
    release(instance, [100])
    lose_cursor(instance)
    assert take(instance) == [100]
    assert take(instance) == [103], "what containers still have is known after a restart"


def test_a_port_something_else_has_is_skipped(instance: Instance) -> None:
    assert allocate(instance, 1, NARROW, lambda port: port != 100) == [101]


def test_a_range_is_contiguous_and_does_not_wrap(instance: Instance) -> None:
    instance.ports_in_use.add(101)
    assert take(instance, 3) == [102, 103, 104]
    release(instance, [101])
    assert take(instance, 2) == [100, 101]


def test_a_range_over_the_cursor_is_found(instance: Instance) -> None:
    """Free are 100 to 102 only, and the cursor stands in the middle of them."""
    instance.ports_in_use.update((103, 104))
    instance.next_host_port = 101
    assert take(instance, 3) == [100, 101, 102]


def test_no_port_left(instance: Instance) -> None:
    take(instance, 5)
    with pytest.raises(PortsExhaustedError, match="no 1 free host ports in a row from 100 to 104"):
        take(instance)
    assert len(instance.ports_in_use) == 5


@pytest.mark.parametrize(("first", "last"), [(0, 10), (10, 9), (1, 65536)])
def test_a_range_that_makes_no_sense(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="port range"):
        PortRange(first, last)
