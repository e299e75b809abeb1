"""config.toml as frozen settings. Unknown keys are errors, units are in the names."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from proxy.settings import AccessLog, Limits, Retries, Timeouts, WorkerSettings


def _address(text: str) -> str:
    host, port = split_address(text)
    ipaddress.ip_address(host)
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not between 0 and 65535")
    return text


def split_address(text: str) -> tuple[str, int]:
    """Return (ip, port) of "10.0.0.1:80" or "[::1]:80"."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise ValueError('an address is "ip:port", such as "0.0.0.0:8080" or "[::]:8080"')
    return host.removeprefix("[").removesuffix("]"), int(port)


Address = Annotated[str, AfterValidator(_address)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listener(_Section):
    """A fixed address clients connect to."""

    address: Address = "0.0.0.0:8080"


class Metrics(_Section):
    """Read only: /metrics, /healthz, /readyz."""

    address: Address = "0.0.0.0:9180"


class Admin(_Section):
    """The table, and what may change things. Beyond loopback only with a token."""

    address: Address = "127.0.0.1:9181"


class Health(_Section):
    """Active checks, for every service that does not say otherwise."""

    kind: Literal["http", "tcp", "none"] = "http"
    path: str = Field(default="/", pattern=r"^/[!-~]*$")
    interval_s: Seconds = 5.0
    timeout_s: Seconds = 2.0
    healthy_threshold: Count = 1
    unhealthy_threshold: Count = 3
    host: str = ""


class Ecs(_Section):
    """The ECS API as a source. Without `clusters` it is not asked."""

    clusters: tuple[str, ...] = ()
    region: str = ""  # "": what boto3 finds (AWS_REGION, profile, instance metadata)
    endpoint_url: str = ""  # "": AWS itself; the address `anyport simulate` prints
    poll_interval_s: Seconds = 5.0
    call_timeout_s: Seconds = 10.0
    domain: str = ""  # service `web` answers to `web.<domain>`; "": only services named below or by labels


class EcsTarget(_Section):
    """Which containers of which ECS service serve a [[service]]."""

    service: str
    cluster: str = ""  # "": the only one of [ecs] clusters
    container: str = ""  # "": the only one with a matching port
    port: int | None = Field(default=None, ge=1, le=65535)  # the *container* port, never the host port
    port_name: str = ""  # or the name of the port mapping


class Service(_Section):
    """One service: which requests mean it, and where it runs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    hosts: tuple[str, ...] = ()
    path: str = Field(default="/", pattern=r"^/[!-~]*$")
    ecs: EcsTarget | None = None
    static: tuple[Address, ...] = ()
    health: Health | None = None  # None: [health]


class Log(_Section):
    """What anyport says about itself, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(_Section):
    """The whole file."""

    workers: int = Field(default=0, ge=0, le=256)  # 0: one per CPU this process may use
    trusted_proxies: tuple[str, ...] = ()  # CIDRs of load balancers in front
    listener: tuple[Listener, ...] = (Listener(),)
    metrics: Metrics = Metrics()
    admin: Admin = Admin()
    log: Log = Log()
    access_log: AccessLog = AccessLog()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    retries: Retries = Retries()
    health: Health = Health()
    ecs: Ecs = Ecs()
    service: tuple[Service, ...] = ()

    def worker_settings(self) -> WorkerSettings:
        """Return the part that crosses the link."""
        return WorkerSettings(
            timeouts=self.timeouts,
            limits=self.limits,
            retries=self.retries,
            access_log=self.access_log,
            trusted_proxies=self.trusted_proxies,
        )
