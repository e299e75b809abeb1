"""TLS to the tasks from end to end: configuration, checks, requests, and files that change meanwhile."""

from __future__ import annotations

import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trustme

from proxy.errors import NONE_READY
from tests.kit.anyport import Anyport
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.pki import authority_file, pair_files, serving
from tests.kit.wire import response
from tests.kit.workers import wait_for


def ask(proxy: Anyport) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(proxy.url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


@pytest.mark.slow
def test_tasks_are_trusted_as_the_files_say_now(tmp_path: Path) -> None:
    """They ask for a certificate, as strict ones do, and the authority's file is wrong at first."""
    authority = trustme.CA()
    ca = authority_file(tmp_path, trustme.CA())
    cert, key = pair_files(tmp_path, authority.issue_cert("proxy.test"))
    context = serving(
        authority.issue_cert("tasks.test"), version=ssl.TLSVersion.TLSv1_3, clients_of=authority
    )
    with ScriptedBackend(answering(response(b"secret")), tls=context) as task:
        config = f"""
[backend_tls]
cert = "{Path(cert).name}"
key = "{key}"
[health]
interval_s = 0.2
timeout_s = 0.2
[[service]]
name = "web"
hosts = ["*"]
static = ["127.0.0.1:{task.port}"]
[service.tls]
name = "tasks.test"
ca = "{ca}"
"""
        with Anyport(tmp_path, config, workers=1) as proxy:
            wait_for(proxy.ready, "anyport is ready", 20)
            wait_for(
                lambda: "TLS untrusted" in proxy.table()[0]["reason"], "the check fails for the signature", 20
            )
            status, body = ask(proxy)
            assert status == 503
            assert NONE_READY.reason.encode() in body
            assert not task.requests

            authority_file(tmp_path, authority)
            wait_for(lambda: proxy.table()[0]["state"] == "ready", "the new file is taken", 20)
            assert ask(proxy) == (200, b"secret")

            proxy.config.write_text(proxy.config.read_text().replace(ca, str(tmp_path / "no.pem")))
            proxy.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "there is no file" in proxy.log, "the reload is refused", 20)
            assert ask(proxy) == (200, b"secret")
            assert "BEGIN" not in proxy.log
