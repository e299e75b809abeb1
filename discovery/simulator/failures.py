"""How the embedded API says no: the error types of AWS, by name."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An operation is refused; `code` and `message` are what the client's library raises."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)


def client_error(message: str) -> ApiError:
    return ApiError("ClientException", message)


def missing(arn: str) -> dict[str, Any]:
    """An entry of `failures[]` for something that does not exist."""
    return {"arn": arn, "reason": "MISSING"}
