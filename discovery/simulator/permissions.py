"""Which permissions a call needs, on which resources, after the Service Authorization Reference. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from discovery.simulator.iam import Wish

Json = Mapping[str, Any]

# ECS operations whose resources are named in the request: the member, and the kind of ARN.
_NAMED: Final = {
    "DescribeTasks": ("tasks", "task"),
    "DescribeContainerInstances": ("containerInstances", "container-instance"),
    "DescribeServices": ("services", "service"),
}
# Those that know no resources and no cluster.
_NO_RESOURCE: Final = frozenset(("DescribeTaskDefinition", "ListTaskDefinitions", "ListClusters"))
_CLUSTER_ITSELF: Final = frozenset(("ListContainerInstances", "DescribeClusters"))
# A batch needs the permission of the single call.
_SQS: Final = {"DeleteMessageBatch": "DeleteMessage", "SendMessageBatch": "SendMessage"}
_TOPIC_WITHOUT: Final = frozenset(("Unsubscribe", "ListTopics", "ListSubscriptions"))
_FREE: Final = frozenset(("GetCallerIdentity",))


def wishes(service: str, operation: str, request: Json, *, account: str, region: str) -> list[Wish]:
    """Return what a call of *service* ("ecs", "sqs", ...) with the members or parameters *request* needs."""

    def arn(kind: str, rest: str) -> str:
        return rest if rest.startswith("arn:") else f"arn:aws:{kind}:{region}:{account}:{rest}"

    if operation in _FREE:
        return []
    make = _BY_SERVICE.get(service)
    if make is None:
        return [Wish(f"{service}:{operation}")]
    return make(operation, request, arn)


_Arn = Callable[[str, str], str]


def _ecs(operation: str, request: Json, arn: _Arn) -> list[Wish]:
    action, named = f"ecs:{operation}", str(request.get("cluster") or "default")
    cluster = named if named.startswith("arn:") else arn("ecs", f"cluster/{named}")
    name = cluster.rpartition("/")[2]
    if operation in _NO_RESOURCE:
        return [Wish(action)]
    if operation in _CLUSTER_ITSELF:
        return [Wish(action, (cluster,))]
    context = {"ecs:cluster": cluster}
    if operation == "ListTasks":
        return [Wish(action, (arn("ecs", f"container-instance/{name}/*"),), context)]
    if operation in _NAMED:
        member, kind = _NAMED[operation]
        given = [str(one) for one in request.get(member) or ()]
        return [Wish(action, tuple(_in_cluster(one, kind, name, arn) for one in given), context)]
    return [Wish(action, ("*",), context if "cluster" in request else {})]


def _in_cluster(reference: str, kind: str, cluster: str, arn: _Arn) -> str:
    return reference if reference.startswith("arn:") else arn("ecs", f"{kind}/{cluster}/{reference}")


def _sqs(operation: str, request: Json, arn: _Arn) -> list[Wish]:
    if operation == "ListQueues":
        return [Wish("sqs:ListQueues")]
    name = request.get("QueueName") or str(request.get("QueueUrl", "")).rpartition("/")[2]
    queue = arn("sqs", str(name))
    found = [Wish(f"sqs:{_SQS.get(operation, operation)}", (queue,))]
    if operation == "CreateQueue" and request.get("tags"):
        found.append(Wish("sqs:TagQueue", (queue,)))
    return found


def _sns(operation: str, request: Json, arn: _Arn) -> list[Wish]:
    if operation in _TOPIC_WITHOUT:
        return [Wish(f"sns:{operation}")]
    return [
        Wish(f"sns:{operation}", (arn("sns", str(request.get("TopicArn") or request.get("Name") or "*")),))
    ]


def _events(operation: str, request: Json, arn: _Arn) -> list[Wish]:
    rule = request.get("Name") or request.get("Rule")
    return [Wish(f"events:{operation}", (arn("events", f"rule/{rule}"),) if rule else ("*",))]


def _sts(operation: str, request: Json, _arn: _Arn) -> list[Wish]:
    return [Wish(f"sts:{operation}", (str(request.get("RoleArn") or "*"),))]


_BY_SERVICE: Final = {"ecs": _ecs, "sqs": _sqs, "sns": _sns, "events": _events, "sts": _sts}
