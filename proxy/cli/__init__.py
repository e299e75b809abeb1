"""The commands. Each imports what it needs when it runs, so that `--help` and `healthcheck` are quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from proxy.cli.duration import Duration
from proxy.cli.fault import Fault
from proxy.cli.local import ADMIN, METRICS, base_url, config_path, get, setting

if TYPE_CHECKING:
    from proxy.config import Config

_F = TypeVar("_F", bound=Callable[..., Any])
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
_SIMULATOR: Final = 'for a demo on a workstation: pip install "anyport[simulator]"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. 2: usage or configuration, 1: it failed, 130: Ctrl-C."""
    try:
        result = anyport.main(
            list(arguments) if arguments is not None else None, prog_name="anyport", standalone_mode=False
        )
    except click.ClickException as exc:
        exc.show()
        return 2
    except Fault as exc:
        click.echo(str(exc), err=True)
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left (`anyport table | head`); nothing may be flushed at exit any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"anyport {version('anyport')}")
        ctx.exit()


def _config_option(command: _F) -> _F:
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="The configuration. Default: ./config.toml if it exists, else $ANYPORT_CONFIG, else defaults.",
    )(command)


def _url_option(command: _F) -> _F:
    return click.option(
        "--url", metavar="URL", help="Where anyport answers. Default: from the configuration."
    )(command)


def _timeout_option(command: _F) -> _F:
    return click.option(
        "--timeout", "timeout_s", type=Duration(), default="3s", show_default=True, help="How long to wait."
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def anyport() -> None:
    """One fixed port in front, any port behind: a reverse proxy for Amazon ECS."""


@anyport.command()
@_config_option
def run(config_file: str | None) -> int:
    """Run the proxy until SIGTERM or Ctrl-C. SIGHUP reloads the configuration.

    Where `handoff` is set and an anyport runs there already, this one takes its ports over without a gap.
    """
    path = config_path(config_file, os.environ)
    config = _load(path)
    from proxy import app

    try:
        return app.run(path, config)
    except app.StartError as exc:
        raise Fault(*exc.args) from None


@anyport.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(config_file: str | None, as_json: bool) -> int:
    """Validate a configuration: every error at once. Exit 0 if it can be used, 1 if not."""
    import time
    from dataclasses import asdict

    from proxy.config import ConfigError, load
    from proxy.config.certificates import warnings

    path = config_path(config_file, os.environ)
    named = str(path) if path else "defaults and ANYPORT_… variables"
    try:
        config = load(path, os.environ, files=True)
    except ConfigError as exc:
        if as_json:
            issues = [asdict(issue) for issue in exc.issues]
            click.echo(json.dumps({"ok": False, "config": str(path or ""), "issues": issues}, indent=2))
        else:
            click.echo(str(exc), err=True)
            count = len(exc.issues)
            click.echo(f"{named}: {count} error{'s' if count > 1 else ''}", err=True)
        return 1
    warned = list(warnings(config, time.time()))
    if as_json:
        answer = {"ok": True, "config": str(path or ""), "issues": [], "warnings": warned}
        click.echo(json.dumps(answer, indent=2))
    else:
        for warning in warned:
            click.echo(f"{named}: warning: {warning}", err=True)
        click.echo(f"{named}: OK ({_summary(config)})")
    return 0


@anyport.command()
@_config_option
@_url_option
@_timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.option("--service", metavar="NAME", help="Only this service.")
@click.option("--told", is_flag=True, help="Say who has told of each task what, and when.")
def table(
    config_file: str | None, url: str | None, timeout_s: float, as_json: bool, service: str | None, told: bool
) -> int:
    """Print which task answers where, as the running anyport has it."""
    from proxy.cli.show import print_table

    rows = _admin(config_file, url, timeout_s, "/api/v1/table")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Fault("the answer is not a table: is this anyport's admin address?", "name another with --url")
    rows = [row for row in rows if service is None or row.get("service") == service]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        print_table(rows, told=told)
    return 0


@anyport.command()
@_config_option
@_url_option
@_timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(config_file: str | None, url: str | None, timeout_s: float, as_json: bool) -> int:
    """Print how the running anyport is: its sources, its workers, and what it left out and why."""
    from proxy.cli.show import print_status

    answer = _admin(config_file, url, timeout_s, "/api/v1/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        print_status(answer)
    return 0


@anyport.command()
@_config_option
@_url_option
@_timeout_option
@click.option(
    "--ready", is_flag=True, help="Ask /readyz (may it get traffic) instead of /healthz (is it alive)."
)
def healthcheck(config_file: str | None, url: str | None, timeout_s: float, ready: bool) -> int:
    """Exit 0 if the anyport on this machine is alive, 1 if not: for container health checks."""
    path = config_path(config_file, os.environ)
    where = url or base_url(setting("metrics", "address", METRICS, path, os.environ))
    question = "/readyz" if ready else "/healthz"
    reply = get(where, question, timeout_s=timeout_s)
    if reply.status != 200:
        raise Fault(f"{question} answered {reply.status}: {reply.why()}")
    click.echo("ready" if ready else "alive")
    return 0


@anyport.command()
@click.option(
    "--for", "for_s", type=Duration(), help="End by itself, such as 20s or 2m. Default: until Ctrl-C."
)
@click.option(
    "--service", "services", multiple=True, metavar="NAME=COMMAND",
    help="Run COMMAND as the tasks of a service; it listens on $PORT. May be given several times.",
)  # fmt: skip
@click.option(
    "--tasks", type=click.IntRange(1, 50), default=3, show_default=True, help="Tasks of each service."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True,
    help="The fixed port; if it is taken, a free one.",
)  # fmt: skip
def demo(for_s: float | None, services: tuple[str, ...], tasks: int, port: int) -> int:
    """Show the main job on this machine: an ECS cluster, anyport, load, deploys and kills. No AWS account."""
    _services(services)
    _needs_simulator("the demo")
    from proxy.demo import main as proxy_demo

    return proxy_demo.main(for_s=for_s, services=services, tasks=tasks, port=port)


@anyport.command()
@click.option(
    "--address", default="127.0.0.1:4566", show_default=True, metavar="IP:PORT", help="Where the API answers."
)
@click.option("--cluster", default="demo", show_default=True, metavar="NAME", help="The cluster to make.")
@click.option(
    "--instances", type=click.IntRange(1, 20), default=3, show_default=True, help="Container instances."
)
@click.option(
    "--speed", type=click.FloatRange(0.1, 100), default=1.0, show_default=True,
    help="How much faster than real ECS tasks start and stop.",
)  # fmt: skip
def simulate(address: str, cluster: str, instances: int, speed: float) -> int:
    """Run the embedded ECS cluster alone; print the environment that points AWS clients at it."""
    _needs_simulator("the simulator")
    from discovery.simulator import serve

    return serve.main(address=address, cluster=cluster, instances=instances, speed=speed)


@anyport.command()
@click.option(
    "--proxy", default="", envvar="ANYPORT_URL", metavar="URL",
    help="Whom to ask: an anyport's metrics address. Default: $ANYPORT_URL, else port 9180 of this host.",
)  # fmt: skip
@click.option(
    "--deadline", "deadline_s", type=Duration(), default="5s", show_default=True,
    help="Let go after so long in any case. Must be less than the container's stopTimeout.",
)  # fmt: skip
@click.option(
    "--settle", "settle_s", type=Duration(or_none=True), default="1s", show_default=True,
    help="Once every proxy has let go, so much longer for the requests under way.",
)  # fmt: skip
@click.option("--now", is_flag=True, help="Hold nothing back: for an incident.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def linger(proxy: str, deadline_s: float, settle_s: float, now: bool, command: tuple[str, ...]) -> int:
    """Hold the stop signal of this ECS task back until no proxy sends it anything new.

    Alone it is a sidecar: a container that is not essential and depends on the app's, which ECS therefore
    stops first. As `anyport linger -- COMMAND ...` it starts the app and passes it every signal, SIGTERM
    late. A second SIGTERM ends the wait.
    """
    from proxy.cli.linger import Linger, Options

    if settle_s >= deadline_s:
        raise click.UsageError("--settle is a part of --deadline: it must be less")
    options = Options(
        proxy=proxy,
        metadata_url=os.environ.get("ECS_CONTAINER_METADATA_URI_V4", ""),
        deadline_s=deadline_s,
        settle_s=settle_s,
        now=now,
        say=lambda text: click.echo(f"anyport linger: {text}", err=True),
    )
    return Linger(options).run(command)


@anyport.command("events-setup")
@_config_option
@click.option("--apply", "apply_", is_flag=True, help="Make it in the account. Again, it changes nothing.")
@click.option("--remove", is_flag=True, help="Take it away again.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def events_setup(config_file: str | None, apply_: bool, remove: bool, as_json: bool) -> int:
    """Print what it takes in AWS for events to arrive, as a CloudFormation template, or make it.

    Rules of EventBridge that send the events of the configured clusters to an SNS topic, to which each proxy
    subscribes a queue of its own, or to the queue that [ecs.events] names.
    """
    if apply_ and remove:
        raise click.UsageError("--apply and --remove are opposites")
    config = _load(config_path(config_file, os.environ))
    from proxy.cli.setup import set_up

    return set_up(config, "apply" if apply_ else "remove" if remove else "print", as_json=as_json)


@anyport.command("iam-policy")
@_config_option
@click.option(
    "--account", default="", metavar="NUMBER", help="The AWS account, where the configuration does not say."
)
@click.option("--region", default="", metavar="NAME", help="The Region, likewise. Default: $AWS_REGION.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one object: the task role's policy, and by role."
)
def iam_policy(config_file: str | None, account: str, region: str, as_json: bool) -> int:
    """Print the least IAM policy for the configuration: of the task role, and of each role it assumes."""
    if account and not (len(account) == 12 and account.isascii() and account.isdigit()):
        raise click.UsageError(f'--account is a number of twelve digits, not "{account}"')
    config = _load(config_path(config_file, os.environ))
    from proxy.cli.policy import needed, print_policies

    print_policies(needed(config, account=account, region=region), as_json=as_json)
    return 0


def _load(path: Path | None) -> Config:
    from proxy.config import ConfigError, load

    try:
        return load(path, os.environ, files=True)
    except ConfigError as exc:
        raise Fault(f"the configuration cannot be used\n{exc}", exit_code=2) from None


def _summary(config: Config) -> str:
    from proxy.config import clusters_of

    clusters = ", ".join(at.id for at in clusters_of(config.ecs))
    parts = [
        f"listens on {', '.join(listener.address for listener in config.listener)}",
        f"cluster{'s' if ', ' in clusters else ''} {clusters}" if clusters else "no ECS cluster",
        f"{len(config.service)} service{'' if len(config.service) == 1 else 's'} named",
    ]
    if config.ecs.events.queue:
        parts.append("events on")
    if config.fleet.key:
        parts.append("in a fleet")
    if config.state.path:
        parts.append(f"state in {config.state.path}")
    return "; ".join(parts)


def _admin(config_file: str | None, url: str | None, timeout_s: float, question: str) -> Any:  # noqa: ANN401 - JSON
    path = config_path(config_file, os.environ)
    token = setting("admin", "token", "", path, os.environ)
    where = url or base_url(setting("admin", "address", ADMIN, path, os.environ))
    reply = get(where, question, token=token, timeout_s=timeout_s)
    if reply.status in (401, 403):
        raise Fault(
            f"the admin API refused this (HTTP {reply.status})",
            "set ANYPORT_ADMIN__TOKEN, or name the --config with the token",
        )
    if reply.status != 200:
        raise Fault(f"{question} answered HTTP {reply.status}", "see its log")
    return reply.json()


def _services(services: tuple[str, ...]) -> None:
    for service in services:
        name, equals, command = service.partition("=")
        if not equals or not name.strip() or not command.strip():
            raise click.UsageError(
                f"--service is NAME=COMMAND, such as 'web=./my-server --port $PORT', not '{service}'"
            )


def _needs_simulator(what: str) -> None:
    """Raise `Fault` in an installation for production, which leaves the simulator's packages out."""
    from importlib.util import find_spec

    missing = [name for name in ("moto", "flask", "flask_cors") if find_spec(name) is None]
    if missing:
        raise Fault(f"{what} needs {', '.join(missing)}, which is not installed", _SIMULATOR)
