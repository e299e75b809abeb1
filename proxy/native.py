"""Which modules are compiled, and whether they run so.

The compiled modules are ordinary Python sources with a `.pxd` beside them that gives the compiler the
types (see `setup.py`). ANYPORT_PURE_PYTHON=1 runs the sources even where they have been compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

MODULES: Final = (
    "proxy.link.cells",
    "proxy.policy.backends",
    "proxy.policy.balancing",
    "proxy.worker.http1.downstream",
    "proxy.worker.http1.exchange",
    "proxy.worker.http1.frames",
    "proxy.worker.http1.head",
    "proxy.worker.http1.pool",
    "proxy.worker.http1.tunnel",
    "proxy.worker.http1.upstream",
    "proxy.worker.record",
    "proxy.worker.sockets",
    "proxy.worker.state",
)
# In C alone, and optional: whoever uses one has a way without it.
EXTRAS: Final = ("proxy.worker.syscalls",)


def kind() -> str:
    """Return "compiled" or "python": what the modules above run as in this process and its children."""
    specs = [find_spec(name) for name in MODULES]
    return "python" if any(s is None or isinstance(s.loader, SourceFileLoader) for s in specs) else "compiled"


class _SourceFinder:
    """Finds the source of the modules above before anything else finds their compiled form."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in EXTRAS:
            raise ModuleNotFoundError(f"{name} exists compiled only", name=name)
        if name not in MODULES or path is None:
            return None
        source = Path(path[0], f"{name.rpartition('.')[2]}.py")  # a package of ours is one folder
        return spec_from_file_location(name, source, loader=SourceFileLoader(name, str(source)))


def use_sources() -> None:
    """From now on import the modules above from their sources."""
    sys.meta_path.insert(0, _SourceFinder)
