"""`python -m svr_retrievers.testing.mongodb`: a stand-in as a process, until it is told to end.

With --upstream in front of that deployment; without, in front of a server of its own, which ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading

from svr_retrievers.testing.mongodb.server import Mongod
from svr_retrievers.testing.mongodb.settings import Settings
from svr_retrievers.testing.mongodb.standin import CATALOGUE, AtlasStandIn

_WATCH_SECONDS = 0.2


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m svr_retrievers.testing.mongodb", description=__doc__)
    parser.add_argument("--upstream", help="URI of a replica set without search; without it one is started")
    parser.add_argument("--nodes", type=int, default=1, help="members of the replica set that is started")
    parser.add_argument(
        "--port", type=int, default=0, help="of the first member's front; any free one by default"
    )
    parser.add_argument(
        "--catalogue", default=CATALOGUE, help="the database that keeps the index definitions"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="a setting under its name in `standIn`",
    )
    parser.add_argument(
        "--while", type=int, dest="watched", metavar="PID", help="ends when that process has ended"
    )
    return parser


def main() -> None:
    given = _arguments().parse_args()
    named = [each.partition("=") for each in given.set]
    settings = Settings().changed({name: json.loads(value) for name, _, value in named})
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        upstream = given.upstream or stack.enter_context(Mongod(given.nodes)).uri
        atlas = AtlasStandIn(upstream, settings, port=given.port, catalogue=given.catalogue)
        stack.enter_context(atlas)
        sys.stdout.write(f"{atlas.uri}\n")
        sys.stdout.flush()
        while not ended.wait(_WATCH_SECONDS):
            if given.watched is not None and not _lives(given.watched):
                break


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()
