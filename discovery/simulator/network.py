"""Addresses and ports of tasks: host ports on their instance's loopback address, or an address of their own.

Every simulator takes one loopback /16 for itself: 127.0.x.x where that is free, else one of 127.64 to
127.127. In it 127.n.1.i are the instances and 127.n.2.1 upwards the awsvpc tasks.
"""

from __future__ import annotations

import random
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from discovery.simulator.placement import fixed_ports, port_range
from discovery.simulator.ports import PortRange, allocate
from discovery.simulator.runtime import PortSpec
from discovery.simulator.state import Binding, Instance, Task

_CLAIM_PORT = 51678
_MOST_INSTANCES = 254
_TASK_ADDRESSES = 254 * 30


class NoAddressError(Exception):
    """This machine has no loopback range left, or one that cannot be used at all."""


class Loopback:
    """A loopback /16 of one's own. The claim is a bound UDP socket, so it ends with the process."""

    def __init__(self, prefix: str = "", rng: random.Random | None = None) -> None:
        rng = rng or random.Random()
        others = [f"127.{number}" for number in range(64, 128)]
        rng.shuffle(others)
        for candidate in [prefix] if prefix else ["127.0", *others]:
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                claim.bind((f"{candidate}.1.255", _CLAIM_PORT))
            except OSError:
                claim.close()
                continue
            self.prefix, self._claim = candidate, claim
            return
        raise NoAddressError(
            "no free loopback range for the simulated instances: is another simulator running on "
            f"{prefix or 'each of 127.0 and 127.64 to 127.127'}?"
        )

    def instance_address(self, number: int) -> str:
        """The address of the *number*-th instance, counting from 1."""
        if number > _MOST_INSTANCES:
            raise NoAddressError(f"a simulator has room for {_MOST_INSTANCES} instances")
        return f"{self.prefix}.1.{number}"

    def task_address(self, number: int) -> str:
        """The address of the *number*-th awsvpc task, counting from 0 and starting over at the end."""
        block, host = divmod(number % _TASK_ADDRESSES, 254)
        return f"{self.prefix}.{2 + block}.{host + 1}"

    def close(self) -> None:
        self._claim.close()


@dataclass(frozen=True, slots=True)
class Wiring:
    """How one container is reached: what its process listens on, and what the agent reports of it."""

    listen: tuple[PortSpec, ...] = ()
    bindings: tuple[Binding, ...] = ()


class Network:
    """Gives tasks their ports and addresses, and takes them back."""

    def __init__(self, loopback: Loopback, ports: PortRange) -> None:
        self.loopback = loopback
        self._ports = ports
        self._next_task_address = 0
        self._addresses: dict[str, str] = {}  # by task ARN
        self._held: dict[str, set[int]] = {}  # host ports by task ARN

    def attach(self, task: Task, interface_id: str) -> None:
        """Give an awsvpc task its network interface, with an address of its own."""
        taken = set(self._addresses.values())
        while (address := self.loopback.task_address(self._next_task_address)) in taken:
            self._next_task_address += 1
        self._next_task_address += 1
        self._addresses[task.arn] = address
        task.attachments = [_interface(address, interface_id, task)]
        for container in task.containers:
            container.private_ip = address

    def wire(self, task: Task) -> dict[str, Wiring]:
        """Ports for every container of *task*, by container name. They are held until `release`."""
        mode = task.definition.network_mode
        if mode == "awsvpc":
            address = self._addresses[task.arn]
            return {c.name: Wiring(tuple(_same_ports(c.definition, address))) for c in task.containers}
        instance = task.instance
        assert instance is not None, "only awsvpc tasks run without an instance"
        held = self._held.setdefault(task.arn, set())
        held.update(fixed_ports(task.definition))
        instance.ports_in_use |= held
        if mode == "host":
            return {
                c.name: Wiring(tuple(_same_ports(c.definition, instance.address))) for c in task.containers
            }
        wirings = {}
        for container in task.containers:
            bindings = tuple(self._bind(container.definition, instance, held))
            listen = tuple(_listen(binding, instance.address) for binding in bindings)
            wirings[container.name] = Wiring(tuple(port for ports in listen for port in ports), bindings)
        return wirings

    def release(self, task: Task) -> None:
        """Everything *task* held may be given to the next one."""
        if task.instance is not None:
            task.instance.ports_in_use -= self._held.pop(task.arn, set())
        if self._addresses.pop(task.arn, ""):
            task.attachments = [{**item, "status": "DELETED"} for item in task.attachments]

    def _bind(self, definition: dict[str, Any], instance: Instance, held: set[int]) -> Iterator[Binding]:
        for mapping in _mappings(definition):
            ports = port_range(mapping)
            ranged = "containerPortRange" in mapping
            host_port = 0 if ranged else int(mapping.get("hostPort") or 0)
            if not host_port:
                taken = allocate(
                    instance, len(ports), self._ports, lambda port: is_free(instance.address, port)
                )
                held.update(taken)
                instance.ports_in_use.update(taken)
                host_port = taken[0]
            protocol = str(mapping.get("protocol") or "tcp")
            yield Binding(ports.start, host_port, protocol, range_size=len(ports) if ranged else 0)


def is_free(address: str, port: int) -> bool:
    """Whether a listener could be opened there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _mappings(definition: dict[str, Any]) -> list[dict[str, Any]]:
    mappings = definition.get("portMappings")
    return mappings if isinstance(mappings, list) else []


def _same_ports(definition: dict[str, Any], address: str) -> Iterator[PortSpec]:
    """Listeners of a container whose own ports are what the outside sees."""
    for mapping in _mappings(definition):
        if mapping.get("protocol", "tcp") == "tcp":
            for port in port_range(mapping):
                yield PortSpec(address, port, port)


def _listen(binding: Binding, address: str) -> list[PortSpec]:
    if binding.protocol != "tcp":
        return []
    return [
        PortSpec(address, binding.host_port + offset, binding.container_port + offset)
        for offset in range(max(1, binding.range_size))
    ]


def _interface(address: str, interface_id: str, task: Task) -> dict[str, Any]:
    host = "-".join(address.split("."))
    octets = ":".join(f"{int(part):02x}" for part in address.split("."))
    details = {
        "subnetId": f"subnet-{task.zone[-1:] or 'a'}0d0e0f1a2b3c4d5e",
        "networkInterfaceId": f"eni-{interface_id[:17]}",
        "macAddress": f"0e:89:{octets}",
        "privateDnsName": f"ip-{host}.internal",
        "privateIPv4Address": address,
    }
    return {
        "id": str(uuid.UUID(interface_id)),
        "type": "ElasticNetworkInterface",
        "status": "ATTACHED",
        "details": [{"name": name, "value": value} for name, value in details.items()],
    }
