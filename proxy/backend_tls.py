"""TLS contexts for connections to backends: made from files, kept, and made anew when the files change.

Workers and health checks share it, so that both mean the same by "secure".
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.settings import BackendTls
from proxy.steps import Steps, finish

_PROTOCOLS: Final = ["http/1.1"]
_MAX_BYTES: Final = 4 * 1024 * 1024
_RETRY_S: Final = 1.0  # between two looks at files that could not be used
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_CERTIFICATES_PER_STEP: Final = 4
_PEM: Final = "it begins with -----BEGIN … (PEM)"
_READABLE: Final = "give the user that anyport runs as the right to"
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED


class FilesError(Exception):
    """Files that cannot be used: `key` names the file at fault, the text says why, `hint` what to do."""

    def __init__(self, key: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


def fingerprint(tls: BackendTls) -> str:
    """Return one fingerprint of all that the files of *tls* hold; raise `FilesError`."""
    digest = hashlib.sha256()
    for key, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)):
        content = _read(key, path) if path else b""
        digest.update(b"%d:" % len(content) + content)
    return digest.hexdigest()


def build(tls: BackendTls) -> Steps[ssl.SSLContext]:
    """Return a new context for *tls*, in steps: a system trusts 150 authorities. Raises `FilesError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_PROTOCOLS)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca:
        yield from _trust(context, tls.ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what the file names is trusted, root or not
    elif bundle := ssl.get_default_verify_paths().cafile:
        yield from _trust(context, bundle)
    else:
        context.load_default_certs()
    if tls.cert:
        _introduce(context, tls.cert, tls.key)
    return context


def _trust(context: ssl.SSLContext, path: str) -> Steps[None]:
    # Bundles name their authorities in comments, in any alphabet.
    *pieces, rest = _read("ca", path).decode("ascii", "ignore").split(_END)
    if not pieces:
        raise FilesError("ca", f"{path} holds no certificate", _PEM)
    if _BEGIN in rest:
        raise FilesError("ca", f"{path} ends in the middle of a certificate", "copy it again")
    for index in range(0, len(pieces), _CERTIFICATES_PER_STEP):
        if index:
            yield
        few = "".join(piece + _END + "\n" for piece in pieces[index : index + _CERTIFICATES_PER_STEP])
        try:
            context.load_verify_locations(cadata=few)
        except (ssl.SSLError, ValueError):
            raise FilesError("ca", f"a certificate in {path} is damaged", "copy it again") from None


def _introduce(context: ssl.SSLContext, cert: str, key: str) -> None:
    _read("cert", cert)
    _read("key", key)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _EncryptedError:
        raise FilesError(
            "key", f"the key in {key} is encrypted", "store it without: openssl pkey -in <old> -out <new>"
        ) from None
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise FilesError(
                "key",
                f"the key in {key} does not belong to the certificate in {cert}",
                "they are made together",
            ) from None
        # OpenSSL does not say which of the two it means.
        which, path = ("key", key) if _holds_certificate(cert) else ("cert", cert)
        raise FilesError(which, f"{path} holds no usable {_CONTENTS[which]}", _PEM) from None
    except OSError as exc:
        raise FilesError("cert", f"{cert} or {key} cannot be read: {exc.strerror}", _READABLE) from None


_CONTENTS: Final = {"cert": "certificate", "key": "private key"}


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    """Stand in for OpenSSL's own prompt, which would wait for a terminal."""
    raise _EncryptedError


def _holds_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError):
        return False
    return True


def _read(key: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "relative paths begin at the folder of the configuration"
        raise FilesError(key, f"there is no file {path}", hint) from None
    except OSError as exc:
        raise FilesError(key, f"{path} cannot be read: {exc.strerror}", _READABLE) from None
    if len(content) > _MAX_BYTES:
        raise FilesError(key, f"{path} is larger than 4 MiB", "is this the right file?")
    return content


def in_words(exc: BaseException) -> str:
    """Return why a handshake failed: "expired: …", "untrusted: …" or "handshake: …"."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        kind = "expired" if exc.verify_code == _EXPIRED else "untrusted"
        return f"{kind}: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError):
        return f"handshake: {reason_of(exc)}"
    if isinstance(exc, TimeoutError):
        return "handshake: not finished in time"
    return "handshake: the connection was closed"


def reason_of(exc: ssl.SSLError) -> str:
    """Return what OpenSSL calls the mistake: "wrong version number", "tlsv13 alert certificate required"."""
    return (getattr(exc, "reason", None) or "protocol error").replace("_", " ").lower()


@dataclass(slots=True)
class _Kept:
    fingerprint: str
    context: ssl.SSLContext | None  # None: the files could not be used yet
    failed_s: float | None  # when they last could not


class Contexts:
    """The newest usable context of each setting. Files that cannot be used leave the one before in force."""

    def __init__(
        self, on_failure: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_failure = on_failure  # told why, once for each time the files have changed
        self._clock = clock
        self._kept: dict[tuple[bool, str, str, str], _Kept] = {}

    def get(self, tls: BackendTls) -> ssl.SSLContext | None:
        """Return the context for *tls*, or None while its files have never been usable."""
        kept = self._kept.get(_files(tls))
        same = kept is not None and kept.fingerprint == tls.fingerprint
        if kept is not None and same and not self._due(kept):
            return kept.context
        return finish(self.load(tls))

    def _due(self, kept: _Kept) -> bool:
        return kept.failed_s is not None and self._clock() - kept.failed_s >= _RETRY_S

    def load(self, tls: BackendTls) -> Steps[ssl.SSLContext | None]:
        """Do what `get` does, in steps where files are to be read."""
        files = _files(tls)
        kept = self._kept.get(files)
        same = kept is not None and kept.fingerprint == tls.fingerprint
        if kept is not None and same and kept.failed_s is None:
            return kept.context
        try:
            context = yield from build(tls)
        except FilesError as exc:
            if not same:
                self._on_failure(str(exc))
            before = kept.context if kept is not None else None
            self._kept[files] = _Kept(tls.fingerprint, before, self._clock())
            return before
        self._kept[files] = _Kept(tls.fingerprint, context, None)
        return context


def _files(tls: BackendTls) -> tuple[bool, str, str, str]:
    return tls.verify, tls.ca, tls.cert, tls.key
