"""`python -m proxy.worker`: how the supervisor starts a worker. Not for people."""

from __future__ import annotations

import argparse

import uvloop

from proxy.worker.process import Inheritance, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="anyport worker", description=__doc__)
    parser.add_argument("--row", type=int, required=True)
    parser.add_argument("--listeners", required=True, help="descriptors, comma separated")
    for name in ("link", "scoreboard", "snapshot", "lifeline"):
        parser.add_argument(f"--{name}", type=int, required=True, help="descriptor")
    args = parser.parse_args()
    given = Inheritance(
        row=args.row,
        listeners=tuple(int(fd) for fd in args.listeners.split(",")),
        link=args.link,
        scoreboard=args.scoreboard,
        snapshot=args.snapshot,
        lifeline=args.lifeline,
    )
    uvloop.run(serve(given))


if __name__ == "__main__":
    main()
