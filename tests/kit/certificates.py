"""Certificates in files, and clients that trust who has made them."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import trustme

from proxy.config.certificates import known
from proxy.settings import Certificate, ListenerSettings


class Authority:
    """Issues pairs into *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()

    def issue(self, name: str, *hosts: str, **options: Any) -> Certificate:
        """Write `<name>.pem` and `<name>.key` for *hosts*, over those that may be there; return them as they
        would cross the link."""
        made = self._ca.issue_cert(*hosts, **options)
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        key.write_bytes(made.private_key_pem.bytes())
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        return described(cert, key)

    def expired(self, name: str, *hosts: str) -> Certificate:
        return self.issue(
            name, *hosts, not_before=datetime.datetime(2020, 1, 1), not_after=datetime.datetime(2021, 1, 1)
        )

    def client(self, **changes: Any) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority, and checks names."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        for key, value in changes.items():
            setattr(context, key, value)
        return context


def described(cert: Path, key: Path) -> Certificate:
    pair = Certificate(cert=str(cert), key=str(key))
    return known(ListenerSettings(tls=(pair,))).tls[0]


def names_of(sock: ssl.SSLSocket) -> set[str]:
    """Return the names in the certificate that the other side has shown and that was verified."""
    shown = sock.getpeercert() or {}
    return {value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"}
