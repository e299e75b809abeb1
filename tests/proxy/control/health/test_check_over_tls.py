"""Checks over TLS: what requests would be refused for, a check fails for."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from discovery.model import BackendKey, HealthCheck
from proxy.backend_tls import fingerprint
from proxy.control.health.check import Checker, Target
from proxy.policy.verdict import CheckResult
from proxy.settings import BackendTls
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.eventually import eventually
from tests.kit.pki import authority_file, expired, pair_files, serving

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
NAME = "tasks.test"
KINDS = ("http", "tcp")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path) -> BackendTls:
    tls = BackendTls(name=NAME, ca=authority_file(tmp_path, authority))
    return BackendTls(name=tls.name, ca=tls.ca, fingerprint=fingerprint(tls))


@pytest.fixture
def task(authority: trustme.CA) -> Iterator[ScriptedBackend]:
    with ScriptedBackend(answering(), tls=serving(authority.issue_cert(NAME))) as made:
        yield made


async def ask(port: int, tls: BackendTls, kind: str) -> CheckResult | None:
    before = _descriptors()
    async with Checker() as checker:
        found = await checker.check(
            Target(
                service="web",
                key=BackendKey("arn:task/1", "app", 80),
                host="127.0.0.1",
                port=port,
                check=HealthCheck(kind=kind, path="/up", timeout_s=5.0),  # type: ignore[arg-type]
                host_header="web.test",
                tls=tls,
            )
        )
    # The end of TLS takes a moment; a loop closed before it would leave the transport open.
    await eventually(lambda: _descriptors() <= before)
    return found


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.asyncio
async def test_a_task_that_satisfies_the_setting_is_healthy(
    task: ScriptedBackend, trusting: BackendTls
) -> None:
    assert await ask(task.port, trusting, "http") == CheckResult(True, "HTTP 200")
    (request,) = task.requests
    assert (request.start, request.get("host")) == (b"GET /up HTTP/1.1", b"web.test")


@pytest.mark.asyncio
async def test_a_tcp_check_ends_with_the_handshake_of_tls(
    task: ScriptedBackend, trusting: BackendTls
) -> None:
    assert await ask(task.port, trusting, "tcp") == CheckResult(True, "connected over TLS")


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_for_another_name_is_no_success(
    task: ScriptedBackend, trusting: BackendTls, kind: str
) -> None:
    found = await ask(task.port, BackendTls(name="other.test", ca=trusting.ca), kind)
    assert found is not None
    assert not found.ok
    assert found.reason.startswith("TLS untrusted: Hostname mismatch")


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_or_expired_certificate_is_no_success(
    authority: trustme.CA, trusting: BackendTls, kind: str
) -> None:
    for leaf, reason in ((trustme.CA().issue_cert(NAME), "untrusted"), (expired(authority, NAME), "expired")):
        with ScriptedBackend(answering(), tls=serving(leaf)) as task:
            found = await ask(task.port, trusting, kind)
            assert found is not None
            assert not found.ok
            assert found.reason.startswith(f"TLS {reason}: ")
            assert await ask(task.port, BackendTls(verify=False), kind) is not None


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_without_verification_any_certificate_will_do(authority: trustme.CA, kind: str) -> None:
    with ScriptedBackend(answering(), tls=serving(expired(authority, NAME))) as task:
        found = await ask(task.port, BackendTls(verify=False), kind)
    assert found is not None
    assert found.ok


@pytest.mark.asyncio
@pytest.mark.parametrize("version", [V12, V13])
async def test_a_certificate_of_ours_is_shown_where_it_is_asked_for(
    authority: trustme.CA, trusting: BackendTls, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    cert, key = pair_files(tmp_path, authority.issue_cert("proxy.test"))
    context = serving(authority.issue_cert(NAME), version=version, clients_of=authority)
    with ScriptedBackend(answering(), tls=context) as task:
        known = BackendTls(name=NAME, ca=trusting.ca, cert=cert, key=key)
        assert await ask(task.port, known, "http") == CheckResult(True, "HTTP 200")
        unknown = await ask(task.port, trusting, "http")
    assert unknown is not None
    assert not unknown.ok
    assert unknown.reason.startswith("TLS handshake: ")
    assert "certificate" in unknown.reason or version == V12


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_that_speaks_plain_is_no_success(trusting: BackendTls, kind: str) -> None:
    with ScriptedBackend(lambda visit: visit.send(b"HTTP/1.1 400 What?\r\n\r\n")) as task:
        assert await ask(task.port, trusting, kind) == CheckResult(
            False, "TLS handshake: wrong version number"
        )


@pytest.mark.asyncio
async def test_files_that_cannot_be_used_say_nothing_about_the_task(
    task: ScriptedBackend, tmp_path: Path
) -> None:
    assert await ask(task.port, BackendTls(name=NAME, ca=str(tmp_path / "no.pem")), "http") is None
    assert not task.visits
