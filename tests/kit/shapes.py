"""Whether a JSON answer is what botocore's own model of a service says it must be."""

from __future__ import annotations

from typing import Any

import botocore.session

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "long": int,
    "boolean": bool,
    "double": (int, float),
    "float": (int, float),
    "timestamp": (int, float),
}


def ecs_model() -> Any:
    return botocore.session.get_session().get_service_model("ecs")


def mismatches(shape: Any, value: Any, where: str = "answer") -> list[str]:
    """What is wrong with *value* as an instance of the botocore *shape*; [] when nothing is."""
    if shape.type_name == "structure":
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        unknown = [f"{where}.{name} is unknown" for name in value if name not in shape.members]
        missing = [f"{where}.{name} is missing" for name in shape.required_members if name not in value]
        inner = [
            text
            for name, item in value.items()
            if name in shape.members
            for text in mismatches(shape.members[name], item, f"{where}.{name}")
        ]
        return unknown + missing + inner
    if shape.type_name == "list":
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [
            text
            for number, item in enumerate(value)
            for text in mismatches(shape.member, item, f"{where}[{number}]")
        ]
    if shape.type_name == "map":
        return [t for k, item in value.items() for t in mismatches(shape.value, item, f"{where}.{k}")]
    wanted = _TYPES[shape.type_name]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return [f"{where} is {value!r}, not a {shape.type_name}"]
    if getattr(shape, "enum", None) and value not in shape.enum:
        return [f"{where} is {value!r}, not one of {shape.enum}"]
    return []
