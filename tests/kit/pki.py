"""Authorities, certificates and servers of tasks that speak TLS, made on the spot."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


def authority_file(folder: Path, *authorities: trustme.CA, name: str = "ca.pem") -> str:
    """Write the certificates of *authorities* into one file and return its path."""
    path = folder / name
    path.write_bytes(b"".join(authority.cert_pem.bytes() for authority in authorities))
    return str(path)


def pair_files(folder: Path, leaf: trustme.LeafCert, name: str = "client") -> tuple[str, str]:
    """Write *leaf* with its chain, and its key; return both paths."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return str(cert), str(key)


def expired(authority: trustme.CA, name: str) -> trustme.LeafCert:
    """Return a certificate that was good until yesterday."""
    now = datetime.now(UTC)
    return authority.issue_cert(name, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))


def serving(
    leaf: trustme.LeafCert,
    *,
    version: ssl.TLSVersion | None = None,
    clients_of: trustme.CA | None = None,
) -> ssl.SSLContext:
    """Return the context of a server with *leaf*, which demands certificates of *clients_of* if given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if clients_of is not None:
        clients_of.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
