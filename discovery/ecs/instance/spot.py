"""The two minutes' notice that EC2 gives a Spot instance, read from the metadata of our own.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html: to be asked for
every five seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp

from discovery.ecs.feed import Heard
from discovery.ecs.ledger.ledger import Ledger
from discovery.imds import TIMEOUT_S, Imds, ImdsError
from discovery.whoami import Whoami

log = logging.getLogger("anyport.discovery")

INTERVAL_S: Final = 5.0
_ACTIONS: Final = ("terminate", "stop", "hibernate")


class SpotFeed:
    """Tells *ledger* when EC2 is about to take away the instance we run on.

    So it tells `tell(ec2_id, notice)`; "" takes the notice back.
    """

    name = "spot"

    def __init__(
        self,
        ledger: Ledger,
        heard: Heard,
        *,
        whoami: Whoami,
        tell: Callable[[str, str], None] = lambda ec2_id, notice: None,
        environ: Mapping[str, str] = os.environ,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._ledger = ledger
        self._heard = heard
        self._whoami = whoami
        self._tell = tell
        self._environ = environ
        self._interval_s = interval_s
        self._hurry = asyncio.Event()
        self._notice = ""

    def hurry(self) -> None:
        self._hurry.set()

    async def run(self) -> None:
        await self._whoami.known()
        self._notice = ""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=2 * TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            imds = Imds(session, self._environ)
            while imds.enabled:
                # Only what has told who the machine is can tell what becomes of it.
                if self._whoami.identity.ec2_id:
                    await self._look(imds, self._whoami.identity.ec2_id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._hurry.wait()
                self._hurry.clear()

    async def _look(self, imds: Imds, ec2_id: str) -> None:
        try:
            notice = read_notice(await imds.get("meta-data/spot/instance-action"))
        except (ImdsError, ValueError) as exc:
            log.debug("no word on Spot interruptions: %s", exc)
            return
        # A notice that an event has told of is not ours to take back.
        if notice == self._notice:
            return
        self._notice = notice
        self._ledger.hear_notice(ec2_id, notice)
        log.warning("%s: %s", ec2_id, notice or "the Spot interruption has been called off")
        self._heard()
        self._tell(ec2_id, notice)


def read_notice(body: bytes | None) -> str:
    """Return what `spot/instance-action` announces, "" for nothing; ValueError for what makes no sense."""
    if body is None:
        return ""
    document = json.loads(body)
    action = document.get("action") if isinstance(document, dict) else None
    if action not in _ACTIONS:
        raise ValueError("an action that is not known")
    return f"Spot interruption: {action}"
