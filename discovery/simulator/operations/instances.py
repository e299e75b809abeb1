"""Container instances: listed, described, drained, deregistered."""

from __future__ import annotations

from discovery.simulator.account import Account
from discovery.simulator.arns import make, short
from discovery.simulator.failures import invalid, missing
from discovery.simulator.operations.request import references, text, with_token
from discovery.simulator.paging import page_of
from discovery.simulator.wire import Json, instance_json, live_tasks

STATUSES = ("ACTIVE", "DRAINING", "REGISTERING", "DEREGISTERING", "REGISTRATION_FAILED")


def list_instances(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    status = request.get("status")
    if status is not None and status not in STATUSES:
        raise invalid("The status of a container instance is ACTIVE, DRAINING, REGISTERING, DEREGISTERING "
                      "or REGISTRATION_FAILED.")  # fmt: skip
    if request.get("filter"):
        raise invalid("The cluster query language is not simulated.")
    arns = [
        instance.arn
        for instance in cluster.instances.values()
        if (instance.status == status if status else instance.status != "INACTIVE")
    ]
    page = page_of(arns, request.get("nextToken"), request.get("maxResults"))
    return with_token({"containerInstanceArns": page.items}, page.next_token)


def describe_instances(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    found, failures = [], []
    for reference in references(request, "containerInstances", 100):
        instance = account.find_instance(cluster, reference)
        if instance is None:
            arn = make(account.state, f"container-instance/{cluster.name}/{short(reference)}")
            failures.append(missing(arn))
        else:
            found.append(instance_json(instance, cluster, request.get("include") or ()))
    return {"containerInstances": found, "failures": failures}


def update_state(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    status = request.get("status")
    if status not in ("ACTIVE", "DRAINING"):
        raise invalid("Container instance status should be one of [ACTIVE,DRAINING].")
    found, failures = [], []
    for reference in references(request, "containerInstances", 10):
        instance = account.find_instance(cluster, reference)
        if instance is None or instance.status == "INACTIVE":
            arn = make(account.state, f"container-instance/{cluster.name}/{short(reference)}")
            failures.append(missing(arn))
            continue
        if instance.status != status:
            instance.status = status
            account.instance_changed(instance)
        found.append(instance_json(instance, cluster))
    return {"containerInstances": found, "failures": failures}


def deregister(account: Account, request: Json) -> Json:
    """With `force` the tasks run on, orphaned, as ECS has it; here they are stopped with their machine."""
    cluster = account.cluster(request.get("cluster"))
    instance = account.find_instance(cluster, text(request, "containerInstance"))
    if instance is None or instance.status == "INACTIVE":
        raise invalid("The specified container instance is not registered.")
    here = [task for task in live_tasks(cluster) if task.instance is instance]
    if here and not request.get("force"):
        raise invalid("Found running tasks on the instance.")
    instance.status, instance.agent_connected = "INACTIVE", False
    account.instance_changed(instance)
    for task in here:
        account.crew.stop(task, code="", reason="Container instance deregistered by user")
    return {"containerInstance": instance_json(instance, cluster)}


OPERATIONS = {
    "ListContainerInstances": list_instances,
    "DescribeContainerInstances": describe_instances,
    "UpdateContainerInstancesState": update_state,
    "DeregisterContainerInstance": deregister,
}
