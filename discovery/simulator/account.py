"""What every operation works on, and how the things it names are found."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from discovery.simulator.arns import make, new_deployment_id, new_id, short
from discovery.simulator.events import Bulletin, deployment_event, instance_event, task_event
from discovery.simulator.failures import ApiError, client_error
from discovery.simulator.state import (
    Cluster,
    Container,
    Deployment,
    Instance,
    Service,
    State,
    Task,
    TaskDefinition,
)


class Crew(Protocol):
    """Who makes tasks live and die: the life cycle."""

    def launch(self, task: Task) -> None:
        """Take *task*, just recorded as PROVISIONING, to RUNNING."""
        ...

    def stop(self, task: Task, *, code: str, reason: str) -> None:
        """Flip `desiredStatus` to STOPPED now and take the task there. Again is harmless."""
        ...


@dataclass(slots=True)
class Account:
    """One AWS account in one Region. `clock` gives Unix seconds."""

    state: State
    clock: Callable[[], float]
    rng: random.Random
    crew: Crew
    bulletin: Bulletin

    # -- finding ---------------------------------------------------------------------------------

    def cluster(self, reference: str | None) -> Cluster:
        """By name or ARN, "default" when not named. Raises ApiError ClusterNotFoundException."""
        found = self.state.clusters.get(short(reference or "default"))
        if found is None or found.status != "ACTIVE":
            raise ApiError("ClusterNotFoundException", "Cluster not found.")
        return found

    def service(self, cluster: Cluster, reference: str) -> Service:
        """By name or ARN. Raises ApiError ServiceNotFoundException."""
        found = cluster.services.get(short(reference))
        if found is None:
            raise ApiError("ServiceNotFoundException", "Service not found.")
        return found

    def find_task(self, cluster: Cluster, reference: str) -> Task | None:
        """By id, or by ARN in the old or the new form."""
        return cluster.tasks.get(make(self.state, f"task/{cluster.name}/{short(reference)}"))

    def find_instance(self, cluster: Cluster, reference: str) -> Instance | None:
        return cluster.instances.get(
            make(self.state, f"container-instance/{cluster.name}/{short(reference)}")
        )

    def definition(self, reference: str) -> TaskDefinition:
        """By ARN, "family:revision" or "family" (its newest active one). Raises ApiError ClientException."""
        family, _, revision = short(reference).partition(":")
        if revision:
            found = self.state.definitions.get(make(self.state, f"task-definition/{family}:{revision}"))
        else:
            active = [
                d for d in self.state.definitions.values() if d.family == family and d.status == "ACTIVE"
            ]
            found = max(active, key=lambda d: d.revision, default=None)
        if found is None:
            raise client_error("Unable to describe task definition.")
        return found

    def active_definition(self, reference: str) -> TaskDefinition:
        """The same, for what is about to run. Raises ApiError ClientException when it is inactive."""
        try:
            found = self.definition(reference)
        except ApiError:
            raise client_error("TaskDefinition not found.") from None
        if found.status != "ACTIVE":
            raise client_error("TaskDefinition is inactive")
        return found

    # -- making ----------------------------------------------------------------------------------

    def new_task(
        self,
        cluster: Cluster,
        definition: TaskDefinition,
        *,
        group: str,
        instance: Instance | None,
        zone: str,
        launch_type: str,
        started_by: str = "",
    ) -> Task:
        """A task on record, PROVISIONING; `crew.launch` brings it to life."""
        task_id = new_id(self.rng)
        containers = [
            Container(
                arn=make(self.state, f"container/{cluster.name}/{task_id}/{new_id(self.rng)}"),
                name=item["name"],
                definition=item,
            )
            for item in definition.containers
        ]
        task = Task(
            arn=make(self.state, f"task/{cluster.name}/{task_id}"),
            cluster_arn=cluster.arn,
            definition=definition,
            group=group,
            created_at=self.clock(),
            instance=instance,
            started_by=started_by,
            launch_type=launch_type,
            zone=zone,
            containers=containers,
        )
        cluster.tasks[task.arn] = task
        return task

    def deploy(self, service: Service, definition: TaskDefinition) -> None:
        """Make *definition* the service's PRIMARY deployment; the one before stays ACTIVE until replaced."""
        for deployment in service.deployments:
            deployment.status = "ACTIVE"
        now = self.clock()
        primary = Deployment(
            id=new_deployment_id(self.rng), definition=definition, created_at=now, updated_at=now
        )
        service.deployments.insert(0, primary)
        self.bulletin.publish(deployment_event(service, primary, now))

    # -- telling ---------------------------------------------------------------------------------

    def task_changed(self, task: Task) -> None:
        """Count the change in `version` and tell everybody."""
        task.version += 1
        self.bulletin.publish(task_event(task, self.clock()))

    def instance_changed(self, instance: Instance) -> None:
        instance.version += 1
        cluster = self.state.clusters[short(instance.cluster_arn)]
        self.bulletin.publish(instance_event(instance, cluster, self.clock()))
