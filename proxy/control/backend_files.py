"""Follows the files for TLS to backends: what can be used goes to workers and checks, the rest to the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from discovery.model import Service, Tls
from proxy.backend_tls import FilesError, build, fingerprint
from proxy.settings import BackendTls
from proxy.steps import finish

log = logging.getLogger("anyport.control")

_LOOK_S: Final = 3.0  # between two looks at the files


@dataclass(slots=True)
class _Files:
    """What is known of the files of one setting."""

    setting: BackendTls  # without a name; with the fingerprint of what could be used last, "": nothing yet
    said: str = ""  # what was wrong with them at the last look


@dataclass(slots=True)
class BackendFiles:
    """The TLS settings of services, with the fingerprints of what their files hold.

    `on_change` is called when one of them has another fingerprint.
    """

    on_change: Callable[[], None]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _known: dict[Tls, _Files] = field(default_factory=dict)
    _asked: Mapping[str, Service] | None = None  # the newest question, and its answer
    _settings: Mapping[str, BackendTls] = field(default_factory=dict)

    def settings(self, services: Mapping[str, Service]) -> Mapping[str, BackendTls]:
        """Return how to speak with the backends of each of *services*, by name; those in plain are left out.

        Files that are new are looked at now, those that none of *services* has are forgotten. What did not
        change is the same object as before.
        """
        if services is self._asked:
            return self._settings
        wanted = {service.name: service.tls for service in services.values() if service.tls is not None}
        nameless = {replace(tls, name="") for tls in wanted.values()}
        for gone in self._known.keys() - nameless:
            del self._known[gone]
        for tls in nameless - self._known.keys():
            setting = BackendTls(verify=tls.verify, ca=tls.ca, cert=tls.cert, key=tls.key)
            files = self._known[tls] = _Files(setting)
            self._take(files, _look(setting))
        before, found = self._settings, {}
        for name, tls in wanted.items():
            setting = replace(self._known[replace(tls, name="")].setting, name=tls.name)
            former = before.get(name)
            found[name] = former if former == setting else setting
        self._asked, self._settings = services, before if found == before else found
        return self._settings

    async def run(self) -> None:
        """Look again every few seconds, for ever."""
        while True:
            await self.sleep(_LOOK_S)
            for files in list(self._known.values()):
                # In a thread: files may lie on a network.
                if self._take(files, await asyncio.to_thread(_look, files.setting)):
                    self.on_change()

    def _take(self, files: _Files, found: str | FilesError) -> bool:
        """Note what a look at *files* has *found*; return whether they are to be read again."""
        before = files.setting.fingerprint
        if isinstance(found, FilesError):
            said, files.said = files.said, str(found)
            if files.said != said:
                stays = "what they held before stays in use" if before else "their services cannot be reached"
                log.error("files for TLS to backends, %s: %s (%s)", stays, found, found.hint)
            return False
        files.said = ""
        if found == before:
            return False
        files.setting = replace(files.setting, fingerprint=found)
        self._asked = None
        if before:
            log.info("files for TLS to backends have changed: %s", ", ".join(_paths(files.setting)))
        return True


def _look(setting: BackendTls) -> str | FilesError:
    """Return the fingerprint of what the files of *setting* hold, or why it cannot be used."""
    try:
        found = fingerprint(setting)
        if found != setting.fingerprint:
            finish(build(setting))
    except FilesError as exc:
        return exc
    return found


def _paths(setting: BackendTls) -> tuple[str, ...]:
    return tuple(path for path in (setting.ca, setting.cert, setting.key) if path)
