"""The least IAM policy for a configuration, printed."""

from __future__ import annotations

import json
import os
from typing import Any, Final

import click

from discovery.ecs.events.queue_api import region_of
from discovery.ecs.policy import ACCOUNT, REGION, Cluster, Events, policies
from proxy.config import ClusterAt, Config, clusters_of


def needed(config: Config, *, account: str = "", region: str = "") -> dict[str, dict[str, Any]]:
    """Return the policies by role ARN, that of the task role under "".

    *account* and *region* fill in what the configuration leaves to AWS; what still is not known has a
    placeholder in its place.
    """
    region = region or os.environ.get("AWS_REGION", "") or os.environ.get("AWS_DEFAULT_REGION", "")
    clusters = [_cluster(at, account, region) for at in clusters_of(config.ecs)]
    ecs = config.ecs
    if not clusters or not ecs.events.queue:
        return policies(clusters)
    own = region_of(ecs.events.queue) or region_of(ecs.events.topic) or ecs.region or region
    events = Events(queue=ecs.events.queue, topic=ecs.events.topic, region=own, account=account)
    return policies(clusters, events)


def print_policies(found: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    """Print policies to paste, or as one object; what is still to be done goes to standard error."""
    texts = {role: json.dumps(document, indent=2) for role, document in found.items()}
    if as_json:
        roles = {role: document for role, document in found.items() if role}
        click.echo(json.dumps({"task_role": found[""], "roles": roles}, indent=2))
    else:
        for role, text in texts.items():
            if len(texts) > 1:
                click.echo(f"anyport: the policy of {role or 'the task role'}:", err=True)
            click.echo(text)
    if not found[""]["Statement"]:
        click.echo("anyport: this configuration asks AWS nothing: it needs no policy", err=True)
    for word, option in _PLACEHOLDERS.items():
        if any(f":{word}:" in text for text in texts.values()):
            click.echo(f"anyport: put yours for {word}, or give {option}", err=True)


_PLACEHOLDERS: Final = {ACCOUNT: "--account", REGION: "--region, or `region` in [ecs]"}


def _cluster(at: ClusterAt, account: str, region: str) -> Cluster:
    return Cluster(
        name=at.name, region=at.region or region, account=at.account or account, role_arn=at.role_arn
    )
