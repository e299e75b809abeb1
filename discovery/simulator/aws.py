"""The AWS around the embedded ECS: moto's EC2, SQS, EventBridge and ELBv2, reached through our endpoint."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlencode

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

_EVENTS_PER_CALL = 10  # the limit of PutEvents
_OWN_HEADERS = ("connection", "transfer-encoding", "content-length", "keep-alive", "content-encoding")
_INSTANCE_ID = re.compile(r"<instanceId>(i-[0-9a-f]+)</instanceId>")


class MotoFailure(Exception):
    """moto could not be started or refused a call; the text says why."""


class Moto:
    """Async context manager around moto's server.

    Entering starts it and does not wait; the first call does. It takes a second or two, in which the
    rest of the simulator can start.
    """

    def __init__(self, *, region: str = "eu-west-1") -> None:
        self._region = region
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._url: asyncio.Task[str] | None = None
        self._rules = False  # whether an EventBridge rule may exist

    async def __aenter__(self) -> Self:
        for module in ("moto", "flask", "flask_cors"):
            if importlib.util.find_spec(module) is None:
                raise MotoFailure(
                    f"the embedded cluster needs {module}, which is not installed: "
                    "pip install 'anyport[simulator]'"
                )
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed on exit
        self._process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-P", "-m", "discovery.simulator.moto_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the simulator, which then ends this too
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),  # an SQS long poll takes what it takes
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        self._url = asyncio.create_task(self._started())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._session is not None
        assert self._errors is not None
        assert self._url is not None
        self._process.stdin.close()
        self._process.kill()  # it holds nothing worth an orderly end
        await asyncio.to_thread(self._process.wait)
        await asyncio.gather(self._url, return_exceptions=True)
        self._process.stdout.close()
        self._errors.close()
        await self._session.close()

    async def forward(self, request: web.Request) -> web.Response:
        """Pass a request to moto as it is, and its answer back; 503 when moto is gone."""
        if request.headers.get("X-Amz-Target") == "AWSEvents.PutRule":
            self._rules = True
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in _OWN_HEADERS)
        try:
            status, answer_headers, body = await self._send(
                request.method, request.raw_path, headers, await request.read()
            )
        except MotoFailure as exc:
            return web.json_response({"__type": "ServiceUnavailable", "message": str(exc)}, status=503)
        kept = CIMultiDict((k, v) for k, v in answer_headers.items() if k.lower() not in _OWN_HEADERS)
        return web.Response(status=status, headers=kept, body=body)

    async def run_instance(self, address: str, zone: str) -> str:
        """Start an EC2 instance with *address* as its private IP; returns its id."""
        xml = await self._ec2(
            Action="RunInstances",
            ImageId="ami-0a1b2c3d4e5f60718",
            InstanceType="m5.large",
            MinCount="1",
            MaxCount="1",
            PrivateIpAddress=address,
            **{"Placement.AvailabilityZone": zone},
        )
        found = _INSTANCE_ID.search(xml)
        if found is None:
            raise MotoFailure(f"RunInstances for {address} answered without an instance id")
        return found[1]

    async def terminate_instance(self, instance_id: str) -> None:
        """Terminate an EC2 instance; it stays visible as terminated."""
        await self._ec2(Action="TerminateInstances", **{"InstanceId.1": instance_id})

    async def put_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Put events (the whole envelope, as a rule's target gets it) on the default bus, in order.

        Costs nothing while nobody has made a rule.
        """
        if not self._rules:
            return
        entries = [_entry(event) for event in events]
        for start in range(0, len(entries), _EVENTS_PER_CALL):
            await self._call(
                "events",
                json.dumps({"Entries": entries[start : start + _EVENTS_PER_CALL]}),
                {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AWSEvents.PutEvents"},
            )

    async def _ec2(self, **parameters: str) -> str:
        return await self._call(
            "ec2",
            urlencode({"Version": "2016-11-15", **parameters}),
            {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        )

    async def _call(self, service: str, body: str, headers: Mapping[str, str]) -> str:
        scope = f"anyport/20260101/{self._region}/{service}/aws4_request"
        signed = CIMultiDict(headers)
        # moto looks at the scope, to tell the service and the Region, and never at the signature.
        signed["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        status, _, answer = await self._send("POST", "/", signed, body.encode())
        if status != 200:
            raise MotoFailure(f"{service} answered {status}: {answer.decode(errors='replace')[:500]}")
        return answer.decode()

    async def _send(
        self, method: str, path: str, headers: CIMultiDict[str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None
        assert self._url is not None
        # Shielded: a caller that gives up must not take the start of moto with it.
        url = await asyncio.shield(self._url)
        try:
            async with self._session.request(
                method, URL(url + path, encoded=True), headers=headers, data=body, allow_redirects=False
            ) as answer:
                return answer.status, answer.headers, await answer.read()
        except aiohttp.ClientError as exc:
            raise MotoFailure(f"moto does not answer: {exc}") from exc

    async def _started(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._errors is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            self._errors.seek(0)
            last = self._errors.read().strip().rpartition("\n")[2]
            raise MotoFailure(f"moto ended before it listened: {last or 'it said nothing'}")
        return f"http://127.0.0.1:{int(line)}"


def _entry(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event's envelope as an entry of PutEvents. Real AWS refuses the source aws.ecs; moto does not."""
    entry = {
        "Source": event["source"],
        "DetailType": event["detail-type"],
        "Resources": list(event.get("resources", ())),
        "Detail": json.dumps(event["detail"]),
    }
    if "time" in event:
        entry["Time"] = datetime.datetime.fromisoformat(event["time"]).timestamp()
    return entry
