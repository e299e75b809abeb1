"""boto3 clients for one account and Region, with credentials that renew themselves."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    DeferredRefreshableCredentials,
)

from discovery.model import DiscoveryError

_CONNECTIONS: Final = 16  # kept open for each service
_CONNECT_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where to ask and as whom; "" leaves it to boto3 (environment, profile, task role, metadata)."""

    region: str = ""
    endpoint_url: str = ""  # "": AWS itself
    role_arn: str = ""  # assumed with what boto3 finds
    external_id: str = ""  # that the role asks for

    def key(self, cluster: str = "") -> tuple[str, str, str]:
        """Return what those who share one API budget have in common, as far as it can be told."""
        number = next((arn.split(":")[4] for arn in (self.role_arn, cluster) if arn.count(":") >= 5), "")
        return number, self.region, self.endpoint_url


class Clients:
    """The clients of one account. Made on first use, and anew after `close`."""

    def __init__(self, account: Account, *, read_timeout_s: float) -> None:
        self.account = account
        self._read_timeout_s = read_timeout_s
        self._clients: dict[str, Any] = {}
        self._session: boto3.session.Session | None = None
        self._lock = threading.Lock()

    def get(self, service: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        """Return the client of *service*. This reads files and may ask the metadata service: in a thread."""
        with self._lock:
            if service not in self._clients:
                try:
                    self._clients[service] = self._new(service)
                except ValueError as exc:
                    raise DiscoveryError(
                        "other",
                        f"{self.account.endpoint_url!r} or Region {self.account.region!r} makes no sense: "
                        "check endpoint_url and region in [ecs], such as "
                        '"http://127.0.0.1:4566" and "eu-west-1"',
                    ) from exc
            return self._clients[service]

    def close(self) -> None:
        """Close the connections and forget the credentials; later calls look for them again."""
        # Without the lock: its holder may be waiting for the metadata service, and this is the event loop.
        clients, self._clients, self._session = self._clients, {}, None
        for client in clients.values():
            client.close()

    def _new(self, service: str) -> Any:  # noqa: ANN401
        # At level DEBUG they print requests and answers, environment variables included.
        for name in ("boto3", "botocore", "urllib3"):
            logging.getLogger(name).setLevel(logging.WARNING)
        session = self._session
        if session is None:
            session = self._session = self._new_session()
        return session.client(
            service,
            region_name=self.account.region or None,
            endpoint_url=self.account.endpoint_url or None,
            config=self._config(),
        )

    def _new_session(self) -> boto3.session.Session:
        if not self.account.role_arn:
            return boto3.session.Session()
        session = botocore.session.Session()
        chain = session.get_component("credential_provider")
        chain.insert_before("env", _Role(self.account, self._config()))
        return boto3.session.Session(botocore_session=session)

    def _config(self) -> Config:
        return Config(
            # Calls are repeated by their caller, within the budget that it shares with others.
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=min(self._read_timeout_s, _CONNECT_TIMEOUT_S),
            read_timeout=self._read_timeout_s,
            max_pool_connections=_CONNECTIONS,
        )


class _Role(CredentialProvider):  # type: ignore[misc]  # botocore has no types
    """Credentials of an assumed role; botocore renews them before they expire."""

    METHOD = "anyport-assume-role"

    def __init__(self, account: Account, config: Config) -> None:
        super().__init__(botocore.session.Session())
        self._account = account
        self._config = config

    def load(self) -> Any:  # noqa: ANN401
        ours = self.session.get_credentials()
        if ours is None:
            return None
        named = {"RoleSessionName": "anyport"}
        if self._account.external_id:
            named["ExternalId"] = self._account.external_id
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=self._create_client,
            source_credentials=ours,
            role_arn=self._account.role_arn,
            extra_args=named,
        )
        return DeferredRefreshableCredentials(method=self.METHOD, refresh_using=fetcher.fetch_credentials)

    def _create_client(self, service: str, **credentials: Any) -> Any:  # noqa: ANN401
        return self.session.create_client(
            service,
            region_name=self._account.region or None,
            endpoint_url=self._account.endpoint_url or None,
            config=self._config,
            **credentials,
        )
