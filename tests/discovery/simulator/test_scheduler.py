"""The scheduler's decisions, and what they add up to when they are carried out."""

from __future__ import annotations

import pytest

from discovery.simulator.dispatch import Dispatcher
from discovery.simulator.lifecycle import Pace
from discovery.simulator.scheduler import Retire, Settle, Start, Stop, back_off_s, decide, is_healthy
from discovery.simulator.state import Cluster, Deployment, Instance, Service, Task, TaskDefinition
from tests.kit.cloud import Cloud, ObedientCrew

NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}


class World:
    """A cluster with a service `web`; `turn` lets the scheduler act once, on paper."""

    def __init__(self, instances: int = 3, **service: object) -> None:
        self.cloud = Cloud(crew=ObedientCrew(patient=True))
        self.cluster: Cluster = self.cloud.cluster(instances=instances)
        self.dispatcher = Dispatcher(self.cloud.account, Pace())
        self.definition = self.cloud.define(**service.pop("definition", {}))  # type: ignore[arg-type]
        request: dict[str, object] = {"desiredCount": 3, **service}
        if request.get("schedulingStrategy") == "DAEMON":
            del request["desiredCount"]
        self.cloud.call("CreateService", cluster="prod", serviceName="web", taskDefinition="web", **request)
        self.service: Service = self.cluster.services["web"]

    def turn(self) -> list[object]:
        actions = decide(self.cluster, self.service, self.cloud.clock())
        for action in actions:
            self.dispatcher.do(self.cluster, self.service, action)
        return list(actions)

    def settle(self) -> int:
        """Turn until nothing is left to do, tasks obeying at once; how few were ever healthy."""
        fewest = len(self.healthy())
        for _ in range(50):
            if not self.turn() and not self.under_way():
                return fewest
            fewest = min(fewest, len(self.healthy()))
            self.obey()
        raise AssertionError("the scheduler never comes to rest")

    def obey(self) -> None:
        for task in self.there():
            if task.desired_status == "STOPPED":
                self.cloud.crew.end(task)
            elif task.last_status == "PROVISIONING":
                self.cloud.crew.run(task)

    def under_way(self) -> list[Task]:
        return [t for t in self.there() if t.desired_status == "STOPPED" or t.last_status == "PROVISIONING"]

    def there(self) -> list[Task]:
        return [task for task in self.cluster.tasks.values() if task.last_status != "STOPPED"]

    def healthy(self) -> list[Task]:
        return [task for task in self.there() if is_healthy(task)]

    def update(self, **request: object) -> None:
        self.cloud.call("UpdateService", cluster="prod", service="web", **request)

    def instance(self, number: int) -> Instance:
        return list(self.cluster.instances.values())[number]

    def drain(self, number: int, status: str = "DRAINING") -> Instance:
        instance = self.instance(number)
        self.cloud.call(
            "UpdateContainerInstancesState", cluster="prod", containerInstances=[instance.arn], status=status
        )
        return instance


def test_a_new_service_gets_its_tasks_spread_over_the_zones() -> None:
    world = World()
    assert len(world.turn()) == 3
    assert sorted(task.zone for task in world.there()) == ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    assert world.turn() == []  # they are on their way: nothing more to start, nothing settled yet
    world.obey()
    assert [type(action) for action in world.turn()] == [Settle]
    assert world.service.deployments[0].rollout_state == "COMPLETED"
    assert world.turn() == []


def test_tasks_carry_their_deployment_and_group() -> None:
    world = World()
    world.settle()
    task = world.there()[0]
    assert (task.group, task.started_by) == ("service:web", world.service.deployments[0].id)


@pytest.mark.parametrize(
    ("least", "most", "most_at_once", "fewest"),
    [(100, 200, 8, 4), (50, 100, 4, 2), (100, 150, 6, 4), (0, 200, 8, 0)],
)
def test_a_rolling_deploy_keeps_within_its_percentages(
    least: int, most: int, most_at_once: int, fewest: int
) -> None:
    world = World(
        desiredCount=4, deploymentConfiguration={"minimumHealthyPercent": least, "maximumPercent": most}
    )
    world.settle()
    world.cloud.define()
    world.update(taskDefinition="web:2")
    seen_most, seen_fewest = 0, 4
    for _ in range(50):
        if not world.turn():
            break
        live = [task for task in world.there() if task.desired_status == "RUNNING"]
        seen_most, seen_fewest = max(seen_most, len(live)), min(seen_fewest, len(world.healthy()))
        world.obey()
    assert {task.definition.revision for task in world.there()} == {2}
    assert len(world.healthy()) == 4
    assert seen_most <= most_at_once
    assert seen_fewest >= fewest
    assert [(d.status, d.rollout_state) for d in world.service.deployments] == [("PRIMARY", "COMPLETED")]


def test_old_tasks_wait_for_the_health_of_the_new() -> None:
    world = World(definition={"container": {"healthCheck": {"command": ["CMD", "true"]}}})
    for _ in range(5):
        world.turn()
        world.obey()
    for task in world.there():
        task.containers[0].health_status = task.health_status = "HEALTHY"
    world.settle()
    world.update(forceNewDeployment=True)
    assert {type(action) for action in world.turn()} == {Start}
    world.obey()  # running, but no check has passed
    assert world.turn() == []
    new = [task for task in world.there() if task.health_status == "UNKNOWN"]
    new[0].containers[0].health_status = new[0].health_status = "HEALTHY"
    assert [type(action) for action in world.turn()] == [Stop]


def test_during_a_deploy_both_deployments_are_listed() -> None:
    world = World()
    world.settle()
    world.update(forceNewDeployment=True)
    world.turn()
    shown = world.cloud.call("DescribeServices", cluster="prod", services=["web"])["services"][0]
    assert [
        (d["status"], d["desiredCount"], d["runningCount"], d["pendingCount"]) for d in shown["deployments"]
    ] == [
        ("PRIMARY", 3, 0, 3),
        ("ACTIVE", 0, 3, 0),
    ]


def test_a_stopped_task_is_replaced() -> None:
    world = World()
    world.settle()
    lost = world.there()[0]
    world.cloud.account.crew.stop(lost, code="EssentialContainerExited", reason="")
    assert [type(action) for action in world.turn()] == [Start]
    world.settle()
    assert len(world.healthy()) == 3


def test_an_unhealthy_task_is_replaced() -> None:
    world = World()
    world.settle()
    sick = world.there()[0]
    sick.health_status = sick.containers[0].health_status = "UNHEALTHY"
    world.settle()
    assert sick.desired_status == "STOPPED"
    assert len(world.healthy()) == 3


def test_scale_in_takes_from_the_fullest_zone_and_spares_the_protected() -> None:
    world = World(desiredCount=6)
    world.settle()
    protected = world.there()[:2]
    world.cloud.call(
        "UpdateTaskProtection", cluster="prod", tasks=[t.arn for t in protected], protectionEnabled=True
    )
    world.update(desiredCount=3)
    world.settle()
    left = world.there()
    assert len(left) == 3
    assert all(task in left for task in protected)
    world.update(desiredCount=1)
    world.settle()
    assert sorted(t.arn for t in world.there()) == sorted(t.arn for t in protected)
    world.cloud.clock.now += 121 * 60  # protection ends after two hours
    world.settle()
    assert len(world.there()) == 1


def test_a_protected_task_outlives_a_deploy_until_its_protection_ends() -> None:
    world = World()
    world.settle()
    old = world.there()[0]
    world.cloud.call("UpdateTaskProtection", cluster="prod", tasks=[old.arn], protectionEnabled=True)
    world.update(forceNewDeployment=True)
    world.settle()
    assert old in world.there()
    assert world.service.deployments[0].rollout_state == "IN_PROGRESS"
    world.cloud.clock.now += 121 * 60
    world.settle()
    assert old not in world.there()
    assert world.service.deployments[0].rollout_state == "COMPLETED"


def test_a_draining_instance_is_emptied_without_a_gap_and_gets_nothing_new() -> None:
    world = World()
    world.settle()
    drained = world.drain(0)
    assert world.settle() == 3
    assert all(task.instance is not drained for task in world.there())
    world.update(desiredCount=6)
    world.settle()
    assert all(task.instance is not drained for task in world.there())


def test_what_is_pending_on_a_draining_instance_is_stopped_at_once() -> None:
    world = World()
    world.turn()
    drained = world.drain(0)
    stops = [action for action in world.turn() if isinstance(action, Stop)]
    assert [action.task.instance for action in stops] == [drained]


def test_fixed_host_ports_take_one_task_per_instance() -> None:
    world = World(
        definition={"networkMode": "host"},
        desiredCount=4,
        deploymentConfiguration={"minimumHealthyPercent": 50, "maximumPercent": 100},
    )
    for _ in range(3):
        world.turn()
        world.obey()
    assert sorted(task.instance.address for task in world.there() if task.instance) == [
        "127.0.1.1",
        "127.0.1.2",
        "127.0.1.3",
    ]
    assert "unable to place a task" in world.service.events[0]["message"]
    world.update(desiredCount=3)
    world.settle()
    world.update(forceNewDeployment=True)
    world.settle()
    assert len(world.healthy()) == 3


def test_a_daemon_runs_once_on_each_active_instance_and_leaves_last() -> None:
    world = World(schedulingStrategy="DAEMON")
    assert world.service.maximum_percent == 100
    world.settle()
    assert len({task.instance.arn for task in world.there() if task.instance}) == 3

    world.cloud.call("CreateService", cluster="prod", serviceName="api", taskDefinition="web", desiredCount=3)
    api = world.cluster.services["api"]
    for action in decide(world.cluster, api, 0.0):
        world.dispatcher.do(world.cluster, api, action)
    world.obey()
    drained = world.drain(1)
    world.settle()
    mine = [task for task in world.there() if task.instance is drained]
    assert {task.group for task in mine} == {"service:web", "service:api"}
    for task in mine:
        if task.group == "service:api":
            world.cloud.crew.end(task)
    world.settle()
    assert not [task for task in world.there() if task.instance is drained]


def test_a_daemon_deploy_stops_the_old_before_it_starts_the_new() -> None:
    world = World(schedulingStrategy="DAEMON")
    world.settle()
    world.update(forceNewDeployment=True)
    assert {type(action) for action in world.turn()} == {Stop}
    assert world.turn() == []  # the old ones still hold their place
    world.obey()
    assert {type(action) for action in world.turn()} == {Start}


def test_a_deleted_service_goes_when_its_last_task_has_gone() -> None:
    world = World()
    world.settle()
    world.cloud.call("DeleteService", cluster="prod", service="web", force=True)
    assert {type(action) for action in world.turn()} == {Stop}
    assert world.turn() == []
    world.obey()
    assert [type(action) for action in world.turn()] == [Retire]
    assert world.service.status == "INACTIVE"
    assert world.cloud.call("ListServices", cluster="prod")["serviceArns"] == []


def test_tasks_that_fail_in_a_row_are_started_ever_more_slowly() -> None:
    world = World(desiredCount=1)
    for expected in (0.0, 2.0, 4.0, 8.0):
        assert [type(action) for action in world.turn()] == [Start]
        world.cloud.account.crew.stop(world.there()[-1], code="TaskFailedToStart", reason="no such program")
        world.obey()
        wait_s = world.service.deployments[0].not_before - world.cloud.clock.now
        assert wait_s == expected
        if expected:
            world.cloud.clock.now += expected - 0.1
            assert world.turn() == []
            world.cloud.clock.now += 0.2
    assert back_off_s(50) == 60.0


def test_the_circuit_breaker_rolls_back() -> None:
    breaker = {"enable": True, "rollback": True}
    world = World(deploymentConfiguration={"deploymentCircuitBreaker": breaker})
    world.settle()
    world.cloud.define()
    world.update(taskDefinition="web:2")
    for _ in range(3):
        world.turn()
        for task in world.there():
            if task.definition.revision == 2:
                world.cloud.account.crew.stop(task, code="TaskFailedToStart", reason="")
                world.cloud.crew.end(task)
        world.cloud.clock.now += 60
    world.settle()
    primary = world.service.deployments[0]
    assert (primary.definition.revision, primary.rollout_state) == (1, "COMPLETED")
    failed = [e.detail["eventName"] for e in world.cloud.events if e.kind == "deployment"]
    assert "SERVICE_DEPLOYMENT_FAILED" in failed


def test_a_fargate_service_needs_no_instance() -> None:
    world = World(
        instances=0,
        launchType="FARGATE",
        networkConfiguration=NETWORK,
        definition={"networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"]},
    )
    world.settle()
    assert [task.instance for task in world.there()] == [None] * 3
    assert len({task.zone for task in world.there()}) == 3


def test_decide_changes_nothing() -> None:
    definition = TaskDefinition("arn:td", "web", 1, "bridge", [], 0.0)
    service = Service("arn:s", "web", "arn:c", 2, [Deployment("ecs-svc/1", definition, 0.0)], 0.0)
    cluster = Cluster("arn:c", "prod", services={"web": service})
    assert decide(cluster, service, 0.0) == decide(cluster, service, 0.0)
    assert cluster.tasks == {}
