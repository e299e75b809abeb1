"""One look at one backend: a GET or a TCP handshake, and in a few words what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from discovery.model import BackendKey, Endpoint, HealthCheck, Service
from proxy.backend_tls import Contexts, in_words
from proxy.policy import identity
from proxy.policy.verdict import CheckResult
from proxy.settings import BackendTls

_WORDS: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connect timed out",
}
# What this machine lacks says nothing about the backend: no news is not bad news.
_OUR_OWN: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to check: one backend in its role for one service."""

    service: str
    key: BackendKey
    host: str
    port: int
    check: HealthCheck
    host_header: str
    tls: BackendTls | None = None  # None: in plain


def target(endpoint: Endpoint, service: Service, tls: BackendTls | None = None) -> Target:
    """Return how *endpoint* is checked as a backend of *service*, which is spoken to with *tls*."""
    return Target(
        service=service.name,
        key=endpoint.key,
        host=endpoint.host,
        port=endpoint.port,
        check=service.health,
        host_header=host_header(service),
        tls=tls,
    )


def host_header(service: Service) -> str:
    """Return the `Host` that the backends of *service* are checked with."""
    exact = (host for host in service.hosts if "*" not in host)
    return service.health.host or next(exact, service.name)


def proves_identity(check: HealthCheck) -> bool:
    """Return whether the answers to *check* have to say whose they are."""
    return check.kind == "http" and bool(check.identity_header or check.identity_body)


class Checker:
    """Performs checks. Every check opens a connection of its own: keep-alive to a dead task can lie."""

    def __init__(self) -> None:
        self._contexts = Contexts(lambda _why: None)  # who follows the files has said it already
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `check` has the only clock
            auto_decompress=False,
            headers={"User-Agent": "anyport-health-check", "Connection": "close"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def check(self, target: Target) -> CheckResult | None:
        """Return what *target* answered, or None if this machine could not even ask."""
        timeout_s = target.check.timeout_s
        context = self._contexts.get(target.tls) if target.tls is not None else None
        if target.tls is not None and context is None:
            return None  # its files cannot be used, which says nothing about the task
        try:
            async with asyncio.timeout(timeout_s):
                if target.check.kind == "tcp":
                    return await _shake_hands(target, context)
                return await self._get(target, context)
        except TimeoutError:
            return CheckResult(False, f"timeout after {timeout_s:g} s")
        except aiohttp.ServerDisconnectedError:
            return CheckResult(False, "closed without an answer")
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError):
            return CheckResult(False, "the answer is not HTTP")
        except OSError as exc:
            if exc.errno in _OUR_OWN:
                return None
            return CheckResult(False, _in_words(exc))
        except (aiohttp.ClientError, ValueError) as exc:
            return CheckResult(False, f"cannot be asked ({type(exc).__name__})")

    async def _get(self, target: Target, context: ssl.SSLContext | None) -> CheckResult:
        host = f"[{target.host}]" if ":" in target.host else target.host
        scheme = "http" if context is None else "https"
        url = URL(f"{scheme}://{host}:{target.port}{target.check.path}", encoded=True)
        # A redirect is an answer of this task; following it would check somebody else.
        async with self._session.get(
            url,
            headers={"Host": target.host_header},
            allow_redirects=False,
            ssl=context or True,
            server_hostname=(target.tls.name or None) if target.tls is not None else None,
        ) as response:
            if target.check.identity_body:
                return _judge(target, response, await _beginning(response.content))
            result = _judge(target, response, None)
            # The head has decided. An endless or broken body must not change that; it is read so that small
            # answers end without a reset.
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await response.content.read(identity.BODY_BYTES)
            return result


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """Return as much of a body as may hold a proof; what breaks off is what there is."""
    body = b""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while len(body) < identity.BODY_BYTES:
            data = await content.read(identity.BODY_BYTES - len(body))
            if not data:
                break
            body += data
    return body


def _judge(target: Target, response: aiohttp.ClientResponse, body: bytes | None) -> CheckResult:
    check = target.check
    low, high = check.statuses
    result = CheckResult(low <= response.status <= high, f"HTTP {response.status}")
    if not proves_identity(check):
        return result
    said = response.headers.getall(check.identity_header, ()) if check.identity_header else ()
    fault = identity.fault(identity.accepted(target.service, target.key.task_arn), said=said, body=body)
    # The page of an error that names nobody is the failed check that it would be anyway.
    return (
        CheckResult(False, fault, foreign=True)
        if identity.is_mismatch(fault) or (fault and result.ok)
        else result
    )


async def _shake_hands(target: Target, context: ssl.SSLContext | None) -> CheckResult:
    if context is not None and target.tls is not None:
        _, writer = await asyncio.open_connection(
            target.host, target.port, ssl=context, server_hostname=target.tls.name
        )
        writer.transport.abort()  # not every task says goodbye, and this check has seen what it wanted
        return CheckResult(True, "connected over TLS")
    _, writer = await asyncio.open_connection(target.host, target.port)
    # A dead port in the ephemeral range of this very host can meet itself (RFC 9293, simultaneous open).
    itself = writer.get_extra_info("sockname") == writer.get_extra_info("peername")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return CheckResult(False, "connection refused") if itself else CheckResult(True, "connected")


def _in_words(exc: OSError) -> str:
    broken = _tls_error(exc)
    if broken is not None:
        return f"TLS {in_words(broken)}"
    if exc.errno is None:
        return "connection failed"
    return _WORDS.get(exc.errno) or os.strerror(exc.errno).lower()


def _tls_error(exc: BaseException) -> ssl.SSLError | None:
    """Return what went wrong with TLS if that is what *exc* is about: aiohttp wraps it up in several ways."""
    inner = (getattr(exc, "certificate_error", None), getattr(exc, "os_error", None), exc.__cause__, exc)
    return next((found for found in inner if isinstance(found, ssl.SSLError)), None)
