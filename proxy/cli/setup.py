"""`anyport events-setup`: what it takes in an AWS account for events to arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, Literal

import click

from discovery.ecs.aws.sessions import Account, Clients
from discovery.ecs.events.apply import EventsAccount
from discovery.ecs.events.queue_api import region_of
from discovery.ecs.events.setup import STACK_ACCOUNT, STACK_REGION, Setup, template
from discovery.model import DiscoveryError
from proxy.cli.fault import Fault
from proxy.config import Config, clusters_of

_TIMEOUT_S: Final = 20.0
_DEPLOY: Final = (
    "deploy it with: anyport events-setup > events.json && aws cloudformation deploy "
    "--stack-name anyport-events --template-file events.json\n"
    "or let `anyport events-setup --apply` make the same"
)


def set_up(config: Config, what: Literal["print", "apply", "remove"], *, as_json: bool) -> int:
    """Do it and say what was done; return the exit status."""
    ecs = config.ecs
    queue = "" if ecs.events.queue == "auto" else ecs.events.queue
    region = region_of(queue) or region_of(ecs.events.topic) or ecs.region
    clusters = _here(config, region)
    if not clusters:
        raise Fault(
            "there is no cluster whose events could be wanted", "add `clusters` in [ecs]", exit_code=2
        )
    if not ecs.events.queue:
        click.echo('note: events are off as long as [ecs.events] does not say queue = "auto"', err=True)
    if what == "print":
        setup = Setup(
            clusters=clusters,
            region=region or STACK_REGION,
            account=STACK_ACCOUNT,
            queue=queue,
            topic=ecs.events.topic,
        )
        click.echo(json.dumps(template(setup), indent=2))
        if not as_json:
            click.echo(_DEPLOY, err=True)
        return 0
    account = EventsAccount(
        Clients(Account(region=region, endpoint_url=ecs.endpoint_url), read_timeout_s=_TIMEOUT_S)
    )
    done: list[str] = []
    try:
        number, region = account.whoami()
        setup = Setup(clusters=clusters, region=region, account=number, queue=queue, topic=ecs.events.topic)
        for line in _doing(account, setup, what):
            done.append(line)
            if not as_json:
                click.echo(line)
    except DiscoveryError as error:
        if not as_json:
            raise Fault(str(error)) from None
        click.echo(json.dumps({"ok": False, "done": done, "error": str(error)}, indent=2))
        return 1
    if as_json:
        click.echo(json.dumps({"ok": True, "done": done}, indent=2))
    elif not done:
        click.echo("nothing to do")
    return 0


def _here(config: Config, region: str) -> tuple[str, ...]:
    """Return the clusters of this account and Region; rules elsewhere must be made there."""
    here = []
    for at in clusters_of(config.ecs):
        if at.role_arn or (region and at.region not in ("", region)):
            click.echo(
                f"note: cluster {at.id} is in another Region or account and is left out: "
                "its events need rules there, which send to a bus here",
                err=True,
            )
        else:
            here.append(at.cluster)
    return tuple(here)


def _doing(account: EventsAccount, setup: Setup, what: str) -> Iterator[str]:
    return account.apply(setup) if what == "apply" else account.remove(setup)
