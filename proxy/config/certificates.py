"""A certificate and its key, looked at before anybody relies on them.

The last judge is a TLS handshake with itself, in memory: what passes that serves clients too, and what does
not is said before the first of them comes.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from proxy.config.model import Config
from proxy.config.rules import Problem
from proxy.settings import Certificate, ListenerSettings

_MAX_BYTES: Final = 1024 * 1024
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, for which `ssl` has no name
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY: Final = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----")


class PairError(Exception):
    """A pair cannot be used. `which` file is at fault, `message` and `hint` are for the operator."""

    def __init__(self, which: Literal["cert", "key"], message: str, hint: str) -> None:
        super().__init__(message)
        self.which = which
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Pair:
    """What a usable certificate says of itself."""

    fingerprint: str  # SHA-256 of the file, in hex
    names: tuple[str, ...]  # DNS names, in lower case
    not_before_s: float  # Unix time
    not_after_s: float

    def warning(self, now_s: float) -> str:
        """Return why clients would refuse it at *now_s*, or ""."""
        if now_s > self.not_after_s:
            return f"expired {_date(self.not_after_s)}"
        if now_s < self.not_before_s:
            return f"is not valid before {_date(self.not_before_s)}"
        return ""


def inspect(cert: str, key: str) -> Pair:
    """Return what the certificate *cert* says of itself; raise `PairError` if it cannot serve with *key*."""
    cert_pem = _read(cert, "cert")
    own = _CERTIFICATE.search(cert_pem)
    if own is None:
        raise PairError(
            "cert", f"{cert} holds no certificate", "it begins with -----BEGIN CERTIFICATE----- (PEM)"
        )
    key_pem = _read(key, "key")
    if not _KEY.search(key_pem):
        raise PairError(
            "key", f"{key} holds no private key", "it begins with -----BEGIN PRIVATE KEY----- (PEM)"
        )
    if b"ENCRYPTED" in key_pem:
        raise PairError(
            "key", f"the key in {key} is encrypted", "store it without: openssl pkey -in <old> -out <new>"
        )
    described = _rehearse(_server(cert, key), own[0].decode("ascii", "replace"), cert)
    return Pair(
        fingerprint=hashlib.sha256(cert_pem).hexdigest(),
        names=_names(described),
        not_before_s=ssl.cert_time_to_seconds(str(described["notBefore"])),
        not_after_s=ssl.cert_time_to_seconds(str(described["notAfter"])),
    )


def known(listener: ListenerSettings) -> ListenerSettings:
    """Return *listener* with what its certificates say of themselves, as far as they can be used."""
    return replace(listener, tls=tuple(map(_known, listener.tls)))


def _known(pair: Certificate) -> Certificate:
    try:
        found = inspect(pair.cert, pair.key)
    except PairError:
        return pair
    return replace(pair, fingerprint=found.fingerprint, names=found.names)


def check_files(config: Config) -> Iterator[Problem]:
    """Yield every certificate of *config* that cannot serve."""
    for number, listener in enumerate(config.listener):
        for index, pair in enumerate(listener.tls):
            try:
                inspect(pair.cert, pair.key)
            except PairError as exc:
                path = ("listener", number, "tls", index, exc.which)
                yield Problem((path,), exc.message, exc.hint)


def warnings(config: Config, now_s: float) -> Iterator[str]:
    """Yield what is wrong at *now_s* with certificates of *config* that can serve all the same."""
    for listener in config.listener:
        for pair in listener.tls:
            warning = inspect(pair.cert, pair.key).warning(now_s)
            if warning:
                yield f"the certificate {pair.cert} of {listener.address} {warning}"


def _read(path: str, which: Literal["cert", "key"]) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise PairError(
            which, f"there is no file {path}", "relative paths begin at the folder of this file"
        ) from None
    except OSError as exc:
        raise PairError(
            which, f"{path} cannot be read: {exc.strerror}", "give the user that anyport runs as the right to"
        ) from None
    if len(data) > _MAX_BYTES:
        raise PairError(which, f"{path} is larger than 1 MiB", "is this the right file?")
    return data


def _server(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as exc:
        reason = exc.reason or ""
        if "MISMATCH" in reason:
            raise PairError(
                "key",
                f"the key in {key} does not belong to the certificate in {cert}",
                "they are made together",
            ) from None
        if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
            raise PairError(
                "cert", f"{cert} is too weak: {_words(reason)}", "use RSA from 2048 bits, or ECDSA"
            ) from None
        raise PairError(
            "cert",
            f"{cert} and {key} cannot be read as PEM: {_words(reason) or 'damaged'}",
            "copy them again",
        ) from None
    except OSError as exc:  # gone between two looks
        raise PairError("cert", f"{cert} cannot be read: {exc.strerror}", "") from None
    return context


def _rehearse(server: ssl.SSLContext, own: str, cert: str) -> dict[str, object]:
    """Return how a client describes the certificate after a handshake in which it trusts just this one."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # Whom others trust is their affair, and a certificate that has expired is still better than none.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(cadata=own)
        near = client.wrap_bio(to_client, to_server)
        far = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (near, far, near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        described = near.getpeercert()
    except ssl.SSLCertVerificationError as exc:
        raise PairError(
            "cert", f"clients would refuse {cert}: {exc.verify_message}", "get another one"
        ) from None
    except (ssl.SSLError, ValueError) as exc:
        reason = (getattr(exc, "reason", None) or "").lower()
        raise PairError(
            "cert", f"no TLS connection can be made with {cert}: {_words(reason)}", "get another one"
        ) from None
    return dict(described or {})


def _names(described: dict[str, object]) -> tuple[str, ...]:
    names = described.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return tuple(dict.fromkeys(value.lower() for kind, value in names if kind == "DNS"))


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _date(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
