"""The sections of config.toml. Unknown keys are errors, units are in the names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from proxy.config import text
from proxy.config.text import split_address
from proxy.settings import (
    AccessLog,
    Certificate,
    Limits,
    ListenerSettings,
    Retries,
    Timeouts,
    WorkerSettings,
)

__all__ = ["Config", "split_address"]

Address = Annotated[str, AfterValidator(text.address)]
Host = Annotated[str, AfterValidator(text.host_pattern)]
Network = Annotated[str, AfterValidator(text.network)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """One certificate of a listener, and its key: PEM files."""

    cert: Annotated[str, AfterValidator(text.file)]
    key: Annotated[str, AfterValidator(text.file)]


class Listener(_Section):
    """A fixed address clients connect to."""

    address: Address = "0.0.0.0:8080"
    proxy_protocol: bool = False  # connections begin with a PROXY header, from `trusted_proxies` only
    tls: tuple[Tls, ...] = ()  # (): HTTP; else the first is the one for clients that ask for no other

    def settings(self) -> ListenerSettings:
        """Return the part that crosses the link, before anybody has looked into the files."""
        return ListenerSettings(
            address=self.address,
            tls=tuple(Certificate(cert=pair.cert, key=pair.key) for pair in self.tls),
            proxy_protocol=self.proxy_protocol,
        )


class Metrics(_Section):
    """Read only: /metrics, /healthz, /readyz."""

    address: Address = "0.0.0.0:9180"


class Admin(_Section):
    """The table, and what may change things. Beyond loopback only with a token."""

    address: Address = "127.0.0.1:9181"
    token: SecretStr = SecretStr("")  # "": none asked for; else `Authorization: Bearer <token>`


class Health(_Section):
    """Active checks, for every service that does not say otherwise."""

    kind: Literal["http", "tcp", "none"] = "http"
    path: Annotated[str, AfterValidator(text.path)] = "/"
    interval_s: Seconds = 5.0
    timeout_s: Seconds = 2.0
    healthy_threshold: Count = 1
    unhealthy_threshold: Count = 3
    host: str = ""
    identity_header: Annotated[str, AfterValidator(text.optional_header)] = ""  # "": no proof asked for
    identity_body: bool = False


class BackendTls(_Section):
    """Files for TLS to the tasks, for every service with TLS that does not name its own."""

    ca: Annotated[str, AfterValidator(text.optional_file)] = ""  # "": the system's store
    cert: Annotated[str, AfterValidator(text.optional_file)] = ""  # "": no client certificate
    key: Annotated[str, AfterValidator(text.optional_file)] = ""


class ServiceTls(BackendTls):
    """TLS to the tasks of a service. `load` fills the files that are left out from [backend_tls]."""

    name: Annotated[str, AfterValidator(text.optional_domain)] = ""  # in their certificates; also the SNI
    verify: bool = True


class Events(_Section):
    """Changes in ECS as they happen, by EventBridge and a queue."""

    queue: Annotated[str, AfterValidator(text.queue)] = ""  # "": none, "auto": one of our own, or URL or ARN
    topic: Annotated[str, AfterValidator(text.topic)] = ""  # "": "anyport-events"; only with "auto"


class EcsCluster(_Section):
    """A cluster that is asked elsewhere, or as somebody else, than [ecs] says."""

    name: str  # or its ARN
    region: str = ""  # "": that of the ARN, or of [ecs]
    role_arn: Annotated[str, AfterValidator(text.role_arn)] = ""  # assumed first; "": none
    external_id: str = ""  # that the role asks for
    endpoint_url: Annotated[str, AfterValidator(text.endpoint_url)] = ""  # "": as [ecs]


class Ecs(_Section):
    """The ECS API as a source. Without a cluster it is not asked. `clusters_of` has them all."""

    clusters: tuple[str, ...] = ()  # the short form
    cluster: tuple[EcsCluster, ...] = ()
    region: str = ""  # "": what boto3 finds (AWS_REGION, profile, instance metadata)
    endpoint_url: Annotated[str, AfterValidator(text.endpoint_url)] = ""  # "": AWS itself
    poll_interval_s: Seconds = 5.0
    call_timeout_s: Seconds = 10.0
    api_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    domain: Annotated[str, AfterValidator(text.optional_domain)] = ""  # `web` answers to `web.<domain>`
    agent: Annotated[str, AfterValidator(text.agent)] = "auto"  # "off", or its URL
    events: Events = Events()


class Dns(_Section):
    """How the names in `dns` of a [[service]] are resolved."""

    servers: tuple[Annotated[str, AfterValidator(text.dns_server)], ...] = ()  # (): /etc/resolv.conf
    ttl_max_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 60.0


class File(_Section):
    """Services in a file of their own, or a folder of them, which may change at any time."""

    path: Annotated[str, AfterValidator(text.optional_path)] = ""  # "": none


class Fleet(_Section):
    """The other proxies of our ECS service: one asks the ECS API, the others follow it."""

    key: SecretStr = SecretStr("")  # "": each asks for itself
    port: int = Field(default=0, ge=0, le=65535)  # of their [metrics], in the container; 0: as ours
    alone: bool = False  # there is no other proxy: this one may say for all that a task is drained


class State(_Section):
    """What is kept on disk, so that a start needs nobody's answer."""

    path: Annotated[str, AfterValidator(text.optional_path)] = ""  # a folder; "": nothing is kept
    max_age_s: Seconds = 900.0


class EcsTarget(_Section):
    """Which containers of which ECS service serve a [[service]]."""

    service: str
    cluster: str = ""  # "": the only one of [ecs] clusters
    container: str = ""  # "": the only one with a matching port
    port: int | None = Field(default=None, ge=1, le=65535)  # the *container* port, never the host port
    port_name: str = ""  # or the name of the port mapping


class Service(_Section):
    """One service: which requests mean it, and where it runs."""

    name: Annotated[str, AfterValidator(text.name)]
    hosts: tuple[Host, ...] = ()  # (): `load` puts "<ECS service, or name>.<[ecs] domain>" here
    path: Annotated[str, AfterValidator(text.prefix)] = "/"
    ecs: EcsTarget | None = None
    static: tuple[Address, ...] = ()
    dns: tuple[Annotated[str, AfterValidator(text.dns_name)], ...] = ()
    tls: ServiceTls | None = None  # None: plain HTTP
    health: Health | None = None  # None: [health]; `load` fills what is left out here from [health]


class Log(_Section):
    """What anyport says about itself, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(_Section):
    """The whole file."""

    workers: int = Field(default=0, ge=0, le=256)  # 0: one per CPU this process may use
    trusted_proxies: tuple[Network, ...] = ()  # CIDRs of load balancers in front
    handoff: Annotated[str, Field(max_length=90)] = ""  # path of a unix socket; "": no hand-off
    listener: tuple[Listener, ...] = (Listener(),)
    metrics: Metrics = Metrics()
    admin: Admin = Admin()
    log: Log = Log()
    access_log: AccessLog = AccessLog()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    retries: Retries = Retries()
    health: Health = Health()
    backend_tls: BackendTls = BackendTls()
    ecs: Ecs = Ecs()
    fleet: Fleet = Fleet()
    state: State = State()
    dns: Dns = Dns()
    file: File = File()
    service: tuple[Service, ...] = ()

    def worker_settings(self) -> WorkerSettings:
        """Return the part that crosses the link."""
        return WorkerSettings(
            timeouts=self.timeouts,
            limits=self.limits,
            retries=self.retries,
            access_log=self.access_log,
            listeners=tuple(listener.settings() for listener in self.listener),
            trusted_proxies=self.trusted_proxies,
        )
