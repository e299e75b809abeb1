"""The rest of AWS, and the events it hears of: every change of the cluster goes to EventBridge, in order."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid

from discovery.simulator.aws import Moto, MotoFailure
from discovery.simulator.events import Bulletin, Event
from discovery.simulator.faults import Faults
from discovery.simulator.state import State
from discovery.simulator.wire import Json

log = logging.getLogger("anyport.simulator")

_MOST_WAITING = 10_000  # older events are worth more than memory only up to a point


class EventSender:
    """Sends what the bulletin says to EventBridge, as far as `faults` lets it through."""

    def __init__(
        self, moto: Moto, bulletin: Bulletin, state: State, rng: random.Random, faults: Faults
    ) -> None:
        self._moto = moto
        self._faults = faults
        self._state = state
        self._rng = rng
        self._waiting: asyncio.Queue[Json] = asyncio.Queue(_MOST_WAITING)
        bulletin.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        if not event.detail_type:
            return
        event_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        envelope = event.envelope(self._state.account, self._state.region, event_id)
        copies, delay_s = 1, 0.0
        for fault in self._faults.take_event(self._rng):
            if fault.kind == "events_lost":
                return
            if fault.kind == "events_twice":
                copies = 2
            else:
                delay_s = max(delay_s, fault.seconds)
        for _ in range(copies):
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, self._send, envelope)
            else:
                self._send(envelope)

    def _send(self, envelope: Json) -> None:
        if not self._waiting.full():
            self._waiting.put_nowait(envelope)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._moto.put_events(batch)
            except MotoFailure as exc:
                log.warning("%d events did not reach EventBridge: %s", len(batch), exc)
