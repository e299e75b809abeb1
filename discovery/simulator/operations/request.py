"""Members of a request, checked."""

from __future__ import annotations

from discovery.simulator.failures import invalid
from discovery.simulator.wire import Json


def text(request: Json, name: str) -> str:
    """A string that must be there and not be empty. Raises ApiError InvalidParameterException."""
    value = request.get(name)
    if not isinstance(value, str) or not value:
        raise invalid(f"{name} can not be blank.")
    return value


def references(request: Json, name: str, most: int) -> list[str]:
    """A list of 1 to *most* names or ARNs. Raises ApiError InvalidParameterException."""
    value = request.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(f"{name} must be a list of strings.")
    if not value:
        raise invalid(f"{name} can not be empty.")
    if len(value) > most:
        raise invalid(f"{name} can have at most {most} items.")
    return value


def count(request: Json, name: str, default: int, least: int = 0, most: int = 10_000) -> int:
    """A whole number from *least* to *most*. Raises ApiError InvalidParameterException."""
    value = request.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(f"{name} must be a whole number from {least} to {most}.")
    return value


def with_token(answer: Json, token: str) -> Json:
    """*answer*, with `nextToken` where there is another page."""
    return {**answer, "nextToken": token} if token else answer
