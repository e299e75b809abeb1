"""Follows the files of certificates: a new pair that can serve goes to the workers, a bad one to the log."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from proxy.config.certificates import Pair, PairError, inspect
from proxy.settings import Certificate, ListenerSettings

log = logging.getLogger("anyport.control")

_LOOK_S: Final = 3.0  # between two looks at the files

State: TypeAlias = tuple[int, ...] | None  # of a file; None: it is not there


def aligned(
    bound: Sequence[ListenerSettings], wanted: Sequence[ListenerSettings]
) -> tuple[ListenerSettings, ...]:
    """Return *wanted* in the order in which the sockets are *bound*.

    Addresses cannot change while the process lives: an address that is no longer wanted keeps its settings,
    and one that is new is left out. If nothing is known of what is bound, *wanted* is the order.
    """
    if not bound:
        return tuple(wanted)
    rest = list(wanted)
    found = []
    for listener in bound:
        new = next((other for other in rest if other.address == listener.address), None)
        if new is not None:
            rest.remove(new)
        found.append(listener if new is None else new)
    return tuple(found)


@dataclass(slots=True)
class _Files:
    """What is known of one pair of files."""

    good: Certificate  # the newest that could serve; without a fingerprint: there was none
    pair: Pair | None = None  # what it says, once this process has read it
    seen: tuple[State, State] | None = None  # how the files were at the last look
    warned: str = ""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a certificate that is in use ends."""

    listener: str  # address
    cert: str  # file
    not_after_s: float  # Unix time


@dataclass(slots=True)
class Certificates:
    """The settings of the listeners, with what their files hold now.

    *bound* are those that the sockets and the workers have, in their order. `on_change` is called when
    `listeners` has changed.
    """

    bound: Sequence[ListenerSettings]
    on_change: Callable[[], None]
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    listeners: tuple[ListenerSettings, ...] = ()
    _wanted: tuple[ListenerSettings, ...] = ()  # the same, as the configuration alone has it
    _files: dict[tuple[str, str], _Files] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.listeners = self._wanted = tuple(self.bound)
        for listener in self.bound:
            for pair in listener.tls:
                self._files[pair.cert, pair.key] = _Files(pair)

    def follow(self, wanted: Sequence[ListenerSettings]) -> None:
        """Use *wanted*, the listeners of the configuration, from now on; look at their files at once."""
        self._wanted = aligned(self.listeners, wanted)
        self.look()

    async def run(self) -> None:
        """Look again every few seconds, for ever."""
        while True:
            await self.sleep(_LOOK_S)
            # In a thread: files may lie on a network.
            self.look(await asyncio.to_thread(self._states))

    def look(self, states: Mapping[str, State] | None = None) -> None:
        """Read the files that have changed. *states* is how they were found, if that is known already."""
        states = self._states() if states is None else states
        pairs = {(pair.cert, pair.key) for listener in self._wanted for pair in listener.tls}
        for gone in self._files.keys() - pairs:
            del self._files[gone]
        for cert, key in pairs:
            files = self._files.setdefault((cert, key), _Files(Certificate(cert=cert, key=key)))
            if cert in states and key in states:
                self._look_at(files, (states[cert], states[key]))
        listeners = tuple(
            replace(listener, tls=tuple(self._files[pair.cert, pair.key].good for pair in listener.tls))
            for listener in self._wanted
        )
        if listeners != self.listeners:
            self.listeners = listeners
            self.on_change()

    def expiries(self) -> list[Expiry]:
        """Return when each certificate that serves will have expired."""
        return [
            Expiry(listener.address, pair.cert, known.not_after_s)
            for listener in self.listeners
            for pair in listener.tls
            if (known := self._files[pair.cert, pair.key].pair) is not None
        ]

    def _states(self) -> dict[str, State]:
        pairs = [pair for listener in self._wanted for pair in listener.tls]
        return {path: _state_of(path) for pair in pairs for path in (pair.cert, pair.key)}

    def _look_at(self, files: _Files, seen: tuple[State, State]) -> None:
        cert, key = files.good.cert, files.good.key
        if seen != files.seen:
            files.seen = seen
            try:
                pair = inspect(cert, key)
            except PairError as exc:
                stays = (
                    "the one before stays in use"
                    if files.good.fingerprint
                    else "TLS cannot be served with it"
                )
                log.error("a certificate cannot be used, %s: %s (%s)", stays, exc.message, exc.hint)
                return
            if files.good.fingerprint and files.good.fingerprint != pair.fingerprint:
                log.info("new certificate in %s, for %s", cert, ", ".join(pair.names) or "no name")
            files.pair = pair
            files.good = replace(files.good, fingerprint=pair.fingerprint, names=pair.names)
        warning = files.pair.warning(self.wall()) if files.pair is not None else ""
        if warning != files.warned:
            files.warned = warning
            if warning:
                log.warning("the certificate %s %s", cert, warning)


def _state_of(path: str) -> State:
    """Return what changes when *path* is written or replaced, None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
