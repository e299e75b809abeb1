"""The scheduler's hands: asks what to do after every change, and does it."""

from __future__ import annotations

import asyncio

from discovery.simulator.account import Account
from discovery.simulator.arns import new_id, service_of
from discovery.simulator.events import Event, deployment_event, service_event
from discovery.simulator.lifecycle import Pace
from discovery.simulator.placement import place, zones_of
from discovery.simulator.scheduler import (
    Action,
    Fail,
    Retire,
    Settle,
    Start,
    Stop,
    back_off_s,
    decide,
    is_healthy,
)
from discovery.simulator.state import Cluster, Deployment, Service, Task

STOPPED_VISIBLE_S = 3600.0  # real seconds: how long DescribeTasks still knows a stopped task
LOOK_AGAIN_S = 1.0  # at normal speed: for what changes by time alone, such as protection that expires
EARLY_S = 10.0  # a task that fails sooner after its start never worked
_KILLED = (137, 143)  # somebody ended it: no fault of the program
_SHOWN_EVENTS = 100


class Dispatcher:
    """Keeps every service of every cluster at what it ought to be."""

    def __init__(self, account: Account, pace: Pace) -> None:
        self._account = account
        self._pace = pace
        self._changed = asyncio.Event()
        account.bulletin.subscribe(self._hear)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._changed.clear()
            for cluster in tuple(self._account.state.clusters.values()):
                self._forget_old(cluster)
                for service in tuple(cluster.services.values()):
                    self._forgive(cluster, service)
                    for action in decide(cluster, service, self._account.clock()):
                        self.do(cluster, service, action)
            try:
                async with asyncio.timeout(self._pace.real_s(LOOK_AGAIN_S)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    # -- doing -----------------------------------------------------------------------------------

    def do(self, cluster: Cluster, service: Service, action: Action) -> None:
        """Carry out what `decide` said about *service*."""
        match action:
            case Start():
                self._start(cluster, service, action)
            case Stop(task, reason):
                self._account.crew.stop(task, code="ServiceSchedulerInitiated", reason=reason)
            case Settle(deployment):
                self._settle(service, deployment)
            case Fail(deployment):
                self._fail(service, deployment)
            case Retire():
                service.status = "INACTIVE"
                service.deployments.clear()

    def _start(self, cluster: Cluster, service: Service, action: Start) -> None:
        account, definition = self._account, action.deployment.definition
        instance = action.instance
        group = f"service:{service.name}"
        if service.launch_type == "FARGATE":
            zones = zones_of(cluster, account.state.region)
            mine = [
                t.zone for t in cluster.tasks.values() if t.group == group and t.desired_status == "RUNNING"
            ]
            zone = min(zones, key=mine.count)
        else:
            instance = instance or place(cluster, definition, launch_type=service.launch_type, group=group)
            if instance is None:
                self._say(service, _UNPLACED.format(service.name), "SERVICE_TASK_PLACEMENT_FAILURE")
                return
            zone = instance.zone
        task = account.new_task(
            cluster,
            definition,
            group=group,
            instance=instance,
            zone=zone,
            launch_type=service.launch_type,
            started_by=action.deployment.id,
        )
        if service.raw.get("propagateTags") == "SERVICE":
            task.tags = list(service.tags)
        elif service.raw.get("propagateTags") == "TASK_DEFINITION":
            task.tags = list(definition.tags)
        account.crew.launch(task)

    def _settle(self, service: Service, deployment: Deployment) -> None:
        now = self._account.clock()
        deployment.rollout_state, deployment.updated_at = "COMPLETED", now
        deployment.rollout_reason = f"ECS deployment {deployment.id} completed."
        service.deployments[:] = [deployment]
        self._account.bulletin.publish(deployment_event(service, deployment, now))
        self._say(service, f"(service {service.name}) has reached a steady state.", "SERVICE_STEADY_STATE")

    def _fail(self, service: Service, deployment: Deployment) -> None:
        now = self._account.clock()
        deployment.rollout_state, deployment.updated_at = "FAILED", now
        deployment.rollout_reason = "ECS deployment circuit breaker: tasks failed to start."
        self._account.bulletin.publish(deployment_event(service, deployment, now))
        last_good = next((d for d in service.deployments if d.rollout_state == "COMPLETED"), None)
        if last_good is not None and service.circuit_breaker.get("rollback"):
            self._account.deploy(service, last_good.definition)

    def _say(self, service: Service, message: str, name: str) -> None:
        """A line in the service's events, once until something else is said."""
        if service.events and service.events[0]["message"] == message:
            return
        now = self._account.clock()
        service.events.insert(
            0, {"id": new_id(self._account.rng), "createdAt": round(now, 3), "message": message}
        )
        del service.events[_SHOWN_EVENTS:]
        self._account.bulletin.publish(service_event(service, message, now, name))

    def _forget_old(self, cluster: Cluster) -> None:
        horizon = self._account.clock() - STOPPED_VISIBLE_S
        for task in tuple(cluster.tasks.values()):
            if 0 < task.stopped_at < horizon:
                del cluster.tasks[task.arn]

    # -- hearing ---------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        if event.kind == "task":
            cluster = self._account.state.clusters[event.cluster]
            task = cluster.tasks[event.arn]
            service = cluster.services.get(service_of(task.group))
            if service is not None:
                self._count(service, task)
        self._changed.set()

    def _count(self, service: Service, task: Task) -> None:
        """Tasks that fail one after the other make the scheduler wait, longer each time."""
        deployment = next((d for d in service.deployments if d.id == task.started_by), None)
        if deployment is None:
            return
        if task.last_status == "STOPPED" and self._failed(task):
            deployment.failed_tasks += 1
            wait_s = self._pace.real_s(back_off_s(deployment.failed_tasks))
            deployment.not_before = self._account.clock() + wait_s

    def _forgive(self, cluster: Cluster, service: Service) -> None:
        """A task that has worked for a while ends the row of failures."""
        horizon = self._account.clock() - self._pace.real_s(EARLY_S)
        for deployment in service.deployments:
            if deployment.failed_tasks and any(
                task.started_by == deployment.id and is_healthy(task) and task.started_at < horizon
                for task in cluster.tasks.values()
            ):
                deployment.failed_tasks, deployment.not_before = 0, 0.0

    def _failed(self, task: Task) -> bool:
        if task.stop_code == "TaskFailedToStart":
            return True
        if task.stop_code != "EssentialContainerExited":
            return False
        killed = any(container.exit_code in _KILLED for container in task.containers)
        return not killed and task.stopping_at - task.started_at < self._pace.real_s(EARLY_S)


_UNPLACED = (
    "(service {}) was unable to place a task because no container instance met all of its requirements."
)
