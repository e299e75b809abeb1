"""What is asked of DNS, and what it says: the words of the other `dns` modules."""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[str, int]  # ip, port


class Name(NamedTuple):
    """What is asked for: addresses of *host*, or where its SRV records point if there is no port."""

    host: str  # lower case, without a dot at its end
    port: int = 0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Answer(NamedTuple):
    """What DNS says of a name. No places: it says that there are none, or that there is no such name."""

    places: frozenset[Place]
    ttl_s: float  # for how long they hold; without places it says nothing
    whole: bool = True  # False: a part could not be asked for, so what is missing here proves nothing
