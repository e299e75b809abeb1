"""`anyport demo`: the whole main job in one command, without an AWS account."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from discovery.simulator.aws import MotoFailure
from discovery.simulator.network import NoAddressError
from discovery.simulator.runtime import RuntimeFailure
from discovery.simulator.simulator import SimulatorError
from proxy.demo import specs
from proxy.demo.run import Demo, DemoError
from proxy.demo.trial import ProgramError


def main(
    *,
    for_s: float | None = None,
    services: Sequence[str] = (),
    tasks: int = 3,
    port: int = 8080,
) -> int:
    """Run the demo for *for_s* seconds of use, or until Ctrl-C, and return the exit code.

    *services* are `NAME=COMMAND` texts: the operator's own programs, each as *tasks* tasks; without
    them the built-in services run. *port* is the fixed port; a free one is taken where it is busy.
    The code is 0 only if requests were made and none failed that should not have; 2 is a wrong option.
    """
    try:
        wanted = specs.own(services, tasks) if services else specs.BUILT_IN
    except specs.OptionError as exc:
        click.echo(f"anyport demo: {exc}", err=True)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="anyport-demo-"))
    # The screen is ours alone: what libraries have to say goes to a file.
    logging.basicConfig(filename=folder / "demo.log", level=logging.WARNING)
    code, keep = 1, True
    try:
        code = asyncio.run(Demo(for_s=for_s, wanted=wanted, port=port, folder=folder).run())
        keep = code != 0
    except (DemoError, ProgramError, SimulatorError, NoAddressError, MotoFailure, RuntimeFailure) as exc:
        click.echo(f"anyport demo: {exc}", err=True)
    except asyncio.CancelledError:
        click.echo("anyport demo: interrupted before there was anything to sum up", err=True)
        code, keep = 130, False
    finally:
        logging.shutdown()
        if keep:
            click.echo(f"Logs are kept in {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code
