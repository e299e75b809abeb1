"""ARNs of the embedded account: made in the new format, understood in every form the API takes."""

from __future__ import annotations

import random

from discovery.simulator.state import State


def new_id(rng: random.Random) -> str:
    """A resource id as ECS gives them: 32 hex digits."""
    return f"{rng.getrandbits(128):032x}"


def new_deployment_id(rng: random.Random) -> str:
    return f"ecs-svc/{rng.randrange(10**18, 10**19)}"


def make(state: State, resource: str) -> str:
    """The ARN of *resource*, such as "task/prod/4d590253bb114126b7afa7b58eea9221"."""
    return f"arn:aws:ecs:{state.region}:{state.account}:{resource}"


def short(reference: str) -> str:
    """The last part: the id of a task or instance, the name of a cluster or service.

    Takes a bare id or name, an old ARN ("...:task/<id>") and a new one ("...:task/<cluster>/<id>").
    """
    return reference.rsplit("/", 1)[-1]


def service_of(group: str) -> str:
    """The service a task group belongs to, "" for a task of no service."""
    return group.removeprefix("service:") if group.startswith("service:") else ""
