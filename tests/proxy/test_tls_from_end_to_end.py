"""TLS as an operator meets it: a configuration, files that change, SIGHUP, metrics."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.kit.anyport import Anyport, free_port
from tests.kit.backends import ScriptedBackend, answering
from tests.kit.certificates import Authority, names_of
from tests.kit.wire import Wire, request
from tests.kit.workers import wait_for


class Traffic:
    """Requests one after the other on a kept TLS connection, in a thread."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.answers = 0
        self.failure: BaseException | None = None
        self._over = threading.Event()
        plain = socket.create_connection(("127.0.0.1", port))
        self.sock = context.wrap_socket(plain, server_hostname="web.test", suppress_ragged_eofs=False)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        wire = Wire(self.sock)
        wire.keep_received = False
        try:
            while not self._over.wait(0.002):
                wire.send(request())
                assert wire.read_response().status == 200
                self.answers += 1
        except BaseException as exc:
            self.failure = exc

    def end(self) -> None:
        self._over.set()
        self._thread.join(10)
        self.sock.close()


def names_at(port: int, context: ssl.SSLContext, name: str = "web.test") -> set[str]:
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=name) as sock:
        return names_of(sock)


@pytest.mark.slow
def test_certificates_change_under_traffic_and_nobody_notices(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("w", "web.test")
    authority.issue("s", "*.shop.test")
    tls_port = free_port()
    # The folder of the configuration is where relative paths begin.
    sections = (
        f'[[listener]]\naddress = "127.0.0.1:{tls_port}"\n'
        '[[listener.tls]]\ncert = "w.pem"\nkey = "w.key"\n'
        '[[listener.tls]]\ncert = "s.pem"\nkey = "s.key"\n'
        '[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:{backend}"]\n'
    )
    with (
        ScriptedBackend(answering()) as made,
        Anyport(tmp_path, sections.replace("{backend}", str(made.port))) as anyport,
    ):
        anyport.wait_ready()
        client = authority.client()
        traffic = [Traffic(tls_port, client) for _ in range(4)]
        try:
            assert names_at(tls_port, client) == {"web.test"}
            assert names_at(tls_port, client, "a.shop.test") == {"*.shop.test"}

            # New files.
            authority.issue("w", "web.test", "new.test")
            wait_for(lambda: "new certificate" in anyport.log, "it is seen", 20)
            wait_for(
                lambda: all(names_at(tls_port, client) == {"web.test", "new.test"} for _ in range(8)),
                "it is shown by every worker",
            )

            # Spoilt files, and a reload on top: nothing changes.
            (tmp_path / "w.pem").write_text("nonsense")
            wait_for(lambda: "the one before stays in use" in anyport.log, "it is said", 20)
            anyport.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "was not reloaded" in anyport.log, "the reload is refused", 20)
            assert names_at(tls_port, client) == {"web.test", "new.test"}

            # Good ones again, and SIGHUP does not wait; the plain listener gets TLS too.
            authority.issue("w", "web.test", "third.test")
            text = anyport.config.read_text()
            first = f'address = "127.0.0.1:{anyport.port}"\n'
            tls = first + '[[listener.tls]]\ncert = "s.pem"\nkey = "s.key"\n'
            anyport.config.write_text(text.replace(first, tls))
            anyport.process.send_signal(signal.SIGHUP)
            wait_for(
                lambda: all(names_at(tls_port, client) == {"web.test", "third.test"} for _ in range(8)),
                "it is shown by every worker",
            )
            wait_for(
                lambda: names_at(anyport.port, client, "b.shop.test") == {"*.shop.test"},
                "TLS on the other",
            )

            before = [one.answers for one in traffic]
            wait_for(
                lambda: all(one.answers > then for one, then in zip(traffic, before, strict=True)),
                "traffic goes on",
            )
        finally:
            for one in traffic:
                one.end()
        assert [one.failure for one in traffic] == [None] * 4

        metrics = anyport.metrics()
        assert f'anyport_certificate_expiry_seconds{{certificate="{tmp_path}/w.pem"' in metrics
        assert "anyport_tls_handshakes_total" in metrics
        key = (tmp_path / "w.key").read_text().splitlines()[1]
        assert key not in metrics + anyport.log + str(anyport.table()) + str(anyport.readyz())
        assert "Traceback" not in anyport.log


def test_a_certificate_that_cannot_serve_stops_the_start_with_words(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("w", "web.test")
    authority.issue("x", "web.test")
    sections = (
        f'[[listener]]\naddress = "127.0.0.1:{free_port()}"\n'
        '[[listener.tls]]\ncert = "w.pem"\nkey = "x.key"\n'
        '[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:1"]\n'
    )
    with Anyport(tmp_path, sections) as anyport:
        assert anyport.process.wait(20) == 2
        assert "does not belong to the certificate" in anyport.log
        assert 'key = "x.key"' in anyport.log


def test_a_worker_that_starts_before_the_control_process_is_up_knows_that_it_is_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("w", "web.test")
    port = free_port()
    sections = (
        f'[[listener]]\naddress = "127.0.0.1:{port}"\n[[listener.tls]]\ncert = "w.pem"\nkey = "w.key"\n'
        '[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:1"]\n'
    )
    client = authority.client()

    def listening() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return False
        return True

    with Anyport(tmp_path, sections, workers=1):
        wait_for(listening, "the address is bound", 20)
        # The very first connection waits in the queue of the socket until there is a worker.
        assert names_at(port, client) == {"web.test"}
