"""config.toml is the reference of every key: complete, true to the code, and usable as it stands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from proxy.config import load
from proxy.config.keys import Key, known

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "config.toml").read_text()
SAME_AS_HEALTH = ("service", "health")
# Keys the file sets for show: their comment has to name the default.
DEFAULT_IN_COMMENT = re.compile(r"\bdefault: (\[\]|\"\"|\d\S*)")


def documented() -> dict[tuple[str, ...], str]:
    """Return every key in config.toml, commented out or not, and its line."""
    found: dict[tuple[str, ...], str] = {}
    table: tuple[str, ...] = ()
    for line in TEXT.splitlines():
        header = re.match(r"(?:# )?\[+([a-z_.]+)\]+", line)
        if header:
            table = tuple(header[1].split("."))
            found[table] = line
        elif pair := re.match(r"(?:# )?([a-z_]+) = ", line):
            found[*table, pair[1]] = line
    return found


def test_the_file_is_valid_as_it_stands() -> None:
    config = load(ROOT / "config.toml", {})
    assert config.ecs.clusters == ("prod",)
    assert config.service[0].ecs is not None


def test_every_key_is_documented_and_no_other() -> None:
    expected = {names for names in known() if names[:2] != SAME_AS_HEALTH or names == SAME_AS_HEALTH}
    inherited = {(*SAME_AS_HEALTH, name[1]) for name in known() if name[0] == "health" and len(name) == 2}
    assert expected - documented().keys() == set()
    assert documented().keys() - expected - inherited == set()


@pytest.mark.parametrize("key", [key for key in known().values() if key.names[:2] != SAME_AS_HEALTH], ids=str)
def test_each_documented_default_is_the_one_of_the_code(key: Key) -> None:
    if key.kind in ("table", "tables"):
        return
    line = documented()[key.names]
    if key.default is None:
        assert re.search(r"required|no default", TEXT[TEXT.index(line) :][:200])
        return
    if line.startswith("# "):
        value = tomllib.loads(line.removeprefix("# "))[key.names[-1]]
    else:
        shown = DEFAULT_IN_COMMENT.search(line)
        assert shown, f"{line!r} does not say the default"
        value = tomllib.loads(f"v = {shown[1]}")["v"]
    assert value == key.default
    assert type(value) is type(key.default)


def test_every_key_that_is_a_measure_says_its_unit() -> None:
    for names, line in documented().items():
        if names[-1].endswith("_s") and names[:2] != SAME_AS_HEALTH and names[0] != "timeouts":
            assert "second" in line, line
        if names[-1].endswith("_bytes"):
            assert "bytes" in line.partition("#")[2].removeprefix(names[-1]), line
