"""The manual is held against the program: commands, keys, codes, metrics, labels, links."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from discovery.ecs.translate.labels import known_labels
from discovery.simulator.faults import KINDS
from proxy.cli import anyport
from proxy.config import load
from proxy.control.metrics import registry
from proxy.errors import ERRORS
from tests.kit.status import NOW_S, a_status

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def fenced(language: str) -> list[tuple[str, str]]:
    """Return (page, text) of each fenced block of *language*."""
    return [
        (page, block)
        for page, text in TEXTS.items()
        for block in re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def commands() -> list[tuple[str, str]]:
    """Return (page, command) of every shell block, and of everything in `code` that begins like one."""
    found = [(page, line) for page, block in fenced("sh") for line in block.splitlines() if line.strip()]
    for page, text in TEXTS.items():
        found += [(page, code) for code in re.findall(r"`((?:anyport|make) [^`]+)`", text)]
    return found


def accepts(words: list[str]) -> None:
    """Fail unless `anyport` has this command with these options. Nothing is run."""
    group = anyport
    assert isinstance(group, click.Group)
    command = group.commands.get(words[0])
    assert command is not None, f"there is no command {words[0]}"
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_in_the_manual_exists(page: str, command: str) -> None:
    words = shlex.split(command.removeprefix(".venv/bin/"))
    if words[0] == "make":
        assert words[1] in MAKE_TARGETS
        arguments = [word.removeprefix("ARGS=") for word in words[2:]]
        if words[1] == "demo" and arguments:
            accepts(["demo", *shlex.split(arguments[0])])
    else:
        assert words[0] == "anyport"
        accepts(words[1:])


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "check",
        "table",
        "status",
        "healthcheck",
        "events-setup",
        "iam-policy",
        "linger",
        "demo",
        "simulate",
    ],
)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"| `anyport {name}" in TEXTS["README.md"]


@pytest.mark.parametrize(("page", "text"), fenced("toml"))
def test_every_configuration_in_the_manual_is_valid(page: str, text: str, tmp_path: Path) -> None:
    tomllib.loads(text)
    (tmp_path / "config.toml").write_text(text)
    load(tmp_path / "config.toml", {})


@pytest.mark.parametrize(
    "variable", sorted(set(re.findall(r"`(ANYPORT_\w+=[^`…]+)`", "".join(TEXTS.values()))))
)
def test_every_variable_in_the_manual_is_valid(variable: str) -> None:
    name, _, value = variable.partition("=")
    load(None, {"ANYPORT_ECS__CLUSTERS": "prod", name: value})


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[page]):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_every_error_code_has_its_paragraph() -> None:
    found = re.findall(r"^\*\*(\w+) (\w+) \((\d+)\)\.\*\* \S", TEXTS["docs/errors.md"], re.MULTILINE)
    assert found == [(error.code, error.reason, str(error.status)) for error in ERRORS]


def test_reserved_codes_are_those_that_the_program_does_not_produce() -> None:
    """What the manual says cannot happen must not happen, and the other way round."""
    folders = [ROOT / "proxy" / "worker", ROOT / "proxy" / "policy"]
    source = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    for error in ERRORS:
        used = re.search(rf"\b{error.reason}\b", source, re.IGNORECASE) is not None
        paragraph = re.search(rf"^\*\*{error.code} .*", TEXTS["docs/errors.md"], re.MULTILINE)
        assert paragraph is not None
        assert ("*Reserved" not in paragraph[0]) == used, f"{error}: produced is {used}"


def test_every_metric_is_in_the_table_and_no_other() -> None:
    text = generate_latest(registry(a_status(), clock=lambda: NOW_S)).decode()
    exposed = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if family.name.startswith("anyport_")
    }
    documented = set(re.findall(r"^\| `(anyport_\w+)` \|", TEXTS["docs/operations.md"], re.MULTILINE))
    assert documented == exposed


def test_every_alert_is_in_the_table_and_no_other() -> None:
    rules = (ROOT / "deploy" / "prometheus-rules.yml").read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (.+)\n(?: +for: (\w+)\n)?", rules)
    assert len(found) == rules.count("- alert:")
    rows = re.findall(
        r"^\| (Anyport\w+) \| `(.+?)`(?: for (\w+))? \|", TEXTS["docs/operations.md"], re.MULTILINE
    )
    assert rows == found


def test_every_metric_in_an_alert_exists() -> None:
    text = TEXTS["docs/operations.md"]
    documented = set(re.findall(r"^\| `(anyport_\w+)` \|", text, re.MULTILINE))
    used = set(re.findall(r"\banyport_\w+", "".join(TEXTS.values())))
    assert {name.removesuffix("_bucket") for name in used} <= documented


def test_every_label_is_in_the_table_and_no_other() -> None:
    rows = re.findall(r"^\| `(anyport\.[\w.-]+)` \|", TEXTS["docs/labels.md"], re.MULTILINE)
    assert rows == list(known_labels())


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = set(project["project"]["dependencies"]) | set(
        project["project"]["optional-dependencies"]["simulator"]
    )
    for group in project["dependency-groups"].values():
        wanted |= {re.split(r"[=<>; ]", item, maxsplit=1)[0] for item in group if isinstance(item, str)}
    rows = set(re.findall(r"^\| ([a-z0-9-]+) \|", TEXTS["docs/decisions/0002-dependencies.md"], re.MULTILINE))
    assert rows - {"package"} == wanted


def test_every_file_about_ecs_has_its_place() -> None:
    section = TEXTS["docs/architecture.md"].partition("### `discovery/ecs/`")[2]
    rows = re.findall(r"^\| (?:`(\w+)/`)? *\| [^|]+ \| (.*`.*) \|", section, re.MULTILINE)
    shown = {(folder, name) for folder, files in rows for name in re.findall(r"`(\w+)`", files)}
    there = (
        file.relative_to(ROOT / "discovery" / "ecs") for file in (ROOT / "discovery" / "ecs").rglob("*.py")
    )
    assert shown == {(str(file.parent).strip("."), file.stem) for file in there if file.stem != "__init__"}


def test_faults_of_the_simulator_are_listed() -> None:
    line = next(li for li in TEXTS["docs/simulator.md"].splitlines() if li.startswith("Kinds of fault"))
    assert re.findall(r"`(\w+)`", line) == list(KINDS)
