"""Which container port is meant, and where it answers. Pure: no call, no state.

A port is always chosen by its *container* side: the host port of a bridge task is not known before it
runs and belongs to somebody else seconds after it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from discovery.ecs.shapes import Binding, Container, ContainerDefinition, PortMapping, Task, TaskDefinition
from discovery.spelling import did_you_mean


class PortChoiceError(ValueError):
    """No port, or no single one, fits; the text says which there are and what to write."""


def choose_port(
    definition: TaskDefinition,
    *,
    container: str = "",
    port: int | None = None,
    port_name: str = "",
    without: Set[str] = frozenset(),
) -> tuple[str, int]:
    """Return (container name, container port) of the one TCP port that fits what was said.

    `without` names containers that shall not be considered unless named.
    """
    candidates = _containers(definition, container, without)
    if port_name:
        found = _by_name(candidates, port_name)
        missing = f"no TCP port mapping is named {port_name!r}"
    elif port is not None:
        found = [(c.name, port) for c in candidates if any(m.first <= port <= m.last for m in _tcp(c))]
        if not found and definition.network_mode in ("host", "awsvpc") and len(candidates) == 1:
            # In these modes a mapping is a remark: the container's own ports answer without one.
            return candidates[0].name, port
        missing = _no_such_port(candidates, port)
    else:
        # The two ends of a range are enough to show that it is not one port.
        found = [(c.name, p) for c in candidates for m in _tcp(c) for p in (m.first, m.last)]
        missing = "no container maps a TCP port"
    found = sorted(set(found))
    if len(found) == 1:
        return found[0]
    if not found:
        raise PortChoiceError(f"{missing}; {_known_ports(candidates, port_name)}")
    shown = ", ".join(f"{name} port {number}" for name, number in found[:8])
    raise PortChoiceError(f"several ports fit ({shown}): name the container and its container port")


def _containers(
    definition: TaskDefinition, container: str, without: Set[str]
) -> tuple[ContainerDefinition, ...]:
    if not container:
        return tuple(c for c in definition.containers if c.name not in without)
    chosen = definition.container(container)
    if chosen is None:
        names = [c.name for c in definition.containers]
        raise PortChoiceError(
            f"{definition.short} has no container {container!r}{did_you_mean(container, names)}; "
            f"it has: {', '.join(names) or 'none'}"
        )
    return (chosen,)


def _tcp(container: ContainerDefinition) -> list[PortMapping]:
    return [mapping for mapping in container.ports if mapping.protocol == "tcp"]


def _by_name(candidates: Iterable[ContainerDefinition], port_name: str) -> list[tuple[str, int]]:
    found = []
    for container in candidates:
        for mapping in _tcp(container):
            if mapping.name != port_name:
                continue
            if mapping.first != mapping.last:
                raise PortChoiceError(
                    f"port mapping {port_name!r} is the range {mapping.first}-{mapping.last}: "
                    "name one port of it by its number"
                )
            found.append((container.name, mapping.first))
    return found


def _no_such_port(candidates: Iterable[ContainerDefinition], port: int) -> str:
    for container in candidates:
        for mapping in _tcp(container):
            if mapping.host_port == port:
                return (
                    f"{port} is the host port of container {container.name!r}: "
                    f"write its container port {mapping.first}"
                )
    return f"no container maps TCP port {port}"


def _known_ports(candidates: Iterable[ContainerDefinition], port_name: str) -> str:
    known, names = [], []
    for container in candidates:
        for mapping in _tcp(container):
            span = str(mapping.first) if mapping.first == mapping.last else f"{mapping.first}-{mapping.last}"
            known.append(f"{container.name} {span}" + (f" ({mapping.name})" if mapping.name else ""))
            names.append(mapping.name)
    hint = did_you_mean(port_name, names) if port_name else ""
    return f"mapped: {', '.join(known)}{hint}" if known else "add a port mapping to the task definition"


def locate(
    task: Task, definition: TaskDefinition, container: Container, port: int, instance_address: str
) -> tuple[str, int] | None:
    """Return (ip, port) where `container`'s port `port` answers, or None while that is not known.

    `instance_address` is the private address of the container instance, "" if not known.
    """
    if definition.network_mode == "awsvpc":
        addresses = container.ipv4 or container.ipv6 or task.interfaces
        return (addresses[0], port) if addresses else None
    if definition.network_mode == "none" or not instance_address:
        return None
    bound = _host_port(container.bindings, port, ipv6=":" in instance_address)
    if bound is not None:
        return instance_address, bound
    # Docker reports no bindings in host mode: the container's own port is the host's.
    return (instance_address, port) if definition.network_mode == "host" else None


def _host_port(bindings: Iterable[Binding], port: int, *, ipv6: bool) -> int | None:
    """Return the host port of `port`, of the wanted address family where the two differ."""
    found = [
        # The order of bindings is not stable: the lowest port, so that two answers agree.
        (bool(b.bind_ip) and (":" in b.bind_ip) is not ipv6, b.host_first + port - b.first)
        for b in bindings
        if b.protocol == "tcp" and b.first <= port <= b.last
    ]
    return min(found)[1] if found else None
