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
    ingest,
    live_ingest,
    memory,
    overhead,
    routing,
    targets,
)
from svr_retrievers.errors import InputError


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    what: str
    measure: Callable[[Lab], Finding]


ROWS = (
    Row("1", "ingest through the LangChain adapter against raw COPY and upsert", ingest.measure),
    Row("2", "search through the clients against the raw prepared query on the same index", overhead.measure),
    Row("3", "search through the adapters against the frameworks' own PostgreSQL stores", adapters.measure),
    Row("4", "recall in the time of one big index with ef_search 40", accuracy.recall_at_equal_time),
    Row("5", "time at recall 0.97 against one big index swept to it", accuracy.time_at_equal_recall),
    Row("6", "filter of 1 % unrelated to the topic, against iterative scan", filters.random_one_percent),
    Row("6b", "filter on a skewed category that follows the topic", filters.skewed_category),
    Row("7", "recall on demand: achieved recall and probes for each target", targets.measure),
    Row("8", "the routing decision alone", routing.measure),
    Row("9", "index build against one big index on the same cores", builds.measure),
    Row("10", "search time as data grows tenfold at constant partition size", growth.measure),
    Row("11", "client memory with many partitions", memory.measure),
    Row(
        "13",
        "the slowest searches (p95) against the big index at equal recall",
        accuracy.tail_at_equal_recall,
    ),
    Row("14", "against embedded stores at recall 0.97", embedded_stores.measure),
    Row("12", "ingest into an indexed collection, readable at once", live_ingest.measure),
)
"""In the order they run: the last one adds rows to the stores that the others ask."""


def chosen(only: Sequence[str]) -> tuple[Row, ...]:
    """The rows named, or all. Raises InputError for an unknown name."""
    known = {row.id for row in ROWS}
    unknown = [name for name in only if name not in known]
    if unknown:
        listed = ", ".join(sorted(known, key=lambda n: (int(n.rstrip("b")), n)))
        raise InputError(f"There is no row {unknown[0]!r}.", hint=f"The rows are {listed}.")
    return tuple(row for row in ROWS if not only or row.id in only)
