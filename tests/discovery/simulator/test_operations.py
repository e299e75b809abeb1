"""Operations of the ECS API: what they answer, refuse, and whether botocore's model agrees."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.simulator.failures import ApiError
from discovery.simulator.operations import OPERATIONS
from tests.kit.cloud import Cloud
from tests.kit.shapes import ecs_model, mismatches

MODEL = ecs_model()
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}


class CheckedCloud(Cloud):
    """Every answer is held against botocore's model of the operation."""

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        answer = super().call(operation, **request)
        assert mismatches(MODEL.operation_model(operation).output_shape, answer, operation) == []
        return answer


@pytest.fixture
def cloud() -> CheckedCloud:
    cloud = CheckedCloud()
    cloud.cluster()
    cloud.define()
    return cloud


def run(cloud: Cloud, count: int, **request: Any) -> list[str]:
    arns: list[str] = []
    while len(arns) < count:
        answer = cloud.call(
            "RunTask", cluster="prod", taskDefinition="web", count=min(10, count - len(arns)), **request
        )
        arns += [task["taskArn"] for task in answer["tasks"]]
    return arns


def refusal(cloud: Cloud, operation: str, **request: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        cloud.call(operation, **request)
    return refused.value


def test_the_model_check_sees_what_is_wrong() -> None:
    shape = MODEL.operation_model("ListTasks").output_shape
    assert mismatches(shape, {"taskArns": ["a"]}) == []
    assert mismatches(shape, {"taskArns": [1], "tasks": []}) != []
    assert mismatches(shape, {"taskArns": "a"}) != []


def test_every_operation_answers_as_the_model_says(cloud: CheckedCloud) -> None:
    """One call of each, on a cluster that has one of everything; the fixture's cloud checks the shape."""
    call, include = cloud.call, ["TAGS", "CONTAINER_INSTANCE_HEALTH"]
    tags = [{"key": "team", "value": "blue"}]
    checked = {"healthCheck": {"command": ["CMD", "true"]}, "dockerLabels": {"anyport.host": "web.example"}}
    cloud.define(container=checked, tags=tags, cpu="256", memory="512")
    cloud.define("ranged", portMappings=[{"containerPortRange": "7000-7002"}])
    cloud.define("flat", networkMode="awsvpc", requiresCompatibilities=["EC2", "FARGATE"])
    for name in ("web", "ranged", "flat"):
        more = {"networkConfiguration": NETWORK} if name == "flat" else {}
        call("CreateService", cluster="prod", serviceName=name, taskDefinition=name, desiredCount=1, **more)
        run(cloud, 1)
    task = call("RunTask", cluster="prod", taskDefinition="web", tags=tags, startedBy="me")["tasks"][0]
    instance = call("ListContainerInstances", cluster="prod")["containerInstanceArns"][0]
    call("StartTask", cluster="prod", taskDefinition="ranged", containerInstances=[instance, "0" * 32])
    call("UpdateService", cluster="prod", service="web", desiredCount=2, forceNewDeployment=True)
    members: dict[str, dict[str, Any]] = {
        "ListClusters": {},
        "DescribeClusters": {"clusters": ["prod", "none"], "include": ["TAGS"]},
        "CreateCluster": {"clusterName": "other", "tags": tags},
        "DeleteCluster": {"cluster": "other"},
        "ListServices": {"cluster": "prod"},
        "DescribeServices": {"cluster": "prod", "services": ["web", "none"], "include": ["TAGS"]},
        "CreateService": {
            "cluster": "prod", "serviceName": "all", "taskDefinition": "web", "schedulingStrategy": "DAEMON",
            "tags": tags, "propagateTags": "SERVICE",
        },
        "UpdateService": {"cluster": "prod", "service": "web", "taskDefinition": "web:1"},
        "DeleteService": {"cluster": "prod", "service": "flat", "force": True},
        "ListTasks": {"cluster": "prod"},
        "DescribeTasks": {"cluster": "prod", "tasks": [task["taskArn"], "0" * 32], "include": ["TAGS"]},
        "RunTask": {"cluster": "prod", "taskDefinition": "flat", "launchType": "FARGATE"},
        "StartTask": {"cluster": "prod", "taskDefinition": "web", "containerInstances": [instance]},
        "StopTask": {"cluster": "prod", "task": task["taskArn"], "reason": "enough"},
        "RegisterTaskDefinition": {"family": "x", "containerDefinitions": [{"name": "a", "image": "b"}]},
        "DeregisterTaskDefinition": {"taskDefinition": "x:1"},
        "DescribeTaskDefinition": {"taskDefinition": "web", "include": ["TAGS"]},
        "ListTaskDefinitions": {},
        "ListTaskDefinitionFamilies": {},
        "ListContainerInstances": {"cluster": "prod"},
        "DescribeContainerInstances": {
            "cluster": "prod", "containerInstances": [instance, "none"], "include": include,
        },
        "UpdateContainerInstancesState": {
            "cluster": "prod", "containerInstances": [instance, "none"], "status": "DRAINING",
        },
        "DeregisterContainerInstance": {"cluster": "prod", "containerInstance": instance, "force": True},
        "UpdateTaskProtection": {
            "cluster": "prod", "tasks": [task["taskArn"], "none"], "protectionEnabled": True,
        },
        "GetTaskProtection": {"cluster": "prod", "tasks": [task["taskArn"], "none"]},
        "ListTagsForResource": {"resourceArn": task["taskArn"]},
        "TagResource": {"resourceArn": task["taskArn"], "tags": tags},
        "UntagResource": {"resourceArn": task["taskArn"], "tagKeys": ["team"]},
    }  # fmt: skip
    assert set(members) == set(OPERATIONS)
    for operation, request in members.items():
        call(operation, **request)


def test_list_services_gives_ten_unless_told_otherwise(cloud: CheckedCloud) -> None:
    for number in range(12):
        cloud.call(
            "CreateService", cluster="prod", serviceName=f"s{number}", taskDefinition="web", desiredCount=0
        )
    first = cloud.call("ListServices", cluster="prod")
    assert len(first["serviceArns"]) == 10
    rest = cloud.call("ListServices", cluster="prod", nextToken=first["nextToken"])
    assert len(rest["serviceArns"]) == 2
    assert "nextToken" not in rest
    assert len(cloud.call("ListServices", cluster="prod", maxResults=100)["serviceArns"]) == 12


@pytest.mark.parametrize(
    ("operation", "member", "most"),
    [
        ("DescribeTasks", "tasks", 100),
        ("DescribeContainerInstances", "containerInstances", 100),
        ("DescribeServices", "services", 10),
        ("DescribeClusters", "clusters", 100),
        ("UpdateContainerInstancesState", "containerInstances", 10),
    ],
)
def test_batches_have_limits(cloud: CheckedCloud, operation: str, member: str, most: int) -> None:
    more: dict[str, Any] = {"status": "ACTIVE"} if operation.startswith("Update") else {}
    names = [f"{number:032x}" for number in range(most + 1)]
    assert len(cloud.call(operation, cluster="prod", **{member: names[:most]}, **more)["failures"]) == most
    assert (
        refusal(cloud, operation, cluster="prod", **{member: names}, **more).code
        == "InvalidParameterException"
    )
    if operation != "DescribeClusters":  # which takes an empty list for the default cluster
        assert (
            refusal(cloud, operation, cluster="prod", **{member: []}, **more).code
            == "InvalidParameterException"
        )


def test_list_tasks_shows_by_default_only_what_is_to_run(cloud: CheckedCloud) -> None:
    kept, stopped = run(cloud, 2)
    cloud.call("StopTask", cluster="prod", task=stopped)
    assert cloud.call("ListTasks", cluster="prod")["taskArns"] == [kept]
    assert cloud.call("ListTasks", cluster="prod", desiredStatus="STOPPED")["taskArns"] == [stopped]
    assert cloud.call("ListTasks", cluster="prod", desiredStatus="PENDING")["taskArns"] == []
    shown = cloud.call("DescribeTasks", cluster="prod", tasks=[stopped])["tasks"][0]
    assert (shown["stopCode"], shown["stoppedReason"]) == ("UserInitiated", "Task stopped by user")


def test_list_tasks_filters(cloud: CheckedCloud) -> None:
    cloud.define("flat", networkMode="awsvpc")
    web = run(cloud, 3, startedBy="me")
    flat = cloud.call("RunTask", cluster="prod", taskDefinition="flat", launchType="FARGATE")["tasks"][0][
        "taskArn"
    ]

    def listed(**filters: str) -> set[str]:
        return set(cloud.call("ListTasks", cluster="prod", **filters)["taskArns"])

    assert listed(family="web") == listed(startedBy="me") == listed(launchType="EC2") == set(web)
    assert listed(launchType="FARGATE") == {flat}
    instances = cloud.call("ListContainerInstances", cluster="prod")["containerInstanceArns"]
    each = [listed(containerInstance=arn) for arn in instances]
    assert set().union(*each) == set(web)
    assert [len(tasks) for tasks in each] == [1, 1, 1]
    assert refusal(cloud, "ListTasks", cluster="prod", serviceName="none").code == "ServiceNotFoundException"
    both = refusal(cloud, "ListTasks", cluster="prod", startedBy="me", family="web")
    assert both.code == "InvalidParameterException"


def test_names_are_understood_in_every_form(cloud: CheckedCloud) -> None:
    arn = run(cloud, 1)[0]
    task_id = arn.rpartition("/")[2]
    old = f"arn:aws:ecs:eu-west-1:123456789012:task/{task_id}"
    for cluster in ("prod", "arn:aws:ecs:eu-west-1:123456789012:cluster/prod"):
        for task in (arn, task_id, old):
            answer = cloud.call("DescribeTasks", cluster=cluster, tasks=[task])
            assert [shown["taskArn"] for shown in answer["tasks"]] == [arn]
    assert len(task_id) == 32
    for definition in ("web", "web:1", "arn:aws:ecs:eu-west-1:123456789012:task-definition/web:1"):
        shown = cloud.call("DescribeTaskDefinition", taskDefinition=definition)["taskDefinition"]
        assert shown["revision"] == 1


def test_what_does_not_exist_is_a_failure_or_an_error(cloud: CheckedCloud) -> None:
    missing = cloud.call("DescribeTasks", cluster="prod", tasks=["0" * 32])
    arn = f"arn:aws:ecs:eu-west-1:123456789012:task/prod/{'0' * 32}"
    assert missing == {"tasks": [], "failures": [{"arn": arn, "reason": "MISSING"}]}
    assert cloud.call("DescribeClusters", clusters=["none"])["failures"][0]["reason"] == "MISSING"
    assert refusal(cloud, "ListTasks", cluster="none").code == "ClusterNotFoundException"
    assert refusal(cloud, "ListTasks").code == "ClusterNotFoundException"  # there is no "default"
    assert refusal(cloud, "UpdateService", cluster="prod", service="none").code == "ServiceNotFoundException"
    assert refusal(cloud, "DescribeTaskDefinition", taskDefinition="none").code == "ClientException"
    assert refusal(cloud, "RunTask", cluster="prod", taskDefinition="none").code == "ClientException"
    assert refusal(cloud, "StopTask", cluster="prod", task="none").code == "InvalidParameterException"


def test_every_visible_change_raises_the_version(cloud: CheckedCloud) -> None:
    cloud.crew.patient = True
    arn = run(cloud, 1)[0]
    task = cloud.crew.launched[0]
    seen = []
    for step in (lambda: cloud.crew.run(task), lambda: cloud.call("StopTask", cluster="prod", task=arn),
                 lambda: cloud.crew.end(task)):  # fmt: skip
        step()
        shown = cloud.call("DescribeTasks", cluster="prod", tasks=[arn])["tasks"][0]
        seen.append((shown["version"], shown["lastStatus"], shown["desiredStatus"]))
    assert seen == [(2, "RUNNING", "RUNNING"), (3, "RUNNING", "STOPPED"), (4, "STOPPED", "STOPPED")]


def test_bindings_come_with_running_and_ranges_look_different(cloud: CheckedCloud) -> None:
    cloud.crew.patient = True
    cloud.define("mixed", portMappings=[{"containerPort": 80}, {"containerPortRange": "7000-7002"}])
    arn = cloud.call("RunTask", cluster="prod", taskDefinition="mixed")["tasks"][0]["taskArn"]

    def bindings() -> list[dict[str, Any]]:
        task = cloud.call("DescribeTasks", cluster="prod", tasks=[arn])["tasks"][0]
        return list(task["containers"][0]["networkBindings"])

    assert bindings() == []
    cloud.crew.run(cloud.crew.launched[0])
    assert bindings() == [
        {"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 32768, "protocol": "tcp"},
        {
            "bindIP": "0.0.0.0",
            "containerPortRange": "7000-7002",
            "hostPortRange": "32769-32771",
            "protocol": "tcp",
        },
    ]


def test_task_definitions_keep_what_was_registered(cloud: CheckedCloud) -> None:
    labels = {"anyport.host": "web.example.com"}
    cloud.define("labelled", container={"dockerLabels": labels}, networkMode="host")
    shown = cloud.call("DescribeTaskDefinition", taskDefinition="labelled")["taskDefinition"]
    assert shown["containerDefinitions"][0]["dockerLabels"] == labels
    assert shown["containerDefinitions"][0]["portMappings"] == [
        {"protocol": "tcp", "containerPort": 8080, "hostPort": 8080}
    ]
    bridge = cloud.call("DescribeTaskDefinition", taskDefinition="web")["taskDefinition"]
    assert "networkMode" not in bridge  # absent, which means bridge
    assert bridge["containerDefinitions"][0]["portMappings"][0]["hostPort"] == 0


def test_a_deregistered_definition_cannot_run_any_more(cloud: CheckedCloud) -> None:
    cloud.call("DeregisterTaskDefinition", taskDefinition="web:1")
    assert refusal(cloud, "RunTask", cluster="prod", taskDefinition="web:1").code == "ClientException"
    assert (
        cloud.call("DescribeTaskDefinition", taskDefinition="web:1")["taskDefinition"]["status"] == "INACTIVE"
    )
    assert cloud.call("ListTaskDefinitions")["taskDefinitionArns"] == []
    cloud.define()
    assert cloud.call("DescribeTaskDefinition", taskDefinition="web")["taskDefinition"]["revision"] == 2


def test_run_task_without_room_says_so(cloud: CheckedCloud) -> None:
    cloud.define("fixed", networkMode="host")
    answer = cloud.call("RunTask", cluster="prod", taskDefinition="fixed", count=4)
    assert len(answer["tasks"]) == 3
    assert answer["failures"][0]["reason"] == "RESOURCE:PORTS"
    cloud.cluster("empty", instances=0)
    nobody = refusal(cloud, "RunTask", cluster="empty", taskDefinition="web")
    assert nobody.message == "No Container Instances were found in your cluster."


def test_protection_is_for_tasks_of_services(cloud: CheckedCloud) -> None:
    arn = run(cloud, 1)[0]
    answer = cloud.call("UpdateTaskProtection", cluster="prod", tasks=[arn], protectionEnabled=True)
    assert answer["failures"] == [{"arn": arn, "reason": "TASK_NOT_VALID"}]


def test_tags_stay_until_removed(cloud: CheckedCloud) -> None:
    arn = "arn:aws:ecs:eu-west-1:123456789012:cluster/prod"
    cloud.call("TagResource", resourceArn=arn, tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}])
    cloud.call("TagResource", resourceArn=arn, tags=[{"key": "a", "value": "3"}])
    cloud.call("UntagResource", resourceArn=arn, tagKeys=["b"])
    assert cloud.call("ListTagsForResource", resourceArn=arn)["tags"] == [{"key": "a", "value": "3"}]


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("CreateService", {"cluster": "prod", "serviceName": "x"}),
        ("CreateService", {"cluster": "prod", "serviceName": "x", "taskDefinition": "web"}),
        ("StopTask", {"cluster": "prod"}),
        ("DescribeTasks", {"cluster": "prod"}),
        ("RegisterTaskDefinition", {"family": "x"}),
        ("RegisterTaskDefinition", {"family": "a b", "containerDefinitions": [{"name": "a"}]}),
        ("UpdateContainerInstancesState", {"cluster": "prod", "containerInstances": ["x"], "status": "GONE"}),
        ("RunTask", {"cluster": "prod", "taskDefinition": "web", "count": 11}),
        ("ListTagsForResource", {"resourceArn": "nonsense"}),
    ],
)
def test_senseless_requests_are_the_clients_fault(
    cloud: CheckedCloud, operation: str, request_: dict[str, Any]
) -> None:
    error = refusal(cloud, operation, **request_)
    assert error.status == 400
    assert error.code in ("InvalidParameterException", "ClientException")
    assert cloud.crew.launched == []
