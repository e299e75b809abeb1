"""Services that only their tasks describe, for a while after the last task is gone.

Scaled to nothing, a service has no task (503), but it is not unknown (404).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from discovery.model import Service

_KEEP_S: Final = 2 * 3600.0


class KeptServices:
    """Remembers the services that have gone."""

    def __init__(self) -> None:
        self._last: Mapping[str, Service] = {}
        self._gone: dict[str, tuple[Service, float]] = {}  # and since when, in the order of that

    @property
    def until_s(self) -> float:
        """When the next of them will be forgotten; inf: none is kept."""
        return min((gone_s + _KEEP_S for _, gone_s in self._gone.values()), default=math.inf)

    def complete(self, services: Mapping[str, Service], now_s: float) -> dict[str, Service]:
        """Return *services* with those that have gone, as far as nothing else took their place."""
        self._gone |= {name: (self._last[name], now_s) for name in self._last.keys() - services.keys()}
        self._gone = {
            name: (service, gone_s)
            for name, (service, gone_s) in self._gone.items()
            if name not in services and now_s < gone_s + _KEEP_S
        }
        self._last = services
        if not self._gone:
            return dict(services)
        taken = {(host, s.path) for s in services.values() for host in s.hosts}
        kept = {
            name: service
            for name, (service, _) in sorted(self._gone.items())
            if not any((host, service.path) in taken for host in service.hosts)
        }
        return {**services, **kept}
