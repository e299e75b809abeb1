"""Speaking to the anyport that runs on this machine.

Light and lenient on purpose: a health check runs every few seconds for ever, and must not fail because
somebody has just saved a mistake in config.toml that the running proxy has refused.
"""

from __future__ import annotations

import http.client
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from proxy.cli.fault import Fault

METRICS: Final = "0.0.0.0:9180"
ADMIN: Final = "127.0.0.1:9181"
_MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What the local anyport answered."""

    status: int
    body: bytes

    def why(self) -> str:
        """Return the reasons of /readyz, or the beginning of whatever was sent, as one line."""
        try:
            reasons = json.loads(self.body)["reasons"]
            text = "; ".join(str(reason) for reason in reasons)
        except (ValueError, KeyError, TypeError):
            text = " ".join(self.body.decode("utf-8", "replace").split())
        return printable(text)[:1000]

    def json(self) -> Any:  # noqa: ANN401 - whatever was sent
        """Return the body as JSON; raise `Fault` if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Fault(
                f"the answer (HTTP {self.status}) is not JSON: is this anyport's address?",
                "name another with --url",
            ) from None


def config_path(option: str | None, environ: Mapping[str, str]) -> Path | None:
    """Return which file to read: the option, else ./config.toml, else $ANYPORT_CONFIG, else none."""
    if option is not None:
        return Path(option)
    if os.path.exists("config.toml"):
        return Path("config.toml")
    return Path(environ["ANYPORT_CONFIG"]) if environ.get("ANYPORT_CONFIG") else None


def setting(section: str, key: str, default: str, path: Path | None, environ: Mapping[str, str]) -> str:
    """Return one string of the configuration without judging the rest; *default* if it cannot be read."""
    from_environ = environ.get(f"ANYPORT_{section}__{key}".upper())
    if from_environ is not None:
        return from_environ.strip("\"'")
    if path is None:
        return default
    try:
        with path.open("rb") as file:
            value = tomllib.load(file)[section][key]
    except (OSError, ValueError, KeyError, TypeError):
        return default
    return value if isinstance(value, str) else default


def printable(text: str) -> str:
    """Return *text* without what could move a terminal's cursor: names come from labels and tags."""
    return "".join(c if c.isprintable() else "?" for c in text)


def base_url(address: str) -> str:
    """Return where to reach a server bound to *address* from this machine."""
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{host}:{port}"


def get(url: str, path: str, *, token: str = "", timeout_s: float) -> Reply:
    """Return the answer to GET *path* at *url*; raise `Fault` if there is none."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if not host or parts.scheme != "http":
        raise Fault(f'"{url}" is not an address such as http://127.0.0.1:9181', exit_code=2)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    headers = {"Accept": "application/json", "User-Agent": "anyport-cli"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        return Reply(response.status, response.read(_MAX_BYTES))
    except TimeoutError:
        raise Fault(f"no answer from {host}:{port} within {timeout_s:g} s", "see its log") from None
    except (OSError, http.client.HTTPException) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else type(exc).__name__
        raise Fault(
            f"no anyport answers at {host}:{port}: {why}",
            "start it with `anyport run`, or say where it is with --url or --config",
        ) from None
    finally:
        connection.close()
