"""Tags of clusters, services, tasks, task definitions and container instances."""

from __future__ import annotations

from discovery.simulator.account import Account
from discovery.simulator.arns import short
from discovery.simulator.failures import ApiError, invalid
from discovery.simulator.operations.request import text
from discovery.simulator.wire import Json

Tags = list[dict[str, str]]


def list_tags(account: Account, request: Json) -> Json:
    return {"tags": _tags_of(account, text(request, "resourceArn"))}


def tag(account: Account, request: Json) -> Json:
    held = _tags_of(account, text(request, "resourceArn"))
    new = request.get("tags") or []
    keys = {item.get("key") for item in new}
    held[:] = [item for item in held if item.get("key") not in keys] + new
    return {}


def untag(account: Account, request: Json) -> Json:
    held = _tags_of(account, text(request, "resourceArn"))
    keys = set(request.get("tagKeys") or ())
    held[:] = [item for item in held if item.get("key") not in keys]
    return {}


def _tags_of(account: Account, arn: str) -> Tags:
    """The tag list of a resource itself, to be changed in place. Raises ApiError."""
    state = account.state
    kind, _, rest = arn.split(":", 5)[-1].partition("/")
    if not arn.startswith("arn:") or not rest:
        raise invalid("Invalid identifier: the resource ARN is not valid.")
    if kind == "task-definition" and arn in state.definitions:
        return state.definitions[arn].tags
    cluster = state.clusters.get(rest.split("/")[0])
    if cluster is not None:
        if kind == "cluster":
            return cluster.tags
        if kind == "service" and short(arn) in cluster.services:
            return cluster.services[short(arn)].tags
        if kind == "task" and arn in cluster.tasks:
            return cluster.tasks[arn].tags
        if kind == "container-instance" and arn in cluster.instances:
            return cluster.instances[arn].tags
    raise ApiError("InvalidParameterException", "The specified resource is not found.")


OPERATIONS = {"ListTagsForResource": list_tags, "TagResource": tag, "UntagResource": untag}
