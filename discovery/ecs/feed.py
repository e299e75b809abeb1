"""Those who tell the ledger of a cluster what they see: the API, events, the agent, a peer, the disk."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Heard(Protocol):
    """What a feed calls when it has told the ledger something. It returns at once."""

    def __call__(self, *, complete: bool = False, asked_s: float | None = None) -> None:
        """Say that the ledger has changed.

        With *complete*: what the ledger holds is now a complete answer, as fresh as the question behind
        it, asked at *asked_s* (monotonic; None: just now). Also worth a call when nothing has changed.
        """
        ...


class Feed(Protocol):
    """An informant of one cluster. It is made with the cluster's ledger and a `Heard`."""

    @property
    def name(self) -> str:
        """What `Told.by` shows: "api", "events", "agent", "leader", "disk"."""
        ...

    async def run(self) -> None:
        """Tell the ledger what is to be seen, until cancelled or nothing more can be learned.

        Trouble of the outside world is never raised. Run again, it starts clean.
        """
        ...

    def hurry(self) -> None:
        """Look again soon: something has changed."""
        ...


@runtime_checkable
class Pushed(Feed, Protocol):
    """A feed that hears of every change as it happens, so that the API need not be asked for each."""

    @property
    def fresh(self) -> bool:
        """Whether it hears now, and has missed nothing since the last complete answer of the API."""
        ...

    @property
    def deploying(self) -> bool:
        """Whether it has heard of a deployment that has not ended."""
        ...


@runtime_checkable
class Shared(Feed, Protocol):
    """A feed that one proxy of a fleet reads for all of them."""

    def lead(self) -> None:
        """Read: nobody else does it for us. Called again, it changes nothing."""
        ...

    def follow(self) -> None:
        """Rest: another proxy reads it and tells us. Called again, it changes nothing."""
        ...
