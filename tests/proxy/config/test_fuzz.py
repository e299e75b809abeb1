"""Whatever stands in a file or a variable, the answer is a `Config` or a `ConfigError`, never a crash."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import ConfigError, Issue, load
from proxy.config.keys import known

WORDS = sorted({name for names in known() for name in names} | {"x", "host_port", "a.b"})
scalars = st.one_of(
    st.sampled_from(
        ["", "*", "a", "10.0.0.1:80", "[::1]:1", "/", "::1", "10.0.0.0/8", "http", "é", "a\nb", "\x7f"]
    ),
    st.integers(-3, 2**70),
    st.booleans(),
    st.floats(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from(WORDS), values, max_size=6)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool | float) else repr(value)


def outcome(text: str, environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_text(text)
        lines = text.split("\n")
        issues: tuple[Issue, ...] | None = None
        try:
            load(file, environ)
        except ConfigError as exc:
            issues = exc.issues
    assert issues is None or issues
    for issue in issues or ():
        assert issue.message
        assert all(line.isprintable() for line in str(issue).split("\n"))
        json.dumps(asdict(issue))
        assert 0 <= issue.line <= len(lines)
        assert issue.column + issue.width <= len(issue.text) + 1  # the end of a line may be what is wrong


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents)
def test_any_document(document: dict[str, Any]) -> None:
    outcome("".join(f"{json.dumps(key)} = {written(value)}\n" for key, value in document.items()), {})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    outcome(text.encode("utf-8", "replace").decode(), {})


paths = st.lists(st.sampled_from([*WORDS, "0", "1", "99", ""]), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(paths.map("__".join), values.map(written) | st.text(max_size=9), max_size=4), documents
)
def test_any_variables(variables: dict[str, str], document: dict[str, Any]) -> None:
    text = "".join(f"{json.dumps(key)} = {written(value)}\n" for key, value in document.items())
    outcome(text, {f"ANYPORT_{name.upper()}": value for name, value in variables.items()})
