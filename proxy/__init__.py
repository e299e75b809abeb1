"""anyport, the proxy."""

import os

if os.environ.get("ANYPORT_PURE_PYTHON"):
    from proxy import native

    native.use_sources()
