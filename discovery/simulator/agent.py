"""The servers of one container instance: the agent's introspection API and task metadata, and IMDS."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from discovery.simulator import metadata
from discovery.simulator.imds import InstanceMetadata
from discovery.simulator.state import Container, Instance, Task

INTROSPECTION_PORT = 51678
AGENT_VERSION = "Amazon ECS Agent - v1.105.0 (*8dfceca1)"
_COMMANDS = ["/v1/metadata", "/v1/tasks", "/license"]
_MAX_PROTECTION_MIN = 2880
_DEFAULT_PROTECTION_MIN = 120
# What Go prints for a task it does not have.
_ZERO_TASK = {"Arn": "", "KnownStatus": "", "Family": "", "Version": "", "Containers": None}

Protect = Callable[[Task, float], None]


def introspect_instance(instance: Instance) -> dict[str, Any]:
    """The answer to `/v1/metadata`."""
    return {
        "Cluster": metadata.short_id(instance.cluster_arn),
        "ContainerInstanceArn": instance.arn,
        "Version": AGENT_VERSION,
    }


def introspect_task(task: Task, *, ipv6: bool = False) -> dict[str, Any]:
    """One task of `/v1/tasks`. With *ipv6* Docker binds a port twice, and the agent shows it twice."""
    known = metadata.known_status(task.last_status)
    document: dict[str, Any] = {"Arn": task.arn}
    if known != "STOPPED" or task.desired_status == "STOPPED":
        document["DesiredStatus"] = task.desired_status
    return document | {
        "KnownStatus": known,
        "Family": task.definition.family,
        "Version": str(task.definition.revision),
        "Containers": [_introspect_container(task, container, ipv6) for container in task.containers],
    }


def is_known(task: Task) -> bool:
    """Whether the agent has heard of the task; stopped ones it remembers for hours."""
    return task.last_status != "PROVISIONING"


def _introspect_container(task: Task, container: Container, ipv6: bool) -> dict[str, Any]:
    ports = metadata.ports(task, container)
    if ipv6 and container.bindings:
        ports = [port for port in ports for _ in range(2)]
    document: dict[str, Any] = {
        "DockerId": container.runtime_id,
        "DockerName": metadata.docker_name(task, container) if container.runtime_id else "",
        "Name": container.name,
        "Image": container.definition.get("image", ""),
        "ImageID": metadata.IMAGE_ID,
    }
    if container.created_at:
        document["CreatedAt"] = metadata.rfc3339(container.created_at)
    if container.started_at:
        document["StartedAt"] = metadata.rfc3339(container.started_at)
    if ports:
        document["Ports"] = ports
    if container.private_ip:
        document["Networks"] = [{"NetworkMode": "awsvpc", "IPv4Addresses": [container.private_ip]}]
    return document


class InstanceServers:
    """Serves what software on *instance* may ask: agent (one port) and IMDS (another).

    *tasks* returns the instance's tasks, stopped ones included for as long as the agent would list
    them. *protect(task, until)* is called when a task asks for scale-in protection, with 0 to end it.
    `start` fills in `agent_url` and `imds_url` of the instance. After `stop` it may be started again, on
    the same ports; `stop_agent` and `start_agent` do that for the agent alone.
    """

    def __init__(
        self,
        instance: Instance,
        tasks: Callable[[], Iterable[Task]],
        region: str,
        *,
        protect: Protect | None = None,
        clock: Callable[[], float] = time.time,
        ipv6: bool = False,
    ) -> None:
        self._instance = instance
        self._tasks = tasks
        self._protect = protect or _protect
        self._clock = clock
        self._ipv6 = ipv6
        self.asked = 0  # how often somebody wanted to see the tasks
        self._imds = InstanceMetadata(instance, region, clock)
        self._agent_server = _Server(self._agent_app, instance.address, INTROSPECTION_PORT)
        self._imds_server = _Server(self._imds.app, instance.address, 0)

    async def start(self) -> None:
        await self.start_agent()
        self._instance.imds_url = await self._imds_server.start()

    async def stop(self) -> None:
        await self.stop_agent()
        await self._imds_server.stop()

    async def start_agent(self) -> None:
        self._instance.agent_url = await self._agent_server.start()

    async def stop_agent(self) -> None:
        """Refuse connections, as while the agent restarts; its URL stays the same."""
        await self._agent_server.stop()

    def spot_notice(self, action: str | None, at: float = 0.0) -> None:
        """Announce "terminate", "stop" or "hibernate" for the Unix time *at*; None takes it back."""
        self._imds.spot = (action, at) if action else None

    def _agent_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/metadata", self._instance_metadata)
        app.router.add_get("/v1/tasks", self._list_tasks)
        app.router.add_get("/license", _license)
        app.router.add_get("/v4/{id}", self._container)
        app.router.add_get(r"/v4/{id}/{what:task|taskWithTags}", self._task)
        app.router.add_get("/api/{id}/task-protection/v1/state", self._get_protection)
        app.router.add_put("/api/{id}/task-protection/v1/state", self._put_protection)
        app.router.add_get("/{path:(?!v4/|api/).*}", _commands)
        return app

    # Introspection

    async def _instance_metadata(self, _request: web.Request) -> web.Response:
        return web.json_response(introspect_instance(self._instance))

    async def _list_tasks(self, request: web.Request) -> web.Response:
        self.asked += 1
        known = [task for task in self._tasks() if is_known(task)]
        random.shuffle(known)  # it is a map in Go: each answer has an order of its own
        wanted = {name: request.query[name] for name in ("taskarn", "dockerid") if request.query.get(name)}
        if not wanted:
            return web.json_response({"Tasks": [introspect_task(task, ipv6=self._ipv6) for task in known]})
        if len(wanted) == 2:
            return web.json_response(_ZERO_TASK, status=400)
        for task in known:
            if task.arn == wanted.get("taskarn") or _has_docker_id(task, wanted.get("dockerid", "")):
                return web.json_response(introspect_task(task, ipv6=self._ipv6))
        return web.json_response(_ZERO_TASK, status=404)

    # Task metadata

    def _find(self, request: web.Request) -> tuple[Task, Container]:
        wanted = request.match_info["id"]
        for task in self._tasks():
            for container in task.containers:
                if metadata.endpoint_id(task, container) == wanted:
                    return task, container
        text = json.dumps(f"V4 metadata handler: unable to find the container of endpoint {wanted}")
        raise web.HTTPNotFound(text=text, content_type="application/json")

    async def _container(self, request: web.Request) -> web.Response:
        return web.json_response(metadata.container_document(*self._find(request)))

    async def _task(self, request: web.Request) -> web.Response:
        task, _ = self._find(request)
        return web.json_response(
            metadata.task_document(task, tags=request.match_info["what"] == "taskWithTags")
        )

    async def _get_protection(self, request: web.Request) -> web.Response:
        task, _ = self._find(request)
        return self._protection(task)

    async def _put_protection(self, request: web.Request) -> web.Response:
        task, _ = self._find(request)
        try:
            enabled, minutes = parse_protection(await request.read())
        except ValueError as exc:
            error = {"Arn": task.arn, "Code": "InvalidParameterException", "Message": str(exc)}
            return web.json_response({"error": error}, status=400)
        if task.group.startswith("service:"):
            self._protect(task, self._clock() + minutes * 60 if enabled else 0.0)
        return self._protection(task)

    def _protection(self, task: Task) -> web.Response:
        if not task.group.startswith("service:"):
            failure = {
                "Arn": task.arn,
                "Reason": "TASK_NOT_VALID",
                "Detail": "The task is not part of a service.",
            }
            return web.json_response({"failure": failure})
        return web.json_response(metadata.protection_document(task, self._clock()))


def parse_protection(body: bytes) -> tuple[bool, int]:
    """(enabled, minutes) of a PUT to the task-protection state; ValueError says what is wrong with it."""
    try:
        wanted = json.loads(body)
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        raise ValueError("Invalid request: the body must be a JSON object")
    if not isinstance(wanted.get("ProtectionEnabled"), bool):
        raise ValueError("Invalid request: does not contain 'ProtectionEnabled' field")
    minutes = wanted.get("ExpiresInMinutes")
    if minutes is None:
        minutes = _DEFAULT_PROTECTION_MIN
    if type(minutes) is not int or not 1 <= minutes <= _MAX_PROTECTION_MIN:
        raise ValueError(f"Invalid request: 'ExpiresInMinutes' must be from 1 to {_MAX_PROTECTION_MIN}")
    return wanted["ProtectionEnabled"], minutes


def _protect(task: Task, until: float) -> None:
    task.protected_until = until


def _has_docker_id(task: Task, docker_id: str) -> bool:
    """Whether a container has the id, in full or its first 12 characters."""
    ids = [container.runtime_id for container in task.containers if container.runtime_id]
    return bool(docker_id) and any(docker_id in (full, full[:12]) for full in ids)


async def _license(_request: web.Request) -> web.Response:
    return web.Response(text="This is a simulation of the Amazon ECS container agent.\n")


async def _commands(_request: web.Request) -> web.Response:
    return web.json_response({"AvailableCommands": _COMMANDS})


class _Server:
    """A server on one address: the wished port if it is free the first time, and the same one ever after."""

    def __init__(self, make_app: Callable[[], web.Application], address: str, port: int) -> None:
        self._make_app = make_app
        self._address = address
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Returns the URL, without a slash at the end."""
        sock = _listening_socket(self._address, self._port)
        self._port = sock.getsockname()[1]
        self._runner = web.AppRunner(
            self._make_app(), access_log=None, handle_signals=False, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()
        return f"http://{self._address}:{self._port}"

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()


def _listening_socket(address: str, port: int) -> socket.socket:
    for wanted in (port, 0):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, wanted))
            sock.listen(128)
        except OSError:
            sock.close()
            if wanted == 0:
                raise
        else:
            return sock
    raise AssertionError("port 0 either binds or raises")
