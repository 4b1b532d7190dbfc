"""A run: the chosen rows one after the other, each measured or with the reason why not."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from svr_retrievers.bench import machine
from svr_retrievers.bench.lab import Lab, lab
from svr_retrievers.bench.record import Finding, Record
from svr_retrievers.bench.rows import Row, chosen, order
from svr_retrievers.bench.sizes import DIMENSIONS, Size
from svr_retrievers.errors import SVRError
from svr_retrievers.model import JsonValue


@dataclass(frozen=True, slots=True)
class Run:
    """The records of one run so far, with what they have in common."""

    size: Size
    seed: int
    records: Sequence[Record]
    settings: dict[str, JsonValue]
    seconds: float
    finished: bool = True

    def complete(self, *, without_peers: bool = False) -> bool:
        """Whether every row that the table asks for was measured; stores that are not here may be passed over."""
        return all(r.information or r.measured(without_peers=without_peers) for r in self.records)

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "size": self.size.name,
            "rows": self.size.rows,
            "dimensions": DIMENSIONS,
            "queries": self.size.queries,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "postgresql_settings": self.settings,
            "records": [record.to_json() for record in self.records],
        }


def run(
    size: Size,
    *,
    seed: int,
    only: Sequence[str] = (),
    url: str | None = None,
    peers_python: str,
    say: Callable[[str], None],
    progress: Callable[[Run, int], None],
) -> Run:
    """Measures the rows; one that fails is recorded as not measured, and the others go on.

    `progress` is told what is there, and how many rows there will be, after each row.
    """
    started = time.perf_counter()
    rows = chosen(only, size)
    records: list[Record] = []
    with lab(size, seed, url=url, peers_python=peers_python, say=say) as prepared:
        settings: dict[str, JsonValue] = dict(prepared.server.settings)
        for row in rows:
            say(f"row {row.id}: {row.what}")
            records.append(_measured(row, prepared))
            records.sort(key=lambda r: order(r.id))
            so_far = time.perf_counter() - started
            progress(Run(size, seed, tuple(records), settings, so_far, finished=False), len(rows))
    return Run(size, seed, records, settings, time.perf_counter() - started)


def _measured(row: Row, prepared: Lab) -> Record:
    load, started = machine.load(), time.perf_counter()
    try:
        finding = row.measure(prepared)
        if row.releases_main:
            prepared.release_main()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in one row is that row's result
        finding = Finding(missing={row.what: _told(error)})
    facts = machine.facts()
    versions = facts["versions"]
    assert isinstance(versions, dict)
    facts["versions"] = {**versions, **prepared.server.versions}
    loads: dict[str, JsonValue] = {"load_before": load, "load_after": machine.load()}
    seconds = time.perf_counter() - started
    return Record(row.id, row.what, finding, facts | loads, seconds, row.information)


def _told(error: Exception) -> str:
    """What happened; where it is not one of the library's own errors, also where."""
    said = f"{type(error).__name__}: {error}".strip()
    if isinstance(error, SVRError):
        return said
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{said} ({last.filename.rpartition('/')[2]}, line {last.lineno})"
