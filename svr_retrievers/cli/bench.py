"""`svr bench`: measures this library against the raw database, one big index, and other stores."""

from __future__ import annotations

import json as json_format
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from svr_retrievers.cli.store import console
from svr_retrievers.errors import InputError

if TYPE_CHECKING:
    from svr_retrievers.bench.run import Run

UNMEASURED = 1
STOPPED = 128 + signal.SIGTERM


def bench(
    *,
    size: Literal["tiny", "small", "medium", "large"] = "small",
    seed: int = 7,
    json: Path | None = None,
    only: str = "",
    url: str | None = None,
    peers_python: Path | None = None,
    allow_missing_peers: bool = False,
    markdown: Path | None = None,
    svg: Path | None = None,
) -> int:
    """Measure speed and recall side by side, on generated data, on this machine.

    All systems run in one go, asked in turn in random order, so that ratios hold whatever the machine does.
    Uses an embedded PostgreSQL of its own, which is removed at the end. Exit code 0: every row was measured,
    whether its goal was met or not; 1: some row could not be measured, and it says why. The files are written
    after every row, so that a run that is stopped keeps what it has.

    Parameters
    ----------
    size
        small: 20,000 vectors, minutes. medium: 50,000. large: 200,000 and a million, about an hour. tiny: only
        to see that everything runs; its figures say nothing.
    seed
        Another seed gives other data of the same kind.
    json
        Write one record a row to this file.
    only
        Rows to measure, separated by commas, e.g. 1,4,6b.
    url
        postgresql://user@host/database, instead of a server of its own. Uses the schema svr_bench.
    peers_python
        The Python that has the other stores installed; by default the one that runs this.
    allow_missing_peers
        Exit code 0 also where a store to compare with is not installed. The table says so all the same.
    markdown
        Write the table to this file.
    svg
        Write a picture of all figures to this file, and beside it NAME-recall.svg and NAME-filters.svg.
    """
    from svr_retrievers.bench.report import Reporter
    from svr_retrievers.bench.run import run
    from svr_retrievers.bench.sizes import SIZES

    for file in (json, markdown, svg):
        _check_writable(file)

    def keep(found: Run) -> None:
        _keep(found, json, markdown, svg)

    with _stopped_in_order(), Reporter(console(), keep) as reporter:
        found = run(
            SIZES[size],
            seed=seed,
            only=[name.strip() for name in only.split(",") if name.strip()],
            url=url,
            peers_python=sys.executable if peers_python is None else str(peers_python),
            say=reporter.say,
            progress=reporter.progress,
        )
    reporter.finished(found)
    return 0 if found.complete(without_peers=allow_missing_peers) else UNMEASURED


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """A run that is told to end, as by a time limit, stops its server and removes its folder first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_writable(file: Path | None) -> None:
    """Before minutes of work, not after."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise InputError(f"{file} cannot be written.", hint="Name a file in a folder that exists.")


def _keep(found: Run, json: Path | None, markdown: Path | None, svg: Path | None) -> None:
    from svr_retrievers.bench import curve, picture, table

    _write(json, json_format.dumps(found.to_json(), indent=2) + "\n")
    _write(markdown, table.markdown(found))
    _write(svg, picture.svg(found))
    if svg is not None:
        for name, drawn in (("recall", curve.curves(found)), ("filters", curve.filters(found))):
            _write(svg.with_stem(f"{svg.stem}-{name}"), drawn)


def _write(file: Path | None, text: str | None) -> None:
    """Whole or not at all: a run may be stopped at any moment."""
    if file is not None and text is not None:
        part = file.with_name(f".{file.name}.part")
        part.write_text(text, "utf-8")
        part.replace(file)
