"""Builds the indexes of large partitions on several connections at once, and folds tails into them.

Nothing here blocks writers, and no index is built twice at the same time.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property

import anyio
from psycopg import OperationalError, sql

from svr_retrievers.backends.postgres import folding
from svr_retrievers.backends.postgres.connection import Connection
from svr_retrievers.backends.postgres.sessions import LoopSession
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.model import Partition, PartitionMap
from svr_retrievers.settings import Settings

Connect = Callable[[], AbstractAsyncContextManager[LoopSession]]

_LOCK_CLASS = 0x535652
_LOCKS_AT_ONCE = 1_000
"""The server has room for some thousands; the partitions beyond are due again with the next call."""
_BYTES_A_ROW = 500
"""What a graph of m = 16 needs for a row beside the vector itself."""
_HEADROOM = 1.3
_LEAST_MEGABYTES = 16


@dataclass
class Work:
    """What one call builds and folds. `progress` is told the rows done and to do."""

    catalog: Catalog
    tables: Tables
    settings: Settings
    progress: Callable[[int, int], None] | None
    builds: list[Partition]
    folds: list[Partition]
    built: list[int] = field(default_factory=list)
    done: int = 0

    @property
    def rebuilt(self) -> list[int]:
        return [p.id for p in self.folds if folding.rebuilds(p)]

    @cached_property
    def total(self) -> int:
        return sum(p.stats.rows for p in self.builds) + sum(_to_do(p) for p in self.folds)

    def told(self, rows: int) -> None:
        self.done += rows
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)


@dataclass(frozen=True)
class Due:
    """Which partitions are due, largest first, so that the longest build does not come last."""

    known: PartitionMap
    build_from: int
    fold_from: int

    def folds(self) -> list[Partition]:
        found = (p for p in self.known.leaves if p.stats.tail and p.stats.tail_rows >= self.fold_from)
        return sorted(found, key=lambda p: -p.stats.rows)

    def builds(self, tables: Tables) -> list[Partition]:
        if not tables.indexable:
            return []
        folded = {p.id for p in self.folds()}
        found = (
            p
            for p in self.known.leaves
            if not p.stats.indexed and p.stats.rows >= self.build_from and p.id not in folded
        )
        return sorted(found, key=lambda p: -p.stats.rows)


def _to_do(partition: Partition) -> int:
    return partition.stats.rows if folding.rebuilds(partition) else partition.stats.tail_rows


async def run(work: Work, connect: Connect, connections: int) -> None:
    """Folds what is due and builds what has no index, one partition a connection."""
    queue = [*work.folds, *work.builds]
    if not queue:
        return
    if work.rebuilt:
        async with connect() as conn:
            await folding.give_up_indexes(conn, work.catalog, work.tables, work.rebuilt)
    workers = max(0, connections // len(queue) - 1)

    async def worker(kept: set[int] | None) -> None:
        async with connect() as conn:
            while queue:
                await _one(conn, kept, work, queue.pop(0), workers)

    async with _kept(connect, queue) as kept, anyio.create_task_group() as tasks:
        for _ in range(min(connections, len(queue))):
            tasks.start_soon(worker, kept)
    async with connect() as conn:
        if work.folds:
            await folding.close_empty(conn, work.catalog, work.tables, [p.id for p in work.folds])
        if work.built:
            await conn.execute(sql.SQL("analyze {}").format(work.tables.documents))


async def _one(
    conn: LoopSession, kept: set[int] | None, work: Work, partition: Partition, workers: int
) -> None:
    """A partition that another client is building or folding at this moment is left to it."""
    async with _alone(conn, kept, partition) as alone:
        if not alone:
            return
        build = not partition.stats.indexed or folding.rebuilds(partition)
        if partition.stats.tail:
            say = _unsaid if build else work.told
            await folding.drain(conn, work.catalog, work.tables, partition, say)
        if build and partition.stats.rows >= max(1, work.tables.ref.config.index.min_rows):
            await _build(conn, work, partition, workers)


def _unsaid(_: int) -> None:
    """Rows on the way to a new index are not done before it is built."""


async def _build(conn: LoopSession, work: Work, partition: Partition, workers: int) -> None:
    tables = work.tables
    if not await _valid(conn, tables, partition):
        name = tables.index_name(partition.id)
        await conn.execute(sql.SQL("drop index concurrently if exists {}").format(name))
        async with _resources(conn, work, partition, workers):
            await conn.execute(tables.create_index(partition.id, partition.stats.rows))
    for statement in tables.child_field_indexes(partition.id):
        await conn.execute(statement)
    await conn.execute(sql.SQL("analyze {}").format(tables.child(partition.id)))
    work.built.append(partition.id)
    work.told(partition.stats.rows)


@asynccontextmanager
async def _kept(connect: Connect, queue: list[Partition]) -> AsyncIterator[set[int] | None]:
    """Behind a pooler, the partitions locked in the transaction of a further connection; None without a pooler.

    Locks of a session would be lost there, and stay with a stranger. The transaction must be at rest before the first
    build and hold no snapshot then, or the builds would wait for it: hence all locks in one statement, and no
    parameters, whose portal would keep a snapshot.
    """
    async with connect() as conn:
        twin = None if conn.direct else conn.twin()
    if twin is None:
        yield None
        return
    del queue[_LOCKS_AT_ONCE:]
    async with await twin as keeper:
        try:
            async with keeper.transaction():
                await keeper.execute("select set_config('idle_in_transaction_session_timeout', '0', true)")
                cursor = await keeper.execute(
                    sql.SQL(
                        "select p from unnest({}::int[]) p where pg_try_advisory_xact_lock({}, p)"
                    ).format(sql.Literal([partition.id for partition in queue]), sql.Literal(_LOCK_CLASS))
                )
                yield {int(row[0]) for row in await cursor.fetchall()}
        except OperationalError:
            if not keeper.broken:
                raise


@asynccontextmanager
async def _alone(conn: LoopSession, kept: set[int] | None, partition: Partition) -> AsyncIterator[bool]:
    if kept is not None:
        yield partition.id in kept
        return
    lock = {"lock": sql.SQL("{}, {}").format(sql.Literal(_LOCK_CLASS), sql.Literal(partition.id))}
    if not await _true(conn, sql.SQL("select pg_try_advisory_lock({lock})").format(**lock)):
        yield False
        return
    try:
        yield True
    finally:
        await conn.execute(sql.SQL("select pg_advisory_unlock({lock})").format(**lock))


async def _true(conn: LoopSession, question: sql.Composed) -> bool:
    row = await (await conn.execute(question)).fetchone()
    return bool(row and row[0])


@asynccontextmanager
async def _resources(
    conn: LoopSession, work: Work, partition: Partition, workers: int
) -> AsyncIterator[None]:
    """Memory for the graph, and further processes only where a connection has no partition of its own to build.

    A parallel build reserves all the memory it may use at once: too much of it costs more time than it saves.
    Behind a pooler it is left to the role's own settings: others would meet ours in the session.
    """
    if not conn.direct:
        yield
        return
    needed = _HEADROOM * partition.stats.rows * (4 * work.tables.ref.config.dimensions + _BYTES_A_ROW)
    most = work.settings.build_memory_megabytes
    megabytes = min(most, max(_LEAST_MEGABYTES, math.ceil(needed / 2**20)))
    await conn.execute(
        "select set_config('maintenance_work_mem', %s, false),"
        " set_config('max_parallel_maintenance_workers', %s, false)",
        (f"{megabytes}MB", str(workers)),
    )
    try:
        yield
    finally:
        await conn.execute("reset maintenance_work_mem")
        await conn.execute("reset max_parallel_maintenance_workers")


async def _valid(conn: Connection, tables: Tables, partition: Partition) -> bool:
    """Whether the index is there and usable: an interrupted concurrent build leaves one that is not."""
    cursor = await conn.execute(
        "select i.indisvalid from pg_index i where i.indexrelid = to_regclass(%s)",
        (tables.index_name(partition.id).as_string(None),),
    )
    row = await cursor.fetchone()
    return bool(row and row[0])
