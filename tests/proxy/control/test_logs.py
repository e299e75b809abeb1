"""The form of a log line, and who may not speak."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from proxy.config import Log
from proxy.control import logs


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Log())
    logging.getLogger("anyport.control").info("service %s added", "web")

    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    anyport\.control: service web added\n"
    assert re.fullmatch(line, capsys.readouterr().err)


def test_json_is_one_object_a_line_whatever_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Log(format="json"))
    logging.getLogger("anyport.control").warning("two\nlines")
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("anyport.control").exception("failed")

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "anyport.control", "two\nlines")
    assert "ValueError: inside" in second["trace"]


@pytest.mark.parametrize("name", ["botocore.parsers", "boto3.resources", "urllib3.connectionpool"])
def test_debug_does_not_make_boto_print_task_definitions(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Their debug lines hold whole API answers, with the environment variables of containers."""
    logs.configure(Log(level="debug"))
    logging.getLogger(name).debug("Response body: PASSWORD=hunter2")
    logging.getLogger("anyport.control").debug("ours")

    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "ours" in said
