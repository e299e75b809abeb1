"""Services in a file of their own: `[[service]]` as in config.toml, in TOML or JSON, and no more. Pure."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

from proxy.config.errors import ConfigError, Issue
from proxy.config.explain import Source, from_rule
from proxy.config.load import complete, in_order, parse, touches, validate
from proxy.config.model import Config, Service
from proxy.config.positions import Path, Positions
from proxy.config.rules import Problem, check

# What describes a service, and not where it runs.
_DESCRIBING: Final = ("hosts", "path", "health")
_ELSEWHERE: Final = ("ecs", "dns", "tls")


def read_services(data: bytes, file: str, config: Config) -> tuple[Service, ...]:
    """Return the services that *data*, from *file*, describes, with what they leave out from *config*.

    One that *config* knows needs no more than its addresses. Raises `ConfigError` with every issue there is.
    """
    document, positions = _document(data, file)
    issues: list[Issue] = []
    source = Source(file, copy.deepcopy(document), positions, {}, {})
    for key in list(document):
        if key != "service":
            issues.append(
                source.issue((key,), f"`{key}` has no place here", "write [[service]] only", at_key=True)
            )
            del document[key]
    spoilt: list[Path] = []
    found = validate(document, source, issues, spoilt)
    if found is None:
        raise in_order(issues)
    problems = list(_misplaced(found, config))
    completed = complete(config.model_copy(update={"service": _with_descriptions(found, config)}))
    problems += check(completed)
    issues += (from_rule(problem, source) for problem in problems if not touches(problem.paths, spoilt))
    if issues:
        raise in_order(issues)
    return completed.service


def _document(data: bytes, file: str) -> tuple[dict[str, Any], Positions | None]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise _unreadable(file, line, "is not UTF-8") from None
    if not text.strip():
        # Somebody has it open to write: a file that means "none" says so.
        raise _unreadable(file, 0, "is empty", "write `service = []` if there shall be none")
    if not file.lower().endswith(".json"):
        return parse(text, file)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as exc:
        raise _unreadable(file, exc.lineno, f"is not JSON: {exc.msg[:1].lower()}{exc.msg[1:]}") from None
    except (RecursionError, ValueError) as exc:
        raise _unreadable(file, 0, f"is not JSON: {str(exc)[:200]}") from None
    if not isinstance(document, dict):
        raise _unreadable(file, 1, "is not a JSON object", 'write {"service": [{"name": …, "static": […]}]}')
    return document, None


def _unreadable(file: str, line: int, message: str, hint: str = "") -> ConfigError:
    return ConfigError([Issue(source=file, line=line, message=message, hint=hint)])


def _misplaced(found: Config, config: Config) -> Iterator[Problem]:
    """Yield what only config.toml may say, and what is not said at all."""
    known = {service.name for service in config.service}
    for index, service in enumerate(found.service):
        path: Path = ("service", index)
        for key in _ELSEWHERE:
            if key in service.model_fields_set:
                yield Problem(((*path, key), path), f"`{key}` has no place here", "write it in config.toml")
        if "static" not in service.model_fields_set:
            yield Problem(
                (path,), "it has no addresses", 'add `static = ["ip:port"]`, or `static = []` for none now'
            )
        for key in _DESCRIBING:
            if service.name in known and key in service.model_fields_set:
                yield Problem(
                    ((*path, key), path), f"`{key}` of this service is in config.toml", "leave it out here"
                )


def _with_descriptions(found: Config, config: Config) -> tuple[Service, ...]:
    """Return the services of *found*; those that *config* knows are as it says, but run where they run."""
    known = {service.name: service for service in config.service}
    return tuple(
        known[service.name].model_copy(update={"static": service.static, "dns": (), "ecs": None})
        if service.name in known
        else service
        for service in found.service
    )
