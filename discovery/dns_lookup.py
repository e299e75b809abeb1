"""A DNS name in, addresses with ports out: what the resolver library does not know of SRV and of failures."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from discovery.dns_names import Answer, Name, Place
from discovery.model import DiscoveryError

_PORT: Final = 53
_TRY_S: Final = 1.5  # for one question to one server
_LIFETIME_S: Final = 5.0  # for one question with all its repetitions
_TARGETS_MAX: Final = 256  # of SRV records: each is a name to ask about
_AT_ONCE: Final = 64  # questions on their way


class _Records(NamedTuple):
    texts: tuple[str, ...]
    ttl_s: float  # the aliases on the way to them included


_NONE: Final = _Records((), math.inf)


class Lookup:
    """Asks *servers* (ip and port; 0: 53), or those of /etc/resolv.conf if there are none."""

    def __init__(self, servers: Sequence[Place] = (), *, lifetime_s: float = _LIFETIME_S) -> None:
        self._servers = [dns.nameserver.Do53Nameserver(host, port or _PORT) for host, port in servers]
        self._lifetime_s = lifetime_s
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def ask(self, name: Name) -> Answer:
        """Return what DNS says of *name*; raise `DiscoveryError` if that cannot be found out."""
        if name.port:
            return await self._addresses(name.host, name.port)
        return await self._services(name.host)

    async def _addresses(self, host: str, port: int) -> Answer:
        asked = await asyncio.gather(
            *(self._records(host, kind) for kind in ("A", "AAAA")), return_exceptions=True
        )
        found = [records for records in asked if isinstance(records, _Records)]
        failed = [error for error in asked if isinstance(error, DiscoveryError)]
        places = frozenset((_ip(text), port) for records in found for text in records.texts)
        # Half an answer adds, and what it lacks is no news. None of one kind and silence about the other is
        # no answer at all.
        if failed and not places:
            raise failed[0]
        return Answer(places, min((records.ttl_s for records in found), default=math.inf), whole=not failed)

    async def _services(self, name: str) -> Answer:
        """Follow the SRV records of *name*: those of the lowest priority that lead anywhere (RFC 2782)."""
        records = await self._records(name, "SRV")
        by_priority: dict[int, set[tuple[str, int]]] = {}
        for text in records.texts:
            priority, _weight, port, target = text.split()
            if target != ".":  # "." says that the service is not there
                by_priority.setdefault(int(priority), set()).add((target.lower().rstrip("."), int(port)))
        if sum(map(len, by_priority.values())) > _TARGETS_MAX:
            raise DiscoveryError("malformed", f"more than {_TARGETS_MAX} SRV records")
        whole, ttl_s = True, records.ttl_s
        failure: DiscoveryError | None = None
        for _, targets in sorted(by_priority.items()):
            asked = await asyncio.gather(
                *(self._addresses(host, port) for host, port in sorted(targets)), return_exceptions=True
            )
            answers = [answer for answer in asked if isinstance(answer, Answer)]
            failure = next((error for error in asked if isinstance(error, DiscoveryError)), failure)
            ttl_s = min([ttl_s, *(answer.ttl_s for answer in answers)])
            whole = whole and failure is None and all(answer.whole for answer in answers)
            places = frozenset().union(*(answer.places for answer in answers))
            if places:
                return Answer(places, ttl_s, whole)
        if failure is not None:
            raise failure
        return Answer(frozenset(), ttl_s)

    async def _records(self, name: str, kind: str) -> _Records:
        """Return the records of *kind*, none if there are none; aliases are followed by the library."""
        try:
            async with self._free:
                answer = await self._configured().resolve(
                    f"{name}.", kind, raise_on_no_answer=False, lifetime=self._lifetime_s, search=False
                )
        except dns.resolver.NXDOMAIN:
            return _NONE
        except dns.exception.Timeout:
            raise DiscoveryError("timeout", f"no server answers about {name} ({kind})") from None
        except dns.resolver.NoNameservers:
            raise DiscoveryError("unreachable", f"no server can say what {name} ({kind}) is") from None
        except (dns.exception.DNSException, OSError, ValueError) as exc:
            raise DiscoveryError(
                "other", f"{name} ({kind}) cannot be asked for: {type(exc).__name__}"
            ) from None
        if answer.rrset is None:
            return _NONE
        texts = tuple(record.to_text() for record in answer.rrset)
        return _Records(texts, float(answer.chaining_result.minimum_ttl))

    def _configured(self) -> dns.asyncresolver.Resolver:
        if self._resolver is None:
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers = self._servers
            resolver.timeout = _TRY_S
            self._resolver = resolver
        return self._resolver


def _ip(text: str) -> str:
    """Return an address in its one spelling; one of IPv4 in the clothes of IPv6 is one of IPv4."""
    ip = ipaddress.ip_address(text)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)
