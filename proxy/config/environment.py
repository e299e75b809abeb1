"""`ANYPORT_<PATH__OF__KEY>` variables laid over the file.

The text of a variable is read as a TOML literal where the key wants one, else it is the string itself:
`ANYPORT_ECS__REGION=eu-west-1`, `ANYPORT_ECS__CLUSTERS=prod,staging`, `ANYPORT_WORKERS=4`,
`ANYPORT_LISTENER__0__ADDRESS=0.0.0.0:80`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from typing import Any, Final

from proxy.config.errors import Issue
from proxy.config.keys import is_secret, known, names
from proxy.config.positions import Path

PREFIX: Final = "ANYPORT_"
PEM: Final = "-----BEGIN"  # somebody has written a key where its file should be named
RESERVED: Final = frozenset(
    {"ANYPORT_CONFIG", "ANYPORT_PURE_PYTHON", "ANYPORT_REQUIRE_ALL"}
)  # not keys of the file


def overlay(document: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[Path, str], list[Issue]]:
    """Put *environ* into *document*; return which variable set which path, and what is wrong."""
    origins: dict[Path, str] = {}
    issues: list[Issue] = []
    # Sorted: a whole table (ANYPORT_LISTENER) comes before its keys (ANYPORT_LISTENER__0__ADDRESS).
    for variable in sorted(v for v in environ if v.startswith(PREFIX) and v not in RESERVED):
        path: Path = tuple(
            int(part) if part.isascii() and part.isdecimal() and len(part) < 4 else part
            for part in variable.removeprefix(PREFIX).lower().split("__")
        )
        if names(path) not in known() or isinstance(path[0], int):
            issues.append(_unknown(variable))
            continue
        problem = _misnumbered(path) or _put(document, path, _read(path, environ[variable]))
        if problem:
            issues.append(Issue(source=variable, key=variable, message=problem))
        else:
            origins[path] = variable
    return origins, issues


def variable_for(path: Path) -> str:
    """Return the name of the variable that sets *path*."""
    return PREFIX + "__".join(str(part) for part in path).upper()


def shown(path: Path, environ: Mapping[str, str], variable: str) -> str:
    """Return `VARIABLE=text` for an operator, without the text if it may be a secret."""
    hidden = is_secret(path) or PEM in environ[variable]
    return f"{variable}={'***' if hidden else environ[variable]}"


def _read(path: Path, text: str) -> Any:  # noqa: ANN401 - whatever TOML can say
    kind = known()[names(path)].kind
    try:
        value = tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        value = text
    if kind == "string":
        return value if isinstance(value, str) else text
    if kind == "strings" and not isinstance(path[-1], int) and not isinstance(value, list):
        items = [value] if isinstance(value, str) and value != text else text.split(",")
        return [item.strip() for item in items if item.strip()]
    if kind == "strings" and isinstance(path[-1], int):
        return value if isinstance(value, str) else text
    return value


def _put(document: dict[str, Any], path: Path, value: Any) -> str:  # noqa: ANN401 - whatever TOML can say
    """Set *path* in *document*; return why that cannot be done, or ""."""
    here: Any = document
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(part, int):
            if not isinstance(here, list):
                return "the file has no array there"
            if part > len(here):
                return f"number {part} comes before number {len(here)}: elements count from 0 without gaps"
            if part == len(here):
                here.append({})
            if last:
                here[part] = value
            here = here[part]
            continue
        if not isinstance(here, dict):
            where = ".".join(map(str, path[:depth]))
            example = variable_for((*path[:depth], 0, *path[depth:]))
            return f"{where} is an array: say which element, such as {example}"
        if last:
            here[part] = value
        else:
            array = isinstance(path[depth + 1], int) or known()[names(path[: depth + 1])].kind == "tables"
            here = here.setdefault(part, [] if array else {})
    return ""


def _misnumbered(path: Path) -> str:
    """Return what is wrong with the numbers in *path*, or ""."""
    for depth, part in enumerate(path):
        key = known()[names(path[:depth])] if isinstance(part, int) else None
        if key is not None and (key.kind not in ("tables", "strings") or isinstance(path[depth - 1], int)):
            return f"{'.'.join(map(str, path[:depth]))} is not an array: leave out the number {part}"
    return ""


def _unknown(variable: str) -> Issue:
    every = [variable_for(path) for path in known()]
    close = difflib.get_close_matches(variable, every, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "variables are named ANYPORT_<TABLE>__<KEY>"
    return Issue(
        source=variable, key=variable, message=f"there is no key for the variable {variable}", hint=hint
    )
