"""Task definitions: registered once, never changed."""

from __future__ import annotations

import re

from discovery.simulator.account import Account
from discovery.simulator.arns import make
from discovery.simulator.failures import client_error, invalid
from discovery.simulator.operations.request import text, with_token
from discovery.simulator.order import mistakes
from discovery.simulator.paging import page_of
from discovery.simulator.state import TaskDefinition
from discovery.simulator.wire import Json, definition_json

NETWORK_MODES = ("bridge", "host", "awsvpc")
_FAMILY = re.compile(r"[A-Za-z0-9_-]{1,255}")
_LIST_MEMBERS = ("environment", "mountPoints", "volumesFrom", "systemControls")


def register(account: Account, request: Json) -> Json:
    family = text(request, "family")
    if not _FAMILY.fullmatch(family):
        raise client_error("Family contains invalid characters.")
    mode = request.get("networkMode") or "bridge"
    if mode not in NETWORK_MODES:
        raise client_error(f"Network mode {mode!r} is not simulated: use bridge, host or awsvpc.")
    revision = 1 + max(
        (d.revision for d in account.state.definitions.values() if d.family == family), default=0
    )
    known = ("family", "containerDefinitions", "tags")
    definition = TaskDefinition(
        arn=make(account.state, f"task-definition/{family}:{revision}"),
        family=family,
        revision=revision,
        network_mode=mode,
        containers=_containers(request, mode),
        registered_at=account.clock(),
        raw={key: value for key, value in request.items() if key not in known},
        tags=request.get("tags") or [],
    )
    account.state.definitions[definition.arn] = definition
    return {"taskDefinition": definition_json(definition), "tags": definition.tags}


def _containers(request: Json, mode: str) -> list[Json]:
    """The container definitions with the members that ECS adds. Raises ApiError ClientException."""
    given = request.get("containerDefinitions")
    if not given:
        raise client_error("Container definitions should not be empty.")
    names = [item.get("name") for item in given]
    if None in names or len(set(names)) != len(names):
        raise client_error("Container definitions need names that differ from each other.")
    for mistake in mistakes(given):
        raise client_error(mistake)
    return [
        {
            "cpu": 0,
            "essential": True,
            **{name: [] for name in _LIST_MEMBERS},
            **item,
            "portMappings": [_port_mapping(mapping, mode) for mapping in item.get("portMappings", ())],
        }
        for item in given
    ]


def _port_mapping(mapping: Json, mode: str) -> Json:
    if "containerPort" not in mapping and "containerPortRange" not in mapping:
        raise client_error("A port mapping needs a containerPort or a containerPortRange.")
    shown = {"protocol": "tcp", **mapping}
    if mode == "bridge":
        return shown if "containerPortRange" in shown else {"hostPort": 0, **shown}
    if "containerPort" in shown:
        host_port = shown.setdefault("hostPort", shown["containerPort"])
        if host_port != shown["containerPort"]:
            raise client_error(
                "When networkMode=host or awsvpc, the host ports and container ports must match."
            )
    return shown


def deregister(account: Account, request: Json) -> Json:
    reference = text(request, "taskDefinition")
    if ":" not in reference:
        raise client_error("A revision is needed: family:revision.")
    definition = account.definition(reference)
    definition.status = "INACTIVE"
    definition.deregistered_at = definition.deregistered_at or account.clock()
    return {"taskDefinition": definition_json(definition)}


def describe(account: Account, request: Json) -> Json:
    definition = account.definition(text(request, "taskDefinition"))
    answer: Json = {"taskDefinition": definition_json(definition)}
    if "TAGS" in (request.get("include") or ()):
        answer["tags"] = definition.tags
    return answer


def list_definitions(account: Account, request: Json) -> Json:
    status = request.get("status") or "ACTIVE"
    if status not in ("ACTIVE", "INACTIVE", "DELETE_IN_PROGRESS"):
        raise invalid(f"{status} is not a status of a task definition.")
    family = request.get("familyPrefix")
    arns = [
        definition.arn
        for definition in account.state.definitions.values()
        if definition.status == status and (not family or definition.family == family)
    ]
    page = page_of(arns, request.get("nextToken"), request.get("maxResults"))
    return with_token({"taskDefinitionArns": page.items}, page.next_token)


def list_families(account: Account, request: Json) -> Json:
    prefix, status = request.get("familyPrefix") or "", request.get("status") or "ALL"
    families = {
        definition.family
        for definition in account.state.definitions.values()
        if definition.family.startswith(prefix) and status in ("ALL", definition.status)
    }
    page = page_of(families, request.get("nextToken"), request.get("maxResults"))
    return with_token({"families": page.items}, page.next_token)


OPERATIONS = {
    "RegisterTaskDefinition": register,
    "DeregisterTaskDefinition": deregister,
    "DescribeTaskDefinition": describe,
    "ListTaskDefinitions": list_definitions,
    "ListTaskDefinitionFamilies": list_families,
}
