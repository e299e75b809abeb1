"""`anyport iam-policy`: what it prints, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discovery.simulator.iam import Policy
from proxy.cli import main

OTHER = "arn:aws:iam::210987654321:role/anyport"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config.toml"


def test_one_document_to_paste(config: Path, capsys: Output) -> None:
    config.write_text('[ecs]\nclusters = ["prod"]\nregion = "eu-west-1"\n')
    assert main(["iam-policy", "--config", str(config), "--account", "123456789012"]) == 0
    out, err = capsys.readouterr()
    assert "arn:aws:ecs:eu-west-1:123456789012:cluster/prod" in out
    assert "sqs:" not in out
    assert Policy(json.loads(out))
    assert err == ""


def test_what_is_not_known_is_said(config: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[ecs]\nclusters = ["prod"]\n')
    main(["iam-policy", "--config", str(config)])
    out, err = capsys.readouterr()
    assert "arn:aws:ecs:REGION:ACCOUNT:cluster/prod" in out
    assert err == (
        "anyport: put yours for ACCOUNT, or give --account\n"
        "anyport: put yours for REGION, or give --region, or `region` in [ecs]\n"
    )
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    main(["iam-policy", "--config", str(config)])
    assert "arn:aws:ecs:eu-west-1:ACCOUNT:cluster/prod" in capsys.readouterr().out


def test_a_policy_for_each_role(config: Path, capsys: Output) -> None:
    config.write_text(
        '[ecs]\nclusters = ["prod"]\nregion = "eu-west-1"\n[[ecs.cluster]]\nname = "dev"\n'
        f'role_arn = "{OTHER}"\n[ecs.events]\nqueue = "auto"\n'
    )
    arguments = ["iam-policy", "--config", str(config), "--account", "123456789012"]
    main([*arguments, "--json"])
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert err == ""
    assert set(answer["roles"]) == {OTHER}
    assert "210987654321:cluster/dev" in str(answer["roles"][OTHER])
    assert "123456789012:anyport-prod-*" in str(answer["task_role"])
    main(arguments)
    out, err = capsys.readouterr()
    assert err == f"anyport: the policy of the task role:\nanyport: the policy of {OTHER}:\n"
    assert out.count('"Version"') == 2


def test_who_asks_nothing_needs_nothing(config: Path, capsys: Output) -> None:
    config.write_text('[[service]]\nname = "a"\nhosts = ["a.test"]\nstatic = ["10.0.0.1:80"]\n')
    main(["iam-policy", "--config", str(config)])
    out, err = capsys.readouterr()
    assert json.loads(out)["Statement"] == []
    assert "asks AWS nothing" in err


def test_an_account_is_twelve_digits(config: Path, capsys: Output) -> None:
    config.write_text("")
    assert main(["iam-policy", "--config", str(config), "--account", "prod"]) == 2
    assert "twelve digits" in capsys.readouterr().err
