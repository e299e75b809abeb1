"""API answers in, endpoints out: one row for each way ECS can run a container."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from discovery.ecs import shapes
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.translate.lifecycle import SETTLED_S
from discovery.ecs.translate.rules import ServiceRule
from discovery.ecs.translate.translator import Translator
from discovery.model import DiscoveryError, Endpoint, Service, Snapshot
from tests.kit import ecs_json as ecs

NOW_S = ecs.STARTED.timestamp() + 1
Json = dict[str, Any]


def rule(name: str = "web", **more: Any) -> ServiceRule:
    fields = {"ecs_service": "web", **more}
    return ServiceRule(service=Service(name=name, hosts=(f"{name}.example.com",)), **fields)


def look(
    *tasks: Json,
    definitions: Sequence[Json] | None = None,
    instances: Sequence[Json] | None = None,
    addresses: dict[str, str] | None = None,
    rules: Sequence[ServiceRule] = (rule(),),
    domain: str = "",
    now_s: float = NOW_S,
) -> Snapshot:
    """Return what is shown after these answers of the API."""
    ledger = Ledger()
    for raw in tasks:
        ledger.hear_task(shapes.task(raw), by="api")
    for definition in [ecs.definition()] if definitions is None else definitions:
        ledger.hear_definition(shapes.task_definition(definition))
    for instance in [ecs.instance()] if instances is None else instances:
        machine = shapes.container_instance(instance)
        ledger.hear_instance(machine)
        known = {ecs.ec2_id(1): "10.0.1.5", ecs.ec2_id(2): "10.0.2.5"} if addresses is None else addresses
        ledger.hear_address(machine.ec2_id, known.get(machine.ec2_id, ""))
    translator = Translator(source="ecs:prod", rules=rules, domain=domain)
    return translator.update(ledger, now_s)[0]


def addresses(snapshot: Snapshot) -> list[str]:
    return [endpoint.address for endpoint in snapshot.endpoints]


# --- network modes ---------------------------------------------------------------------------------


def test_bridge_task_answers_on_the_host_port_of_its_instance() -> None:
    snapshot = look(ecs.task())

    assert snapshot.endpoints == (
        Endpoint(
            service="web",
            task_arn=ecs.task_arn(1),
            container="app",
            container_port=8080,
            host="10.0.1.5",
            port=32771,
            source="ecs:prod",
            zone="eu-west-1b",
            instance=ecs.ec2_id(1),
            release="ecs-svc/4494157735923160523",
            started_at=ecs.STARTED.timestamp(),
            version=3,
        ),
    )
    assert snapshot.problems == ()


def test_network_mode_absent_means_bridge() -> None:
    assert addresses(look(ecs.task(), definitions=[ecs.definition(networkMode=None)])) == ["10.0.1.5:32771"]


@pytest.mark.parametrize(
    ("mapping", "bindings", "address"),
    [
        pytest.param({"containerPort": 9000, "hostPort": 9000}, [], "10.0.1.5:9000", id="no-bindings"),
        pytest.param({"containerPort": 9000}, [], "10.0.1.5:9000", id="no-host-port"),
        pytest.param({"containerPort": 9000}, [ecs.binding(9000, 9000)], "10.0.1.5:9000", id="bindings"),
    ],
)
def test_host_mode_answers_on_the_container_port(mapping: Json, bindings: list[Json], address: str) -> None:
    """Docker reports no bindings in host mode, so the task definition has to say it."""
    definition = ecs.definition("web:42", ecs.container_definition("app", mapping), networkMode="host")

    assert addresses(
        look(ecs.task(containers=[ecs.container(bindings=bindings)]), definitions=[definition])
    ) == [address]


@pytest.mark.parametrize(
    ("interface", "attachments", "address"),
    [
        pytest.param({"privateIpv4Address": "10.9.0.7"}, [], "10.9.0.7:8080", id="ipv4"),
        pytest.param(
            {"privateIpv4Address": "10.9.0.7", "ipv6Address": "2001:db8::5"},
            [],
            "10.9.0.7:8080",
            id="dual-stack",
        ),
        pytest.param({"ipv6Address": "2001:db8:0::5"}, [], "[2001:db8::5]:8080", id="ipv6-only"),
        pytest.param(
            {},
            [
                {"type": "Service Connect", "details": []},
                ecs.eni(privateIPv4Address="10.9.0.8", macAddress="0e:89"),
            ],
            "10.9.0.8:8080",
            id="attachment-only",
        ),
    ],
)
def test_awsvpc_task_answers_on_its_own_address(
    interface: Json, attachments: list[Json], address: str
) -> None:
    task = ecs.task(containers=[ecs.awsvpc_container(**interface)], attachments=attachments)

    assert addresses(look(task, definitions=[ecs.definition(networkMode="awsvpc")])) == [address]


def test_fargate_task_needs_no_instance() -> None:
    task = ecs.task(
        launchType="FARGATE",
        containerInstanceArn=None,
        containers=[ecs.awsvpc_container(privateIpv4Address="10.9.0.7")],
    )
    snapshot = look(task, definitions=[ecs.definition(networkMode="awsvpc")], instances=[], addresses={})

    assert addresses(snapshot) == ["10.9.0.7:8080"]
    assert (snapshot.endpoints[0].instance, snapshot.endpoints[0].zone) == ("", "eu-west-1b")


def test_ecs_anywhere_is_left_out_with_the_reason() -> None:
    snapshot = look(
        ecs.task(launchType="EXTERNAL"), instances=[ecs.instance(ec2InstanceId="mi-0123456789abcdef0")]
    )

    assert snapshot.endpoints == ()
    (problem,) = snapshot.problems
    assert problem.where == "cluster prod, container instance mi-0123456789abcdef0"
    assert "ECS Anywhere" in problem.what


def test_instance_unknown_to_ec2_is_left_out_with_the_reason() -> None:
    snapshot = look(ecs.task(), addresses={})

    assert snapshot.endpoints == ()
    assert "no private address" in snapshot.problems[0].what


def test_network_mode_none_is_reported() -> None:
    snapshot = look(
        ecs.task(containers=[ecs.container(bindings=[])]), definitions=[ecs.definition(networkMode="none")]
    )

    assert snapshot.endpoints == ()
    assert 'networkMode "none"' in snapshot.problems[0].what


# --- bindings --------------------------------------------------------------------------------------


def test_task_without_bindings_yet_is_not_routable_and_no_problem() -> None:
    snapshot = look(ecs.task(containers=[ecs.container(bindings=[])]))

    assert (snapshot.endpoints, snapshot.problems) == ((), ())


V4 = partial(ecs.binding, 8080)
V6 = partial(ecs.binding, 8080, bindIP="::")
UDP = ecs.binding(8080, 32000, protocol="udp")
BARE = {"containerPort": 8080, "hostPort": 32004}
UNBOUND = {"containerPort": 8080, "hostPort": 0}


@pytest.mark.parametrize(
    ("bindings", "instance_address", "address"),
    [
        pytest.param([V6(32772), V4(32772)], "10.0.1.5", "10.0.1.5:32772", id="the-same-twice"),
        pytest.param([V6(32001), V4(32002)], "10.0.1.5", "10.0.1.5:32002", id="ipv4-machine"),
        pytest.param([V6(32001), V4(32000)], "2001:db8::1", "[2001:db8::1]:32001", id="ipv6-machine"),
        pytest.param([V4(32002), V4(32001)], "10.0.1.5", "10.0.1.5:32001", id="order-does-not-matter"),
        pytest.param([UDP, V4(32003)], "10.0.1.5", "10.0.1.5:32003", id="udp-ignored"),
        pytest.param([BARE], "10.0.1.5", "10.0.1.5:32004", id="old-payload-without-protocol"),
        pytest.param([UNBOUND, V4(32005)], "10.0.1.5", "10.0.1.5:32005", id="not-bound-yet"),
    ],
)
def test_binding_is_chosen_by_container_port_and_address_family(
    bindings: list[Json], instance_address: str, address: str
) -> None:
    task = ecs.task(containers=[ecs.container(bindings=bindings)])

    assert addresses(look(task, addresses={ecs.ec2_id(1): instance_address})) == [address]


def test_port_in_a_range_is_found_by_its_place_in_the_range() -> None:
    mapping = {"containerPortRange": "7000-7002", "protocol": "tcp"}
    bound = {"containerPortRange": "7000-7002", "hostPortRange": "32800-32802", "protocol": "tcp"}
    snapshot = look(
        ecs.task(containers=[ecs.container(bindings=[bound])]),
        definitions=[ecs.definition("web:42", ecs.container_definition("app", mapping))],
        rules=[rule(port=7001)],
    )

    assert addresses(snapshot) == ["10.0.1.5:32801"]


TWO = ecs.definition(
    "web:42",
    ecs.container_definition(
        "app", {"containerPort": 8080, "name": "http"}, {"containerPort": 9100, "name": "stats"}
    ),
    ecs.container_definition("side", {"containerPort": 8080}, {"containerPort": 5353, "protocol": "udp"}),
)
TWO_TASK = ecs.task(
    containers=[
        ecs.container("app", bindings=[ecs.binding(9100, 32001), ecs.binding(8080, 32002)]),
        ecs.container("side", bindings=[ecs.binding(8080, 32003)]),
    ]
)


@pytest.mark.parametrize(
    ("choice", "address"),
    [
        ({"container": "app", "port": 8080}, "10.0.1.5:32002"),
        ({"container": "app", "port": 9100}, "10.0.1.5:32001"),
        ({"port": 9100}, "10.0.1.5:32001"),
        ({"port_name": "http"}, "10.0.1.5:32002"),
        ({"container": "side"}, "10.0.1.5:32003"),
    ],
)
def test_port_is_chosen_by_container_and_container_port_or_name(choice: Json, address: str) -> None:
    assert addresses(look(TWO_TASK, definitions=[TWO], rules=[rule(**choice)])) == [address]


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({}, "several ports fit (app port 8080, app port 9100, side port 8080)"),
        ({"port": 8080}, "several ports fit (app port 8080, side port 8080)"),
        ({"port": 81}, "no container maps TCP port 81; mapped: app 8080 (http), app 9100 (stats), side 8080"),
        ({"port": 5353}, "no container maps TCP port 5353"),
        ({"port_name": "htpp"}, "did you mean 'http'?"),
        ({"container": "sied"}, "did you mean 'side'?"),
    ],
)
def test_doubtful_port_is_a_problem_and_no_guess(choice: Json, text: str) -> None:
    snapshot = look(TWO_TASK, definitions=[TWO], rules=[rule(**choice)])

    assert snapshot.endpoints == ()
    assert snapshot.services.keys() == {"web"}, "a service of the config has no task: 503, not 404"
    (problem,) = snapshot.problems
    assert problem.where == "config, service web, task-definition/web:42"
    assert text in problem.what


def test_host_port_in_place_of_container_port_is_explained() -> None:
    mapped = ecs.container_definition("app", {"containerPort": 8080, "hostPort": 80})
    snapshot = look(ecs.task(), definitions=[ecs.definition("web:42", mapped)], rules=[rule(port=80)])

    assert (
        "80 is the host port of container 'app': write its container port 8080" in snapshot.problems[0].what
    )


def test_several_services_may_run_in_one_task() -> None:
    rules = [
        rule("web", container="app", port=8080),
        rule("stats", port=9100),
        rule("side", container="side"),
    ]

    assert [(e.service, e.port) for e in look(TWO_TASK, definitions=[TWO], rules=rules).endpoints] == [
        ("side", 32003),
        ("stats", 32001),
        ("web", 32002),
    ]


# --- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_status", ["STOPPED", "DELETED"])
def test_task_that_has_stopped_is_absent(last_status: str) -> None:
    assert look(ecs.task(lastStatus=last_status)).endpoints == ()


@pytest.mark.parametrize("last_status", ["PROVISIONING", "PENDING", "ACTIVATING"])
def test_task_whose_other_containers_do_not_run_yet_only_starts(last_status: str) -> None:
    (endpoint,) = look(ecs.task(lastStatus=last_status)).endpoints

    assert (endpoint.starting, endpoint.draining) == (True, False)
    assert endpoint.reason == f"the task is {last_status}"


@pytest.mark.parametrize("status", ["PENDING", "STOPPED"])
def test_container_that_does_not_run_is_absent(status: str) -> None:
    assert look(ecs.task(containers=[ecs.container(lastStatus=status)])).endpoints == ()


@pytest.mark.parametrize(
    "state",
    [
        {"desiredStatus": "STOPPED"},
        {"desiredStatus": "STOPPED", "lastStatus": "DEACTIVATING"},
        {"desiredStatus": "STOPPED", "lastStatus": "STOPPING"},
        {"lastStatus": "DEPROVISIONING"},
    ],
    ids=lambda state: "-".join(state.values()),
)
def test_task_that_is_told_to_stop_drains(state: Json) -> None:
    """desiredStatus flips first, while the task still runs: the one early sign ECS gives."""
    (endpoint,) = look(ecs.task(**state, stopCode="ServiceSchedulerInitiated")).endpoints

    assert endpoint.draining
    assert endpoint.reason == "ECS is stopping the task (ServiceSchedulerInitiated)"


@pytest.mark.parametrize(
    ("status", "checked", "connectivity", "state"),
    [
        ("HEALTHY", True, "CONNECTED", "ready"),
        ("UNHEALTHY", True, "CONNECTED", "draining"),
        ("UNKNOWN", False, "CONNECTED", "ready"),
        ("UNKNOWN", True, "CONNECTED", "starting"),
        ("UNKNOWN", True, "DISCONNECTED", "ready"),
    ],
)
def test_container_health(status: str, checked: bool, connectivity: str, state: str) -> None:
    """A container without a check is UNKNOWN for ever, and so is its task: only its own status counts."""
    health: Json = {"healthCheck": {"command": ["CMD", "true"]}} if checked else {}
    definition = ecs.definition("web:42", ecs.container_definition("app", **health))
    task = ecs.task(
        connectivity=connectivity, healthStatus="UNKNOWN", containers=[ecs.container(healthStatus=status)]
    )
    (endpoint,) = look(task, definitions=[definition]).endpoints

    assert (endpoint.draining, endpoint.starting) == (state == "draining", state == "starting")
    assert bool(endpoint.reason) is (state != "ready")


def on_instances(*numbers: int) -> list[Json]:
    return [ecs.task(i, instance=number) for i, number in enumerate(numbers, 1)]


DRAINING = [ecs.instance(1, status="DRAINING"), ecs.instance(2)]


@pytest.mark.parametrize(
    ("tasks", "age_s", "draining"),
    [
        pytest.param(on_instances(1, 2), SETTLED_S, [True, False], id="the-other-half-takes-over"),
        pytest.param(on_instances(1, 2), SETTLED_S - 1, [False, False], id="the-other-may-still-be-loading"),
        pytest.param(on_instances(1, 1), SETTLED_S, [False, False], id="nothing-else-is-there"),
        pytest.param(on_instances(1, 1, 2), SETTLED_S, [False] * 3, id="one-cannot-carry-two"),
        pytest.param(on_instances(1, 2, 2), SETTLED_S, [True, False, False], id="two-can-carry-one"),
    ],
)
def test_draining_instance_never_takes_its_service_down(
    tasks: list[Json], age_s: float, draining: list[bool]
) -> None:
    snapshot = look(*tasks, instances=DRAINING, now_s=ecs.STARTED.timestamp() + age_s)

    assert [endpoint.draining for endpoint in snapshot.endpoints] == draining
    for endpoint in snapshot.endpoints:
        assert endpoint.reason == (
            f"container instance {ecs.ec2_id(1)} is DRAINING" if endpoint.draining else ""
        )


# --- ARNs, releases ---------------------------------------------------------------------------------


def test_old_arns_without_a_cluster_are_read() -> None:
    old_task, old_instance = (
        ecs.arn("task", "8fa8ad4b-1d0f-43d9"),
        ecs.arn("container-instance", "9d2f1c8e-77aa"),
    )
    snapshot = look(
        ecs.task(taskArn=old_task, containerInstanceArn=old_instance),
        instances=[ecs.instance(containerInstanceArn=old_instance)],
    )

    assert [(e.task_arn, e.address) for e in snapshot.endpoints] == [(old_task, "10.0.1.5:32771")]


def test_task_outside_a_deployment_is_of_the_release_of_its_revision() -> None:
    assert look(ecs.task(startedBy="someone")).endpoints[0].release == "web:42"


def test_zone_falls_back_to_the_instance() -> None:
    assert look(ecs.task(availabilityZone=None)).endpoints[0].zone == "eu-west-1b"


# --- which service ---------------------------------------------------------------------------------


def test_domain_names_every_service_with_one_port() -> None:
    snapshot = look(ecs.task(service="Web"), rules=(), domain="example.com")

    assert snapshot.services["Web"].hosts == ("web.example.com",)
    assert snapshot.services["Web"].origin == "[ecs] domain"
    assert addresses(snapshot) == ["10.0.1.5:32771"]


def test_domain_does_not_choose_between_ports() -> None:
    snapshot = look(TWO_TASK, definitions=[TWO], rules=(), domain="example.com")

    assert (snapshot.services, snapshot.endpoints) == ({}, ())
    assert snapshot.problems[0].where == "task-definition/web:42, ECS service web"
    assert "anyport.port" in snapshot.problems[0].what


def test_service_without_ports_is_no_mistake() -> None:
    worker = ecs.container_definition("app", {"containerPort": 514, "protocol": "udp"})
    snapshot = look(
        ecs.task(), definitions=[ecs.definition("web:42", worker)], rules=(), domain="example.com"
    )

    assert (snapshot.services, snapshot.problems) == ({}, ())


def test_without_rule_label_or_domain_nothing_is_served() -> None:
    snapshot = look(ecs.task(), rules=())

    assert (snapshot.services, snapshot.endpoints, snapshot.problems) == ({}, (), ())


def test_rule_without_hosts_takes_the_domain() -> None:
    bare = ServiceRule(service=Service(name="shop"), ecs_service="web")

    assert look(ecs.task(), rules=[bare], domain="example.com").services["shop"].hosts == ("web.example.com",)


def test_rule_that_no_task_belongs_to_is_reported_with_a_hint() -> None:
    snapshot = look(ecs.task(service="checkout"), rules=[rule(ecs_service="chekout")])

    assert snapshot.problems[0].where == "config, service web"
    assert "did you mean 'checkout'?" in snapshot.problems[0].what


def labelled(short: str, **labels: str) -> Json:
    said = {f"anyport.{key}": value for key, value in labels.items()}
    return ecs.definition(short, ecs.container_definition("app", dockerLabels=said))


def test_the_newest_revision_that_stays_describes_the_service() -> None:
    definitions = [labelled("web:9", host="old.example.com"), labelled("web:10", host="new.example.com")]
    tasks = [ecs.task(1, definition="web:9"), ecs.task(2, definition="web:10")]
    stopping = ecs.task(2, definition="web:10", desiredStatus="STOPPED")

    during, rolled_back = (
        look(tasks[0], newer, definitions=definitions, rules=()) for newer in (tasks[1], stopping)
    )

    assert during.services["web"].hosts == ("new.example.com",)
    assert rolled_back.services["web"].hosts == ("old.example.com",)
    assert len(during.endpoints) == len(rolled_back.endpoints) == 2
    assert during.problems == ()


def test_labels_of_two_ecs_services_may_name_one_service_only_in_the_same_words() -> None:
    tasks = [ecs.task(1), ecs.task(2, service="canary", definition="canary:1")]
    agree = [labelled("web:42", host="a.io"), labelled("canary:1", host="a.io", service="web")]
    differ = [labelled("web:42", host="a.io"), labelled("canary:1", host="b.io", service="web")]

    assert {e.task_arn for e in look(*tasks, definitions=agree, rules=()).endpoints} == {
        ecs.task_arn(1),
        ecs.task_arn(2),
    }
    refused = look(*tasks, definitions=differ, rules=())
    assert refused.services["web"].hosts == ("a.io",)
    assert [e.task_arn for e in refused.endpoints] == [ecs.task_arn(1)]
    assert "already described otherwise by task-definition/web:42 labels" in refused.problems[0].what


def test_labels_cannot_join_a_service_of_the_config() -> None:
    """Else any task definition in the cluster could take a share of another team's requests."""
    tasks = [ecs.task(1), ecs.task(2, service="other", definition="other:1")]
    snapshot = look(*tasks, definitions=[ecs.definition(), labelled("other:1", host="x.io", service="web")])

    assert [e.task_arn for e in snapshot.endpoints] == [ecs.task_arn(1)]
    assert snapshot.problems[0].where == "task-definition/other:1 labels, ECS service other"


# --- what is not the API ---------------------------------------------------------------------------


def without(raw: Json, *names: str) -> Json:
    return {key: value for key, value in raw.items() if key not in names}


@pytest.mark.parametrize(
    "raw",
    [
        *[
            pytest.param(without(ecs.task(), name), id=f"no-{name}")
            for name in ("taskArn", "taskDefinitionArn", "lastStatus", "desiredStatus", "containers")
        ],
        pytest.param(without(ecs.task(), "containerInstanceArn"), id="running-on-ec2-without-instance"),
        pytest.param(ecs.task(containers=[]), id="running-without-containers"),
        pytest.param(ecs.task(containers=["app"]), id="container-is-text"),
        pytest.param(ecs.task(version="3"), id="version-is-text"),
        pytest.param(ecs.task(startedAt="yesterday"), id="time-is-prose"),
        pytest.param(
            ecs.task(containers=[ecs.container(bindings=[ecs.binding(8080, 70000)])]), id="port-too-big"
        ),
        pytest.param(
            ecs.task(containers=[ecs.awsvpc_container(privateIpv4Address="ten.nine")]), id="no-address"
        ),
    ],
)
def test_answer_that_cannot_be_understood_is_no_answer(raw: Json) -> None:
    with pytest.raises(DiscoveryError) as caught:
        shapes.task(raw)

    assert caught.value.kind == "malformed"


@pytest.mark.parametrize(
    "started", [ecs.STARTED, ecs.STARTED.timestamp(), "2026-01-02T03:04:05Z"], ids=["boto3", "json", "event"]
)
def test_times_are_read_in_every_spelling(started: object) -> None:
    assert shapes.task(ecs.task(startedAt=started)).started_at == ecs.STARTED.timestamp()


def test_nothing_secret_survives_the_reading_of_a_task_definition() -> None:
    labels = {"anyport.host": "a.io", "com.example.token": "hunter2"}
    kept = shapes.task_definition(
        ecs.definition("web:42", ecs.container_definition("app", dockerLabels=labels))
    )

    for secret in ("hunter2", "DATABASE_PASSWORD", "API_KEY", "com.example.token"):
        assert secret not in repr(kept)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"PrivateIpAddress": "10.0.0.1", "Ipv6Address": "2001:db8::1"}, "10.0.0.1"),
        ({"NetworkInterfaces": [{"Ipv6Addresses": [{"Ipv6Address": "2001:db8::1"}]}]}, "2001:db8::1"),
        ({}, ""),
    ],
    ids=["ipv4", "ipv6-only", "terminated"],
)
def test_address_of_an_instance(fields: Json, address: str) -> None:
    assert shapes.instance_address({"InstanceId": "i-1", **fields}) == ("i-1", address)
