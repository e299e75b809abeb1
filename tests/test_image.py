"""The image and what deploys it, as far as can be told without a container engine or an account."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
from botocore.validate import ParamValidator

from proxy.cli import anyport
from proxy.cli.policy import needed
from proxy.config import load

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Return (name, rest) of each instruction, continued lines joined."""
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines]


def of_stage(number: int) -> dict[str, str]:
    stages: list[dict[str, str]] = []
    for name, rest in instructions():
        if name == "FROM":
            stages.append({})
        stages[-1][name] = rest
    return stages[number]


def document(name: str) -> Any:
    return json.loads((ROOT / "deploy" / name).read_text())


def test_it_does_not_run_as_root_and_gets_signals_itself() -> None:
    final = of_stage(-1)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final["USER"])
    assert json.loads(final["ENTRYPOINT"]) == ["anyport"]
    assert json.loads(final["CMD"]) == ["run"]
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(final["HEALTHCHECK"].partition("CMD")[2]) == ["anyport", "healthcheck"]


def test_packages_come_by_hash_and_leave_no_cache() -> None:
    assert "PIP_NO_CACHE_DIR=1" in of_stage(0)["ENV"]
    for name, rest in instructions():
        if name == "RUN":
            for command in rest.split("&&"):
                if "install" in command:
                    assert "--require-hashes" in command or "--no-index" in command, command


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


def test_the_build_backend_is_taken_from_the_lock_file() -> None:
    script = re.search(r"awk '([^']+)' (\S+)", DOCKERFILE)
    assert script is not None
    shown = subprocess.run(
        ["awk", script[1], script[2]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heads = [line for line in shown.stdout.splitlines() if not line.startswith("    --hash=sha256:")]
    assert [re.sub(r"==[\d.]+ \\", "", line) for line in heads] == ["cython", "setuptools"]
    assert shown.stdout.count("--hash") >= 2


@pytest.mark.parametrize(
    ("file", "operation"),
    [
        ("task-definition.json", "RegisterTaskDefinition"),
        ("app-with-linger.json", "RegisterTaskDefinition"),
        ("service.json", "CreateService"),
    ],
)
def test_aws_would_take_it(file: str, operation: str) -> None:
    model = botocore.session.get_session().get_service_model("ecs").operation_model(operation)
    report = ParamValidator().validate(document(file), model.input_shape)
    assert not report.has_errors(), report.generate_report()


def test_the_task_definition_fits_the_program() -> None:
    container = document("task-definition.json")["containerDefinitions"][0]
    environ = {pair["name"]: pair["value"] for pair in container["environment"]}
    config = load(None, environ)
    assert config.timeouts.drain_s + 10 <= container["stopTimeout"]
    ports = {mapping["hostPort"] for mapping in container["portMappings"]}
    for address in (config.listener[0].address, config.metrics.address):
        assert int(address.rpartition(":")[2]) in ports
    assert container["healthCheck"]["command"][1:] == ["anyport", "healthcheck"]
    assert container["user"] == of_stage(-1)["USER"]


def test_what_is_kept_is_kept_outside_the_container() -> None:
    task = document("task-definition.json")
    container = task["containerDefinitions"][0]
    environ = {pair["name"]: pair["value"] for pair in container["environment"]}
    mounted = {point["containerPath"]: point["sourceVolume"] for point in container["mountPoints"]}
    volume = mounted[load(None, environ).state.path]
    assert volume in {found["name"] for found in task["volumes"]}
    made = next(rest for name, rest in instructions() if name == "RUN" and "mkdir" in rest)
    assert f"chown {container['user']} {load(None, environ).state.path}" in made


def test_linger_runs_from_the_same_image_and_is_stopped_first() -> None:
    app, linger = document("app-with-linger.json")["containerDefinitions"]
    assert linger["image"] == document("task-definition.json")["containerDefinitions"][0]["image"]
    assert linger["dependsOn"] == [{"containerName": app["name"], "condition": "START"}]
    assert not linger["essential"]
    entry = [*json.loads(of_stage(-1)["ENTRYPOINT"]), *linger["command"]]
    assert entry[0] == "anyport"
    assert isinstance(anyport, click.Group)
    command = anyport.commands[entry[1]]
    given = command.make_context(entry[1], entry[2:]).params
    assert given["deadline_s"] < linger["stopTimeout"]
    manual = (ROOT / "docs" / "linger.md").read_text()
    assert f'"command": {json.dumps(linger["command"])}' in manual


def test_the_policy_is_what_the_program_prints() -> None:
    found = needed(load(ROOT / "config.toml", {}), account="123456789012", region="eu-west-1")
    assert document("iam-policy.json") == found[""]
