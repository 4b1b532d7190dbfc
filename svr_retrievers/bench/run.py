"""A run: the chosen rows one after the other, each measured or with the reason why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from svr_retrievers.bench import machine
from svr_retrievers.bench.lab import Lab, lab
from svr_retrievers.bench.record import Finding, Record
from svr_retrievers.bench.rows import Row, chosen
from svr_retrievers.bench.sizes import DIMENSIONS, Size
from svr_retrievers.errors import SVRError
from svr_retrievers.model import JsonValue


@dataclass(frozen=True, slots=True)
class Run:
    """All records of one run, with what they have in common."""

    size: Size
    seed: int
    records: Sequence[Record]
    settings: dict[str, JsonValue]
    seconds: float

    @property
    def complete(self) -> bool:
        return all(record.measured for record in self.records)

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "size": self.size.name,
            "rows": self.size.rows,
            "dimensions": DIMENSIONS,
            "queries": self.size.queries,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
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
) -> Run:
    """Measures the rows; a row that fails is recorded as not measured, and the others go on."""
    started = time.perf_counter()
    rows = chosen(only)
    records: list[Record] = []
    with lab(size, seed, url=url, peers_python=peers_python, say=say) as prepared:
        for row in rows:
            say(f"row {row.id}: {row.what}")
            records.append(_measured(row, prepared))
            say(_told(records[-1]))
        settings: dict[str, JsonValue] = dict(prepared.server.settings)
    order = sorted(records, key=lambda r: (int(r.id.rstrip("b")), r.id))
    return Run(size, seed, order, settings, time.perf_counter() - started)


def _told(record: Record) -> str:
    verdict = {True: "goal met", False: "goal not met", None: "no verdict"}[record.met]
    return f"row {record.id}: {verdict if record.measured else 'not measured'}, {record.seconds:.0f} s"


def _measured(row: Row, prepared: Lab) -> Record:
    load, started = machine.load(), time.perf_counter()
    try:
        finding = row.measure(prepared)
    except (SVRError, RuntimeError, ImportError, OSError, ValueError, LookupError) as error:
        finding = Finding(missing={row.what: f"{type(error).__name__}: {error}"})
    facts = machine.facts()
    versions = facts["versions"]
    assert isinstance(versions, dict)
    facts["versions"] = {**versions, **prepared.server.versions}
    loads: dict[str, JsonValue] = {"load_before": load, "load_after": machine.load()}
    return Record(row.id, row.what, finding, facts | loads, time.perf_counter() - started)
