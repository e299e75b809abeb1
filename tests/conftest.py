"""What holds for every test: the code under test is the code that is there."""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from proxy import native

ROOT = Path(__file__).resolve().parent.parent


def _stale() -> list[str]:
    """Return the modules whose compiled form is missing or older than what it was made from."""
    found = []
    for name in (*native.MODULES, *native.EXTRAS):
        stem = ROOT / name.replace(".", "/")
        sources = [path for end in (".py", ".pxd", ".pyx") if (path := stem.with_suffix(end)).exists()]
        compiled = [path for end in EXTENSION_SUFFIXES if (path := Path(f"{stem}{end}")).exists()]
        newest = max(path.stat().st_mtime for path in sources)
        if not any(path.stat().st_mtime >= newest for path in compiled):
            found.append(name)
    return found


def pytest_configure() -> None:
    if os.environ.get("ANYPORT_PURE_PYTHON"):
        return
    if stale := _stale():
        if os.environ.get("ANYPORT_REQUIRE_ALL") == "1":
            pytest.exit(f"not compiled, or from an older source: {', '.join(stale)}: run `make build`", 2)
        os.environ["ANYPORT_PURE_PYTHON"] = "1"  # for the processes that tests start
        native.use_sources()


def pytest_report_header() -> str:
    kind = "python" if os.environ.get("ANYPORT_PURE_PYTHON") else "compiled"
    return f"anyport: hot path as {kind}" + ("" if kind == "compiled" else " (`make build` compiles it)")
