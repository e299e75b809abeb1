"""Tasks: listed, described, run, started, stopped."""

from __future__ import annotations

from discovery.simulator.account import Account
from discovery.simulator.arns import make, service_of, short
from discovery.simulator.failures import client_error, invalid, missing
from discovery.simulator.operations.request import count, references, text, with_token
from discovery.simulator.paging import page_of
from discovery.simulator.placement import place, zones_of
from discovery.simulator.state import Cluster, Instance, Task, TaskDefinition
from discovery.simulator.wire import Json, task_json

FILTERS = ("containerInstance", "family", "serviceName", "daemonName", "launchType")


def list_tasks(account: Account, request: Json) -> Json:
    """`desiredStatus` is RUNNING unless asked otherwise; PENDING never finds anything, as in ECS."""
    cluster = account.cluster(request.get("cluster"))
    status = request.get("desiredStatus") or "RUNNING"
    if status not in ("RUNNING", "PENDING", "STOPPED"):
        raise invalid(f"{status} is not a desired status: use RUNNING or STOPPED.")
    started_by, service, family = request.get("startedBy"), request.get("serviceName"), request.get("family")
    if started_by and any(request.get(name) for name in FILTERS):
        raise invalid("cannot specify startedBy with other filters.")
    if service:
        account.service(cluster, service)
    holder = None
    if request.get("containerInstance"):
        holder = account.find_instance(cluster, request["containerInstance"])
        if holder is None:
            raise invalid("The specified container instance does not exist.")
    launch_type = request.get("launchType")
    arns = [
        task.arn
        for task in cluster.tasks.values()
        if task.desired_status == status
        and (not started_by or task.started_by == started_by)
        and (not service or service_of(task.group) == short(service))
        and (not family or task.definition.family == family)
        and (holder is None or task.instance is holder)
        and (not launch_type or task.launch_type == launch_type)
        and not request.get("daemonName")
    ]
    page = page_of(arns, request.get("nextToken"), request.get("maxResults"))
    return with_token({"taskArns": page.items}, page.next_token)


def describe_tasks(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    found, failures = [], []
    for reference in references(request, "tasks", 100):
        task = account.find_task(cluster, reference)
        if task is None:
            failures.append(missing(make(account.state, f"task/{cluster.name}/{short(reference)}")))
        else:
            found.append(task_json(task, request.get("include") or ()))
    return {"tasks": found, "failures": failures}


def run_task(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    definition = account.active_definition(text(request, "taskDefinition"))
    launch_type = request.get("launchType") or "EC2"
    tasks, failures = [], []
    for _ in range(count(request, "count", 1, 1, 10)):
        if launch_type == "FARGATE":
            zone = zones_of(cluster, account.state.region)[0]
            tasks.append(_launch(account, cluster, definition, None, zone, request))
            continue
        if not any(i.status == "ACTIVE" and i.launch_type == launch_type for i in cluster.instances.values()):
            raise invalid("No Container Instances were found in your cluster.")
        instance = place(cluster, definition, launch_type=launch_type, group="")
        if instance is None:
            failures.append({"arn": cluster.arn, "reason": "RESOURCE:PORTS"})
        else:
            tasks.append(_launch(account, cluster, definition, instance, instance.zone, request))
    return {"tasks": [task_json(task, ("TAGS",)) for task in tasks], "failures": failures}


def start_task(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    definition = account.active_definition(text(request, "taskDefinition"))
    tasks, failures = [], []
    for reference in references(request, "containerInstances", 10):
        instance = account.find_instance(cluster, reference)
        if instance is None or instance.status == "INACTIVE":
            arn = make(account.state, f"container-instance/{cluster.name}/{short(reference)}")
            failures.append(missing(arn))
        else:
            tasks.append(_launch(account, cluster, definition, instance, instance.zone, request))
    return {"tasks": [task_json(task, ("TAGS",)) for task in tasks], "failures": failures}


def _launch(
    account: Account,
    cluster: Cluster,
    definition: TaskDefinition,
    instance: Instance | None,
    zone: str,
    request: Json,
) -> Task:
    group = request.get("group") or f"family:{definition.family}"
    if service_of(group):
        raise client_error("The task group can not start with service:.")
    task = account.new_task(
        cluster,
        definition,
        group=group,
        instance=instance,
        zone=zone,
        launch_type=instance.launch_type if instance else "FARGATE",
        started_by=request.get("startedBy") or "",
    )
    task.tags = list(request.get("tags") or ())
    task.overrides = request.get("overrides") or {}
    account.crew.launch(task)
    return task


def stop_task(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    task = account.find_task(cluster, text(request, "task"))
    if task is None:
        raise invalid("The referenced task was not found.")
    reason = request.get("reason") or "Task stopped by user"
    account.crew.stop(task, code="UserInitiated", reason=reason)
    return {"task": task_json(task)}


OPERATIONS = {
    "ListTasks": list_tasks,
    "DescribeTasks": describe_tasks,
    "RunTask": run_task,
    "StartTask": start_task,
    "StopTask": stop_task,
}
