"""The whole of anyport as a user starts it: supervisor, control process and workers."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kit.workers import wait_for


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Anyport:
    """`anyport run` on free ports of 127.0.0.1, with the sections of *config* added."""

    def __init__(
        self, folder: Path, config: str, *, workers: int = 2, environ: dict[str, str] | None = None
    ) -> None:
        self.port, self.metrics_port, self.admin_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = folder / "config.toml"
        self.config.write_text(
            f'workers = {workers}\n[[listener]]\naddress = "127.0.0.1:{self.port}"\n'
            f'[metrics]\naddress = "127.0.0.1:{self.metrics_port}"\n'
            f'[admin]\naddress = "127.0.0.1:{self.admin_port}"\n{config}'
        )
        self._environ = {"ANYPORT_TIMEOUTS__LB_DRAIN_S": "0", **os.environ, **(environ or {})}
        self._log_path = folder / "anyport.log"

    def __enter__(self) -> Self:
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run", "--config", str(self.config)],
                stdout=log, stderr=log, env=self._environ,
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(40)

    def successor(self, name: str, **environ: str) -> Anyport:
        """Return another one of the same configuration and ports, with *environ* over it; not yet started."""
        made = copy.copy(self)
        made._environ = {**self._environ, **environ}
        made._log_path = self._log_path.with_name(f"{name}.log")
        return made

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def wait_ready(self) -> None:
        """Return once there is a table and every backend in it is ready."""
        wait_for(self.ready, "anyport is ready", 20)
        wait_for(lambda: {row["state"] for row in self.table()} == {"ready"}, "all backends ready", 20)

    def ready(self) -> bool:
        try:
            return bool(self.readyz()["ready"])
        except OSError:
            return False

    def readyz(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=5) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as answer:
            with answer:
                return dict(json.load(answer))

    def table(self) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.admin_port}/api/v1/table"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return list(json.load(answer))

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def children(self) -> dict[str, int]:
        """Return the process ids of "control", "worker 0", "worker 1", ... as they are now."""
        found = {}
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in listing:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"proxy.control" in argv:
                found["control"] = int(pid)
            elif b"proxy.worker" in argv:
                found[f"worker {argv[argv.index(b'--row') + 1].decode()}"] = int(pid)
        return found
