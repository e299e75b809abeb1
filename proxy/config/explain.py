"""pydantic's findings and the rules' problems as issues with file, line and hint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import ErrorDetails

from proxy.config.environment import PEM, shown
from proxy.config.errors import Issue
from proxy.config.keys import is_secret, known, names, suggest, title
from proxy.config.positions import Path, Positions
from proxy.config.rules import Problem, dotted

_UNKNOWN: Final = ("extra_forbidden", "unexpected_keyword_argument")
_WANTED: Final = {
    "string": "a string in quotes",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "strings": "an array of strings",
    "table": "a table",
    "tables": "an array of tables",
}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of one document come from."""

    file: str  # as the operator named it; "" if there is none
    document: Mapping[str, Any]
    positions: Positions | None
    origins: Mapping[Path, str]  # path -> variable
    environ: Mapping[str, str]

    def issue(self, path: Path, message: str, hint: str, *, at_key: bool = False) -> Issue:
        """Return an issue shown at *path*, or at what holds it if it is not written down."""
        message = self._within(path) + message
        for length in range(len(path), 0, -1):
            place = path[:length]
            if place in self.origins:
                variable = self.origins[place]
                text = shown(place, self.environ, variable)
                return Issue(source=variable, key=dotted(path), message=message, text=text, hint=hint)
            if self.positions is not None:
                span = self.positions.keys.get(place)
                if not (at_key and place == path):
                    span = self.positions.values.get(place, span)
                if span is not None:
                    return self._in_file(self.positions, path, span.start, span.end, message, hint)
        return Issue(source=self.file or "configuration", key=dotted(path), message=message, hint=hint)

    def _in_file(
        self, positions: Positions, path: Path, start: int, end: int, message: str, hint: str
    ) -> Issue:
        line, column = positions.line(start)
        text = masked_line(positions, line)
        return Issue(
            source=self.file,
            line=line,
            column=column,
            width=max(1, min(end - start, len(text) - column)),
            key=dotted(path),
            text=text,
            message=message,
            hint=hint,
        )

    def _within(self, path: Path) -> str:
        """Return the table a key stands in, and of which service: `[service.ecs] of "api": `."""
        table = path
        if names(table) in known() and known()[names(table)].kind not in ("table", "tables"):
            while isinstance(table[-1], int):
                table = table[:-1]
            table = table[:-1]
        elif names(table) not in known():
            table = table[:-1]
        section = names(table)
        if section not in known():
            return ""
        value: Any = self.document
        name = None
        for part in path[:2]:
            usable = isinstance(value, list) if isinstance(part, int) else isinstance(value, dict)
            value = value[part] if usable and (not isinstance(part, str) or part in value) else None
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            name = value["name"]
        owner = "" if name is None else f' "{name}"' if len(section) == 1 else f' of "{name}"'
        return f"{title(section)}{owner}: "


def masked_line(positions: Positions, line: int) -> str:
    """Return what stands on *line*, with stars for what may be a secret."""
    start, text = positions.line_start(line), positions.line_text(line)
    for path, span in positions.values.items():
        if is_secret(path) or PEM in positions.text[span.start : span.end]:
            first, last = max(span.start - start, 0), min(span.end - start, len(text))
            if first < last:
                text = text[:first] + "*" * (last - first) + text[last:]
    return text


def path_of(error: ErrorDetails) -> Path:
    """Return the path an error of pydantic is about."""
    return tuple(error["loc"])


def from_pydantic(error: ErrorDetails, source: Source) -> Issue:
    """Return *error* in the words of TOML."""
    path, kind = path_of(error), error["type"]
    key = f"`{path[-1]}`" if path and isinstance(path[-1], str) else f"`{dotted(path[-2:])}`"
    if kind in _UNKNOWN:
        return source.issue(path, f"unknown key {key}", suggest(names(path)), at_key=True)
    if kind == "missing":
        return source.issue(path, f"{key} is missing", f"add `{path[-1]} = …`")
    if kind == "value_error":
        return source.issue(path, f"{key}: {error['ctx']['error']}", "")
    if kind == "literal_error":
        return _choice(path, key, error, source)
    bound = {
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than_equal": "at most {le}",
    }.get(kind)
    if bound is not None:
        ctx = {name: f"{value:g}" for name, value in error["ctx"].items()}
        return source.issue(path, f"{key} must be {bound.format(**ctx)}", "")
    if kind == "finite_number":
        return source.issue(path, f"{key} must be a finite number", "")
    return _wrong_type(path, key, error["input"], source)


def from_rule(problem: Problem, source: Source) -> Issue:
    """Return *problem* at the first of its places."""
    return source.issue(problem.paths[0], problem.message, problem.hint)


def _choice(path: Path, key: str, error: ErrorDetails, source: Source) -> Issue:
    expected = str(error["ctx"]["expected"]).replace("'", '"')
    choices = re.findall(r'"([^"]*)"', expected)
    close = difflib.get_close_matches(str(error["input"]).lower(), choices, n=1)
    return source.issue(path, f"{key} must be {expected}", f'did you mean "{close[0]}"?' if close else "")


def _wrong_type(path: Path, key: str, value: Any, source: Source) -> Issue:  # noqa: ANN401 - what the file has
    known_key = known().get(names(path))
    wanted = known_key.kind if known_key is not None else "table"
    if path and isinstance(path[-1], int):
        wanted = "string" if wanted == "strings" else "table"
    hint = ""
    name = names(path)[-1] if names(path) else ""
    if wanted == "tables" and isinstance(value, dict):
        hint = f"write [[{name}]] with two brackets: there may be several"
    elif wanted == "table" and isinstance(value, list):
        hint = f"write {title(names(path))} with one pair of brackets: there is only one"
    elif wanted == "strings" and isinstance(value, str) and not is_secret(path):
        hint = f'write {name} = ["{value}"]'
    elif wanted in ("number", "integer") and isinstance(value, str):
        hint = _as_number(name, value)
    elif wanted == "string" and isinstance(value, int | float) and not is_secret(path):
        hint = (
            f'write {name} = "{str(value).lower()}"'
            if name and not isinstance(path[-1], int)
            else f'write "{value}"'
        )
    return source.issue(path, f"{key} must be {_WANTED[wanted]}, not {_given(value)}", hint)


def _as_number(name: str, value: str) -> str:
    number = _DURATION.fullmatch(value.strip())
    if number is not None and name.endswith("_s"):
        return f"the unit is seconds: write {name} = {float(number[1]) * _SECONDS[number[2]]:g}"
    return f"write {name} = {value.strip()}" if value.strip().isdecimal() else "write a number without quotes"


def _given(value: Any) -> str:  # noqa: ANN401 - what the file has
    if isinstance(value, bool):
        return f"{str(value).lower()} (true and false are no numbers or strings)"
    for kind, words in (
        (str, "a string"),
        (int, "a whole number"),
        (float, "a fraction"),
        (list, "an array"),
    ):
        if isinstance(value, kind):
            return words
    return "a table"
