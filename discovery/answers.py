"""Reading answers of servers that are not to be trusted with our memory."""

from __future__ import annotations

import aiohttp


class TooLargeError(ValueError):
    """An answer is longer than it may be."""


async def body_of(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the body of *response*; raise `TooLargeError` if it has more than *most_bytes*."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > most_bytes:
            response.close()
            raise TooLargeError(f"more than {most_bytes} bytes")
        pieces.append(piece)
    return b"".join(pieces)
