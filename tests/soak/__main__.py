"""`make soak`: half an hour under load with aborts and churn, then a table of what it has left behind."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.soak.evidence import breaches, table
from tests.soak.run import Soak

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Return the seconds of "90s", "2m" or "1h"."""
    match = re.fullmatch(r"([0-9]{1,5})([smh])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write for example 90s, 2m or 1h")
    return int(match[1]) * _UNITS[match[2]]


def main(argv: Sequence[str]) -> int:
    """Return 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--for", dest="for_s", type=seconds, default="30m", help="how long (default: 30m)")
    for_s: float = parser.parse_args(argv).for_s
    with tempfile.TemporaryDirectory(prefix="anyport-soak-") as folder:
        seen = Soak(Path(folder), for_s, say=_say).run()
    _say(table(seen))
    return 1 if breaches(seen) else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
