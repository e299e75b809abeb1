"""Making in an AWS account what events take, and taking it away again. Calls block."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from discovery.ecs.aws.errors import translate_error
from discovery.ecs.aws.sessions import Clients
from discovery.ecs.events.queue_api import CODES_MISSING
from discovery.ecs.events.setup import SPOT_RULE, Setup, with_statement, without_statement
from discovery.model import DiscoveryError

Json = dict[str, Any]

_NOT_FOUND: Final = (*CODES_MISSING, "ResourceNotFoundException")


class EventsAccount:
    """The account in which `Setup`s are made. All methods raise `DiscoveryError` with what to do."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def whoami(self) -> tuple[str, str]:
        """Return the account's number, and the Region that calls go to."""
        answer = self._call("sts", "get_caller_identity")
        return str(answer["Account"]), str(self._clients.get("events").meta.region_name)

    def apply(self, setup: Setup) -> Iterator[str]:
        """Make what is not there yet; yield what has been done. Again, it changes nothing."""
        if setup.makes_topic:
            self._call("sns", "create_topic", Name=setup.target.rpartition(":")[2])
            yield f"topic {setup.target}"
        policy = with_statement(self._policy(setup), setup.statement())
        if policy is not None:
            self._set_policy(setup, policy)
        yield f"policy: EventBridge may send to {setup.target}"
        for name, pattern in setup.rules().items():
            self._call(
                "events",
                "put_rule",
                Name=name,
                EventPattern=json.dumps(pattern),
                Description="Changes in ECS for anyport",
            )
            self._call("events", "put_targets", Rule=name, Targets=[{"Id": _id(setup), "Arn": setup.target}])
            yield f"rule {name}"

    def remove(self, setup: Setup) -> Iterator[str]:
        """Take away what `apply` makes, as far as no other cluster's events come the same way."""
        for name in setup.rules():
            if name != SPOT_RULE and self._remove_rule(name, setup):
                yield f"removed rule {name}"
        others = self._rules_of(setup) - {SPOT_RULE}
        if others:
            yield f"{setup.target} stays: rule {min(others)} sends to it"
            return
        if self._remove_rule(SPOT_RULE, setup):
            yield f"removed rule {SPOT_RULE}"
        if not setup.makes_topic:
            policy = without_statement(self._policy(setup))
            if policy or (policy is not None and setup.queue):  # a topic cannot be without any
                self._set_policy(setup, policy)
                yield f"removed our statement from the policy of {setup.target}"
            return
        readers = self._subscriptions(setup)
        if readers:
            yield f"{setup.target} stays: {len(readers)} subscribed, such as {readers[0]}"
        elif self._tried("sns", "get_topic_attributes", TopicArn=setup.target) is not None:
            self._call("sns", "delete_topic", TopicArn=setup.target)
            yield f"removed topic {setup.target}"

    def _remove_rule(self, name: str, setup: Setup) -> bool:
        if self._tried("events", "describe_rule", Name=name) is None:
            return False
        self._tried("events", "remove_targets", Rule=name, Ids=[_id(setup)])
        left = self._tried("events", "list_targets_by_rule", Rule=name)
        if left is None or left.get("Targets"):
            return False  # it sends elsewhere too
        self._tried("events", "delete_rule", Name=name)
        return True

    def _rules_of(self, setup: Setup) -> set[str]:
        answer = self._tried("events", "list_rule_names_by_target", TargetArn=setup.target) or {}
        return set(answer.get("RuleNames") or ())

    def _subscriptions(self, setup: Setup) -> list[str]:
        answer = self._tried("sns", "list_subscriptions_by_topic", TopicArn=setup.target) or {}
        return [str(one.get("Endpoint")) for one in answer.get("Subscriptions") or ()]

    def _policy(self, setup: Setup) -> str | None:
        if setup.queue:
            answer = self._call(
                "sqs", "get_queue_attributes", QueueUrl=self._url(setup), AttributeNames=["Policy"]
            )
        else:
            answer = self._call("sns", "get_topic_attributes", TopicArn=setup.target)
        found = (answer.get("Attributes") or {}).get("Policy")
        return found if isinstance(found, str) else None

    def _set_policy(self, setup: Setup, policy: str) -> None:
        if setup.queue:
            self._call(
                "sqs", "set_queue_attributes", QueueUrl=self._url(setup), Attributes={"Policy": policy}
            )
        else:
            self._call(
                "sns",
                "set_topic_attributes",
                TopicArn=setup.target,
                AttributeName="Policy",
                AttributeValue=policy,
            )

    def _url(self, setup: Setup) -> str:
        if "://" in setup.queue:
            return setup.queue
        *_, account, name = setup.queue.split(":")
        answer = self._call("sqs", "get_queue_url", QueueName=name, QueueOwnerAWSAccountId=account)
        return str(answer["QueueUrl"])

    def _tried(self, service: str, method: str, **request: object) -> Json | None:
        """Return an answer, or None if what is asked about is not there."""
        try:
            return self._call(service, method, **request)
        except DiscoveryError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response.get("Error", {}).get("Code") in _NOT_FOUND:
                return None
            raise

    def _call(self, service: str, method: str, **request: object) -> Json:
        action = f"{service}:{''.join(word.capitalize() for word in method.split('_'))}"
        try:
            answer: Json = getattr(self._clients.get(service), method)(**request)
        except (BotoCoreError, ClientError) as exc:
            code = exc.response.get("Error", {}).get("Code") if isinstance(exc, ClientError) else ""
            if code in _NOT_FOUND:
                raise DiscoveryError("missing_queue", f"{action}: there is no such queue or topic") from exc
            where = self._clients.account.endpoint_url or f"AWS ({service})"
            error = translate_error(exc, action, where)
            if error.kind == "denied" and " is not allowed" in str(error):
                error = DiscoveryError(
                    "denied", f"{action} is not allowed: add it to the policy of who runs this"
                )
            raise error from exc
        return answer


def _id(setup: Setup) -> str:
    """Return the id of our target in a rule, which may have others."""
    return f"anyport-{hashlib.sha256(setup.target.encode()).hexdigest()[:8]}"
