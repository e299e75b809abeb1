"""Hands the newest snapshot to every worker and to the supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from proxy.link import snapshots
from proxy.link.snapshots import Encoder, TableSnapshot

log = logging.getLogger("anyport.control")

_RETRY_S = 0.02
_RETRY_MAX_S = 1.0


class Publisher:
    """Numbers, seals and sends tables. A link that is full gets the newest one later."""

    def __init__(
        self,
        links: Sequence[socket.socket],
        *,
        inherited: TableSnapshot,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._links = tuple(links)
        self._sleep = sleep
        self._behind: list[socket.socket] = []
        self._late = asyncio.Event()
        self._encoder = Encoder()
        self._fd = -1
        self._sent = False
        self.newest = inherited

    def publish(self, table: TableSnapshot) -> bool:
        """Send *table* under the next revision; return False if it says nothing new."""
        if self._sent and replace(table, revision=self.newest.revision) == self.newest:
            return False
        self.newest = replace(table, revision=self.newest.revision + 1)
        fd = snapshots.seal(*self._encoder.parts(self.newest))
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._sent = fd, True
        self._behind = list(self._links)
        self._send()
        return True

    async def retry_forever(self) -> None:
        """Serve the links that were full, for as long as the process lives."""
        pause_s = _RETRY_S
        while True:
            await self._late.wait()
            await self._sleep(pause_s)
            self._send()
            pause_s = min(pause_s * 2, _RETRY_MAX_S) if self._behind else _RETRY_S

    def close(self) -> None:
        """Let go of the newest snapshot; the links stay their owner's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _send(self) -> None:
        self._behind = [link for link in self._behind if not self._pass_on(link)]
        if self._behind:
            self._late.set()
        else:
            self._late.clear()

    def _pass_on(self, link: socket.socket) -> bool:
        try:
            return snapshots.send(link, self.newest.revision, self._fd)
        except OSError as exc:
            # A worker that is down leaves its descriptors in flight, and the kernel counts them.
            log.debug("revision %d not taken by link %d: %s", self.newest.revision, link.fileno(), exc)
            return False
