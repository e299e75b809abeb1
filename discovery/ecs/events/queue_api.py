"""The calls of SQS and SNS that reading events takes: each an answer or a `DiscoveryError`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from discovery.ecs.aws.errors import NEEDS_NEW_SESSION, translate_error
from discovery.ecs.aws.sessions import Account, Clients
from discovery.ecs.aws.threads import in_thread
from discovery.model import DiscoveryError

Json = Mapping[str, Any]

LONG_POLL_S: Final = 20  # the most that SQS allows
BATCH: Final = 10  # the most messages that one call of SQS takes or gives
# So long a message that was received and not deleted is hidden: what a reader takes that ends in the
# middle, the next one gets after that.
_HIDDEN_S: Final = 10
_CALL_TIMEOUT_S: Final = 10.0
_NO_QUEUE: Final = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NonExistentQueue")
_NO_TOPIC: Final = ("NotFound", "NotFoundException")
CODES_MISSING: Final = (*_NO_QUEUE, *_NO_TOPIC)


@dataclass(frozen=True, slots=True)
class Message:
    body: str
    receipt: str  # by which it is deleted


class QueueApi:
    """SQS and SNS through boto3, in threads. `calls` counts the calls by operation.

    The Region is that of the queue. Credentials are looked for anew after they were refused.
    """

    def __init__(self, account: Account) -> None:
        self.calls: Counter[str] = Counter()
        self._clients = Clients(account, read_timeout_s=LONG_POLL_S + _CALL_TIMEOUT_S)

    async def receive(self, url: str, *, wait_s: int = LONG_POLL_S) -> list[Message]:
        """Return the next messages, at most ten; [] if none came in *wait_s*."""
        answer = await self._call(
            "sqs",
            "ReceiveMessage",
            QueueUrl=url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=_HIDDEN_S,
        )
        return [
            Message(message["Body"], message["ReceiptHandle"])
            for message in answer.get("Messages") or ()
            if isinstance(message.get("Body"), str) and isinstance(message.get("ReceiptHandle"), str)
        ]

    async def delete(self, url: str, receipts: Sequence[str]) -> None:
        """Delete up to ten messages. One that cannot be deleted comes again, which does no harm."""
        entries = [{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(receipts)]
        await self._call("sqs", "DeleteMessageBatch", QueueUrl=url, Entries=entries)

    async def url_of(self, arn: str) -> str:
        """Return the URL of a queue, which may belong to another account."""
        *_, account, name = arn.split(":")
        answer = await self._call("sqs", "GetQueueUrl", QueueName=name, QueueOwnerAWSAccountId=account)
        return _text(answer, "QueueUrl", "sqs:GetQueueUrl")

    async def attributes(self, url: str) -> Json:
        """Return the attributes of a queue: texts, numbers too."""
        answer = await self._call("sqs", "GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])
        found = answer.get("Attributes")
        return found if isinstance(found, Mapping) else {}

    async def create(self, name: str, *, attributes: Json, tags: Json) -> str:
        """Make a queue and return its URL."""
        answer = await self._call("sqs", "CreateQueue", QueueName=name, Attributes=attributes, tags=tags)
        return _text(answer, "QueueUrl", "sqs:CreateQueue")

    async def set_policy(self, url: str, policy: Json) -> None:
        """Say who may send to a queue."""
        await self._call("sqs", "SetQueueAttributes", QueueUrl=url, Attributes={"Policy": json.dumps(policy)})

    async def remove(self, url: str) -> None:
        """Delete a queue and what is in it; one that is gone already will do."""
        try:
            await self._call("sqs", "DeleteQueue", QueueUrl=url)
        except DiscoveryError as error:
            if error.kind != "missing_queue":
                raise

    async def tag(self, url: str, tags: Json) -> None:
        """Add tags to a queue."""
        await self._call("sqs", "TagQueue", QueueUrl=url, Tags=tags)

    async def tags(self, url: str) -> Json:
        """Return the tags of a queue."""
        answer = await self._call("sqs", "ListQueueTags", QueueUrl=url)
        found = answer.get("Tags") or {}
        return found if isinstance(found, Mapping) else {}

    async def queues(self, prefix: str) -> list[str]:
        """Return the URLs of up to 1000 queues whose names begin with *prefix*."""
        answer = await self._call("sqs", "ListQueues", QueueNamePrefix=prefix, MaxResults=1000)
        return [url for url in answer.get("QueueUrls") or () if isinstance(url, str)]

    async def subscribe(self, topic_arn: str, queue_arn: str) -> str:
        """Let a topic send to a queue, each message as it is; return the ARN of the subscription."""
        answer = await self._call(
            "sns",
            "Subscribe",
            TopicArn=topic_arn,
            Protocol="sqs",
            Endpoint=queue_arn,
            Attributes={"RawMessageDelivery": "true"},
            ReturnSubscriptionArn=True,
        )
        return _text(answer, "SubscriptionArn", "sns:Subscribe")

    async def unsubscribe(self, subscription_arn: str) -> None:
        """End a subscription; one that is gone already will do."""
        await self._call("sns", "Unsubscribe", SubscriptionArn=subscription_arn)

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._clients.close()

    async def _call(self, service: str, operation: str, **request: object) -> Json:
        method = "".join("_" + c.lower() if c.isupper() else c for c in operation).lstrip("_")

        def call() -> Json:
            answer: Json = getattr(self._clients.get(service), method)(**request)
            return answer

        self.calls[operation] += 1
        action = f"{service}:{operation.removesuffix('Batch')}"  # so the permission is called
        try:
            return await in_thread(call, name=f"anyport-{operation}")
        except (BotoCoreError, ClientError, TypeError, AttributeError, KeyError, ValueError) as exc:
            error = self._translated(exc, action, service)
            if error.kind in NEEDS_NEW_SESSION:
                self.close()
            raise error from exc

    def _translated(self, exc: Exception, action: str, service: str) -> DiscoveryError:
        code = exc.response.get("Error", {}).get("Code", "") if isinstance(exc, ClientError) else ""
        if code in _NO_QUEUE:
            return DiscoveryError(
                "missing_queue", f"{action}: the queue does not exist: check queue in [ecs.events]"
            )
        if code in _NO_TOPIC:
            return DiscoveryError(
                "missing_queue",
                f"{action}: the topic does not exist: check topic in [ecs.events], "
                "or make it with `anyport events-setup --apply`",
            )
        account = self._clients.account
        where = account.endpoint_url or f"AWS ({service}, {account.region or 'default Region'})"
        return translate_error(exc, action, where)


def region_of(queue: str) -> str:
    """Return the Region of a queue given by ARN or URL, "" where it does not say.

    https://sqs.eu-west-1.amazonaws.com/111122223333/name, arn:aws:sqs:eu-west-1:111122223333:name
    """
    if queue.startswith("arn:"):
        return queue.split(":")[3]
    host = queue.partition("://")[2].partition("/")[0]
    labels = host.split(".")
    if len(labels) > 3 and labels[0] == "sqs" and labels[2] == "amazonaws":
        return labels[1]
    return labels[0] if len(labels) > 3 and labels[1:3] == ["queue", "amazonaws"] else ""


def _text(answer: Json, name: str, action: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise DiscoveryError("malformed", f"{action}: the answer has no {name}")
    return value
