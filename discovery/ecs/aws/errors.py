"""What botocore raises, as one `DiscoveryError` that says what to do about it."""

from __future__ import annotations

import re
from typing import Final

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from discovery.model import DiscoveryError

_EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_REJECTED: Final = {
    "AuthFailure",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_DENIED: Final = {"AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation"}
_ACTION: Final = re.compile(r"not authorized to perform: ([a-z0-9-]{2,32}:[A-Za-z]{2,64})\b")
_THROTTLED: Final = {
    "RequestLimitExceeded",
    "RequestThrottled",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.SSOError,
    boto.ProfileNotFound,
)
# Another credential may be found by a new session, never by the client that failed.
NEEDS_NEW_SESSION: Final = frozenset({"no_credentials", "expired", "denied"})


def is_transient(exc: Exception) -> bool:
    """Say whether the same call may succeed in a moment: throttled, a server or the network in trouble."""
    if isinstance(exc, boto.ClientError):
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or exc.response.get("Error", {}).get("Code") in _THROTTLED
    return isinstance(exc, (boto.ConnectionError, boto.HTTPClientError))


def translate_error(exc: Exception, action: str, endpoint: str, *, role_arn: str = "") -> DiscoveryError:
    """Return the error to show when `action` ("ecs:ListTasks") at `endpoint` raised `exc`.

    With *role_arn*, that role is assumed first, which may be what failed.
    The text never repeats what botocore says of a request: that may hold keys or a signature.
    """
    if isinstance(exc, boto.ClientError):
        if exc.operation_name == "AssumeRole":
            action = f"sts:AssumeRole of {role_arn}"
        return _from_answer(exc, action)
    if isinstance(exc, _NO_CREDENTIALS):
        return DiscoveryError(
            "no_credentials",
            f"no AWS credentials for {action}: give the task definition a taskRoleArn, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if isinstance(exc, boto.NoRegionError):
        return DiscoveryError("other", "no AWS Region: set region in [ecs], or AWS_REGION")
    if isinstance(exc, (boto.ReadTimeoutError, boto.ConnectTimeoutError)):
        return DiscoveryError(
            "timeout",
            f"{action}: no answer from {endpoint} in time: check the route, or raise call_timeout_s",
        )
    if isinstance(exc, (boto.ConnectionError, boto.HTTPClientError)):
        return DiscoveryError(
            "unreachable",
            f"{action}: cannot reach {endpoint} ({type(exc).__name__}): check endpoint_url and region in "
            "[ecs], DNS, the security group and the VPC endpoint",
        )
    if isinstance(exc, (ResponseParserError, TypeError, AttributeError, KeyError, ValueError)):
        # The last four are what botocore's parser raises on JSON of the wrong shape.
        return DiscoveryError("malformed", f"{action}: {endpoint} answered with something else than the API")
    return DiscoveryError("other", f"{action} failed: {type(exc).__name__}")


def _from_answer(exc: boto.ClientError, action: str) -> DiscoveryError:
    error = exc.response.get("Error", {})
    code = str(error.get("Code", ""))
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _EXPIRED:
        return DiscoveryError(
            "expired",
            f"{action}: the AWS credentials have expired: renew them (or use a task role, which does)",
        )
    if code in _DENIED:
        # One call may need more than the permission of its own name: CreateQueue with tags, TagQueue too.
        told = _ACTION.search(str(error.get("Message", "")))
        wanted = told[1] if told and told[1].lower() != action.lower() else action
        return DiscoveryError("denied", f"{wanted} is not allowed: add it to the policy of the task role")
    if code in _REJECTED:
        return DiscoveryError(
            "denied",
            f"{action}: AWS refuses these credentials ({code}): check the keys, and the machine's clock",
        )
    if code in _THROTTLED:
        return DiscoveryError(
            "throttled",
            f"{action}: the API budget is spent: raise poll_interval_s, or see who else asks so often",
        )
    if code == "ClusterNotFoundException":
        return DiscoveryError("missing_cluster", "the cluster does not exist")
    return DiscoveryError("other", f"{action} failed with {code or 'no error code'} (HTTP {status})")
