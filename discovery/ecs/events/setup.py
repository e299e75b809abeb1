"""What it takes in an AWS account for events to arrive: rules, and a topic or a queue's policy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from discovery.ecs.events.queue_place import TOPIC
from discovery.ecs.shapes import short_name

Json = dict[str, Any]

SID: Final = "anyport-events"  # of our statement in a policy that may hold others
SPOT_RULE: Final = "anyport-spot"  # one for all clusters: a warning names no cluster
_TASKS: Final = ("ECS Task State Change", "ECS Container Instance State Change")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is wanted: the events of `clusters` at a topic, or at a queue if one is given."""

    clusters: tuple[str, ...]  # names or ARNs
    region: str
    account: str
    queue: str = ""  # URL or ARN; "": proxies make their own and subscribe them to the topic
    topic: str = ""  # name or ARN; "": `TOPIC`

    @property
    def partition(self) -> str:
        """Return which AWS it is: "aws", "aws-cn" or "aws-us-gov"."""
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    @property
    def target(self) -> str:
        """Return the ARN that the rules send to."""
        if self.queue.startswith("arn:"):
            return self.queue
        if self.queue:
            *_, account, name = self.queue.split("/")
            return f"arn:{self.partition}:sqs:{self.region}:{account}:{name}"
        return self.topic if self.topic.startswith("arn:") else self._arn("sns", self.topic or TOPIC)

    @property
    def makes_topic(self) -> bool:
        """Whether the topic is ours to make: one given by ARN is the operator's."""
        return not self.queue and not self.topic.startswith("arn:")

    def rules(self) -> dict[str, Json]:
        """Return the event patterns by name of rule."""
        found: dict[str, Json] = {}
        for cluster in self.clusters:
            arn = cluster if cluster.startswith("arn:") else self._arn("ecs", f"cluster/{cluster}")
            name = _rule_name(short_name(cluster))
            found[name] = {
                "source": ["aws.ecs"],
                "detail-type": list(_TASKS),
                "detail": {"clusterArn": [arn]},
            }
            # These name their cluster only in the ARN of the service.
            found[f"{name}-deployments"] = {
                "source": ["aws.ecs"],
                "detail-type": ["ECS Deployment State Change"],
                "resources": [{"prefix": arn.replace(":cluster/", ":service/") + "/"}],
            }
        found[SPOT_RULE] = {
            "source": ["aws.ec2"],
            "detail-type": ["EC2 Spot Instance Interruption Warning"],
        }
        return found

    def statement(self, condition: Json | None = None) -> Json:
        """Return what the policy of the target must hold: our rules may send to it.

        By default "our rules" are those of every anyport in the account: of several clusters that share
        a topic, each is set up by itself and must not lock out the others.
        """
        return {
            "Sid": SID,
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage" if self.queue else "sns:Publish",
            "Resource": self.target,
            "Condition": condition or {"ArnLike": {"aws:SourceArn": self._arn("events", "rule/anyport-*")}},
        }

    def _arn(self, service: str, rest: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{rest}"


def template(setup: Setup) -> Json:
    """Return the setup as a CloudFormation template.

    `setup` may leave out what CloudFormation knows: its account and Region are then those of the stack.
    """
    target: Any = _for_stack(setup.target)
    resources: dict[str, Json] = {}
    rules: list[Json] = []
    for name, pattern in setup.rules().items():
        logical = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]", name))
        logical += str(len(resources)) if logical in resources else ""
        resources[logical] = {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "Description": "Changes in ECS for anyport",
                "EventPattern": _for_stack(pattern),
                "Targets": [{"Id": "anyport", "Arn": target}],
            },
        }
        rules.append({"Fn::GetAtt": [logical, "Arn"]})
    statement = {**setup.statement({"ArnEquals": {"aws:SourceArn": rules}}), "Resource": target}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    if setup.queue:
        _, _, _, region, account, name = setup.target.split(":")
        url = setup.queue if "://" in setup.queue else f"https://sqs.{region}.amazonaws.com/{account}/{name}"
        resources["AnyportQueuePolicy"] = {
            "Type": "AWS::SQS::QueuePolicy",
            "Properties": {"Queues": [url], "PolicyDocument": document},
        }
    else:
        if setup.makes_topic:
            resources["AnyportTopic"] = {
                "Type": "AWS::SNS::Topic",
                "Properties": {"TopicName": setup.target.rpartition(":")[2]},
            }
            for resource in resources.values():
                if resource["Type"] == "AWS::Events::Rule":
                    resource["DependsOn"] = "AnyportTopic"
        resources["AnyportTopicPolicy"] = {
            "Type": "AWS::SNS::TopicPolicy",
            "Properties": {"Topics": [target], "PolicyDocument": document},
            **({"DependsOn": "AnyportTopic"} if setup.makes_topic else {}),
        }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Events of ECS for anyport",
        "Resources": resources,
    }


def with_statement(policy: str | None, statement: Json) -> str | None:
    """Return a policy with our statement in it, all others kept; None if it is there already."""
    document = _policy(policy)
    others = [one for one in document["Statement"] if one.get("Sid") != SID]
    if len(others) != len(document["Statement"]) and statement in document["Statement"]:
        return None
    return json.dumps({**document, "Statement": [*others, statement]})


def without_statement(policy: str | None) -> str | None:
    """Return a policy without our statement, "" if nothing else is in it; None if ours is not there."""
    document = _policy(policy)
    others = [one for one in document["Statement"] if one.get("Sid") != SID]
    if len(others) == len(document["Statement"]):
        return None
    return json.dumps({**document, "Statement": others}) if others else ""


def _policy(text: str | None) -> Json:
    document = json.loads(text) if text else {}
    statements = document.get("Statement") or []
    return {
        "Version": "2012-10-17",
        **document,
        "Statement": statements if isinstance(statements, list) else [statements],
    }


def _rule_name(cluster: str) -> str:
    """Return a name of at most 64 characters with "-deployments" behind it, another for each cluster."""
    if len(cluster) <= 40:
        return f"anyport-{cluster}"
    return f"anyport-{cluster[:31]}-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}"


# What stands for an account and a Region that only the stack will know.
STACK_ACCOUNT: Final = "${AWS::AccountId}"
STACK_REGION: Final = "${AWS::Region}"


def _for_stack(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON with the texts in it that name the stack's account or Region substituted there."""
    if isinstance(value, Mapping):
        return {name: _for_stack(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_for_stack(item) for item in value]
    return {"Fn::Sub": value} if isinstance(value, str) and "${AWS::" in value else value
