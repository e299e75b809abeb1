"""`anyport simulate`: an embedded ECS cluster to try things on, until it is stopped."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from typing import TextIO

from discovery.simulator.aws import MotoFailure
from discovery.simulator.network import NoAddressError
from discovery.simulator.runtime import RuntimeFailure
from discovery.simulator.simulator import Simulator, SimulatorError
from discovery.simulator.wire import Json

REGION = "eu-west-1"
SUBNETS = {"awsvpcConfiguration": {"subnets": ["subnet-0d0e0f1a2b3c4d5e6"]}}


def main(address: str, cluster: str, instances: int, speed: float) -> int:
    """Serve until SIGINT or SIGTERM. *address* is "host:port", the port 0 for a free one.

    Returns the exit status: 0 after a clean end, 1 when it could not start, with the reason on stderr.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        sys.stderr.write(f"simulate: {address!r} is no address: write host:port, such as 127.0.0.1:4566\n")
        return 1
    try:
        asyncio.run(serve(host, int(port), cluster, instances, speed))
    except (SimulatorError, NoAddressError, MotoFailure, RuntimeFailure) as exc:
        sys.stderr.write(f"simulate: {exc}\n")
        return 1
    return 0


async def serve(
    address: str, port: int, cluster: str, instances: int, speed: float, out: TextIO = sys.stdout
) -> None:
    """Start a cluster with three services and serve it; each change is a line on *out*."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def say(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    async with Simulator(address=address, port=port, region=REGION, speed=speed) as simulator:
        await simulator.add_cluster(cluster)
        await asyncio.gather(*(simulator.add_instance(cluster) for _ in range(instances)))
        add_services(simulator, cluster, instances)
        say(f"# ECS cluster {cluster} with {instances} instances at {simulator.url}; in another shell:")
        for name, value in simulator.environment.items():
            say(f"export {name}={shlex.quote(value)}")
        say("# then: aws ecs list-tasks --cluster " + shlex.quote(cluster))
        say(f'# faults: curl -X PUT {simulator.url}/_simulator/faults -d \'{{"kind": "throttle"}}\'')
        simulator.subscribe(lambda event: say(f"# {event.text}"))
        await stop.wait()


def add_services(simulator: Simulator, cluster: str, instances: int) -> None:
    """One service of each network mode: web (bridge, dynamic ports), api (awsvpc), chat (host)."""
    simulator.call("RegisterTaskDefinition", **definition("web", "bridge", 8080))
    simulator.call("RegisterTaskDefinition", **definition("api", "awsvpc", 8080))
    simulator.call("RegisterTaskDefinition", **definition("chat", "host", 7070))
    simulator.call("CreateService", **service(cluster, "web", 3))
    simulator.call("CreateService", **service(cluster, "api", 2), networkConfiguration=SUBNETS)
    # In host mode a port is taken once per instance: room is made before a new task starts.
    rolling = {"minimumHealthyPercent": 50, "maximumPercent": 100}
    simulator.call("CreateService", **service(cluster, "chat", instances), deploymentConfiguration=rolling)


def definition(family: str, mode: str, port: int) -> Json:
    container = {
        "name": "app",
        "image": "anyport/app",
        "memory": 128,
        "essential": True,
        "portMappings": [{"containerPort": port, "name": "http", "appProtocol": "http"}],
    }
    return {"family": family, "networkMode": mode, "containerDefinitions": [container]}


def service(cluster: str, name: str, count: int) -> Json:
    return {
        "cluster": cluster,
        "serviceName": name,
        "taskDefinition": name,
        "desiredCount": count,
        "launchType": "EC2",
    }
