"""The instance metadata service of EC2, version 2: what the machine under us is, and what will become of it.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp

from discovery.answers import TooLargeError, body_of

TIMEOUT_S: Final = 1.0  # it answers in milliseconds, or does not exist
ENDPOINTS: Final = ("http://169.254.169.254", "http://[fd00:ec2::254]")
_TOKEN_TTL_S: Final = 21600
_MOST_BYTES: Final = 64 * 1024


class ImdsError(Exception):
    """There is no metadata service here, or it does not answer (now)."""


class Imds:
    """Asks over *session*, which the caller closes.

    *environ* may point it elsewhere or switch it off, with the variables every AWS SDK knows:
    AWS_EC2_METADATA_DISABLED, AWS_EC2_METADATA_SERVICE_ENDPOINT and its _MODE.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        environ: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._clock = clock
        self._endpoints = endpoints(environ)
        self._token = ""
        self._token_until_s = 0.0

    @property
    def enabled(self) -> bool:
        return bool(self._endpoints)

    async def get(self, path: str) -> bytes | None:
        """Return what stands at *path* ("meta-data/instance-id"), None if nothing does.

        Raises `ImdsError`.
        """
        error = ImdsError("switched off")
        for endpoint in self._endpoints:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    found = await self._get(endpoint, path)
            except (aiohttp.ClientError, OSError, TooLargeError, ImdsError) as exc:
                error = ImdsError(f"{endpoint}: {str(exc) or type(exc).__name__}")
                self._token = ""
                continue
            self._endpoints = (endpoint,)
            return found
        raise error

    async def _get(self, endpoint: str, path: str) -> bytes | None:
        if not self._token or self._clock() >= self._token_until_s:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
            status, body = await self._ask("PUT", f"{endpoint}/latest/api/token", headers)
            token = body.decode("ascii", "replace")
            if status != 200 or not token.isprintable() or not token.isascii():
                raise ImdsError(f"status {status} to a request for a token")
            self._token, self._token_until_s = token, self._clock() + _TOKEN_TTL_S / 2
        headers = {"X-aws-ec2-metadata-token": self._token}
        status, body = await self._ask("GET", f"{endpoint}/latest/{path}", headers)
        if status == 404:
            return None
        if status != 200:
            raise ImdsError(f"status {status} to {path}")
        return body

    async def _ask(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        async with self._session.request(method, url, headers=headers, allow_redirects=False) as response:
            return response.status, await body_of(response, _MOST_BYTES)


def endpoints(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return where to ask, in order; () if it is switched off."""
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return ()
    if given := environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""):
        return (given.rstrip("/"),)
    if environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6":
        return ENDPOINTS[1:]
    return ENDPOINTS
