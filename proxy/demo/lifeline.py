"""Start a program that cannot outlive the demo: `python -P -m proxy.demo.lifeline PID PROGRAM ARGS...`.

Between fork and exec it asks the kernel for a SIGTERM at its parent's death, so even `kill -9` of
the demo leaves nothing behind. The program sees nothing of this.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def tied(*command: str) -> tuple[str, ...]:
    """Return the command line that runs *command* tied to the life of this process."""
    return (sys.executable, "-P", "-m", "proxy.demo.lifeline", str(os.getpid()), *command)


def _main(parent: int, command: list[str]) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 (that is the point: no shell)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
