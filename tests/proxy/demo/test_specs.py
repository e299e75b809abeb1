"""Options, and what they become in the words of ECS and config.toml."""

from __future__ import annotations

import tomllib

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from proxy.config import Config
from proxy.demo import specs


def test_service_options() -> None:
    web, api = specs.own(["web=./my-server --port $PORT", "api=node app.js --flag=x"], 2)
    assert (web.name, web.command, web.tasks, web.host) == (
        "web",
        "./my-server --port $PORT",
        2,
        "web.localhost",
    )
    assert api.command == "node app.js --flag=x", "only the first = divides"


@pytest.mark.parametrize(
    ("options", "tasks", "message"),
    [
        (["./my-server"], 3, "is not NAME=COMMAND"),
        (["web="], 3, "is not NAME=COMMAND"),
        (["=./my-server"], 3, "is not NAME=COMMAND"),
        (["My Server=x"], 3, "is not NAME=COMMAND"),
        (["web=a", "web=b"], 3, "given twice"),
        (["web=a"], 0, "at least 1"),
    ],
)
def test_options_that_make_no_sense(options: list[str], tasks: int, message: str) -> None:
    with pytest.raises(specs.OptionError, match=message):
        specs.own(options, tasks)


def test_the_built_in_services_show_every_network_mode_and_both_ways_to_route() -> None:
    assert {spec.mode for spec in specs.BUILT_IN} == {"bridge", "awsvpc", "host"}
    assert {spec.labelled for spec in specs.BUILT_IN} == {True, False}
    assert any(spec.socket_users for spec in specs.BUILT_IN)
    assert all(spec.tasks >= 2 for spec in specs.BUILT_IN), "a killed single task would be an outage"


@pytest.mark.parametrize("spec", [*specs.BUILT_IN, *specs.own(["mine=./x $PORT"], 3)], ids=lambda s: s.name)
def test_boto3_accepts_what_is_registered(spec: specs.Spec) -> None:
    model = ServiceModel(Loader().load_service_model("ecs", "service-2"))
    for operation, wanted in (
        ("RegisterTaskDefinition", specs.task_definition(spec, 1)),
        ("CreateService", specs.service(spec, "arn")),
    ):
        report = ParamValidator().validate(wanted, model.operation_model(operation).input_shape)
        assert not report.has_errors(), report.generate_report()


def test_bridge_ports_are_dynamic_and_the_others_fixed() -> None:
    ports = {
        spec.mode: specs.task_definition(spec, 1)["containerDefinitions"][0]["portMappings"][0]
        for spec in specs.BUILT_IN
    }
    assert "hostPort" not in ports["bridge"]
    assert ports["host"]["hostPort"] == ports["awsvpc"]["hostPort"] == specs.CONTAINER_PORT


def test_the_config_is_one_anyport_takes() -> None:
    text = specs.config_toml(
        endpoint_url="http://127.0.0.1:4566",
        region="eu-west-1",
        cluster="demo",
        listener="127.0.0.1:8080",
        metrics="127.0.0.1:9180",
        admin="127.0.0.1:9181",
    )
    config = Config.model_validate(tomllib.loads(text))
    assert config.ecs.poll_interval_s == 0.5
    assert config.ecs.clusters == ("demo",)
    assert config.listener[0].address == "127.0.0.1:8080"


@pytest.mark.parametrize(("tasks", "percent"), [(1, 200), (2, 150), (3, 134), (10, 134)])
def test_a_deploy_of_an_own_program_has_room_for_one_task_and_is_gradual(tasks: int, percent: int) -> None:
    [spec] = specs.own(["mine=./x $PORT"], tasks)
    assert specs.service(spec, "arn")["deploymentConfiguration"]["maximumPercent"] == percent
    assert tasks * percent // 100 > tasks, "ECS rounds down: without room a deploy would never begin"
