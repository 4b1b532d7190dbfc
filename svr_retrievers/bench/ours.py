"""The library's side of the comparison: collections filled and asked through its public clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, LiteralString

from svr_retrievers.bench.data import LIMIT, MOMENT, Fields, Queries, Rows
from svr_retrievers.bench.timing import Ask
from svr_retrievers.model import Document, Vector

if TYPE_CHECKING:
    from svr_retrievers import Collection, IndexSpec, Scheme, SVRClient

PREFIX = "svr_bench_"
ONE_CALL = 50_000
"""Rows of one `add`: large loads come in parts that fit into memory several times over."""
_SQL: dict[type, LiteralString] = {str: "text", int: "int4"}


def declared(rows: Fields) -> dict[str, type]:
    """The filter fields of a collection with these rows."""
    return {name: datetime if name == MOMENT else type(rows.value(name, 0)) for name in rows.fields}


def sql_types(rows: Fields) -> dict[str, LiteralString]:
    """The filter columns of a table made by hand; the time is in the metadata only."""
    return {name: _SQL[kind] for name, kind in declared(rows).items() if kind is not datetime}


def documents(rows: Rows, start: int = 0, stop: int | None = None) -> list[Document]:
    end = len(rows) if stop is None else stop
    return [Document(id=str(i), text=rows.text(i), metadata=rows.metadata(i)) for i in range(start, end)]


def create(
    client: SVRClient, name: str, rows: Rows, scheme: Scheme | None, index: IndexSpec | None = None
) -> Collection:
    client.drop_collection(PREFIX + name, missing_ok=True)
    return client.create_collection(
        PREFIX + name,
        dimensions=int(rows.vectors.shape[1]),
        partition_by=scheme,
        filter_fields=declared(rows),
        index=index,
    )


def fill(collection: Collection, rows: Rows, *, first: int | None = None) -> None:
    """Everything through `add`, then `refresh`. `first`: rows of the first call, e.g. to find clusters in."""
    start = 0
    while start < len(rows):
        stop = min(len(rows), start + (first if first is not None and start == 0 else ONE_CALL))
        collection.add(documents(rows, start, stop), vectors=rows.vectors[start:stop])
        start = stop
    collection.refresh()


def training_rows(clusters: int, rows: int) -> int:
    """What a first call should hold so that clusters are found in a good sample, before the bulk arrives."""
    return min(rows, max(1_000, clusters * 300))


def asker(
    collection: Collection,
    queries: Queries,
    *,
    field: str | None = None,
    recall_target: float | None = None,
    nprobe: int | None = None,
    ef_search: int | None = None,
) -> Ask:
    """Asks through the blocking client, as an application would."""
    filters = filters_of(queries, field)

    def ask(query: int) -> Sequence[int]:
        found = collection.search(
            vector=queries.vectors[query],
            limit=LIMIT,
            filter=filters[query],
            recall_target=recall_target,
            nprobe=nprobe,
            ef_search=ef_search,
        )
        return [int(doc_id) for doc_id in found.ids]

    return ask


def filters_of(queries: Queries, field: str | None) -> Sequence[Mapping[str, object] | None]:
    """`field == value` as a user of the library writes it, for each query."""
    if field is None:
        return [None] * len(queries)
    return [{field: queries.value(field, query)} for query in range(len(queries))]


def probes(collection: Collection, queries: Queries, asked: Sequence[int], recall_target: float) -> list[int]:
    """How many partitions each query's route names."""
    return [
        len(collection.route(vector=queries.vectors[q], recall_target=recall_target).partitions)
        for q in asked
    ]


def lists_of(vectors: Vector) -> list[list[float]]:
    """As embedding models hand them to the frameworks."""
    return [[float(x) for x in row] for row in vectors]
