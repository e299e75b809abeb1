"""moto's server in a process of its own: EC2, SQS, EventBridge and ELBv2 around our own ECS.

Prints its port on stdout once it listens and ends when stdin does: it cannot outlive whoever holds
the other end, and its imports and its threads cost that process's event loop nothing.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

# moto reads it when it is imported: a catalogue of machine images takes a second to load.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

# What the first request for each service would load; EC2 alone takes a second.
_WARM = ("moto.ec2.responses", "moto.sqs.responses", "moto.events.responses", "moto.elbv2.responses")


def _as_matched(
    input_template: str | None, input_paths_map: dict[str, Any], event: dict[str, Any]
) -> dict[str, Any]:
    """What a target without an input transformer gets: the event itself, `account` included.

    moto pushes every event through a JSONPath template, which needs another package, costs tens of
    milliseconds and drops `account`. Of input transformers the project makes no use.
    """
    if input_template:
        raise NotImplementedError("the embedded EventBridge has no input transformers")
    return {name: value for name, value in event.items() if name != "ingestion-time"}


def main() -> None:
    """`python -m discovery.simulator.moto_server`, with pipes as stdin and stdout."""
    server_module = importlib.import_module("moto.server")
    importlib.import_module("moto.events.utils").EventTemplateParser.parse = staticmethod(_as_matched)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    for module in _WARM:
        importlib.import_module(module)
    sys.stdin.read()
    os._exit(0)  # a long poll in a thread must not hold us up


if __name__ == "__main__":
    main()
