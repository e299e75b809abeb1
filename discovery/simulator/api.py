"""The embedded AWS endpoint: ECS's JSON protocol on POST /, everything else passed on to moto.

Order of a call: faults that hit before AWS would look at it, what the policy allows, the token bucket, the
operation, and last the faults that spoil a right answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs

import botocore.session
from aiohttp import web
from botocore.validate import ParamValidator

from discovery.simulator.account import Account
from discovery.simulator.failures import ApiError, invalid
from discovery.simulator.faults import Fault, Faults, spoil
from discovery.simulator.guard import Guard, denial
from discovery.simulator.history import History
from discovery.simulator.operations import OPERATIONS, READS
from discovery.simulator.paging import page_number
from discovery.simulator.throttle import Throttle
from discovery.simulator.wire import Json

log = logging.getLogger("anyport.simulator")

TARGET_PREFIX: Final = "AmazonEC2ContainerServiceV20141113"
CONTENT_TYPE: Final = "application/x-amz-json-1.1"
MOST_BODY_BYTES: Final = 4 * 1024 * 1024
_SCOPE = re.compile(r"Credential=[^/,]+/\d{8}/[^/,]+/([^/,]+)/aws4_request")

Forward = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Answers HTTP for one account."""

    def __init__(
        self,
        account: Account,
        *,
        faults: Faults,
        guard: Guard,
        history: History,
        throttle: Throttle | None,
        forward: Forward,
    ) -> None:
        self._account = account
        self._faults = faults
        self._guard = guard
        self._history = history
        self._throttle = throttle
        self._forward = forward
        self._model = botocore.session.get_session().get_service_model("ecs")
        self._validator = ParamValidator()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One call of any AWS service."""
        target = request.headers.get("X-Amz-Target", "")
        service = service_of(request)
        if service != "ecs":
            return await self._handle_other(service, request, target)
        prefix, _, operation = target.rpartition(".")
        if request.method != "POST" or prefix != TARGET_PREFIX or operation not in OPERATIONS:
            return _error(ApiError("UnknownOperationException", f"{operation or target!r} is not simulated."))
        try:
            return _answer(await self._call(operation, await _body(request)))
        except ApiError as exc:
            return _error(exc)
        except Exception:
            log.exception("the simulator failed at %s", operation)
            return _error(ApiError("ServerException", "The simulator failed: see its log.", 500))

    async def _call(self, operation: str, body: Json) -> Json:
        met = self._faults.take(operation, _page(body))
        await _meet(met, f"ecs:{operation}")
        self._guard.admit("ecs", operation, body)
        if self._throttle is not None and not self._throttle.admit(operation):
            raise _throttled()
        report = self._validator.validate(body, self._model.operation_model(operation).input_shape)
        if report.has_errors():
            raise invalid(report.generate_report())
        account = self._account
        stale = next((fault for fault in met if fault.kind == "stale"), None)
        if stale is not None and operation in READS:
            account = replace(account, state=self._history.ago(stale.seconds))
        answer = OPERATIONS[operation](account, body)
        for fault in met:
            answer = spoil(answer, fault)
        return answer

    async def _handle_other(self, service: str, request: web.Request, target: str) -> web.StreamResponse:
        """EC2, SQS, SNS, EventBridge, ELB: moto's, after the faults, the policy and the token bucket."""
        operation, parameters = target.rpartition(".")[2], {}
        if not operation and request.content_type == "application/x-www-form-urlencoded":
            parameters = {name: values[0] for name, values in parse_qs(await request.text()).items()}
            operation = parameters.get("Action", "")
        try:
            await _meet(self._faults.take(operation), f"{service}:{operation}")
            if self._guard.policy is not None:
                self._guard.admit(service, operation, await _body(request) if target else parameters)
            if self._throttle is not None and not self._throttle.admit(operation):
                raise _throttled()
        except ApiError as exc:
            return _json_refusal(service, exc) if target else _query_error(service, exc)
        return await self._forward(request)


def service_of(request: web.Request) -> str:
    """The AWS service a request is for: by its SigV4 credential scope, else by its target."""
    scope = _SCOPE.search(request.headers.get("Authorization", ""))
    if scope:
        return scope[1]
    return "ecs" if request.headers.get("X-Amz-Target", "").startswith(TARGET_PREFIX) else ""


def _page(body: Json) -> int:
    token = body.get("nextToken")
    return page_number(token) if isinstance(token, str) else 1


async def _body(request: web.Request) -> Json:
    """The JSON object of a request. Raises ApiError SerializationException."""
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        raise ApiError("SerializationException", "The request body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise ApiError("SerializationException", "The request body is not a JSON object.")
    return body


async def _meet(met: list[Fault], action: str) -> None:
    """Let the faults happen that come before AWS would even look at the call. Raises ApiError."""
    for fault in met:
        match fault.kind:
            case "hang":
                await asyncio.sleep(fault.seconds or 24 * 3600.0)
            case "throttle":
                raise _throttled()
            case "error" | "failed_page":
                raise ApiError(
                    "ServerException", "Service Unavailable. Please try again later.", fault.status
                )
            case "expired":
                raise ApiError(
                    "ExpiredTokenException", "The security token included in the request is expired"
                )
            case "denied":
                raise denial(action, "*")
            case _:  # the others spoil a right answer
                continue


def _throttled() -> ApiError:
    return ApiError("ThrottlingException", "Rate exceeded")


def _headers() -> dict[str, str]:
    return {"x-amzn-RequestId": str(uuid.UUID(int=random.getrandbits(128), version=4))}


def _answer(answer: Json) -> web.Response:
    return web.Response(body=json.dumps(answer).encode(), headers=_headers(), content_type=CONTENT_TYPE)


def _error(error: ApiError) -> web.Response:
    body = {"__type": error.code, "message": error.message}
    return web.Response(
        status=error.status, body=json.dumps(body).encode(), headers=_headers(), content_type=CONTENT_TYPE
    )


def _json_refusal(service: str, error: ApiError) -> web.Response:
    """A refusal in the JSON of a service that is not ECS."""
    answer = _error(error)
    if service == "sqs" and error.code == "AccessDeniedException":
        answer.set_status(403)
        answer.headers["x-amzn-query-error"] = "AccessDenied;Sender"  # its clients go by this name
    return answer


# The query protocol of EC2 has names of its own for the same refusals, and SNS and STS have others again.
_DENIALS = {"sns": "AuthorizationError", "sts": "AccessDenied"}
_QUERY_CODES = {
    "ThrottlingException": ("RequestLimitExceeded", 503),
    "ExpiredTokenException": ("RequestExpired", 400),
    "AccessDeniedException": ("UnauthorizedOperation", 403),
    "ServerException": ("InternalError", 500),
}


def _query_error(service: str, error: ApiError) -> web.Response:
    code, status = _QUERY_CODES.get(error.code, (error.code, error.status))
    request_id = uuid.UUID(int=random.getrandbits(128))
    if code == "UnauthorizedOperation" and service in _DENIALS:
        xml = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{_DENIALS[service]}</Code>"
            f"<Message>{error.message}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    else:
        xml = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{error.message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'
    return web.Response(status=status, body=body.encode(), content_type="text/xml")
