"""The instance metadata service, version 2 only, as far as ECS software asks it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping

from aiohttp import web

from discovery.simulator.metadata import rfc3339
from discovery.simulator.state import Instance

_MAX_TTL_S = 21600
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name


class InstanceMetadata:
    """The routes for one instance. A Spot notice is 404 until one is set."""

    def __init__(self, instance: Instance, region: str, clock: Callable[[], float]) -> None:
        self._instance = instance
        self._region = region
        self._clock = clock
        self._tokens: dict[str, float] = {}  # when each expires
        self.spot: tuple[str, float] | None = None  # action, and when

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_put("/latest/api/token", self._token)
        app.router.add_get("/{path:.*}", self._get)
        return app

    def tree(self) -> Mapping[str, str]:
        """Everything there is to read, by path below `/latest/`."""
        instance, account = self._instance, self._instance.cluster_arn.split(":")[4]
        octets = instance.address.split(".")
        document = {
            "accountId": account,
            "architecture": "x86_64",
            "availabilityZone": instance.zone,
            "imageId": "ami-0a1b2c3d4e5f60718",
            "instanceId": instance.ec2_instance_id,
            "instanceType": "m5.large",
            "pendingTime": rfc3339(float(int(instance.registered_at))),
            "privateIp": instance.address,
            "region": self._region,
            "version": "2017-09-30",
        }
        tree = {
            "meta-data/ami-id": document["imageId"],
            "meta-data/instance-id": instance.ec2_instance_id,
            "meta-data/instance-life-cycle": "spot" if self.spot else "on-demand",
            "meta-data/instance-type": document["instanceType"],
            "meta-data/local-hostname": f"ip-{'-'.join(octets)}.{self._region}.compute.internal",
            "meta-data/local-ipv4": instance.address,
            "meta-data/mac": "0e:89:" + ":".join(f"{int(octet):02x}" for octet in octets),
            "meta-data/placement/availability-zone": instance.zone,
            "meta-data/placement/region": self._region,
            "dynamic/instance-identity/document": json.dumps(document, indent=2),
        }
        if self.spot:
            action, at = self.spot
            notice = {"action": action, "time": rfc3339(float(int(at)))}
            tree["meta-data/spot/instance-action"] = json.dumps(notice)
        return tree

    async def _token(self, request: web.Request) -> web.Response:
        ttl = request.headers.get(_TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdigit() and len(ttl) <= 5 and 1 <= int(ttl) <= _MAX_TTL_S):
            raise web.HTTPBadRequest
        if "X-Forwarded-For" in request.headers:  # somebody's open proxy is asking
            raise web.HTTPForbidden
        now = self._clock()
        self._tokens = {token: expires for token, expires in self._tokens.items() if expires > now}
        token = secrets.token_urlsafe(40)
        self._tokens[token] = now + int(ttl)
        return web.Response(text=token, headers={_TTL_HEADER: ttl})

    async def _get(self, request: web.Request) -> web.Response:
        if self._tokens.get(request.headers.get(_TOKEN_HEADER, ""), 0.0) <= self._clock():
            raise web.HTTPUnauthorized
        path = request.match_info["path"].removeprefix("latest/")
        tree = self.tree()
        if path.rstrip("/") in tree:
            return web.Response(text=tree[path.rstrip("/")])
        folder = path.rstrip("/") + "/"
        names = {name.removeprefix(folder) for name in tree if name.startswith(folder)}
        if not names:
            raise web.HTTPNotFound
        listing = sorted({head + slash for head, slash, _ in (name.partition("/") for name in names)})
        return web.Response(text="\n".join(listing))
