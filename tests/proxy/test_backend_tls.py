"""Contexts for TLS to backends: from which files, how often they are read, and what is said of bad ones."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.backend_tls import Contexts, FilesError, build, fingerprint, in_words
from proxy.link.snapshots import ServiceRow, TableSnapshot, decode, encode
from proxy.settings import BackendTls
from proxy.steps import finish
from tests.kit.pki import authority_file, pair_files


def test_tls_crosses_the_link_as_it_is() -> None:
    tls = BackendTls(name="a.test", verify=True, ca="/a", cert="/b", key="/c", fingerprint="f")
    rows = (
        ServiceRow(name="a", slot=1, hosts=("a",), path="/", tls=tls),
        ServiceRow(name="b", slot=2, hosts=("b",), path="/"),
    )
    table = TableSnapshot(revision=1, loaded=True, services=rows)
    assert decode(encode(table)).services == rows


def test_a_context_verifies_names_and_speaks_nothing_old(tmp_path: Path) -> None:
    context = finish(build(BackendTls(name="a.test", ca=authority_file(tmp_path, trustme.CA()))))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


def test_without_verification_nobody_is_asked_for_anything() -> None:
    context = finish(build(BackendTls(verify=False)))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_without_a_file_those_whom_the_system_trusts_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = authority_file(tmp_path, *(trustme.CA() for _ in range(9)))
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    assert len(finish(build(BackendTls(name="a.test"))).get_ca_certs()) == 9


def test_a_large_bundle_is_read_in_steps(tmp_path: Path) -> None:
    """A worker serves requests in between."""
    authorities = [trustme.CA() for _ in range(20)]
    assert len(list(build(BackendTls(name="a.test", ca=authority_file(tmp_path, *authorities))))) == 4


def test_comments_in_a_bundle_are_no_harm(tmp_path: Path) -> None:
    path = Path(authority_file(tmp_path, trustme.CA()))
    path.write_text("# Autorité numéro un\n" + path.read_text() + "\n# fin\n", encoding="utf-8")
    assert len(finish(build(BackendTls(name="a.test", ca=str(path)))).get_ca_certs()) == 1


def _spoil(name: str, text: str) -> Callable[[dict[str, Path]], None]:
    def spoil(files: dict[str, Path]) -> None:
        files[name].write_text(text)

    return spoil


def _swap(files: dict[str, Path]) -> None:
    files["key"].write_bytes(trustme.CA().issue_cert("x.test").private_key_pem.bytes())


def _encrypt(files: dict[str, Path]) -> None:
    key = load_pem_private_key(files["key"].read_bytes(), None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files["key"].write_bytes(sealed)


def _cut(files: dict[str, Path]) -> None:
    files["ca"].write_text(files["ca"].read_text() * 2)
    files["ca"].write_text(files["ca"].read_text()[:-200])


def _directory(files: dict[str, Path]) -> None:
    files["ca"].unlink()
    files["ca"].mkdir()


@pytest.mark.parametrize(
    ("spoil", "key", "message"),
    [
        (lambda files: files["ca"].unlink(), "ca", "there is no file"),
        (lambda files: files["key"].unlink(), "key", "there is no file"),
        (_directory, "ca", "cannot be read: Is a directory"),
        (_spoil("ca", ""), "ca", "holds no certificate"),
        (_spoil("ca", "x" * 5_000_000), "ca", "is larger than 4 MiB"),
        (_spoil("ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"), "ca", "is damaged"),
        (_cut, "ca", "ends in the middle of a certificate"),
        (_spoil("cert", "nothing"), "cert", "holds no usable certificate"),
        (_spoil("key", "nothing"), "key", "holds no usable private key"),
        (_encrypt, "key", "is encrypted"),
        (_swap, "key", "does not belong to the certificate"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(
    tmp_path: Path, spoil: Callable[[dict[str, Path]], None], key: str, message: str
) -> None:
    authority = trustme.CA()
    ca = authority_file(tmp_path, authority)
    cert, private = pair_files(tmp_path, authority.issue_cert("proxy.test"))
    files = {"ca": Path(ca), "cert": Path(cert), "key": Path(private)}
    tls = BackendTls(name="a.test", ca=ca, cert=cert, key=private)
    finish(build(tls))
    spoil(files)
    with pytest.raises(FilesError) as caught:
        finish(build(tls))
    assert caught.value.key == key
    assert message in str(caught.value)
    assert str(files[key]) in str(caught.value)
    assert caught.value.hint
    assert "PRIVATE" not in str(caught.value)


def test_the_fingerprint_is_of_every_file(tmp_path: Path) -> None:
    files = {key: tmp_path / key for key in ("ca", "cert", "key")}
    tls = BackendTls(**{key: str(path) for key, path in files.items()})
    seen = set()
    for path in files.values():
        path.write_text("1")
    seen.add(fingerprint(tls))
    for path in files.values():
        path.write_text("2")
        seen.add(fingerprint(tls))
    assert len(seen) == 4
    assert fingerprint(replace(tls, ca=str(files["cert"]))) == fingerprint(tls)


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (ConnectionResetError(), "handshake: the connection was closed"),
        (TimeoutError(), "handshake: not finished in time"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "handshake: the connection was closed"),
    ],
)
def test_a_failed_handshake_in_words(exc: BaseException, words: str) -> None:
    assert in_words(exc) == words


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_files_are_read_again_for_a_new_fingerprint_only(tmp_path: Path) -> None:
    path = Path(authority_file(tmp_path, trustme.CA()))
    said: list[str] = []
    contexts = Contexts(said.append)
    tls = BackendTls(name="a.test", ca=str(path), fingerprint="1")
    first = contexts.get(tls)
    path.unlink()
    assert contexts.get(replace(tls, name="b.test")) is first
    assert first is not None
    assert not said
    authority_file(tmp_path, trustme.CA())
    second = contexts.get(replace(tls, fingerprint="2"))
    assert second is not None
    assert second is not first


def test_what_was_usable_stays_in_use_until_something_better_comes(tmp_path: Path) -> None:
    path = Path(authority_file(tmp_path, trustme.CA()))
    said: list[str] = []
    clock = Clock()
    contexts = Contexts(said.append, clock=clock)
    tls = BackendTls(name="a.test", ca=str(path), fingerprint="1")
    first = contexts.get(tls)
    path.write_text("")
    broken = replace(tls, fingerprint="2")
    for _ in range(3):
        assert contexts.get(broken) is first
        clock.now_s += 2.0
    assert said == [f"{path} holds no certificate"]
    authority_file(tmp_path, trustme.CA())
    assert contexts.get(broken) not in (first, None)  # without a word from anybody


def test_files_that_were_never_usable_give_no_context_and_are_not_tried_all_the_time(tmp_path: Path) -> None:
    clock = Clock()
    contexts = Contexts(lambda _why: None, clock=clock)
    tls = BackendTls(name="a.test", ca=str(tmp_path / "ca.pem"))
    assert contexts.get(tls) is None
    authority_file(tmp_path, trustme.CA())
    assert contexts.get(tls) is None
    clock.now_s += 1.0
    assert contexts.get(tls) is not None
