"""Try the operator's program once before it becomes a service: does it start, and what can be checked?"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp

from proxy.demo.children import child, tail, until
from proxy.demo.specs import Spec

_ANSWERS_WITHIN_S: Final = 10.0
_STOPS_WITHIN_S: Final = 5.0
_HOST: Final = "127.0.0.1"


class ProgramError(Exception):
    """The program cannot serve; the text says why, with its last lines of output."""


async def try_out(spec: Spec, folder: Path, env: Mapping[str, str], *, within_s: float = 30.0) -> Spec:
    """Run the command of *spec* once, ask it for `/`, stop it; return *spec* with the check that suits it.

    Raises:
        ProgramError: If it ends, does not listen on $PORT, or does not speak HTTP there.
    """
    port = _free_port()
    log = folder / f"{spec.name}.log"
    settings = {**env, "PORT": str(port), "HOST": _HOST}
    async with child(
        "sh", "-c", spec.command, env=settings, log=log, stop_within_s=_STOPS_WITHIN_S
    ) as process:
        listening = await until(
            lambda: process.returncode is not None or _accepts(port), within_s=within_s, every_s=0.1
        )
        if process.returncode is not None:
            raise ProgramError(_report(spec, log, f"ended at once with exit code {process.returncode}"))
        if not listening:
            problem = f"did not listen on $PORT ({_HOST}:{port}) within {within_s:g} s: does it use $PORT?"
            raise ProgramError(_report(spec, log, problem))
        try:
            status = await _ask(f"http://{_HOST}:{port}/", spec.host)
        except (aiohttp.ClientError, TimeoutError) as exc:
            problem = f"listens on $PORT, but does not answer GET / over HTTP ({type(exc).__name__})"
            raise ProgramError(_report(spec, log, problem)) from exc
    if status >= 500:
        raise ProgramError(_report(spec, log, f"answers GET / with status {status}, which counts as failed"))
    if 200 <= status <= 399:
        return replace(spec, health="http", health_path="/")
    return replace(spec, health="tcp", health_path="/")


def _report(spec: Spec, log: Path, problem: str) -> str:
    output = tail(log) or "(it wrote nothing)"
    indented = "\n".join("    " + line for line in output.splitlines())
    return f"the program of service {spec.name} {problem}\n  {spec.command}\n  its last lines:\n{indented}"


async def _ask(url: str, host: str) -> int:
    timeout = aiohttp.ClientTimeout(total=_ANSWERS_WITHIN_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, headers={"Host": host}, allow_redirects=False) as response,
    ):
        await response.read()
        return response.status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((_HOST, port)) == 0
