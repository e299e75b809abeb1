"""What the cluster looked like some seconds ago: for reads that are stale, as they may be on AWS."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from discovery.simulator.state import Cluster, Instance, Service, State, Task

KEPT_S = 60.0


class History:
    """Copies of the state, as old as the times of `record` make them. *clock* gives seconds."""

    def __init__(self, state: State, clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        self._entries: list[tuple[float, State]] = []  # when it began to look like this, oldest first
        self._tasks: dict[str, Task] = {}  # the newest copy of each task, shared while nothing changes
        self.record()

    def record(self) -> None:
        """Remember what the state is now."""
        now = self._clock()
        self._entries.append((now, self._copy()))
        horizon = now - KEPT_S
        while len(self._entries) > 1 and self._entries[1][0] < horizon:
            del self._entries[0]

    def ago(self, seconds: float) -> State:
        """The state as of so many seconds ago, or the oldest that is remembered."""
        at = bisect_right(self._entries, self._clock() - seconds, key=lambda entry: entry[0])
        return self._entries[max(0, at - 1)][1]

    def _copy(self) -> State:
        clusters = {name: self._copy_cluster(cluster) for name, cluster in self._state.clusters.items()}
        known = {arn for cluster in clusters.values() for arn in cluster.tasks}
        self._tasks = {arn: task for arn, task in self._tasks.items() if arn in known}
        return replace(self._state, clusters=clusters, definitions=dict(self._state.definitions))

    def _copy_cluster(self, cluster: Cluster) -> Cluster:
        instances = {arn: _copy_instance(instance) for arn, instance in cluster.instances.items()}
        return replace(
            cluster,
            instances=instances,
            services={name: _copy_service(service) for name, service in cluster.services.items()},
            tasks={arn: self._copy_task(task, instances) for arn, task in cluster.tasks.items()},
        )

    def _copy_task(self, task: Task, instances: dict[str, Instance]) -> Task:
        before = self._tasks.get(task.arn)
        if before is None or before.version != task.version:
            before = replace(
                task,
                containers=[replace(c, bindings=list(c.bindings)) for c in task.containers],
                attachments=copy.deepcopy(task.attachments),
                tags=list(task.tags),
            )
            self._tasks[task.arn] = before
        if before.instance is not None:
            before = replace(before, instance=instances[before.instance.arn])
        return before


def _copy_instance(instance: Instance) -> Instance:
    return replace(instance, ports_in_use=set(instance.ports_in_use))


def _copy_service(service: Service) -> Service:
    return replace(
        service,
        deployments=[replace(deployment) for deployment in service.deployments],
        events=list(service.events),
    )
