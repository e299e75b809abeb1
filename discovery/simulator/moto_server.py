"""moto's server in a process of its own: EC2, SQS, SNS, EventBridge and ELBv2 around our own ECS.

Prints its port on stdout once it listens and ends when stdin does: it cannot outlive whoever holds
the other end, and its imports and its threads cost that process's event loop nothing.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

# moto reads it when it is imported: a catalogue of machine images takes a second to load.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

# What the first request for each service would load; EC2 alone takes a second.
_WARM = (
    "moto.ec2.responses",
    "moto.sqs.responses",
    "moto.sns.responses",
    "moto.events.responses",
    "moto.elbv2.responses",
)


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


def _deliver_to_topics_too(events: Any) -> None:  # noqa: ANN401 - moto has no types
    """Let rules deliver to SNS, which moto's do not, and each target by itself.

    What cannot be delivered is dropped without a word, as by EventBridge and SNS: to moto a queue that
    is gone is an error of PutEvents, and ends what comes after it.
    """
    send: Callable[..., None] = events.Rule.send_to_targets

    def send_to_targets(rule: Any, event: dict[str, Any], transform_input: bool = True) -> None:  # noqa: ANN401
        for target in rule.targets:
            alone = copy.copy(rule)
            alone.targets = [target]
            try:
                if ":sns:" not in target["Arn"]:
                    send(alone, event, transform_input)
                elif rule.event_pattern.matches_event(event):
                    _publish(target["Arn"], event)
            except Exception:
                logging.getLogger("anyport.simulator").debug("not delivered", exc_info=True)

    events.Rule.send_to_targets = send_to_targets


def _publish(topic_arn: str, event: dict[str, Any]) -> None:
    message = _as_matched(None, {}, event)
    message["time"] = datetime.fromtimestamp(event["time"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _, _, _, region, account, _ = topic_arn.split(":")
    topics = importlib.import_module("moto.sns.models").sns_backends[account][region]
    subscriptions, _ = topics.list_subscriptions_by_topic(topic_arn=topic_arn)
    for subscription in subscriptions:
        try:
            subscription.publish(json.dumps(message), event["id"])
        except Exception:
            logging.getLogger("anyport.simulator").debug("not delivered", exc_info=True)


def main() -> None:
    """`python -m discovery.simulator.moto_server`, with pipes as stdin and stdout."""
    server_module = importlib.import_module("moto.server")
    importlib.import_module("moto.events.utils").EventTemplateParser.parse = staticmethod(_as_matched)
    _deliver_to_topics_too(importlib.import_module("moto.events.models"))
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
