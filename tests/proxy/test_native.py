"""The compiled hot path: it is what runs where it was built, and the source runs where that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from proxy import native

_WHAT = "from proxy import native; from proxy.worker.http1 import head; print(native.kind(), head.__file__)"


def running(**environment: str) -> list[str]:
    env = {k: v for k, v in os.environ.items() if k != "ANYPORT_PURE_PYTHON"} | environment
    done = subprocess.run([sys.executable, "-c", _WHAT], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_source_runs_where_it_is_asked_for() -> None:
    kind, file = running(ANYPORT_PURE_PYTHON="1")
    assert kind == "python"
    assert file.endswith("head.py")


@pytest.mark.skipif(
    native.kind() != "compiled" and os.environ.get("ANYPORT_REQUIRE_ALL") != "1", reason="not compiled here"
)
def test_what_was_compiled_runs_compiled() -> None:
    if os.environ.get("ANYPORT_PURE_PYTHON"):
        pytest.skip("this run tests the source")
    kind, file = running()
    assert kind == "compiled"
    assert not file.endswith(".py")
