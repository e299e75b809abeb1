"""When Python looks for garbage that counting references does not free."""

from __future__ import annotations

import gc
from typing import Final

# A look at everything costs about 0.1 us for each object there is: with ten thousand backends that is a
# stall of milliseconds. Requests leave next to nothing to find, so it is done a tenth as often as usual.
_THRESHOLDS: Final = (700, 10, 100)


def settle() -> None:
    """Never look again at what there is now, which stays: modules, constants, the first table."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
