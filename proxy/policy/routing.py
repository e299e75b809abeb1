"""Which service a request means: by host, then by the longest path prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from posixpath import normpath
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from proxy.steps import ROWS_PER_STEP, Steps, finish

T = TypeVar("T")

_CACHED_HOSTS_MAX: Final = 4096  # spellings of Host headers; clients choose them, so the cache is bounded
_DOUBTFUL = re.compile(rb"%|//|/\.|\\")  # a path that another server may read as a different one


class AmbiguousPath(Exception):
    """The path means one service as it stands and another one once normalised (fail closed)."""


class _Paths(Generic[T]):
    """The path rules of one host."""

    __slots__ = ("_depth", "_rules", "only")

    def __init__(self, rules: dict[bytes, T]) -> None:
        self._rules = rules
        self._depth = max((prefix.count(b"/") for prefix in rules if prefix != b"/"), default=0)
        self.only: T | None = rules[b"/"] if list(rules) == [b"/"] else None  # the usual case

    def find(self, path: bytes) -> T | None:
        """Return the rule with the longest prefix of *path*: work grows with the deepest rule only."""
        if self._depth:
            parts = path.split(b"/", self._depth + 1)
            for count in range(min(len(parts), self._depth + 1), 1, -1):
                found = self._rules.get(b"/".join(parts[:count]))
                if found is not None:
                    return found
        return self._rules.get(b"/")

    def find_safely(self, path: bytes) -> T | None:
        found = self.find(path)
        if _DOUBTFUL.search(path) and self.find(normalise_path(path)) is not found:
            raise AmbiguousPath
        return found


class Router(Generic[T]):
    """Compiled rules. Look-ups are dict hits, however many services there are."""

    __slots__ = ("_any", "_cache", "_exact", "_suffixes", "sure")

    def __init__(
        self, exact: dict[bytes, _Paths[T]], suffixes: dict[bytes, _Paths[T]], any_host: _Paths[T] | None
    ) -> None:
        self._exact = exact
        self._suffixes = suffixes
        self._any = any_host
        self._cache: dict[bytes, tuple[_Paths[T], ...]] = {}
        self.sure: dict[bytes, T] = {}  # what `find` says for these hosts, whatever the path

    def find(self, host: bytes, path: bytes) -> T | None:
        """Return the service for *path* on *host* (as the client wrote it), or None.

        Raises `AmbiguousPath` where path rules exist and normalising the path changes the answer.
        """
        candidates = self._cache.get(host)
        if candidates is None:
            candidates = self._candidates(host)
            if len(self._cache) >= _CACHED_HOSTS_MAX:
                self._cache.clear()
                self.sure.clear()
            self._cache[host] = candidates
            if candidates and candidates[0].only is not None:
                self.sure[host] = candidates[0].only
        for paths in candidates:
            found = paths.only if paths.only is not None else paths.find_safely(path)
            if found is not None:
                return found
        return None

    def _candidates(self, host: bytes) -> tuple[_Paths[T], ...]:
        """Return the rule sets that fit *host*, the most specific first."""
        name = normalise_host(host)
        found = [self._exact[name]] if name in self._exact else []
        rest = name
        while (dot := rest.find(b".", 1)) > 0:
            rest = rest[dot:]
            if rest in self._suffixes:
                found.append(self._suffixes[rest])
        if self._any is not None:
            found.append(self._any)
        return tuple(found)


def compile_routes(rules: Iterable[tuple[tuple[str, ...], str, T]]) -> Router[T]:
    """Return a router for (hosts, path prefix, service) rules. On a double claim the first one stays."""
    return finish(compiled(rules))


def compiled(rules: Iterable[tuple[tuple[str, ...], str, T]]) -> Steps[Router[T]]:
    """Return what `compile_routes` returns, in steps."""
    by_host: dict[bytes, dict[bytes, T]] = {}
    for index, (hosts, path, service) in enumerate(rules):
        if not index % ROWS_PER_STEP:
            yield
        prefix = path.encode().rstrip(b"/") or b"/"
        for host in hosts:
            by_host.setdefault(host.encode(), {}).setdefault(prefix, service)
    exact: dict[bytes, _Paths[T]] = {}
    suffixes: dict[bytes, _Paths[T]] = {}
    for index, (host_bytes, prefixes) in enumerate(by_host.items()):
        if not index % ROWS_PER_STEP:
            yield
        if host_bytes.startswith(b"*."):
            suffixes[host_bytes[1:]] = _Paths(prefixes)
        elif host_bytes != b"*":
            exact[host_bytes] = _Paths(prefixes)
    anywhere = by_host.get(b"*")
    return Router(exact, suffixes, _Paths(anywhere) if anywhere else None)


def normalise_host(host: bytes) -> bytes:
    """Return *host* in lower case, without port and trailing dot."""
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1].lower()
    return host.partition(b":")[0].lower().rstrip(b".")


def normalise_path(path: bytes) -> bytes:
    """Return *path* as a lenient server would read it: decoded, slashes and dots resolved."""
    decoded = unquote_to_bytes(path).replace(b"\\", b"/")
    return normpath(b"/" + decoded.lstrip(b"/"))
