"""Who may use the admin server."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from proxy.control.admin.server import Handler, answer


def guard(token: Callable[[], str]) -> Middleware:
    """Return the middleware that lets in who came by address and, if there is a token, has it."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not by_address(request.headers.get("Host", "")):
            return answer(
                {
                    "error": "the Host header must be an IP address or localhost",
                    "try": "http://127.0.0.1:9181",
                },
                status=421,
            )
        if not authorized(request.headers.get("Authorization", ""), token()):
            refused = answer({"error": "send the token of [admin]: Authorization: Bearer ..."}, status=401)
            refused.headers["WWW-Authenticate"] = 'Bearer realm="anyport"'
            return refused
        return await handler(request)

    return check


def by_address(host: str) -> bool:
    """Return whether *host* names this server by address.

    A page that someone's browser has open can make its own name point to 127.0.0.1 and then read what it
    likes (DNS rebinding), but it cannot keep that name out of the Host header.
    """
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    if port and not (port.isascii() and port.isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    try:
        if name.startswith("[") and name.endswith("]"):
            ipaddress.IPv6Address(name[1:-1])
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def authorized(header: str, token: str) -> bool:
    """Return whether *header* carries *token*, in a time that tells nothing; always if there is no token."""
    if not token:
        return True
    scheme, _, given = header.partition(" ")
    same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"
