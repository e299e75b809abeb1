"""What an IAM policy allows: the part of the language that policies for a proxy are written in. Pure.

Allow and Deny, Action, Resource, and conditions on strings and ARNs. What is beyond that is refused when a
policy is put in force, not passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Json = Mapping[str, Any]

_MEMBERS: Final = {"Sid", "Effect", "Action", "Resource", "Condition"}


class PolicyError(ValueError):
    """This is no policy that can be enforced here; the text says why."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One action on some resources, as a call needs it."""

    action: str  # "ecs:DescribeTasks"
    resources: tuple[str, ...] = ("*",)  # ARNs; "*" where the action knows no resources
    context: Mapping[str, str] = field(default_factory=dict)  # "ecs:cluster" and the like


@dataclass(frozen=True, slots=True)
class _Statement:
    allow: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]  # (operator, key, values)

    def speaks_of(self, wish: Wish, resource: str) -> bool:
        return (
            any(_like(wish.action.lower(), pattern.lower()) for pattern in self.actions)
            and any(_like(resource, pattern) for pattern in self.resources)
            and all(
                key in wish.context and any(_OPERATORS[name](wish.context[key], value) for value in values)
                for name, key, values in self.conditions
            )
        )


class Policy:
    """A policy document. Raises `PolicyError`."""

    def __init__(self, document: object) -> None:
        if not isinstance(document, Mapping) or not isinstance(document.get("Statement"), list):
            raise PolicyError('a policy is a JSON object with a list "Statement"')
        self.document: Json = document
        self._statements = tuple(_statement(one) for one in document["Statement"])

    def denied(self, wishes: Iterable[Wish]) -> tuple[str, str] | None:
        """Return (action, resource) of the first wish that is not allowed, None if all are."""
        for wish in wishes:
            for resource in wish.resources:
                spoken = [one.allow for one in self._statements if one.speaks_of(wish, resource)]
                if not spoken or not all(spoken):
                    return wish.action, resource
        return None


def _statement(raw: object) -> _Statement:
    if not isinstance(raw, Mapping) or raw.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError('a statement is a JSON object with "Effect": "Allow" or "Deny"')
    unknown = sorted(set(raw) - _MEMBERS)
    if unknown:
        raise PolicyError(f"{unknown[0]} is not simulated: a statement has {', '.join(sorted(_MEMBERS))}")
    conditions = raw.get("Condition", {})
    if not isinstance(conditions, Mapping):
        raise PolicyError("Condition must be a JSON object")
    found = []
    for operator, keys in conditions.items():
        if operator not in _OPERATORS or not isinstance(keys, Mapping):
            raise PolicyError(f"condition {operator} is not simulated: use {', '.join(_OPERATORS)}")
        found += [(operator, key, _texts(values, key)) for key, values in keys.items()]
    return _Statement(
        allow=raw["Effect"] == "Allow",
        actions=_texts(raw.get("Action"), "Action"),
        resources=_texts(raw.get("Resource"), "Resource"),
        conditions=tuple(found),
    )


def _texts(value: object, name: str) -> tuple[str, ...]:
    values: Sequence[object] = value if isinstance(value, list) else [value]
    texts = tuple(text for text in values if isinstance(text, str))
    if not texts or len(texts) != len(values):
        raise PolicyError(f"{name} must be a text or a list of texts")
    return texts


def _like(text: str, pattern: str) -> bool:
    """Match with * and ?, which stand for any characters, slashes and colons too."""
    expression = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def _equal(text: str, value: str) -> bool:
    return text == value


_OPERATORS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "StringEquals": _equal,
    "StringLike": _like,
    "ArnEquals": _like,  # the two are the same: both know wildcards
    "ArnLike": _like,
}
