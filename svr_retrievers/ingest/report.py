"""What an ingest has done so far, and at its end."""

from __future__ import annotations

import html
import threading
from dataclasses import dataclass, field, fields, replace

from svr_retrievers.ingest.letters import Refusal

SHOWN = 5
KEPT = 1_000
"""Refusals that a report holds; all are counted, and a dead-letter file gets all."""
KEPT_CHARACTERS = 4 * 2**20
"""Texts of refused documents that a report holds; refusals beyond are held without their documents."""

KEPT_RAW = 2_000
"""Characters that a report holds of what could not be read."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """The figures of a run. Documents are what the source holds; rows are chunks, or documents stored whole.

    Every document read is stored, `empty` or refused. Every row of those stored was written or `unchanged`. A refused
    document keeps what was stored of it before; of one with more rows than a batch, what earlier batches wrote stays
    too, and `written` counts it, until the document comes again or
    `collection.delete(filter={"svr_ingest.document": id})`.
    """

    read: int = 0
    """Documents read, with those that could not be read as one."""
    refused: int = 0
    """Documents not stored, or not wholly, each for a reason of its own: `refusals` has the first thousand."""
    empty: int = 0
    """Documents without text or vector: nothing is stored of them, nor left."""
    written: int = 0
    """Rows inserted or replaced."""
    replaced: int = 0
    """Of those written, how many stood there in another form."""
    unchanged: int = 0
    """Rows that stood there as they should, and were not touched."""
    deleted: int = 0
    """Rows that their document no longer has."""
    embedded: int = 0
    """Texts that the embedder was asked for and gave a vector."""
    reused: int = 0
    """Rows written with the vector that their text had already."""
    skipped: int = 0
    """Items that a checkpoint vouched for, and that were not looked at."""
    seconds: float = 0.0
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.read / self.seconds if self.seconds > 0 else 0.0

    def __repr__(self) -> str:
        told = ", ".join(
            f"{name}={value:,}" for name, value in self.figures.items() if value or name == "read"
        )
        return f"IngestReport({told}, {self.seconds:.1f} s, {self.rate:,.0f} documents/s)"

    @property
    def figures(self) -> dict[str, int]:
        """All the counts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"seconds", "refusals"}}

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{name}</td><td>{value:,}</td></tr>" for name, value in self.figures.items())
        times = f"<tr><td>seconds</td><td>{self.seconds:.1f}</td></tr>"
        rate = f"<tr><td>documents a second</td><td>{self.rate:,.0f}</td></tr>"
        why = "".join(f"<li>{html.escape(str(refusal)[:300])}</li>" for refusal in self.refusals[:SHOWN])
        more = f"<li>and {self.refused - SHOWN:,} more</li>" if self.refused > SHOWN else ""
        return f"<table>{rows}{times}{rate}</table>" + (f"<ul>{why}{more}</ul>" if why else "")


class Tally:
    """The figures as they grow."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.refusals: list[Refusal] = []
        self._lock = threading.Lock()
        self._room = KEPT_CHARACTERS

    def add(self, **more: int) -> None:
        """From any thread."""
        with self._lock:
            for name, number in more.items():
                self.counts[name] = self.counts.get(name, 0) + number

    def refuse(self, refusal: Refusal) -> None:
        self.add(refused=1)
        with self._lock:
            if len(self.refusals) >= KEPT:
                return
            self._room -= len(str(refusal.document.text)) if refusal.document is not None else 0
            if len(refusal.raw) > KEPT_RAW:
                refusal = replace(refusal, raw=refusal.raw[:KEPT_RAW])
            self.refusals.append(refusal if self._room > 0 else replace(refusal, document=None))

    @property
    def written(self) -> int:
        return self.counts.get("written", 0)

    def report(self, seconds: float) -> IngestReport:
        return IngestReport(**self.counts, seconds=seconds, refusals=tuple(self.refusals))
