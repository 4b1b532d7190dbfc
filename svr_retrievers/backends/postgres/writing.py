"""Writes rows inside the caller's transaction: binary COPY into a staging table, then set statements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from svr_retrievers.backends.postgres import queries
from svr_retrievers.backends.postgres.connection import Connection, vector_of
from svr_retrievers.backends.postgres.jsonb import dumps
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import Batch, Selection, Written
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.model import Metric, Vector
from svr_retrievers.routing.kmeans import assign

_CUSTOM_PLANS = "select set_config('plan_cache_mode', 'force_custom_plan', true)"


async def upsert(
    conn: Connection, catalog: Catalog, tables: Tables, batch: Batch, partitions: Sequence[int]
) -> Written:
    """All rows of the batch, each into its partition; former rows of the same keys are removed first.

    The row of `documents` is the lock of a key: whoever writes it first decides where its vector was before.
    """
    await conn.execute(_CUSTOM_PLANS)
    await _stage(conn, tables, batch, partitions)
    cursor = await conn.execute(queries.upsert_documents(tables))
    replaced = await cursor.fetchall()
    if replaced:
        former = (
            [row[0] for row in replaced],
            [row[1] for row in replaced],
            sorted({row[2] for row in replaced}),
        )
        await conn.execute(queries.delete_replaced(tables), former)
    only = partitions[0] if len(set(partitions)) == 1 else None
    await conn.execute(queries.insert_vectors(tables, only, some_stay=bool(replaced)))
    changes = Counter(partitions)
    changes.subtract(Counter(int(row[2]) for row in replaced))
    known = {(row[0], row[1]) for row in replaced}
    inserted = [key not in known for key in zip(batch.namespaces, batch.ids, strict=True)]
    return Written(inserted, await catalog.add_rows(conn, changes))


async def _stage(conn: Connection, tables: Tables, batch: Batch, partitions: Sequence[int]) -> None:
    await conn.execute(tables.create_stage())
    copy_sql = sql.SQL("copy {} from stdin (format binary)").format(tables.stage)
    async with conn.cursor().copy(copy_sql) as copy:
        copy.set_types(tables.stage_types())
        for row in _stage_rows(tables, batch, partitions):
            await copy.write_row(row)


def _stage_rows(tables: Tables, batch: Batch, partitions: Sequence[int]) -> Iterator[list[object]]:
    fields = list(tables.columns)
    for i, partition in enumerate(partitions):
        typed = batch.typed[i]
        yield [
            partition,
            batch.namespaces[i],
            batch.ids[i],
            batch.texts[i],
            Jsonb(batch.metadatas[i], dumps=dumps),
            *(typed.get(field) for field in fields),
            batch.vectors[i],
        ]


async def _remove(conn: Connection, tables: Tables, rows: Sequence[tuple[str, str, int]]) -> None:
    """Removes the vectors of these (namespace, id, partition) rows."""
    if rows:
        parts = sorted({row[2] for row in rows})
        keys = ([row[0] for row in rows], [row[1] for row in rows])
        await conn.execute(queries.delete_vectors(tables), (*keys, parts))


async def delete(conn: Connection, catalog: Catalog, tables: Tables, which: Selection) -> int:
    """The selected documents with their vectors; how many there were."""
    await conn.execute(_CUSTOM_PLANS)
    statement = queries.delete(tables, which)
    cursor = await conn.execute(statement.text, statement.params)
    gone = [(str(row[1]), str(row[2]), int(row[0])) for row in await cursor.fetchall()]
    await _remove(conn, tables, gone)
    if gone:
        counts = Counter(part for _, _, part in gone)
        await catalog.add_rows(conn, {part: -rows for part, rows in counts.items()})
    return len(gone)


async def recluster(
    conn: Connection, catalog: Catalog, tables: Tables, source: int, targets: Sequence[int], centroids: Vector
) -> None:
    """Moves every row of `source` to the closest target; the caller holds the map against all writers."""
    cursor = conn.cursor(binary=True)
    await cursor.execute(sql.SQL("select namespace, id, embedding from {}").format(tables.child(source)))
    rows = await cursor.fetchall()
    if not rows:
        return
    vectors = np.stack([vector_of(row[2]) for row in rows])
    inner = Metric.COSINE if tables.ref.config.metric is Metric.COSINE else Metric.L2
    moved = [targets[i] for i in assign(vectors, centroids, inner)]
    keys = ([row[0] for row in rows], [row[1] for row in rows], moved)
    await conn.execute(_CUSTOM_PLANS)
    new = sql.SQL("unnest(%s::text[], %s::text[], %s::int[]) g(namespace, id, part)")
    for table, condition in ((tables.space, sql.SQL("s.part = %s and ")), (tables.documents, sql.SQL(""))):
        params = (*keys, source) if table is tables.space else keys
        await conn.execute(
            sql.SQL(
                "update {table} s set part = g.part from {new}"
                " where {condition}s.namespace = g.namespace and s.id = g.id"
            ).format(table=table, new=new, condition=condition),
            params,
        )
    changes = Counter(moved)
    changes[source] -= len(rows)
    await catalog.add_rows(conn, changes)
