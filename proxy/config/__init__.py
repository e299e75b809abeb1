"""config.toml and `ANYPORT_…` variables as frozen settings, or every error at once.

`load` is the only way in; the sections are in `model.py`.
"""

from __future__ import annotations

from proxy.config.clusters import ClusterAt, clusters_of
from proxy.config.errors import ConfigError, Issue
from proxy.config.load import load
from proxy.config.model import (
    Address,
    Admin,
    BackendTls,
    Config,
    Count,
    Ecs,
    EcsCluster,
    EcsTarget,
    Health,
    Listener,
    Log,
    Metrics,
    Seconds,
    Service,
    ServiceTls,
    split_address,
)

__all__ = [
    "Address",
    "Admin",
    "BackendTls",
    "ClusterAt",
    "Config",
    "ConfigError",
    "Count",
    "Ecs",
    "EcsCluster",
    "EcsTarget",
    "Health",
    "Issue",
    "Listener",
    "Log",
    "Metrics",
    "Seconds",
    "Service",
    "ServiceTls",
    "clusters_of",
    "load",
    "split_address",
]
