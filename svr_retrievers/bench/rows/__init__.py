"""The rows of the table: what is to be shown, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Finding
from svr_retrievers.bench.rows import (
    accuracy,
    adapters,
    builds,
    embedded_stores,
    filters,
    growth,
    hardness,
    in_process,
    ingest,
    live_ingest,
    memory,
    million,
    overhead,
    real_text,
    routing,
    targets,
)
from svr_retrievers.bench.sizes import Size
from svr_retrievers.errors import InputError


@dataclass(frozen=True, slots=True)
class Row:
    """One row. Those for information stand beside the table: a run is complete without them."""

    id: str
    what: str
    measure: Callable[[Lab], Finding]
    information: bool = False
    needs_million: bool = False
    releases_main: bool = False
    """No later row asks the main corpus: what it holds is dropped."""


ROWS = (
    Row("8", "the routing decision alone", routing.measure),
    Row("11", "client memory with many partitions", memory.measure),
    Row("1", "ingest through the LangChain adapter against raw COPY and upsert", ingest.measure),
    Row("4", "recall in the time of one big index with ef_search 40", accuracy.recall_at_equal_time),
    Row("5", "time at recall 0.97 against one big index swept to it", accuracy.time_at_equal_recall),
    Row(
        "13",
        "the slowest searches (p95) against the big index at equal recall",
        accuracy.tail_at_equal_recall,
    ),
    Row("D", "how hard the data is", hardness.measure, information=True),
    Row("6", "filter of 1 % unrelated to the topic, against iterative scan", filters.random_one_percent),
    Row("6b", "filter on a skewed category that follows the topic", filters.skewed_category),
    Row("2", "search through the clients against the raw prepared query on the same index", overhead.measure),
    Row("3", "search through the adapters against the frameworks' own PostgreSQL stores", adapters.measure),
    Row("7", "recall on demand: achieved recall and probes for each target", targets.measure),
    Row("14", "against embedded stores at recall 0.97", embedded_stores.measure),
    Row("P", "engines inside the asking process", in_process.measure, information=True),
    Row("T1", "real texts: recall and time against one big index", real_text.unfiltered, information=True),
    Row("T2", "real texts: within one section, against iterative scan", real_text.filtered, information=True),
    Row("12", "ingest into an indexed collection, readable at once", live_ingest.measure),
    Row("9", "index build against one big index on the same cores", builds.measure, releases_main=True),
    Row("10", "search time as data grows tenfold at constant partition size", growth.measure),
    Row(
        "M", "a million vectors against one big index", million.measure, information=True, needs_million=True
    ),
)
"""In the order they run: quick ones without data first, then all that asks the main corpus, then the row that
adds to it, then those with corpora of their own.
"""


def order(row_id: str) -> tuple[bool, int, str]:
    """Numbered rows first, as the table has them, then those for information."""
    number = row_id.rstrip("b")
    return (not number.isdigit(), int(number) if number.isdigit() else 0, row_id)


def chosen(only: Sequence[str], size: Size) -> tuple[Row, ...]:
    """The rows named, or all that this size has data for. Raises InputError for an unknown name."""
    known = {row.id: row for row in ROWS if size.million or not row.needs_million}
    unknown = [name for name in only if name not in known]
    if unknown:
        listed = ", ".join(sorted(known, key=order))
        raise InputError(
            f"There is no row {unknown[0]!r} at size {size.name}.", hint=f"The rows are {listed}."
        )
    return tuple(row for row in known.values() if not only or row.id in only)
