"""Builds the indexes of large partitions, without blocking writers and never the same one twice."""

from __future__ import annotations

from collections.abc import Callable

from psycopg import sql

from svr_retrievers.backends.postgres.connection import Connection
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.model import Partition, PartitionMap
from svr_retrievers.settings import Settings


async def build(
    conn: Connection,
    tables: Tables,
    known: PartitionMap,
    settings: Settings,
    progress: Callable[[int, int], None] | None,
) -> list[int]:
    """The ids of the partitions that have an index now and are not known to have one.

    Largest first, so that the longest build does not come last. A partition that another client is
    building at this moment is left to it.
    """
    if not tables.indexable:
        return []
    due = sorted((p for p in known.leaves if _due(tables, p)), key=lambda p: -p.stats.rows)
    if not due:
        return []
    built: list[int] = []
    await conn.execute(
        "select set_config('maintenance_work_mem', %s, false)", (f"{settings.build_memory_megabytes}MB",)
    )
    try:
        for done, partition in enumerate(due, start=1):
            if await _build_one(conn, tables, partition):
                built.append(partition.id)
            if progress is not None:
                progress(done, len(due))
    finally:
        await conn.execute("reset maintenance_work_mem")
    return built


def _due(tables: Tables, partition: Partition) -> bool:
    return not partition.stats.indexed and partition.stats.rows >= max(1, tables.ref.config.index.min_rows)


async def _build_one(conn: Connection, tables: Tables, partition: Partition) -> bool:
    cursor = await conn.execute("select pg_try_advisory_lock(%s, %s)", (_LOCK_CLASS, partition.id))
    got = await cursor.fetchone()
    if got is None or not got[0]:
        return False
    try:
        if not await _valid(conn, tables, partition):
            name = tables.index_name(partition.id)
            await conn.execute(sql.SQL("drop index concurrently if exists {}").format(name))
            await conn.execute(tables.create_index(partition.id, partition.stats.rows))
        for statement in tables.child_field_indexes(partition.id):
            await conn.execute(statement)
        await conn.execute(sql.SQL("analyze {}").format(tables.child(partition.id)))
        await conn.execute(sql.SQL("analyze {}").format(tables.documents))
    finally:
        await conn.execute("select pg_advisory_unlock(%s, %s)", (_LOCK_CLASS, partition.id))
    return True


_LOCK_CLASS = 0x535652


async def _valid(conn: Connection, tables: Tables, partition: Partition) -> bool:
    """Whether the index is there and usable: an interrupted concurrent build leaves one that is not."""
    cursor = await conn.execute(
        "select i.indisvalid from pg_index i where i.indexrelid = to_regclass(%s)",
        (tables.index_name(partition.id).as_string(None),),
    )
    row = await cursor.fetchone()
    return bool(row and row[0])
