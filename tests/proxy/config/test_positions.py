"""The locator is checked against tomllib: it must find every key and value that tomllib reads."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.positions import Path, Positions


def paths(value: Any, at: Path = ()) -> list[Path]:
    found: list[Path] = [at] if at else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += paths(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += paths(item, (*at, index))
    return found


def at(positions: Positions, path: Path) -> str:
    span = positions.values[path]
    return positions.text[span.start : span.end]


DOCUMENT = '''\
# a comment = "not a key"
top = 1
"quoted key" = 'x # no comment'
a.b . "c.d" = true
text = """
[not.a.table]
key = "no"
"""
quotes = """a "quoted" end"""""
literal = \'\'\'
\\ ' = \'\'\'
empty = ""
[table] # comment
inline = { x = 1, y.z = [ "p", 'q' ], "w" = { v = 2.5 } }
array = [
  "one", # first, with ] and }
  [ 1, 2 ],
  { k = "v" },
]
[table.sub]
when = 1979-05-27 07:32:00
[[list]]
name = "first"
[list.inner]
deep = 1
[[list.more]]
n = 1
[[list.more]]
n = 2
[[list]]
name = "second"
inner.deep = 2
'''


def test_every_key_and_value_is_found() -> None:
    positions = Positions(DOCUMENT)
    for path in paths(tomllib.loads(DOCUMENT)):
        assert path in positions.keys or path in positions.values, path


@pytest.mark.parametrize(
    ("path", "line", "text"),
    [
        (("top",), 2, "1"),
        (("quoted key",), 3, "'x # no comment'"),
        (("a", "b", "c.d"), 4, "true"),
        (("quotes",), 9, '"""a "quoted" end"""""'),
        (("empty",), 12, '""'),
        (("table", "inline", "y", "z", 1), 14, "'q'"),
        (("table", "inline", "w", "v"), 14, "2.5"),
        (("table", "array", 0), 16, '"one"'),
        (("table", "array", 1, 1), 17, "2"),
        (("table", "array", 2, "k"), 18, '"v"'),
        (("table", "sub", "when"), 21, "1979-05-27 07:32:00"),
        (("list", 0, "inner", "deep"), 25, "1"),
        (("list", 0, "more", 1, "n"), 29, "2"),
        (("list", 1, "name"), 31, '"second"'),
        (("list", 1, "inner", "deep"), 32, "2"),
    ],
)
def test_a_value_stands_where_it_stands(path: Path, line: int, text: str) -> None:
    positions = Positions(DOCUMENT)
    assert at(positions, path) == text
    assert positions.line(positions.values[path].start)[0] == line


def test_a_table_stands_at_its_header() -> None:
    positions = Positions(DOCUMENT)
    span = positions.keys[("list", 1)]
    assert positions.line(span.start) == (30, 0)
    assert positions.text[span.start : span.end] == "[[list]]"


def test_windows_line_ends_count_once() -> None:
    positions = Positions("a = 1\r\n\r\nb = 2\r\n")
    assert positions.line(positions.keys[("b",)].start) == (3, 0)
    assert positions.line_text(3) == "b = 2"


words = st.text(st.sampled_from("ab_-01"), min_size=1, max_size=4)
names = st.one_of(words, st.text(st.sampled_from("a.\" '#=[]é\\"), min_size=1, max_size=4))
texts = st.text(st.sampled_from("ab \"'#,]}[{=\\\n.é"), max_size=8)
scalars = st.one_of(texts, st.integers(-999, 999), st.booleans(), st.floats(-9, 9).map(lambda f: round(f, 2)))
trees = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(names, inner, max_size=3),
            st.lists(st.dictionaries(names, inner, max_size=3), min_size=1, max_size=3),
        ),
        max_leaves=12,
    ),
    max_size=5,
)


def quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
    return '"' + "".join(escapes.get(c, c) for c in text) + '"'


def written_key(name: str) -> str:
    return name if all(c in "ab_-01" for c in name) else quoted(name)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{written_key(k)} = {written(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[\n  " + ",  # , ]\n".join(written(v) for v in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else repr(value)


def document(tree: dict[str, Any], header: tuple[str, ...] = ()) -> str:
    """Write *tree* with tables and arrays of tables where they can be."""
    name = ".".join(written_key(part) for part in header)
    simple, tables = [], []
    for key, value in tree.items():
        path = (*header, key)
        if isinstance(value, dict) and value:
            tables.append(f"[{name + '.' if name else ''}{written_key(key)}]\n" + document(value, path))
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            mark = f"[[{name + '.' if name else ''}{written_key(key)}]]\n"
            tables.extend(mark + document(item, path) for item in value)
        else:
            simple.append(f"{written_key(key)} = {written(value)}  # end\n")
    return "".join(simple) + "".join(tables)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_whatever_tomllib_reads_is_found_at_its_text(tree: dict[str, Any]) -> None:
    text = document(tree)
    assert tomllib.loads(text) == tree
    positions = Positions(text)
    for path in paths(tree):
        assert path in positions.keys or path in positions.values
        value: Any = tree
        for part in path:
            value = value[part]
        if isinstance(value, str | bool | int | float):
            assert tomllib.loads(f"v = {at(positions, path)}")["v"] == value
