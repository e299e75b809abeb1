"""From file and environment to a checked `Config`, or a `ConfigError` with everything that is wrong."""

from __future__ import annotations

import copy
import datetime
import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config import backend_files
from proxy.config.certificates import check_files
from proxy.config.environment import overlay
from proxy.config.errors import ConfigError, Issue
from proxy.config.explain import Source, from_pydantic, from_rule, path_of
from proxy.config.model import BackendTls, Config, Health, ServiceTls, Tls
from proxy.config.positions import Path, Positions
from proxy.config.rules import Problem, check, hosts_of

_MAX_BYTES: Final = 4 * 1024 * 1024
_WHERE: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_STARTER: Final = r"""printf '[ecs]\nclusters = ["<cluster>"]\ndomain = "internal"\n' > """


def load(path: FilePath | None, environ: Mapping[str, str], *, files: bool = False) -> Config:
    """Return the configuration in the file *path*, with the `ANYPORT_…` variables of *environ* over it.

    Without a path it is defaults and variables. With *files* the certificates it names must be usable too.
    Raises `ConfigError` with every issue there is.
    """
    text = "" if path is None else _read(path)
    document, positions = parse(text, str(path or ""))
    origins, issues = overlay(document, environ)
    source = Source(str(path or ""), copy.deepcopy(document), positions, origins, environ)
    spoilt: list[Path] = []
    config = validate(document, source, issues, spoilt)
    if config is not None:
        config = _absolute(config, os.path.abspath(path.parent if path is not None else "."))
        problems = [*check(config), *(_check_files(config) if files else ())]
        issues.extend(
            from_rule(problem, source) for problem in problems if not touches(problem.paths, spoilt)
        )
    if issues or config is None:
        raise in_order(issues)
    return complete(config)


def in_order(issues: list[Issue]) -> ConfigError:
    """Return the error that shows *issues* in the order of the file."""
    return ConfigError(sorted(issues, key=lambda issue: (issue.line == 0, issue.line, issue.column)))


def _read(path: FilePath) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        message, hint = "no such file", f"name another with --config, or make one: {_STARTER}{path}"
    except IsADirectoryError:
        message, hint = "is a directory", "name the file in it"
    except OSError as exc:
        message, hint = f"cannot be read: {exc.strerror}", "give this user the right to read it"
    else:
        if len(data) > _MAX_BYTES:
            message, hint = "is larger than 4 MiB", "is this the right file?"
        else:
            try:
                return data.decode("utf-8-sig")
            except UnicodeDecodeError as exc:
                line = data.count(b"\n", 0, exc.start) + 1
                message, hint = f"line {line} is not UTF-8", "save the file as UTF-8"
    raise ConfigError([Issue(source=str(path), message=message, hint=hint)])


def parse(text: str, file: str) -> tuple[dict[str, Any], Positions | None]:
    """Return what the TOML in *text* says and where; raise `ConfigError` if it is none."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as exc:
        raise ConfigError([_syntax(text, file, exc)]) from None
    return document, Positions(text) if text else None


def _syntax(text: str, file: str, exc: Exception) -> Issue:
    lines = text.replace("\r\n", "\n").split("\n")
    found = _WHERE.fullmatch(str(exc))
    if found is None:
        return Issue(source=file, message=f"is not TOML: {str(exc)[:200]}")
    line, column = (int(found[2]), int(found[3]) - 1) if found[2] else (len(lines), len(lines[-1]))
    shown = lines[line - 1]
    # What stands on a broken line cannot be told apart, so what may hold a secret is not shown.
    if re.search(r"token|secret|passw|credential|key", _pair_above(lines[:line]), re.IGNORECASE):
        return Issue(source=file, line=line, message=f"is not TOML: {_first_word(found[1])}")
    return Issue(
        source=file,
        line=line,
        column=column,
        width=1,
        text=shown,
        message=f"is not TOML: {_first_word(found[1])}",
        hint=_syntax_hint(shown),
    )


def _pair_above(lines: list[str]) -> str:
    """Return the last of *lines* from the one on where a key was given its value."""
    starts = [i for i, line in enumerate(lines) if re.match(r"\s*[\w.\"'-]+\s*=", line)]
    return "\n".join(lines[starts[-1] if starts else 0 :])


def _first_word(message: str) -> str:
    return message[:1].lower() + message[1:]


def _syntax_hint(line: str) -> str:
    name, equals, value = (part.strip() for part in line.partition("="))
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) and equals and re.match(r"[A-Za-z/*.]|\d+[.:]\d", value):
        return f'a string is written in quotes: {name} = "{value}"'
    if re.match(r"[A-Za-z0-9_.-]+\s*:", line.strip()):
        return "TOML has `key = value`, not `key: value`"
    return ""


def validate(
    document: dict[str, Any], source: Source, issues: list[Issue], spoilt: list[Path]
) -> Config | None:
    """Return the config of *document*, leaving out what is wrong so that the rest can be checked too.

    What is wrong is added to *issues*, and where it stood to *spoilt*.
    """
    for place, why in list(_not_json(document, ())):
        issues.append(source.issue(place, why, ""))
        _mend(document, place, spoilt)
    for attempt in range(3):
        try:
            # As JSON: there, strict still takes an array for a tuple and a table for a dataclass.
            return Config.model_validate_json(json.dumps(document), strict=True)
        except ValidationError as exc:
            # Each mending may uncover nothing new: errors of the first round are all there are, but for those
            # of tables that had to be given a placeholder.
            for error in exc.errors(include_url=False):
                if attempt == 0 or not touches((path_of(error),), spoilt):
                    issues.append(from_pydantic(error, source))
                _mend(document, path_of(error), spoilt, error)
    return None


def _mend(
    document: dict[str, Any], path: Path, spoilt: list[Path], error: ErrorDetails | None = None
) -> None:
    """Take the value at *path* out of *document*, or put a stand-in where one is required."""
    spoilt.append(path)
    while path and isinstance(path[-1], int):
        path = path[:-1]  # of an array nothing is taken: the others would move
    holder: Any = document
    for part in path[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return
    if not path or not isinstance(holder, dict):
        return
    if path[0] == "service" and path[-1] in ("name", "service") and len(path) > 1:
        holder[path[-1]] = f"unnamed-{path[1]}"
    elif error is None or error["type"] != "missing":
        holder.pop(path[-1], None)


def touches(paths: tuple[Path, ...], spoilt: list[Path]) -> bool:
    """Say whether one of *paths* rests on something that is wrong already."""
    return any(path[: len(bad)] == bad or bad[: len(path)] == path for path in paths for bad in spoilt)


def _not_json(value: Any, path: Path) -> Iterator[tuple[Path, str]]:  # noqa: ANN401 - whatever TOML can say
    """Yield what TOML can say and no key here means."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_json(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_json(item, (*path, index))
    elif isinstance(value, datetime.date | datetime.time):
        yield path, f"`{path[-1]}` is a date or time, which no key here takes"
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"`{path[-1]}` must be a finite number"


def _check_files(config: Config) -> Iterator[Problem]:
    yield from check_files(config)
    yield from backend_files.check_files(config)


def _absolute(config: Config, folder: str) -> Config:
    """Return *config* with the files it names as absolute paths; relative ones begin at *folder*."""
    listeners = tuple(
        listener.model_copy(
            update={
                "tls": tuple(
                    Tls(cert=os.path.join(folder, pair.cert), key=os.path.join(folder, pair.key))
                    for pair in listener.tls
                )
            }
        )
        for listener in config.listener
    )
    services = tuple(
        service.model_copy(update={"tls": service.tls and _located(service.tls, folder)})
        for service in config.service
    )
    return config.model_copy(
        update={
            "listener": listeners,
            "service": services,
            "backend_tls": _located(config.backend_tls, folder),
            "file": config.file.model_copy(
                update={"path": config.file.path and os.path.join(folder, config.file.path)}
            ),
            "state": config.state.model_copy(
                update={"path": config.state.path and os.path.join(folder, config.state.path)}
            ),
        }
    )


T = TypeVar("T", BackendTls, ServiceTls)


def _located(tls: T, folder: str) -> T:
    files = ("ca", "cert", "key")
    paths = {key: os.path.join(folder, path) for key in files if (path := getattr(tls, key))}
    return tls.model_copy(update=paths)


def complete(config: Config) -> Config:
    """Return *config* with the hosts and checks that its services take from [ecs] domain and [health]."""
    services = tuple(
        service.model_copy(
            update={
                "hosts": hosts_of(service, config.ecs.domain),
                "health": None if service.health is None else _over(config.health, service.health),
                "tls": None if service.tls is None else _with_files(config.backend_tls, service.tls),
            }
        )
        for service in config.service
    )
    return config.model_copy(update={"service": services})


def _over(general: Health, own: Health) -> Health:
    """Return *general* with every key that *own* has written down."""
    return general.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def _with_files(general: BackendTls, own: ServiceTls) -> ServiceTls:
    """Return *own* with the files of *general* where it names none."""
    return own.model_copy(
        update={
            "ca": (own.ca or general.ca) if own.verify else "",
            "cert": own.cert or general.cert,
            "key": own.key or general.key,
        }
    )
