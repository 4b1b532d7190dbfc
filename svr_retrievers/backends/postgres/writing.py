"""Writes rows inside the caller's transaction, by binary COPY.

Keys that are all new go straight to where they belong; otherwise everything is staged and merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from psycopg import AsyncCopy, errors, sql

from svr_retrievers.backends.postgres import changes, encoding, queries
from svr_retrievers.backends.postgres.connection import Connection, vector_of
from svr_retrievers.backends.postgres.encoding import Cells
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import Batch, Selection, Written
from svr_retrievers.concurrency import off_loop
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.model import Metric, PartitionMap, Vector
from svr_retrievers.routing.kmeans import assign

STRAIGHT_ROWS = 16
"""So many rows of one batch an index takes at once, in the time that opening tails would need."""


def to_open(known: PartitionMap, partitions: Sequence[int]) -> list[int]:
    """The partitions whose tails have to be opened before rows are written to these partitions."""
    closed = {p.id for p in known.leaves if p.stats.indexed and not p.stats.tail}
    wanted = [p for p in partitions if p in closed]
    return sorted(set(wanted)) if len(wanted) > STRAIGHT_ROWS else []


class _Rows:
    """A batch on its way into tables, in the order of its keys, so that concurrent writers cannot deadlock."""

    def __init__(self, tables: Tables, known: PartitionMap, batch: Batch, partitions: Sequence[int]) -> None:
        self.tables = tables
        self.batch = batch
        self.partitions = partitions
        open_tails = {p.id for p in known.leaves if p.stats.indexed and p.stats.tail}
        self.parts = [-p if p in open_tails else p for p in partitions]
        keys = list(zip(batch.namespaces, batch.ids, strict=True))
        self.order = sorted(range(len(keys)), key=keys.__getitem__)

    @cached_property
    def _keys(self) -> tuple[Cells, Cells]:
        namespaces = encoding.repeated([self.batch.namespaces[i] for i in self.order])
        return namespaces, encoding.texts([self.batch.ids[i] for i in self.order])

    @cached_property
    def _fields(self) -> list[Cells]:
        typed = [self.batch.typed[i] for i in self.order]
        return [
            encoding.field(kind, [each.get(name) for each in typed])
            for name, kind in self.tables.ref.config.fields.items()
        ]

    def documents(self, block: slice[int, int, None]) -> bytes:
        parts = [self.partitions[i] for i in self.order[block]]
        versions = encoding.bigints([1]) * len(parts)
        return encoding.rows([*self._leading(parts, block), versions, *self._content(block)])

    def vectors(self, block: slice[int, int, None]) -> bytes:
        parts = [self.parts[i] for i in self.order[block]]
        return encoding.rows([*self._leading(parts, block), self._vectors(block)])

    def staged(self, block: slice[int, int, None]) -> bytes:
        parts = [self.parts[i] for i in self.order[block]]
        return encoding.rows([*self._leading(parts, block), *self._content(block), self._vectors(block)])

    def _leading(self, parts: Sequence[int], block: slice[int, int, None]) -> list[Cells]:
        return [
            encoding.integers(parts),
            *(cells[block] for cells in self._keys),
            *(cells[block] for cells in self._fields),
        ]

    def _content(self, block: slice[int, int, None]) -> list[Cells]:
        rows = self.order[block]
        return [
            encoding.texts([self.batch.texts[i] for i in rows]),
            encoding.documents([self.batch.metadatas[i] for i in rows]),
        ]

    def _vectors(self, block: slice[int, int, None]) -> Cells:
        return encoding.vectors(self.batch.vectors[self.order[block]])


async def upsert(
    conn: Connection,
    catalog: Catalog,
    tables: Tables,
    known: PartitionMap,
    batch: Batch,
    partitions: Sequence[int],
) -> Written:
    """All rows of the batch, each into its partition or its tail; former rows of the same keys are removed first.

    The row of `documents` is the lock of a key: whoever writes it first decides where its vector was before.
    """
    rows = _Rows(tables, known, batch, partitions)
    if not await _some_exist(conn, tables, batch) and await _copied(conn, tables, rows):
        replaced: list[tuple[str, str, int]] = []
        tails = Counter(-p for p in rows.parts if p < 0)
    else:
        replaced, tails = await _merged(conn, tables, rows)
    counts = Counter(partitions)
    counts.subtract(Counter(part for _, _, part in replaced))
    total, waiting = await catalog.add_rows(conn, counts, tails)
    gone = {(namespace, doc_id) for namespace, doc_id, _ in replaced}
    inserted = [key not in gone for key in zip(batch.namespaces, batch.ids, strict=True)]
    return Written(inserted, total, waiting)


async def _some_exist(conn: Connection, tables: Tables, batch: Batch) -> bool:
    """Cheap, and not the last word: a key may appear before it is written."""
    for namespace in set(batch.namespaces):
        ids = [i for n, i in zip(batch.namespaces, batch.ids, strict=True) if n == namespace]
        row = await (await conn.execute(changes.any_exists(tables), (namespace, ids))).fetchone()
        if row is not None and row[0]:
            return True
    return False


async def _copied(conn: Connection, tables: Tables, rows: _Rows) -> bool:
    """Whether the rows could be copied as new ones: not if another client has just written one of their keys.

    The first vectors are encoded while the server is still busy with the documents.
    """
    total = len(rows.order)
    try:
        async with conn.transaction():
            async with conn.cursor().copy(changes.copy_documents(tables)) as copy:
                await _send(copy, rows.documents, total)
                ready = await off_loop(total, rows.vectors, next(encoding.blocks(total)))
            async with conn.cursor().copy(changes.copy_vectors(tables)) as copy:
                await _send(copy, rows.vectors, total, ready)
    except errors.UniqueViolation:
        return False
    return True


async def _send(
    copy: AsyncCopy, encode: Callable[[slice[int, int, None]], bytes], total: int, ready: bytes | None = None
) -> None:
    """All rows; `ready` holds the first block if it was encoded already."""
    await copy.write(encoding.SIGNATURE)
    for block in encoding.blocks(total):
        first = ready if block.start == 0 else None
        await copy.write(first if first is not None else await off_loop(total, encode, block))
    await copy.write(encoding.TRAILER)


async def _merged(
    conn: Connection, tables: Tables, rows: _Rows
) -> tuple[list[tuple[str, str, int]], Counter[int]]:
    """Through a staging table; the keys that existed with their former partitions, and the change of each tail."""
    await conn.execute(changes.SETTINGS)
    replaced = await _staged(conn, tables, rows)
    tails = Counter(-p for p in rows.parts if p < 0)
    if replaced:
        former = _both({part for _, _, part in replaced})
        stay = await (await conn.execute(changes.keep_unchanged(tables), (former,))).fetchall()
        gone = await (await conn.execute(changes.delete_replaced(tables), (former,))).fetchall()
        tails.subtract(Counter(-int(row[0]) for row in (*stay, *gone) if row[0] < 0))
    await conn.execute(changes.insert_vectors(tables))
    return replaced, tails


async def _staged(conn: Connection, tables: Tables, rows: _Rows) -> list[tuple[str, str, int]]:
    """Writes the documents and leaves the vectors on the stage; the keys that existed, with their partitions."""
    await conn.execute(tables.create_stage())
    async with conn.cursor().copy(changes.copy_stage(tables)) as copy:
        await _send(copy, rows.staged, len(rows.order))
    cursor = await conn.execute(changes.upsert_documents(tables))
    return [(str(row[0]), str(row[1]), int(row[2])) for row in await cursor.fetchall()]


async def stage(
    conn: Connection, tables: Tables, known: PartitionMap, batch: Batch, partitions: Sequence[int]
) -> None:
    """Writes the documents of a batch and leaves its vectors on the stage, for a caller that knows where to."""
    await _staged(conn, tables, _Rows(tables, known, batch, partitions))


def _both(partitions: set[int]) -> list[int]:
    """The partitions with their tails."""
    return sorted(partitions | {-p for p in partitions})


async def delete(conn: Connection, catalog: Catalog, tables: Tables, which: Selection) -> int:
    """The selected documents with their vectors; how many there were."""
    await conn.execute(changes.SETTINGS)
    statement = queries.delete(tables, which)
    cursor = await conn.execute(statement.text, statement.params)
    gone = await cursor.fetchall()
    if gone:
        parts, namespaces, ids = ([row[i] for row in gone] for i in range(3))
        keys = (namespaces, ids, parts, _both(set(parts)))
        found = await (await conn.execute(changes.delete_vectors(tables), keys)).fetchall()
        tails = Counter(-int(row[0]) for row in found if row[0] < 0)
        await catalog.add_rows(conn, _negative(Counter(parts)), _negative(tails))
    return len(gone)


def _negative(counts: Mapping[int, int]) -> dict[int, int]:
    return {part: -rows for part, rows in counts.items()}


async def recluster(
    conn: Connection, catalog: Catalog, tables: Tables, source: int, targets: Sequence[int], centroids: Vector
) -> None:
    """Moves every row of `source` to the closest target; the caller holds the map against all writers."""
    both = _both({source})
    cursor = conn.cursor(binary=True)
    await cursor.execute(
        sql.SQL("select namespace, id, embedding from {} where part = any(%s)").format(tables.space), (both,)
    )
    rows = await cursor.fetchall()
    if not rows:
        return
    vectors = np.stack([vector_of(row[2]) for row in rows])
    inner = Metric.COSINE if tables.ref.config.metric is Metric.COSINE else Metric.L2
    moved = [targets[i] for i in assign(vectors, centroids, inner)]
    keys = ([row[0] for row in rows], [row[1] for row in rows], moved)
    await conn.execute("select set_config('plan_cache_mode', 'force_custom_plan', true)")
    new = sql.SQL("unnest(%s::text[], %s::text[], %s::int[]) g(namespace, id, part)")
    for table, condition in (
        (tables.space, sql.SQL("s.part = any(%s) and ")),
        (tables.documents, sql.SQL("")),
    ):
        params = (*keys, both) if table is tables.space else keys
        await conn.execute(
            sql.SQL(
                "update {table} s set part = g.part from {new}"
                " where {condition}s.namespace = g.namespace and s.id = g.id"
            ).format(table=table, new=new, condition=condition),
            params,
        )
    changed = Counter(moved)
    changed[source] -= len(rows)
    await catalog.add_rows(conn, changed, {})
    await catalog.close_tails(conn, [source])
