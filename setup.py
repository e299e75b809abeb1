"""The one thing pyproject.toml cannot say: which modules are compiled, and what if that fails.

Without a compiler anyport runs from the same source, slower. Where that must not happen
(ANYPORT_REQUIRE_ALL=1: CI and the image) a failed build is an error.
"""

import os
import sys

from setuptools import Extension, setup

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # a build backend does not do that

from proxy.native import EXTRAS, MODULES

REQUIRED = os.environ.get("ANYPORT_REQUIRE_ALL") == "1"


def extensions() -> list[Extension]:
    """Return the modules as extensions, or none where they must not be compiled or cannot be."""
    if os.environ.get("ANYPORT_PURE_PYTHON"):
        return []
    try:
        from Cython.Build import cythonize  # noqa: PLC0415 - not needed where nothing is compiled
    except ImportError:
        if REQUIRED:
            raise
        return []
    found: list[Extension] = cythonize(
        [
            Extension(
                name,
                [name.replace(".", "/") + (".pyx" if name in EXTRAS else ".py")],
                extra_compile_args=["-O2"],
                optional=not REQUIRED,  # a compiler that is missing or fails: go on with the source
            )
            for name in (*MODULES, *EXTRAS)
        ],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "annotation_typing": False,  # the types are in the .pxd files
            "binding": True,
        },
        quiet=True,
    )
    return found


setup(ext_modules=extensions())
