"""`anyport events-setup`, as an operator meets it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from discovery.simulator.simulator import Simulator
from proxy.cli import main

AUTO = '[ecs]\nclusters = ["prod"]\nregion = "eu-west-1"\n[ecs.events]\nqueue = "auto"\n'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty directory with no `ANYPORT_…` variable."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ANYPORT_")]:
        monkeypatch.delenv(name)
    return tmp_path


def configure(folder: Path, text: str) -> None:
    (folder / "config.toml").write_text(text)


def resources(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)["Resources"]
    return found


def test_it_prints_a_template_and_how_to_deploy_it_and_asks_nobody(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(elsewhere, AUTO)
    assert main(["events-setup"]) == 0
    said = capsys.readouterr()
    assert "AnyportTopic" in resources(said.out)
    assert "aws cloudformation deploy" in said.err
    assert main(["events-setup", "--json"]) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (said.out, "")


def test_the_template_of_a_given_queue_is_about_that_queue(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(elsewhere, AUTO.replace('"auto"', '"https://sqs.eu-west-1.amazonaws.com/111122223333/mine"'))
    assert main(["events-setup"]) == 0
    found = resources(capsys.readouterr().out)
    assert "AnyportTopic" not in found
    target = found["AnyportProd"]["Properties"]["Targets"][0]["Arn"]
    assert target == "arn:aws:sqs:eu-west-1:111122223333:mine"


def test_where_events_are_off_it_says_what_is_missing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(elsewhere, '[ecs]\nclusters = ["prod"]\ndomain = "test"\n')
    assert main(["events-setup"]) == 0
    assert '[ecs.events] does not say queue = "auto"' in capsys.readouterr().err


def test_without_a_cluster_there_is_nothing_to_set_up(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(elsewhere, '[[service]]\nname = "a"\nhosts = ["a"]\nstatic = ["127.0.0.1:1"]\n')
    assert main(["events-setup"]) == 2
    assert "add `clusters` in [ecs]" in capsys.readouterr().err


def test_clusters_elsewhere_are_left_out_and_named(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = '[[ecs.cluster]]\nname = "far"\nregion = "us-east-1"\n'
    lent = '[[ecs.cluster]]\nname = "lent"\nrole_arn = "arn:aws:iam::999999999999:role/anyport"\n'
    configure(elsewhere, AUTO + far + lent)
    assert main(["events-setup"]) == 0
    said = capsys.readouterr()
    assert [name for name in resources(said.out) if "Far" in name or "Lent" in name] == []
    assert said.err.count("is left out") == 2


def test_opposites_are_a_usage_error(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(elsewhere, AUTO)
    assert main(["events-setup", "--apply", "--remove"]) == 2
    assert "opposites" in capsys.readouterr().err


@pytest_asyncio.fixture
async def simulator(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulator]:
    async with Simulator(throttling=False) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        configure(elsewhere, AUTO.replace("region =", f'endpoint_url = "{made.url}"\nregion ='))
        yield made


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["events-setup", *arguments])


@pytest.mark.asyncio
async def test_applied_and_removed(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("--apply") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "topic arn:aws:sns:eu-west-1:123456789012:anyport-events"
    assert said[2:] == ["rule anyport-prod", "rule anyport-prod-deployments", "rule anyport-spot"]
    assert await run("--remove", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert len(answer["done"]) == 4
    assert await run("--remove") == 0
    assert capsys.readouterr().out == "nothing to do\n"


@pytest.mark.asyncio
async def test_what_is_not_allowed_is_named(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    simulator.faults.denied("PutRule", count=1)
    assert await run("--apply") == 1
    said = capsys.readouterr()
    assert "events:PutRule is not allowed" in said.err
    simulator.faults.denied("PutRule", count=1)
    assert await run("--apply", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert "events:PutRule is not allowed" in answer["error"]
    assert len(answer["done"]) == 2
