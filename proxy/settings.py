"""What a worker needs to know of the configuration: plain frozen dataclasses, cheap to import.

`config.py` nests these in its own sections, so each key is written once; they reach the workers
inside a snapshot, so a reload is one more snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

_STRICT = {"extra": "forbid"}  # read by pydantic when config.py validates these classes

Seconds = Annotated[float, Gt(0)]
Bytes = Annotated[int, Gt(0)]
Count = Annotated[int, Gt(0)]
BytesOrNone = Annotated[int, Ge(0)]  # 0: no limit
CountOrNone = Annotated[int, Ge(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long the data plane waits, in seconds."""

    connect_s: Seconds = 2.0  # TCP handshake with one backend
    connect_total_s: Seconds = 5.0  # all the handshakes one request may wait for
    response_head_s: Seconds = 60.0  # request sent to response head
    response_idle_s: Seconds = 60.0  # no byte of a response body
    tls_handshake_s: Seconds = 10.0  # TLS handshake with a client, from the accepted connection on
    request_head_s: Seconds = 10.0  # first byte to end of a request head, absolute
    request_body_s: Seconds = 30.0  # no byte of a request body
    request_body_grace_s: Seconds = 10.0  # from its first byte to where `request_body_bytes_per_s` counts
    client_write_s: Seconds = 30.0  # a client takes no byte of its response
    client_idle_s: Seconds = 75.0  # keep-alive client connection with nothing in flight
    client_age_s: Seconds = 3600.0  # then a client's connection ends with its next response
    linger_s: Seconds = 2.0  # reading on after an answer that ends a connection, so that it arrives
    proxy_header_s: Seconds = 3.0  # accepted connection to the end of its PROXY header
    upstream_idle_s: Seconds = 4.0  # pooled backend connection: below Node's and gunicorn's 5 s
    tunnel_idle_s: Seconds = 3600.0  # WebSocket with no byte either way
    tunnel_probe_after_s: Seconds = 60.0  # a silent side of a WebSocket is asked for a sign of life
    tunnel_probe_every_s: Seconds = 15.0  # between two such probes
    drain_s: Seconds = 25.0  # SIGTERM to cutting what is still open; keep below the task's stopTimeout
    lb_drain_s: Annotated[float, Ge(0)] = 5.0  # of it: still accepting, until load balancers have noticed
    stall_restart_s: Seconds = 5.0  # a worker that stands still for so long is started again

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the data plane accepts and buffers."""

    request_line_bytes: Bytes = 8 * 1024
    request_head_bytes: Bytes = 32 * 1024
    request_header_bytes: Bytes = 16 * 1024  # of one line
    request_headers: Count = 100
    request_body_bytes: BytesOrNone = 0  # 0: as large as it likes
    request_body_bytes_per_s: BytesOrNone = 500  # averaged over the body; 0: as slow as it likes
    response_head_bytes: Bytes = 64 * 1024
    response_headers: Count = 200
    buffer_bytes: Bytes = 64 * 1024  # per direction, before reading from the other side pauses
    idle_connections_per_backend: Count = 64  # per worker
    requests_per_connection: Count = 10_000  # then a client's keep-alive connection is closed
    requests_per_upstream_connection: Count = 1_000  # then a backend's is
    client_connections: CountOrNone = 0  # per worker; 0: as many as its descriptors allow
    tunnel_probes: Count = 4  # without an answer, then that side of a WebSocket is gone
    linger_bytes: Bytes = 64 * 1024  # read and dropped after an answer that ends a connection

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Within which bounds a request that reached no backend is tried elsewhere."""

    attempts: Count = 3  # in all, each on another backend while there are others
    budget_percent: Annotated[float, Gt(0)] = 10.0  # of a service's requests in the last 10 s ...
    budget_minimum: Count = 10  # ... and never less than this many per second

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLog:
    """Which requests leave a line, one JSON object each, on standard output."""

    requests: Literal["errors", "all", "off"] = "errors"  # errors: those that carry an error code, and 5xx

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate with its chain, and where its key is. The key itself never leaves its file."""

    cert: str  # PEM file, absolute path: the certificate, then its chain
    key: str  # PEM file
    fingerprint: str = ""  # SHA-256 of what `cert` holds, in hex: a new one means read the files again
    names: tuple[str, ...] = ()  # the hosts it is for, in lower case: "a.example.com", "*.example.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """How connections that come in at one address begin."""

    address: str = ""  # as the configuration has it
    tls: tuple[Certificate, ...] = ()  # (): no TLS; the first one is for clients that ask for no other
    proxy_protocol: bool = False  # each connection begins with a PROXY header


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTls:
    """How to speak TLS with the backends of a service. Keys never leave their files."""

    name: str = ""  # what the certificate must be for, and the SNI; "": only without `verify`
    verify: bool = True
    ca: str = ""  # PEM file; "": the system's store
    cert: str = ""  # PEM file of the client certificate; "": none
    key: str = ""  # PEM file
    fingerprint: str = ""  # SHA-256 of what the files hold, in hex: a new one means read them again


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityCheck:
    """How a backend proves whose it is: what is asked, and where its answer names the service or the task."""

    path: str = "/"  # of the GET
    host: str = ""  # its Host header
    header: str = ""  # of the answer; "": not looked at
    body: bool = False
    timeout_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything above, as it crosses the link."""

    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    retries: Retries = Retries()
    access_log: AccessLog = AccessLog()
    listeners: tuple[ListenerSettings, ...] = ()  # in the order of the listening sockets
    trusted_proxies: tuple[str, ...] = ()  # CIDRs whose X-Forwarded-* are believed and appended to
