"""Where a task goes: spread over zones, then instances, on ACTIVE ones whose fixed host ports are free."""

from __future__ import annotations

from collections.abc import Iterator

from discovery.simulator.state import Cluster, Instance, Task, TaskDefinition


def zones_of(cluster: Cluster, region: str) -> list[str]:
    """The zones of the cluster's instances, or the Region's first three for a cluster without any."""
    return sorted({i.zone for i in cluster.instances.values()}) or [f"{region}{letter}" for letter in "abc"]


def fixed_ports(definition: TaskDefinition) -> Iterator[int]:
    """The host ports a task of *definition* takes on its instance whatever happens."""
    if definition.network_mode == "awsvpc":
        return
    for container in definition.containers:
        for mapping in container.get("portMappings", ()):
            if definition.network_mode == "host":
                yield from port_range(mapping)
            elif mapping.get("hostPort"):
                yield mapping["hostPort"]


def port_range(mapping: dict[str, object]) -> range:
    """The container ports of a port mapping, one or a range ("7000-7002")."""
    if "containerPortRange" in mapping:
        first, _, last = str(mapping["containerPortRange"]).partition("-")
        return range(int(first), int(last or first) + 1)
    port = int(str(mapping["containerPort"]))
    return range(port, port + 1)


def occupants(cluster: Cluster, instance: Instance) -> list[Task]:
    """The tasks that still hold something of *instance*: all that have not come to STOPPED."""
    return [t for t in cluster.tasks.values() if t.instance is instance and t.last_status != "STOPPED"]


def fits(cluster: Cluster, instance: Instance, definition: TaskDefinition) -> bool:
    wanted = set(fixed_ports(definition))
    if not wanted:
        return True
    held = {port for task in occupants(cluster, instance) for port in fixed_ports(task.definition)}
    return not wanted & (held | instance.ports_in_use)


def place(cluster: Cluster, definition: TaskDefinition, *, launch_type: str, group: str) -> Instance | None:
    """The best ACTIVE instance for one more task of *group*, or None where no instance can take it."""
    candidates = [
        instance
        for instance in cluster.instances.values()
        if instance.status == "ACTIVE"
        and instance.agent_connected
        and instance.launch_type == launch_type
        and fits(cluster, instance, definition)
    ]
    mine = [t for t in cluster.tasks.values() if t.group == group and t.desired_status == "RUNNING"]

    def crowd(instance: Instance) -> tuple[int, int, int, str]:
        return (
            sum(task.zone == instance.zone for task in mine),
            sum(task.instance is instance for task in mine),
            len(occupants(cluster, instance)),
            instance.arn,
        )

    return min(candidates, key=crowd, default=None)


def surplus_order(tasks: list[Task]) -> list[Task]:
    """*tasks* in the order to give them up: not yet running, then from the fullest zone, newest first."""
    left = sorted(tasks, key=lambda t: (t.created_at, t.arn))
    order: list[Task] = []
    while left:

        def weight(task: Task, left: list[Task] = left) -> tuple[bool, int, int, float, str]:
            return (
                task.last_status != "RUNNING",
                sum(other.zone == task.zone for other in left),
                sum(other.instance is task.instance for other in left),
                task.created_at,
                task.arn,
            )

        first = max(left, key=weight)
        left.remove(first)
        order.append(first)
    return order
