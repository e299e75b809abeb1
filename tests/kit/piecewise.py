"""Reading heads and bodies in pieces, with whichever parser: the compiled one, or its source."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from proxy.worker.http1 import head as compiled
from proxy.worker.http1.framing import ChunkedReader, FramingError
from tests.kit.parsers import LIMITS


def read_body(pieces: list[bytes]) -> tuple[bytes, bytes] | str:
    """Return (payload, what follows the body), "partial" or "refused"."""
    reader, payload = ChunkedReader(), b""
    for index, piece in enumerate(pieces):
        try:
            payload += reader.feed(piece)
        except FramingError:
            return "refused"
        if reader.done:
            return payload, reader.rest + b"".join(pieces[index + 1 :])
    return "partial"


def bytewise(data: bytes) -> list[bytes]:
    """Return *data* in pieces of one byte."""
    return [data[i : i + 1] for i in range(len(data))]


def _load_source() -> ModuleType:
    """Return the head parser as plain Python, whatever runs here."""
    path = Path(compiled.__file__).parent / "head.py"
    spec = importlib.util.spec_from_loader("head_source", SourceFileLoader("head_source", str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCE = _load_source()


def read_head(parser: Any, pieces: list[bytes], method: bytes | None) -> object:
    """Return everything *parser* says about the head that comes in *pieces*; None while it is not whole."""
    buffer, scanned = b"", 0
    limit = LIMITS.request_head_bytes if method is None else LIMITS.response_head_bytes
    try:
        for piece in pieces:
            buffer += piece
            end = parser.find_end(buffer, scanned, limit)
            if end >= 0:
                whole = buffer[:end]
                if method is None:
                    head = parser.parse_request(whole, LIMITS)
                else:
                    head = parser.parse_response(whole, method, LIMITS)
                names = (SOURCE.RequestHead if method is None else SOURCE.ResponseHead).__slots__
                return {name: getattr(head, name) for name in names}
            scanned = len(buffer)
    except parser.HeadError:
        # A line end that cannot be is refused before the head is whole, whatever it says elsewhere.
        return "refused"
    return None
