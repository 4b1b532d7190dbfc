"""The PostgreSQL backend: collections, maps, writes and indexes; what reads stands in `searching`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from psycopg import sql

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres import field_statistics, indexing, words, writing
from svr_retrievers.backends.postgres.connection import Connection, borrowed
from svr_retrievers.backends.postgres.keywords import Keywords
from svr_retrievers.backends.protocol import (
    Batch,
    Capabilities,
    CollectionConfig,
    CollectionRef,
    MapState,
    NewPartition,
    Selection,
    StaleMap,
    Written,
)
from svr_retrievers.concurrency import first_error
from svr_retrievers.model import PartitionMap, PartitionStats, Vector
from svr_retrievers.routing.place import least_filled, unused_path
from svr_retrievers.routing.probe import Calibration

_DROPPED_AT_ONCE = 100
_ANALYZE_FROM_ROWS = 1_000
"""Smaller tables are read whole, whatever the planner knows of them; the server analyses them in its own time."""
_VECTOR_LITERAL = re.compile(r"'\[[^']*\]'(?=::(?:vector|halfvec))")


class PostgresBackend(Keywords):
    """Stores collections in one PostgreSQL database, or in the embedded server when there is no URL."""

    name = "postgres"
    capabilities = Capabilities(
        persistent=True,
        approximate_indexes=("hnsw", "ivfflat"),
        max_dimensions=16_000,
        max_indexed_dimensions=4_000,
        shared_between_processes=True,
        explains=True,
        reads_without_loop=True,
        languages=True,
    )

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        async with borrowed(self._pool) as conn, conn.transaction():
            ref = await self._catalog.insert_collection(conn, config)
            await self._create_documents(conn, ref)
            return ref

    async def _create_documents(self, conn: Connection, ref: CollectionRef) -> None:
        tables, wanted = self.tables(ref), ref.config.text_search
        if wanted is not None:
            await words.check(conn, wanted)
        for statement in [*tables.create(), *(words.create(tables) if wanted is not None else ())]:
            await conn.execute(statement)

    async def load_collection(self, name: str) -> CollectionRef:
        async with borrowed(self._pool) as conn:
            return await self._catalog.load_collection(conn, name)

    async def list_collections(self) -> list[str]:
        async with borrowed(self._pool) as conn:
            return await self._catalog.list_collections(conn)

    async def drop_collection(self, name: str) -> None:
        """Partitions go in groups, each a transaction: dropping a table takes a lock that the server counts.

        A drop that is interrupted leaves a collection that can be dropped again.
        """
        async with borrowed(self._pool) as conn:
            ref = await self._catalog.load_collection(conn, name)
            known = (await self._catalog.load_map(conn, ref)).map.partitions
            for start in range(0, len(known), _DROPPED_AT_ONCE):
                await conn.execute(
                    self.tables(ref).drop_children([p.id for p in known[start : start + _DROPPED_AT_ONCE]])
                )
            async with conn.transaction():
                await self._catalog.delete_collection(conn, name)
                for statement in self.tables(ref).drop():
                    await conn.execute(statement)

    async def load_map(self, ref: CollectionRef, known: MapState | None = None) -> MapState:
        async with borrowed(self._pool) as conn:
            if known is not None and await self._catalog.generation(conn, ref) == known.map.generation:
                return known
            return await self._catalog.load_map(conn, ref)

    async def add_partitions(self, ref: CollectionRef, wanted: Sequence[NewPartition]) -> MapState:
        async with borrowed(self._pool) as conn, conn.transaction():
            there = (await self._catalog.lock_map(conn, ref)).map
            new = [w for w in wanted if there.child(w.parent, w.key) is None]
            taken = {p.path for p in there.partitions}
            placed: list[str | None] = []
            for partition in new:
                named = replace(
                    partition,
                    path=unused_path(partition.path, taken),
                    server=least_filled(there, ref.config.servers, placed) if partition.leaf else None,
                )
                placed += [named.server]
                number = await self._catalog.insert_partition(conn, ref, named)
                if partition.leaf:
                    await self._create_child(conn, ref, number, named.server)
            if new:
                await self._catalog.next_generation(conn, ref)
            return await self._catalog.load_map(conn, ref)

    async def _create_child(
        self,
        conn: Connection,
        ref: CollectionRef,
        number: int,
        server: str | None,  # noqa: ARG002 - for the subclass that has servers
    ) -> None:
        for statement in self.tables(ref).create_child(number):
            await conn.execute(statement)

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        async with borrowed(self._pool) as conn:
            for partition, found in stats.items():
                if found.rows >= _ANALYZE_FROM_ROWS:
                    await conns.unless_held(
                        conn, sql.SQL("analyze {}").format(self.tables(ref).child(partition))
                    )
            await self._catalog.save_statistics(conn, ref, stats, calibration)

    # Writing

    async def upsert(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> Written:
        closed = writing.to_open(known, partitions)
        if closed:
            await self._open_tails(ref, closed)
            raise StaleMap
        async with self._transaction(ref) as conn:
            await self._catalog.fence(conn, ref, known)
            return await writing.upsert(conn, self._catalog, self.tables(ref), known, batch, partitions)

    async def _open_tails(self, ref: CollectionRef, partitions: Sequence[int]) -> None:
        async with self._transaction(ref) as conn:
            await self._catalog.lock_map(conn, ref)
            opened = await self._catalog.open_tails(conn, partitions)
            for partition in await self._without_tail(conn, ref, opened):
                for statement in self.tables(ref).create_tail(partition):
                    await conn.execute(statement)
            if opened:
                await self._catalog.next_generation(conn, ref)

    async def delete(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int:
        async with self._transaction(ref) as conn:
            await self._catalog.fence(conn, ref, known)
            return await writing.delete(conn, self._catalog, self.tables(ref), which)

    async def recluster(
        self, ref: CollectionRef, known: PartitionMap, source: int, targets: Sequence[int], centroids: Vector
    ) -> None:
        async with self._transaction(ref) as conn:
            await self._catalog.fence(conn, ref, known, change=True)
            await writing.recluster(conn, self._catalog, self.tables(ref), source, targets, centroids)
            await self._catalog.next_generation(conn, ref)

    async def recount(self, ref: CollectionRef, known: PartitionMap) -> None:
        async with self._transaction(ref) as conn:
            await self._catalog.fence(conn, ref, known, change=True)
            cursor = await conn.execute(
                sql.SQL("select part, count(*) from {} group by part").format(self.tables(ref).documents)
            )
            found = {int(part): int(rows) for part, rows in await cursor.fetchall()}
            await self._catalog.set_rows(conn, {p.id: found.get(p.id, 0) for p in known.partitions})
            tails = [-p.id for p in known.partitions if p.stats.tail]
            cursor = await conn.execute(
                sql.SQL(
                    "select p.part, (select count(*) from {} s where s.part = p.part) from unnest(%s::int[]) p(part)"
                ).format(self.tables(ref).space),
                (tails,),
            )
            await self._catalog.set_tail_rows(conn, {-int(p): int(n) for p, n in await cursor.fetchall()})

    async def measure_fields(self, ref: CollectionRef, known: PartitionMap) -> None:
        await self.finish_words(ref)
        async with borrowed(self._pool) as conn:
            await field_statistics.index_fields(conn, self.tables(ref), known)
            found = await field_statistics.measure(conn, self.tables(ref), known)
            await self._catalog.save_field_statistics(conn, ref, found)

    async def build_indexes(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        progress: Callable[[int, int], None] | None = None,
        *,
        build_from: int | None = None,
        fold_from: int = 0,
    ) -> int:
        tables = self.tables(ref)
        least = max(1, ref.config.index.min_rows if build_from is None else build_from)
        due = indexing.Due(known, least, fold_from)
        work = indexing.Work(self._catalog, tables, self._settings, progress, due.builds(tables), due.folds())
        with first_error(), conns.translated(ref.config.name):
            await indexing.run(work, lambda: borrowed(self._pool), self._build_connections)
            if work.built:
                async with borrowed(self._pool) as conn:
                    await self._mark_indexed(conn, ref, work.built)
        return len(work.builds) + len(work.folds)

    @property
    def _build_connections(self) -> int:
        """One fewer than the event loop is left with beside threads, so that other calls go on."""
        wanted = self._settings.build_connections or min(4, os.cpu_count() or 1)
        return max(1, min(wanted, conns.for_loop(self._settings) - 1))

    async def _mark_indexed(self, conn: Connection, ref: CollectionRef, built: Sequence[int]) -> None:
        """Each indexed partition gets an empty tail, ready for the rows that come faster than the index takes them."""
        async with conn.transaction():
            await self._catalog.lock_map(conn, ref)
            there = await self._with_index(conn, ref, built)
            for partition in await self._without_tail(conn, ref, there):
                for statement in self.tables(ref).create_tail(partition):
                    await conn.execute(statement)
            await self._catalog.mark_indexed(conn, there)
            await self._catalog.next_generation(conn, ref)

    async def _with_index(self, conn: Connection, ref: CollectionRef, partitions: Sequence[int]) -> list[int]:
        """Those whose index is still there and usable: another client that folds may have dropped it meanwhile."""
        cursor = await conn.execute(
            "select w.p from unnest(%s::int[], %s::text[]) as w(p, name)"
            " join pg_index i on i.indexrelid = to_regclass(w.name) where i.indisvalid",
            (list(partitions), [self.tables(ref).index_name(p).as_string(None) for p in partitions]),
        )
        return [int(row[0]) for row in await cursor.fetchall()]

    async def _without_tail(
        self, conn: Connection, ref: CollectionRef, partitions: Sequence[int]
    ) -> list[int]:
        cursor = await conn.execute(
            "select p from unnest(%s::int[], %s::text[]) as w(p, name) where to_regclass(name) is null",
            (list(partitions), [self.tables(ref).tail(p).as_string(None) for p in partitions]),
        )
        return [int(row[0]) for row in await cursor.fetchall()]
