"""Records to the JSON of the ECS API. Times are epoch numbers; what is empty in ECS is absent here too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from discovery.simulator.arns import service_of
from discovery.simulator.state import (
    Binding,
    Cluster,
    Container,
    Deployment,
    Instance,
    Service,
    Task,
    TaskDefinition,
)

Json = dict[str, Any]

INSTANCE_CPU = 4096
INSTANCE_MEMORY = 15_731
RESERVED_PORTS = ["22", "2375", "2376", "51678", "51679"]
AGENT_VERSION = "1.105.1"


def present(**members: Any) -> Json:  # noqa: ANN401
    """The members that have a value: "", None and the time 0.0 mean absent, an empty list is a value."""
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in members.items()
        if value is not None and value != "" and not (isinstance(value, float) and value == 0.0)
    }


def live_tasks(cluster: Cluster) -> list[Task]:
    return [task for task in cluster.tasks.values() if task.last_status != "STOPPED"]


def cluster_json(cluster: Cluster, include: Iterable[str] = ()) -> Json:
    live = live_tasks(cluster)
    active = [service for service in cluster.services.values() if service.status == "ACTIVE"]
    answer: Json = {
        "clusterArn": cluster.arn,
        "clusterName": cluster.name,
        "status": cluster.status,
        "registeredContainerInstancesCount": sum(i.status != "INACTIVE" for i in cluster.instances.values()),
        "runningTasksCount": sum(task.last_status == "RUNNING" for task in live),
        "pendingTasksCount": sum(task.last_status != "RUNNING" for task in live),
        "activeServicesCount": len(active),
        "statistics": [],
        "tags": [],
        "settings": [],
        "capacityProviders": [],
        "defaultCapacityProviderStrategy": [],
    }
    if "TAGS" in include:
        answer["tags"] = cluster.tags
    return answer


def binding_json(binding: Binding) -> Json:
    if binding.range_size:
        last = binding.range_size - 1
        return {
            "bindIP": binding.bind_ip,
            "protocol": binding.protocol,
            "containerPortRange": f"{binding.container_port}-{binding.container_port + last}",
            "hostPortRange": f"{binding.host_port}-{binding.host_port + last}",
        }
    return {
        "bindIP": binding.bind_ip,
        "containerPort": binding.container_port,
        "hostPort": binding.host_port,
        "protocol": binding.protocol,
    }


def container_json(task: Task, container: Container) -> Json:
    definition = container.definition
    interfaces = []
    if container.private_ip:
        attachment = task.attachments[0]["id"] if task.attachments else ""
        interfaces = [{"attachmentId": attachment, "privateIpv4Address": container.private_ip}]
    memory, reservation = definition.get("memory"), definition.get("memoryReservation")
    return present(
        containerArn=container.arn,
        taskArn=task.arn,
        name=container.name,
        image=definition.get("image", ""),
        runtimeId=container.runtime_id,
        lastStatus=container.last_status,
        exitCode=container.exit_code,
        reason=container.reason,
        networkBindings=[binding_json(binding) for binding in container.bindings],
        networkInterfaces=interfaces,
        healthStatus=container.health_status,
        cpu=str(definition.get("cpu", 0)),
        memory=str(memory) if memory else None,
        memoryReservation=str(reservation) if reservation else None,
    )


def task_size(definition: TaskDefinition) -> tuple[str, str]:
    """CPU units and MiB of a task of *definition*, as the strings the API shows."""
    cpu = definition.raw.get("cpu") or sum(item.get("cpu", 0) for item in definition.containers)
    memory = definition.raw.get("memory") or sum(
        item.get("memory") or item.get("memoryReservation", 0) for item in definition.containers
    )
    return str(cpu), str(memory)


def task_json(task: Task, include: Iterable[str] = ()) -> Json:
    cpu, memory = task_size(task.definition)
    overrides = {
        "containerOverrides": [{"name": container.name} for container in task.containers],
        "inferenceAcceleratorOverrides": [],
    }
    return present(
        attachments=task.attachments,
        attributes=[{"name": "ecs.cpu-architecture", "value": "x86_64"}],
        availabilityZone=task.zone,
        clusterArn=task.cluster_arn,
        connectivity=task.connectivity,
        connectivityAt=task.created_at,
        containerInstanceArn=task.instance.arn if task.instance else "",
        containers=[container_json(task, container) for container in task.containers],
        cpu=cpu,
        createdAt=task.created_at,
        desiredStatus=task.desired_status,
        enableExecuteCommand=False,
        group=task.group,
        healthStatus=task.health_status,
        lastStatus=task.last_status,
        launchType=task.launch_type,
        memory=memory,
        overrides={**overrides, **task.overrides},
        platformVersion="1.4.0" if task.launch_type == "FARGATE" else "",
        platformFamily="Linux" if task.launch_type == "FARGATE" else "",
        startedAt=task.started_at,
        startedBy=task.started_by,
        stopCode=task.stop_code,
        stoppedAt=task.stopped_at,
        stoppedReason=task.stopped_reason,
        stoppingAt=task.stopping_at,
        tags=task.tags if "TAGS" in include else [],
        taskArn=task.arn,
        taskDefinitionArn=task.definition.arn,
        version=task.version,
    )


def instance_json(instance: Instance, cluster: Cluster, include: Iterable[str] = ()) -> Json:
    here = [task for task in live_tasks(cluster) if task.instance is instance]
    ports = sorted({str(port) for port in instance.ports_in_use}, key=int)
    used_cpu = sum(int(task_size(task.definition)[0]) for task in here)
    used_memory = sum(int(task_size(task.definition)[1]) for task in here)
    answer: Json = {
        "containerInstanceArn": instance.arn,
        "ec2InstanceId": instance.ec2_instance_id,
        "version": instance.version,
        "versionInfo": {
            "agentVersion": AGENT_VERSION,
            "agentHash": "8dfceca",
            "dockerVersion": "DockerVersion: 25.0.8",
        },
        "registeredResources": _resources(INSTANCE_CPU, INSTANCE_MEMORY, RESERVED_PORTS),
        "remainingResources": _resources(
            INSTANCE_CPU - used_cpu, INSTANCE_MEMORY - used_memory, RESERVED_PORTS + ports
        ),
        "status": instance.status,
        "agentConnected": instance.agent_connected,
        "runningTasksCount": sum(task.last_status == "RUNNING" for task in here),
        "pendingTasksCount": sum(task.last_status in ("PROVISIONING", "PENDING") for task in here),
        "attributes": [
            {"name": "ecs.availability-zone", "value": instance.zone},
            {"name": "ecs.instance-type", "value": "m5.xlarge"},
            {"name": "ecs.os-type", "value": "linux"},
            {"name": "ecs.capability.task-eni"},
        ],
        "registeredAt": round(instance.registered_at, 3),
        "attachments": [],
        "tags": instance.tags if "TAGS" in include else [],
    }
    if "CONTAINER_INSTANCE_HEALTH" in include:
        answer["healthStatus"] = {"overallStatus": "OK", "details": []}
    return answer


def _resources(cpu: int, memory: int, ports: list[str]) -> list[Json]:
    return [
        {"name": "CPU", "type": "INTEGER", "integerValue": cpu},
        {"name": "MEMORY", "type": "INTEGER", "integerValue": memory},
        {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ports},
    ]


def deployment_json(deployment: Deployment, service: Service, tasks: list[Task]) -> Json:
    mine = [task for task in tasks if task.started_by == deployment.id and task.desired_status == "RUNNING"]
    primary = deployment.status == "PRIMARY"
    return present(
        id=deployment.id,
        status=deployment.status,
        taskDefinition=deployment.definition.arn,
        desiredCount=service.desired_count if primary else 0,
        pendingCount=sum(task.last_status != "RUNNING" for task in mine),
        runningCount=sum(task.last_status == "RUNNING" for task in mine),
        failedTasks=deployment.failed_tasks,
        createdAt=deployment.created_at,
        updatedAt=deployment.updated_at or deployment.created_at,
        launchType=service.launch_type,
        networkConfiguration=service.raw.get("networkConfiguration"),
        rolloutState=deployment.rollout_state,
        rolloutStateReason=deployment.rollout_reason or f"ECS deployment {deployment.id} in progress.",
    )


def service_json(service: Service, cluster: Cluster, include: Iterable[str] = ()) -> Json:
    tasks = [task for task in live_tasks(cluster) if service_of(task.group) == service.name]
    wanted = [task for task in tasks if task.desired_status == "RUNNING"]
    primary = next((d for d in service.deployments if d.status == "PRIMARY"), None)
    breaker = {"enable": False, "rollback": False, **service.circuit_breaker}
    answer = present(
        serviceArn=service.arn,
        serviceName=service.name,
        clusterArn=service.cluster_arn,
        loadBalancers=[],
        serviceRegistries=[],
        status=service.status,
        desiredCount=service.desired_count,
        runningCount=sum(task.last_status == "RUNNING" for task in wanted),
        pendingCount=sum(task.last_status != "RUNNING" for task in wanted),
        launchType=service.launch_type,
        taskDefinition=primary.definition.arn if primary else "",
        deploymentConfiguration={
            "deploymentCircuitBreaker": breaker,
            "maximumPercent": service.maximum_percent,
            "minimumHealthyPercent": service.minimum_healthy_percent,
        },
        deployments=[deployment_json(deployment, service, tasks) for deployment in service.deployments],
        events=service.events,
        createdAt=service.created_at,
        placementConstraints=[],
        placementStrategy=[] if service.strategy == "DAEMON" else _SPREAD,
        schedulingStrategy=service.strategy,
        deploymentController={"type": "ECS"},
        enableECSManagedTags=False,
        propagateTags="NONE",
        enableExecuteCommand=False,
        tags=service.tags if "TAGS" in include else None,
    )
    return {**answer, **service.raw}


_SPREAD = [
    {"type": "spread", "field": "attribute:ecs.availability-zone"},
    {"type": "spread", "field": "instanceId"},
]


def definition_json(definition: TaskDefinition) -> Json:
    fargate = "FARGATE" in definition.raw.get("requiresCompatibilities", ())
    answer = present(
        taskDefinitionArn=definition.arn,
        family=definition.family,
        revision=definition.revision,
        status=definition.status,
        networkMode=definition.raw.get("networkMode"),  # absent means bridge, and stays absent
        containerDefinitions=definition.containers,
        volumes=[],
        requiresAttributes=[],
        placementConstraints=[],
        compatibilities=["EC2", "FARGATE"] if fargate else ["EXTERNAL", "EC2"],
        registeredAt=definition.registered_at,
        deregisteredAt=definition.deregistered_at,
        registeredBy=f"arn:aws:iam::{definition.arn.split(':')[4]}:root",
    )
    return {**answer, **definition.raw}


def protection_json(task: Task, now: float) -> Json:
    protected = task.protected_until > now
    answer: Json = {"taskArn": task.arn, "protectionEnabled": protected}
    if protected:
        answer["expirationDate"] = round(task.protected_until, 3)
    return answer
