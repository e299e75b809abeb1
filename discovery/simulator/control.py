"""`/_simulator/…`: faults and handles over HTTP, for whoever tests against a simulator of its own process.

GET    /_simulator/health              what runs here
GET    /_simulator/faults              the faults in force
PUT    /_simulator/faults              put one in force: {"kind": "throttle", "operation": "ListTasks"}
DELETE /_simulator/faults[?id=1]       end one, or all
GET    /_simulator/policy              the IAM policy in force, and what it has denied
PUT    /_simulator/policy              put one in force: {"Version": "2012-10-17", "Statement": [...]}
DELETE /_simulator/policy              everything is allowed again
PUT    /_simulator/speed               {"speed": 10}
POST   /_simulator/kill                {"task": "<id or ARN>"}: kill -9 of its processes
POST   /_simulator/task-health         {"task": "...", "status": "UNHEALTHY", "container": "app"}
POST   /_simulator/restart-agent       {"instance": "<id, ARN or EC2 id>"}
POST   /_simulator/spot                {"instance": "...", "action": "terminate"}: taken away in two minutes
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from aiohttp import web

from discovery.simulator.arns import short
from discovery.simulator.faults import Fault, FaultError, Faults
from discovery.simulator.guard import Guard
from discovery.simulator.iam import Policy, PolicyError
from discovery.simulator.state import Instance, State, Task
from discovery.simulator.wire import live_tasks


class Handles(Protocol):
    """What the simulator lets one do."""

    faults: Faults
    guard: Guard
    state: State
    speed: float

    async def kill_task(self, task_arn: str) -> None: ...

    def set_health(self, task_arn: str, status: str, container: str = "") -> None: ...

    async def restart_agent(self, instance: Instance) -> None: ...

    async def interrupt_spot(self, instance: Instance, action: str = "terminate") -> None: ...


def add_routes(app: web.Application, handles: Handles) -> None:
    """Serve `/_simulator/…` for *handles*."""

    async def health(request: web.Request) -> web.Response:
        state = handles.state
        return web.json_response(
            {
                "ok": True,
                "region": state.region,
                "speed": handles.speed,
                "clusters": {
                    cluster.name: {
                        "instances": len(cluster.instances),
                        "services": len(cluster.services),
                        "tasks": len(live_tasks(cluster)),
                    }
                    for cluster in state.clusters.values()
                },
            }
        )

    async def list_faults(request: web.Request) -> web.Response:
        return web.json_response({"faults": handles.faults.as_json()})

    async def add_fault(request: web.Request) -> web.Response:
        try:
            fault = Fault.from_json(await _json(request))
        except (FaultError, TypeError) as exc:
            return web.json_response({"error": str(exc)}, status=400)
        return web.json_response({"id": handles.faults.add(fault)})

    async def clear_faults(request: web.Request) -> web.Response:
        number = request.query.get("id", "")
        if (number and not number.isascii()) or (number and not number.isdecimal()):
            return web.json_response({"error": "id must be a number that PUT gave out"}, status=400)
        handles.faults.clear(int(number) if number else None)
        return web.json_response({})

    async def show_policy(request: web.Request) -> web.Response:
        policy = handles.guard.policy
        return web.json_response(
            {
                "policy": policy.document if policy is not None else None,
                "denied": [{"action": action, "resource": what} for action, what in handles.guard.denied],
            }
        )

    async def set_policy(request: web.Request) -> web.Response:
        try:
            handles.guard.policy = Policy(await _json(request))
        except PolicyError as exc:
            return web.json_response({"error": str(exc)}, status=400)
        handles.guard.denied.clear()
        return web.json_response({})

    async def lift_policy(request: web.Request) -> web.Response:
        handles.guard.policy = None
        return web.json_response({})

    async def set_speed(request: web.Request) -> web.Response:
        speed = (await _json(request)).get("speed")
        if not isinstance(speed, int | float) or isinstance(speed, bool) or speed <= 0:
            return web.json_response({"error": "speed must be a number above 0"}, status=400)
        handles.speed = float(speed)
        return web.json_response({"speed": handles.speed})

    async def kill(request: web.Request) -> web.Response:
        task = _task(handles.state, await _json(request))
        await handles.kill_task(task.arn)
        return web.json_response({"task": task.arn})

    async def task_health(request: web.Request) -> web.Response:
        body = await _json(request)
        task = _task(handles.state, body)
        if body.get("status") not in ("HEALTHY", "UNHEALTHY", "UNKNOWN"):
            return web.json_response({"error": "status must be HEALTHY, UNHEALTHY or UNKNOWN"}, status=400)
        handles.set_health(task.arn, body["status"], str(body.get("container") or ""))
        return web.json_response({"task": task.arn})

    async def restart_agent(request: web.Request) -> web.Response:
        instance = _instance(handles.state, await _json(request))
        await handles.restart_agent(instance)
        return web.json_response({"instance": instance.arn})

    async def spot(request: web.Request) -> web.Response:
        body = await _json(request)
        instance = _instance(handles.state, body)
        action = body.get("action", "terminate")
        if action not in ("terminate", "stop", "hibernate"):
            return web.json_response({"error": "action must be terminate, stop or hibernate"}, status=400)
        await handles.interrupt_spot(instance, action)
        return web.json_response({"instance": instance.arn})

    app.router.add_get("/_simulator/health", health)
    app.router.add_get("/_simulator/faults", list_faults)
    app.router.add_put("/_simulator/faults", add_fault)
    app.router.add_delete("/_simulator/faults", clear_faults)
    app.router.add_get("/_simulator/policy", show_policy)
    app.router.add_put("/_simulator/policy", set_policy)
    app.router.add_delete("/_simulator/policy", lift_policy)
    app.router.add_put("/_simulator/speed", set_speed)
    app.router.add_post("/_simulator/kill", kill)
    app.router.add_post("/_simulator/task-health", task_health)
    app.router.add_post("/_simulator/restart-agent", restart_agent)
    app.router.add_post("/_simulator/spot", spot)


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        raise _bad_request("the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise _bad_request("the body is not a JSON object")
    return body


def _bad_request(text: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=json.dumps({"error": text}), content_type="application/json")


def _task(state: State, body: dict[str, Any]) -> Task:
    wanted = short(str(body.get("task") or ""))
    for cluster in state.clusters.values():
        for task in live_tasks(cluster):
            if short(task.arn) == wanted:
                return task
    raise _bad_request(f'no task {wanted!r} lives here: "task" must be the id or ARN of one')


def _instance(state: State, body: dict[str, Any]) -> Instance:
    wanted = short(str(body.get("instance") or ""))
    for cluster in state.clusters.values():
        for instance in cluster.instances.values():
            if wanted in (short(instance.arn), instance.ec2_instance_id):
                return instance
    raise _bad_request(f'no instance {wanted!r}: "instance" must be its id, ARN or EC2 id')
