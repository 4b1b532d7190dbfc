"""Moves the rows of tails into the partitions they belong to, while others read and write.

Readers look into a partition and its tail in one statement until the map says that the tail is closed, so that
a row is found exactly once at any moment, wherever a move is interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from psycopg import sql

from svr_retrievers.backends.postgres import changes
from svr_retrievers.backends.postgres.connection import Connection
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.model import Partition

INTO_INDEX_ROWS = 200
"""Rows an index takes in one transaction, in about a quarter of a second: so long their keys are locked."""
INTO_TABLE_ROWS = 5_000
REBUILD_SHARE = 0.3
"""From this share of a partition on, its tail is moved without the index, which is then built anew.

Building takes a fifth of the time of inserting. Searches of the partition are exact meanwhile, and so read at most
four times what they read in the tail anyway.
"""


def rebuilds(partition: Partition) -> bool:
    """Whether folding this tail ends with a new index, rather than with additions to the one that is there."""
    stats = partition.stats
    if not stats.indexed:
        return True
    return 0 < stats.tail_rows >= REBUILD_SHARE * (stats.rows - stats.tail_rows)


async def give_up_indexes(
    conn: Connection, catalog: Catalog, tables: Tables, partitions: Sequence[int]
) -> None:
    """From the new map on nobody counts on these indexes, and writers leave the tails alone."""
    async with conn.transaction():
        await catalog.lock_map(conn, tables.ref)
        await catalog.mark_unindexed(conn, partitions)
        await catalog.next_generation(conn, tables.ref)
    for partition in partitions:
        await conn.execute(
            sql.SQL("drop index concurrently if exists {}").format(tables.index_name(partition))
        )


async def drain(
    conn: Connection,
    catalog: Catalog,
    tables: Tables,
    partition: Partition,
    told: Callable[[int], None],
) -> None:
    """Moves the rows of the tail, in one pass in key order: rows that come behind it wait for the next."""
    batch = INTO_TABLE_ROWS if rebuilds(partition) else INTO_INDEX_ROWS
    last = ("", "")
    while True:
        async with conn.transaction():
            await conn.execute(changes.SETTINGS)
            keys = await _next_keys(conn, tables, partition.id, last, batch)
            if not keys:
                return
            moved = await _move(conn, tables, partition.id, keys)
            await catalog.add_rows(conn, {}, {partition.id: -moved})
        told(len(keys))
        last = keys[-1]


async def _next_keys(
    conn: Connection, tables: Tables, partition: int, last: tuple[str, str], batch: int
) -> list[tuple[str, str]]:
    cursor = await conn.execute(
        sql.SQL(
            "select namespace, id from {} where (namespace, id) > (%s, %s) order by namespace, id limit %s"
        ).format(tables.tail(partition)),
        (*last, batch),
    )
    return [(str(row[0]), str(row[1])) for row in await cursor.fetchall()]


async def _move(conn: Connection, tables: Tables, partition: int, keys: list[tuple[str, str]]) -> int:
    """How many of the keys were moved. Their documents are locked first, as every writer of a key does."""
    columns = sql.SQL(", ").join(
        [*map(sql.Identifier, ("namespace", "id")), *tables.field_columns, sql.Identifier("embedding")]
    )
    names = ([namespace for namespace, _ in keys], [doc_id for _, doc_id in keys])
    await conn.execute(
        sql.SQL(
            "select 1 from {documents} d join unnest(%s::text[], %s::text[]) g(namespace, id)"
            " using (namespace, id) order by namespace, id for no key update of d"
        ).format(documents=tables.documents),
        names,
    )
    cursor = await conn.execute(
        sql.SQL(
            "with moved as (delete from {tail} t using unnest(%s::text[], %s::text[]) g(namespace, id)"
            " where t.namespace = g.namespace and t.id = g.id returning t.*)"
            " insert into {child} (part, {columns}) select %s, {columns} from moved"
        ).format(tail=tables.tail(partition), child=tables.child(partition), columns=columns),
        (*names, partition),
    )
    return cursor.rowcount


async def close_empty(conn: Connection, catalog: Catalog, tables: Tables, partitions: Sequence[int]) -> None:
    """Writers hold the map while they fill tails: under the lock an empty tail stays empty."""
    async with conn.transaction():
        await catalog.lock_map(conn, tables.ref)
        empty = [p for p in partitions if await _empty(conn, tables, p)]
        if empty:
            await catalog.close_tails(conn, empty)
            await catalog.next_generation(conn, tables.ref)


async def _empty(conn: Connection, tables: Tables, partition: int) -> bool:
    cursor = await conn.execute(
        sql.SQL("select not exists (select 1 from {})").format(tables.tail(partition))
    )
    row = await cursor.fetchone()
    return bool(row and row[0])
