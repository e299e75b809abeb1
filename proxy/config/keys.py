"""Which keys there are: read from the sections themselves, so nothing is written twice."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from proxy.config.model import Config
from proxy.config.positions import Path

Kind = Literal["string", "strings", "integer", "number", "boolean", "table", "tables"]
Names = tuple[str, ...]  # a path without the indexes of arrays

# What people write first, coming from other proxies, and what it is called here.
_ALIASES: Final = {
    "container_port": "port",
    "container_name": "container",
    "service_name": "service",
    "host_port": "port",
    "listen": "listener",
    "services": "service",
    "upstreams": "static",
    "servers": "static",
    "bind": "address",
    "certificate": "cert",
    "cert_file": "cert",
    "private_key": "key",
    "key_file": "key",
}
_NO_HOST_PORT: Final = (
    "write `port`, the port inside the container: anyport finds the random host port itself"
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file."""

    names: Names
    kind: Kind
    default: Any  # as TOML has it; None: there is none
    secret: bool = False


@functools.cache
def known() -> Mapping[Names, Key]:
    """Return every key there is, tables included, in the order of the sections."""
    found: dict[Names, Key] = {}
    _collect((), Config, found)
    return found


def names(path: Path) -> Names:
    """Return *path* without its indexes."""
    return tuple(part for part in path if isinstance(part, str))


def in_section(section: Names) -> list[str]:
    """Return the keys of the table *section*."""
    return [key[-1] for key in known() if key[:-1] == section]


def title(section: Names) -> str:
    """Return how the table *section* is written in the file: "[ecs]", "[[service]]", "[service.ecs]"."""
    if not section:
        return "the top of the file"
    key = known().get(section)
    name = ".".join(section)
    return f"[[{name}]]" if key is not None and key.kind == "tables" else f"[{name}]"


def suggest(unknown: Names) -> str:
    """Return what to write instead of the key *unknown*, which does not exist."""
    section, word = unknown[:-1], unknown[-1]
    here = in_section(section)
    if word == "host_port":
        return _NO_HOST_PORT
    words = [*here, *(alias for alias, key in _ALIASES.items() if key in here)]
    close = [
        _ALIASES.get(found, found) if found not in here else found
        for found in difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    ]
    if close and difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.75):
        return f"did you mean `{close[0]}`?"
    # A key of another table is most likely meant for one below this, then for one beside it.
    elsewhere = [key[:-1] for key in known() if key[-1] == word]
    elsewhere.sort(key=lambda owner: (owner[: len(section)] != section, len(owner)))
    if elsewhere:
        return f"`{word}` belongs in {title(elsewhere[0])}"
    if close:
        return f"did you mean `{close[0]}`?"
    return f"{title(section)} has {', '.join(f'`{key}`' for key in here)}"


def is_secret(path: Path) -> bool:
    """Say whether the value at *path* must never be shown: a secret, or a misspelt one."""
    spelled = names(path)
    key = known().get(spelled)
    if key is not None:
        return key.secret or any(other.secret for other in known().values() if other.names[:-1] == spelled)
    last = spelled[-1].lower() if spelled else ""
    words = ("token", "secret", "passw", "credential", "fleet")
    return spelled[:1] in (("admin",), ("fleet",)) or any(word in last for word in words)


def _collect(section: Names, holder: Any, found: dict[Names, Key]) -> None:  # noqa: ANN401 - a class of either kind
    for name, (annotation, default) in _fields(holder).items():
        inner, kind = _kind(annotation)
        path = (*section, name)
        found[path] = Key(path, kind, _plain(default), inner is SecretStr)
        if kind in ("table", "tables"):
            _collect(path, inner, found)


def _fields(holder: Any) -> dict[str, tuple[Any, Any]]:  # noqa: ANN401 - a class of either kind
    hints = get_type_hints(holder)
    if issubclass(holder, BaseModel):
        return {name: (hints[name], field.default) for name, field in holder.model_fields.items()}
    return {field.name: (hints[field.name], field.default) for field in dataclasses.fields(holder)}


def _kind(annotation: Any) -> tuple[Any, Kind]:  # noqa: ANN401 - a type expression
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _kind(next(arg for arg in get_args(annotation) if arg is not type(None)))
    if origin is tuple:
        inner, kind = _kind(get_args(annotation)[0])
        return inner, "tables" if kind == "table" else "strings"
    if origin is Literal or annotation in (str, SecretStr):
        return annotation, "string"
    simple: dict[Any, Kind] = {bool: "boolean", int: "integer", float: "number"}
    return annotation, simple.get(annotation, "table")


def _plain(default: Any) -> Any:  # noqa: ANN401 - whatever the section has
    if default is PydanticUndefined or isinstance(default, BaseModel) or dataclasses.is_dataclass(default):
        return None
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, tuple):
        return None if default and isinstance(default[0], BaseModel) else list(default)
    return default
