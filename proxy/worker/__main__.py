"""`python -m proxy.worker`: how the supervisor starts a worker. Not for people."""

from __future__ import annotations

import argparse

import uvloop

from proxy.worker.process import Inheritance, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="anyport worker", description=__doc__)
    parser.add_argument("--row", type=int, required=True)
    parser.add_argument(
        "--listeners", required=True, help="descriptors: `+` within a [[listener]], `,` between"
    )
    parser.add_argument("--held", action="store_true", help="the listening sockets outlive anyport")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for a table first")
    for name in ("link", "scoreboard", "snapshot", "lifeline"):
        parser.add_argument(f"--{name}", type=int, required=True, help="descriptor")
    args = parser.parse_args()
    given = Inheritance(
        row=args.row,
        listeners=tuple(tuple(map(int, fds.split("+"))) for fds in args.listeners.split(",")),
        link=args.link,
        scoreboard=args.scoreboard,
        snapshot=args.snapshot,
        lifeline=args.lifeline,
        held=args.held,
        patience_s=args.patience,
    )
    uvloop.run(serve(given))


if __name__ == "__main__":
    main()
