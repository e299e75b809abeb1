"""The labels there are, and what a value of each may be. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final


class BadValue(ValueError):
    """A label's value makes no sense; the text says what to write."""


ROUTE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_HOST: Final = re.compile(
    r"(\*\.)?[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_PATH: Final = re.compile(r"/[!-~]*")
_PORT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token (RFC 9110 section 5.6.2)
_DURATION: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m)?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


def read_switch(value: str) -> bool:
    """Return what "true" or "false" and their like mean."""
    if value.lower() in ("true", "1", "yes", "on"):
        return True
    if value.lower() in ("false", "0", "no", "off"):
        return False
    raise BadValue(f'{value!r} is neither "true" nor "false"')


def _service(value: str) -> str:
    if not _SERVICE.fullmatch(value):
        raise BadValue(f"{value!r} is not a service name: letters, digits, '_', '.' and '-', at most 128")
    return value


def _hosts(value: str) -> tuple[str, ...]:
    hosts = tuple(dict.fromkeys(part.strip().lower() for part in value.split(",")))
    return tuple(_host(host) for host in hosts)


def _host(host: str) -> str:
    if host == "*" or (len(host) <= 253 and _HOST.fullmatch(host)):
        return host
    if "://" in host or "/" in host:
        why = "write the host name alone; paths go to anyport.path"
    elif ":" in host:
        why = "write it without the port"
    else:
        why = 'write names such as "web.example.com" or "*.example.com", separated by commas'
    raise BadValue(f"{host!r} is not a host name: {why}")


def _path(value: str) -> str:
    if not _PATH.fullmatch(value) or "?" in value or "#" in value:
        raise BadValue(f'{value!r} is not a path: it starts with "/" and has no "?", "#" or blank')
    return value


def _target(value: str) -> str:
    """Read the path of a health check, which may have a query."""
    if not _PATH.fullmatch(value) or "#" in value:
        raise BadValue(f'{value!r} is not a path: it starts with "/" and has no "#" or blank')
    return value


def _port(value: str) -> tuple[int | None, str]:
    if value.isascii() and value.isdigit():
        if len(value) > 5 or not 0 < int(value) <= 65535:
            raise BadValue(f"{value!r} is not a port: write a container port between 1 and 65535")
        return int(value), ""
    if not _PORT_NAME.fullmatch(value):
        raise BadValue(f"{value!r} is neither a container port nor the name of a port mapping")
    return None, value


def _kind(value: str) -> str:
    if value.lower() not in ("http", "tcp", "none"):
        raise BadValue(f'{value!r} is not a kind of check: write "http", "tcp" or "none"')
    return value.lower()


def _duration(value: str) -> float:
    match = _DURATION.fullmatch(value)
    seconds = float(match[1]) * _UNIT_S[match[2]] if match else 0.0
    if not 0 < seconds <= 3600:
        raise BadValue(f'{value!r} is not a duration: write seconds, "500ms", "5s" or "1m", at most an hour')
    return seconds


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 3 and 0 < int(value) <= 100):
        raise BadValue(f"{value!r} is not a number of checks between 1 and 100")
    return int(value)


def _tls(value: str) -> str:
    if value.lower() not in ("verify", "insecure", "off"):
        raise BadValue(f'{value!r} says nothing of TLS: write "verify", "insecure" or "off"')
    return value.lower()


def _tls_name(value: str) -> str:
    name = value.lower()
    if "*" in name:
        raise BadValue(f"{value!r} is a pattern: write one exact name that the certificate is for")
    return _host(name)


def _health_host(value: str) -> str:
    host = value.lower()
    if host == "*" or host.startswith("*."):
        raise BadValue(f"{value!r} is a pattern: a check sends one exact host name")
    return _host(host)


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise BadValue(f'{value[:100]!r} is not the name of a header such as "X-Service"')
    return value.lower()


KEYS: Final[Mapping[str, Callable[[str], Any]]] = {
    "service": _service,
    "host": _hosts,
    "path": _path,
    "port": _port,
    "tls": _tls,
    "tls.name": _tls_name,
    "health.kind": _kind,
    "health.path": _target,
    "health.interval": _duration,
    "health.timeout": _duration,
    "health.healthy": _count,
    "health.unhealthy": _count,
    "health.host": _health_host,
    "health.identity-header": _header,
    "health.identity-body": read_switch,
}
