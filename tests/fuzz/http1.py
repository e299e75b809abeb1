"""Hostile bytes at the parsers, guided by what they reach: `make fuzz`.

libFuzzer's own options may follow, such as ARGS="-max_total_time=600". Inputs that reach something new, and
those that break an invariant, go to build/fuzz/. `--seed FOLDER` writes inputs to begin with, and
`-merge=1 tests/fuzz/corpus build/fuzz/corpus` adds to the committed corpus what reaches more than it does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FunctionType
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
CORPUS: Final = ROOT / "tests/fuzz/corpus"
FOUND: Final = ROOT / "build/fuzz"
_DEFAULTS: Final = ("-max_total_time=60", "-max_len=2048", "-timeout=10", "-print_final_stats=1")


def _seed(folder: Path) -> None:
    """Write one input for each row of the table of what is refused, and for what is taken."""
    from tests.kit.desync import REFUSED  # noqa: PLC0415

    inputs = [b"Q0" + head for head, _ in REFUSED.values() if len(head) < 1000]
    inputs += [
        b"Q9POST /a?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n"
        b"X: y\r\n\r\nGET",
        b"Q5GET http://a/ HTTP/1.0\r\nConnection: keep-alive, x\r\nX: 1\r\n\r\n"
        b"OPTIONS * HTTP/1.1\r\nHost: [::1]:8\r\n\r\n",
        b"Q7GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n",
        b"R3HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"R2HTTP/1.0 200\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nContent-Length: 01\r\n\r\nab",
        b"R1HTTP/1.1 304 Same\r\nContent-Length: 5\r\nConnection: x-a\r\nX-A: 1\r\n\r\n",
        b"H4HTTP/1.1 200 OK\r\nContent-Length: 5\r\nUpgrade: x\r\n\r\n",
        b'C2a;x="\\"";y\r\n0123456789\r\n0000003\r\nabc\r\n00\r\nX: y\r\nY:\r\n\r\nrest',
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs):
        (folder / f"seed-{number:03}").write_bytes(data)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--seed"]:
        _seed(Path(arguments[1]))
        return
    import atheris  # noqa: PLC0415

    from proxy.worker.http1 import framing  # noqa: PLC0415
    from tests.kit.fuzz_targets import check  # noqa: PLC0415
    from tests.kit.piecewise import SOURCE  # noqa: PLC0415

    for space in (vars(SOURCE), vars(framing), vars(framing.ChunkedReader)):
        for function in space.values():
            if isinstance(function, FunctionType) and function.__module__ in (
                SOURCE.__name__,
                framing.__name__,
            ):
                atheris.instrument_func(function)
    (FOUND / "corpus").mkdir(parents=True, exist_ok=True)
    options = [*_DEFAULTS, f"-artifact_prefix={FOUND}/", *arguments]
    folders = [] if any(not a.startswith("-") for a in arguments) else [str(FOUND / "corpus"), str(CORPUS)]
    again = f"{sys.executable} {__file__}"  # how libFuzzer starts itself to merge
    atheris.Setup([again, *options, *folders], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
