"""SQS, SNS and EventBridge of the embedded cluster, spoken to as an operator does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import boto3

from discovery.simulator.simulator import Simulator


class Operator:
    """boto3 beside the code under test, in threads."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._clients: dict[str, Any] = {}

    async def call(self, service: str, method: str, **arguments: Any) -> Any:
        if service not in self._clients:
            self._clients[service] = await asyncio.to_thread(self._client, service)
        return await asyncio.to_thread(getattr(self._clients[service], method), **arguments)

    def _client(self, service: str) -> Any:
        return boto3.session.Session().client(
            service,
            endpoint_url=self._simulator.url,
            region_name=self._simulator.state.region,
            aws_access_key_id="a",
            aws_secret_access_key="s",
        )

    async def queue(self, name: str) -> tuple[str, str]:
        """Make a queue; return its URL and ARN."""
        url = (await self.call("sqs", "create_queue", QueueName=name))["QueueUrl"]
        answer = await self.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
        return url, answer["Attributes"]["QueueArn"]

    async def topic(self, name: str = "anyport-events") -> str:
        """Make a topic; return its ARN."""
        return str((await self.call("sns", "create_topic", Name=name))["TopicArn"])

    async def rule(self, target_arn: str, pattern: Mapping[str, Any] | None = None) -> None:
        """Send every event of ECS and EC2 to a queue or topic."""
        pattern = pattern or {"source": ["aws.ecs", "aws.ec2"]}
        await self.call("events", "put_rule", Name="all", EventPattern=json.dumps(pattern))
        await self.call("events", "put_targets", Rule="all", Targets=[{"Id": "it", "Arn": target_arn}])

    async def send(self, url: str, *bodies: str) -> None:
        for body in bodies:
            await self.call("sqs", "send_message", QueueUrl=url, MessageBody=body)

    async def queues(self) -> list[str]:
        """Return the names of all queues."""
        answer = await self.call("sqs", "list_queues")
        return sorted(url.rpartition("/")[2] for url in answer.get("QueueUrls", ()))

    async def waiting(self, url: str) -> int:
        """Return how many messages a queue holds, those included that are being read."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = await self.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    async def subscriptions(self) -> list[str]:
        """Return the ARNs of all that is subscribed to any topic."""
        answer = await self.call("sns", "list_subscriptions")
        return [one["Endpoint"] for one in answer["Subscriptions"]]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
