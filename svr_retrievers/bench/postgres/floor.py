"""The raw floor: the library's own tables and index, asked with one prepared psycopg statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection, sql
from psycopg_pool import AsyncConnectionPool

from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import CollectionRef, MapState, NewPartition
from svr_retrievers.bench.data import LIMIT, Queries
from svr_retrievers.bench.postgres.server import connect
from svr_retrievers.bench.timing import Ask
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.routing.probe import Calibration
from svr_retrievers.settings import Settings


@dataclass(frozen=True, slots=True)
class Physical:
    """Where a collection lies in the database."""

    tables: Tables
    state: MapState


def physical(url: str, collection: str) -> Physical:
    async def load() -> Physical:
        catalog = Catalog(Settings.load().db_schema)
        async with await AsyncConnection.connect(url, autocommit=True) as conn:
            ref = await catalog.load_collection(conn, collection)
            return Physical(Tables(catalog.schema, ref), await catalog.load_map(conn, ref))

    return anyio.run(load)


def statement(where: Physical) -> sql.Composed:
    """The closest documents of a collection that has one partition: what the library does, and no more."""
    leaves = where.state.map.leaves
    assert len(leaves) == 1, "the floor is measured on one table with one index"
    tables = where.tables
    return sql.SQL(
        "select k.id, d.text, d.metadata, k.distance from (select namespace, id, embedding {op} %s as distance"
        " from {child} where namespace = 'default' order by embedding {op} %s limit {limit}) k"
        " join {documents} d on d.namespace = k.namespace and d.id = k.id order by k.distance"
    ).format(
        op=tables.operator,
        child=tables.child(leaves[0].id),
        documents=tables.documents,
        limit=sql.Literal(LIMIT),
    )


def asker(url: str, where: Physical, queries: Queries, *, ef_search: int = 40) -> Ask:
    """One connection, settings once a session, prepared, binary both ways, documents included."""
    cursor = connect(url, hnsw__ef_search=str(ef_search)).cursor(binary=True)
    text = statement(where)

    def ask(query: int) -> Sequence[int]:
        vector = queries.vectors[query]
        rows = cursor.execute(text, (vector, vector), prepare=True).fetchall()
        return [int(str(row[0])) for row in rows]

    return ask


async def with_pool(
    url: str,
    where: Physical,
    queries: Queries,
    size: int,
    use: Callable[[Callable[[int], Awaitable[object]]], Awaitable[None]],
) -> None:
    """Calls `use` with the floor's coroutine over a psycopg pool of `size` connections."""
    text = statement(where)

    async def configure(conn: AsyncConnection) -> None:
        await conn.set_autocommit(True)
        await register_vector_async(conn)

    async with AsyncConnectionPool(url, min_size=size, max_size=size, configure=configure) as pool:
        await pool.wait()

        async def ask(query: int) -> object:
            vector = queries.vectors[query]
            async with pool.connection() as conn:
                cursor = conn.cursor(binary=True)
                await cursor.execute(text, (vector, vector), prepare=True)
                return await cursor.fetchall()

        await use(ask)
        await asyncio.sleep(0)


def homes(url: str, where: Physical, rows: int) -> list[str]:
    """The path of each row's partition."""
    paths = {leaf.id: leaf.path for leaf in where.state.map.leaves}
    found = [""] * rows
    with connect(url) as conn:
        stored = conn.execute(sql.SQL("select id, part from {}").format(where.tables.documents)).fetchall()
    for doc_id, part in stored:
        found[int(str(doc_id))] = paths[int(str(part))]
    return found


def indexed(where: Physical) -> int:
    """How many partitions have an index."""
    return sum(leaf.stats.indexed for leaf in where.state.map.leaves)


def drop_indexes(url: str, collection: str) -> int:
    """Takes every HNSW index of the collection away, in its tables and in its map; how many there were."""
    where = physical(url, collection)
    names = [where.tables.index_name(leaf.id) for leaf in where.state.map.leaves if leaf.stats.indexed]
    catalog = Catalog(where.tables.schema)
    with connect(url) as conn:
        for name in names:
            conn.execute(sql.SQL("drop index if exists {}").format(name))
        conn.execute(
            sql.SQL("update {} set indexed = false where collection = %s").format(
                catalog.table("partitions")
            ),
            (where.tables.ref.id,),
        )
        conn.execute(
            sql.SQL("update {} set generation = generation + 1 where id = %s").format(
                catalog.table("collections")
            ),
            (where.tables.ref.id,),
        )
    return len(names)


def write_map(
    url: str, collection: str, partitions: Sequence[NewPartition], calibration: Calibration, *, rows_each: int
) -> None:
    """Partitions as a client sees them, with row counts and centroids, without the tables behind them."""

    async def write() -> None:
        catalog = Catalog(Settings.load().db_schema)
        async with await AsyncConnection.connect(url, autocommit=True) as conn:
            ref: CollectionRef = await catalog.load_collection(conn, collection)
            async with conn.transaction():
                ids = [await catalog.insert_partition(conn, ref, new) for new in partitions]
                await catalog.set_rows(conn, dict.fromkeys(ids, rows_each))
            await catalog.save_statistics(conn, ref, {}, calibration)

    anyio.run(write)
