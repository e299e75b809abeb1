"""The policy in force: lets a call pass or says no as AWS does, and remembers to what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discovery.simulator.failures import ApiError
from discovery.simulator.iam import Policy
from discovery.simulator.permissions import wishes
from discovery.simulator.state import State


class Guard:
    """Without a policy everybody may do everything."""

    def __init__(self, state: State) -> None:
        self.policy: Policy | None = None
        self.denied: list[tuple[str, str]] = []  # (action, resource), in the order of the calls
        self._state = state

    def admit(self, service: str, operation: str, request: Mapping[str, Any]) -> None:
        """Raise ApiError AccessDeniedException for a call that the policy does not allow."""
        if self.policy is None:
            return
        needed = wishes(service, operation, request, account=self._state.account, region=self._state.region)
        refused = self.policy.denied(needed)
        if refused is not None:
            self.denied.append(refused)
            raise denial(*refused)


def denial(action: str, resource: str) -> ApiError:
    """The answer of AWS to whom no policy allows *action*."""
    return ApiError(
        "AccessDeniedException",
        "User: arn:aws:sts::123456789012:assumed-role/anyport/simulated is not authorized to perform: "
        f"{action} on resource: {resource} because no identity-based policy allows the {action} action",
    )
