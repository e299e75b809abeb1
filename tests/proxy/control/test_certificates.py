"""Files of certificates that change under a running control process."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.control.certificates import Certificates, aligned
from proxy.settings import Certificate, ListenerSettings
from tests.kit.certificates import Authority
from tests.kit.eventually import eventually

NOW_S = 1.8e9


def at(address: str, *tls: Certificate) -> ListenerSettings:
    return ListenerSettings(address=address, tls=tls)


def plain(pair: Certificate) -> Certificate:
    """Return *pair* as the configuration alone has it."""
    return Certificate(cert=pair.cert, key=pair.key)


class Following:
    """`Certificates` for one listener with one pair, and how often it has said that something changed."""

    def __init__(self, pair: Certificate, *bound: ListenerSettings) -> None:
        self.changes = 0
        self.certificates = Certificates(bound, on_change=self._changed, wall=lambda: NOW_S)
        self.certificates.follow([at("a", plain(pair))])

    def _changed(self) -> None:
        self.changes += 1

    @property
    def pair(self) -> Certificate:
        return self.certificates.listeners[0].tls[0]


def test_listeners_keep_the_order_of_their_sockets() -> None:
    a, b, new_a, new_c = at("a"), at("b"), replace(at("a"), proxy_protocol=True), at("c")
    assert aligned((), [b, a]) == (b, a)
    assert aligned([a, b], [b, new_a]) == (new_a, b)
    assert aligned([a, b], [new_c, new_a]) == (new_a, b), "c is not bound, and b cannot go"
    assert aligned([at("x:0"), at("x:0")], [replace(at("x:0"), proxy_protocol=True), at("x:0")]) == (
        replace(at("x:0"), proxy_protocol=True),
        at("x:0"),
    )


def test_what_is_in_the_files_is_known_at_once(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("w", "web.test")
    following = Following(pair)
    assert following.pair == pair
    assert following.pair.names == ("web.test",)
    assert following.changes == 1


def test_a_new_pair_is_a_change_and_nothing_else_is(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    following = Following(authority.issue("w", "web.test"))
    following.certificates.look()
    assert following.changes == 1

    new = authority.issue("w", "web.test", "new.test")
    following.certificates.look()
    assert following.pair == new
    assert following.changes == 2

    os.utime(new.cert)
    following.certificates.look()
    assert following.changes == 2


@pytest.mark.parametrize("what", ["nonsense", "gone", "key of another"])
def test_a_bad_pair_keeps_the_old_one_and_is_said_once(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    old = authority.issue("w", "web.test")
    following = Following(old)
    if what == "nonsense":
        Path(old.cert).write_text("nonsense")
    elif what == "gone":
        Path(old.key).unlink()
    else:
        other = authority.issue("x", "web.test")
        os.replace(other.key, old.key)

    following.certificates.look()
    following.certificates.look()

    assert following.pair == old
    assert following.changes == 1
    (said,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "the one before stays in use" in said.getMessage()
    assert "PRIVATE" not in said.getMessage()

    new = authority.issue("w", "web.test", "new.test")
    following.certificates.look()
    assert following.pair == new


def test_a_pair_that_was_never_good_is_still_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without it in the settings workers would answer in the clear."""
    missing = Certificate(cert=str(tmp_path / "no.pem"), key=str(tmp_path / "no.key"))
    following = Following(missing)
    assert following.certificates.listeners == (at("a", missing),)
    assert "TLS cannot be served with it" in caplog.text
    assert following.certificates.expiries() == []


def test_after_a_restart_bad_files_do_not_change_what_the_workers_have(tmp_path: Path) -> None:
    old = Authority(tmp_path).issue("w", "web.test")
    Path(old.cert).write_text("nonsense")
    following = Following(old, at("a", old))
    assert following.pair == old
    assert following.changes == 0


def test_one_bad_pair_does_not_hold_up_the_others(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, bad = authority.issue("good", "good.test"), authority.issue("bad", "bad.test")
    certificates = Certificates((), on_change=lambda: None, wall=lambda: NOW_S)
    certificates.follow([at("a", plain(bad), plain(good)), at("b", plain(good))])
    Path(bad.cert).write_text("nonsense")
    new = authority.issue("good", "good.test", "more.test")

    certificates.look()

    assert certificates.listeners == (at("a", bad, new), at("b", new))


def test_expiry_is_known_and_what_has_expired_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    following = Following(Authority(tmp_path).expired("w", "web.test"))
    following.certificates.look()

    (expiry,) = following.certificates.expiries()
    assert (expiry.listener, expiry.cert, expiry.not_after_s) == ("a", str(tmp_path / "w.pem"), 1609459200)
    assert caplog.text.count("expired 2021-01-01 00:00 UTC") == 1
    assert following.pair.fingerprint, "it serves all the same"


def test_certificates_that_left_the_configuration_are_forgotten(tmp_path: Path) -> None:
    following = Following(Authority(tmp_path).issue("w", "web.test"))
    following.certificates.follow([at("a")])
    assert following.certificates.listeners == (at("a"),)
    assert following.certificates.expiries() == []


@pytest.mark.asyncio
async def test_it_looks_by_itself(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    turn = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await turn.wait()
        turn.clear()

    certificates = Certificates((), on_change=lambda: None, wall=lambda: NOW_S, sleep=sleep)
    certificates.follow([at("a", plain(authority.issue("w", "web.test")))])
    looking = asyncio.create_task(certificates.run())
    new = authority.issue("w", "web.test", "new.test")

    turn.set()

    await eventually(lambda: certificates.listeners == (at("a", new),))
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
