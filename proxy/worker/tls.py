"""TLS towards clients: one context for a listener's connections, with the certificate that fits the name.

Sessions belong to the listener's own context, which lives as long as the process, so tickets stay good when
certificates are replaced. A connection keeps the certificate it began with.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Sequence
from typing import Final

from proxy.link import scoreboard as sb
from proxy.link.cells import Cells
from proxy.settings import Certificate, ListenerSettings
from proxy.steps import Steps

# For TLS 1.2: forward secrecy and AEAD only (RFC 9325 section 4.2). TLS 1.3 has no others.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_RETRY_S: Final = 5.0  # before a pair that could not be read is tried again


def server_context() -> ssl.SSLContext:
    """Return a context with the settings of every listener, and no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context


class ListenerTls:
    """The certificates of one listener, as far as this worker could load them."""

    def __init__(self) -> None:
        self.context = server_context()
        self.context.sni_callback = self._choose
        self._exact: dict[str, ssl.SSLContext] = {}
        self._wildcards: dict[str, ssl.SSLContext] = {}  # by what follows the star: ".example.com"
        self._first: ssl.SSLContext | None = None

    def offer(self, pairs: Sequence[tuple[tuple[str, ...], ssl.SSLContext]]) -> None:
        """Use (names, context) *pairs* from now on. The first one with a name has it; the first of all is
        for clients that name no host, or one that nobody has."""
        exact: dict[str, ssl.SSLContext] = {}
        wildcards: dict[str, ssl.SSLContext] = {}
        for names, context in pairs:
            for name in names:
                if name.startswith("*."):
                    wildcards.setdefault(name[1:], context)
                else:
                    exact.setdefault(name, context)
        self._exact, self._wildcards = exact, wildcards
        self._first = pairs[0][1] if pairs else None

    def find(self, name: str | None) -> ssl.SSLContext | None:
        """Return the context for a client that asks for *name*; None if there is no certificate at all."""
        if not name:
            return self._first
        name = name.lower().removesuffix(".")
        label, dot, rest = name.partition(".")
        return self._exact.get(name) or self._wildcards.get(dot + rest if label else "") or self._first

    def _choose(self, connection: ssl.SSLObject, name: str | None, _own: ssl.SSLContext) -> int | None:
        chosen = self.find(name)
        if chosen is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = chosen
        return None


class ListenersTls:
    """The certificates of all listeners of one worker. Files are read when a snapshot names them, never for
    a connection; what cannot be read is counted, tried again, and until then the old one serves."""

    def __init__(self, loop: asyncio.AbstractEventLoop, head: Cells) -> None:
        self._loop = loop
        self._head = head
        # By the names of the two files: the fingerprint of what was in them, and the context.
        self._loaded: dict[tuple[str, str], tuple[str, ssl.SSLContext]] = {}
        self._listeners: dict[int, ListenerTls] = {}
        self._retry: asyncio.TimerHandle | None = None

    def get(self, index: int) -> ListenerTls:
        """Return the certificates of the listener with this *index*."""
        if index not in self._listeners:
            self._listeners[index] = ListenerTls()
        return self._listeners[index]

    def follow(self, listeners: Sequence[ListenerSettings]) -> Steps[None]:
        """Load what is new in *listeners*, and use it."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        wanted = {(pair.cert, pair.key): pair for listener in listeners for pair in listener.tls}
        complete = True
        for files, pair in wanted.items():
            fingerprint = self._loaded[files][0] if files in self._loaded else None
            if fingerprint is None or fingerprint != pair.fingerprint:
                yield
                complete = self._load(pair) and complete
        for files in self._loaded.keys() - wanted.keys():
            del self._loaded[files]
        for index, listener in enumerate(listeners):
            if listener.tls or index in self._listeners:
                self.get(index).offer(
                    [
                        (pair.names, self._loaded[pair.cert, pair.key][1])
                        for pair in listener.tls
                        if (pair.cert, pair.key) in self._loaded
                    ]
                )
        if not complete:
            self._retry = self._loop.call_later(_RETRY_S, self._again, listeners)

    def _again(self, listeners: Sequence[ListenerSettings]) -> None:
        self._retry = None
        for _ in self.follow(listeners):
            pass

    def _load(self, pair: Certificate) -> bool:
        """Load *pair*; return False if the files do not hold what the control process has seen in them."""
        files = pair.cert, pair.key
        try:
            fingerprint = fingerprint_of(pair.cert)
            context = server_context()
            context.load_cert_chain(pair.cert, pair.key, password=_no_passphrase)
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            self._head[sb.CERTIFICATES_REJECTED] += 1
            return False
        expected = fingerprint == pair.fingerprint
        if expected or files not in self._loaded:  # a good pair is better than none, whatever has changed
            self._loaded[files] = fingerprint, context
        return expected or not pair.fingerprint


def fingerprint_of(cert: str) -> str:
    """Return what tells one content of the file *cert* from another."""
    with open(cert, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _no_passphrase() -> str:
    # Without this OpenSSL would ask for one on the terminal.
    raise ValueError("the key is encrypted")


def is_unreadable_name(exc: BaseException | None) -> bool:
    """Return whether *exc* is what Python raises, where nobody can catch it, for a server name that is not
    ASCII. The handshake has failed by then."""
    return isinstance(exc, UnicodeDecodeError) and exc.encoding == "ascii"
