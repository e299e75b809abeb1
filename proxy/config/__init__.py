"""config.toml and `ANYPORT_…` variables as frozen settings, or every error at once.

`load` is the only way in; the sections are in `model.py`.
"""

from __future__ import annotations

from proxy.config.errors import ConfigError, Issue
from proxy.config.load import load
from proxy.config.model import (
    Address,
    Admin,
    Config,
    Count,
    Ecs,
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
    "Config",
    "ConfigError",
    "Count",
    "Ecs",
    "EcsTarget",
    "Health",
    "Issue",
    "Listener",
    "Log",
    "Metrics",
    "Seconds",
    "Service",
    "ServiceTls",
    "load",
    "split_address",
]
