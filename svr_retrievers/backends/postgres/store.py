"""The PostgreSQL backend: opening, collections, maps, searches and listings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
from psycopg import sql

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres import field_statistics, filtered, indexing, queries, writing
from svr_retrievers.backends.postgres.asking import Asker, ReadSettings
from svr_retrievers.backends.postgres.connection import Connection, Pool, borrowed
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import (
    Batch,
    Candidate,
    Capabilities,
    CollectionConfig,
    CollectionRef,
    MapState,
    NewPartition,
    Page,
    Query,
    Selection,
    StaleMap,
    Written,
)
from svr_retrievers.concurrency import first_error
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.errors import ClientClosed, CollectionNotFound, ConnectionFailed
from svr_retrievers.filters.choice import Choice
from svr_retrievers.model import Document, PartitionMap, PartitionStats, Vector
from svr_retrievers.routing.place import least_filled, unused_path
from svr_retrievers.routing.probe import Calibration
from svr_retrievers.settings import Settings

_DROPPED_AT_ONCE = 100
_ANALYZE_FROM_ROWS = 1_000
"""Smaller tables are read whole, whatever the planner knows of them; the server analyses them in its own time."""
_VECTOR_LITERAL = re.compile(r"'\[[^']*\]'(?=::(?:vector|halfvec))")


class PostgresBackend:
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
    )

    def __init__(self, url: str | None, path: Path | None, settings: Settings) -> None:
        self._url = url
        self._path = path
        self._settings = settings
        self._catalog = Catalog(settings.db_schema)
        self._opened: Pool | None = None
        self._reads: Asker | None = None
        self._tables: dict[int, Tables] = {}

    @property
    def _pool(self) -> Pool:
        if self._opened is None:
            raise ClientClosed("This client is closed.", hint="Make a new one.")
        return self._opened

    @property
    def _asker(self) -> Asker:
        if self._reads is None:
            raise ClientClosed("This client is closed.", hint="Make a new one.")
        return self._reads

    async def open(self) -> None:
        url = self._url if self._url is not None else await _embedded_url(self._path)
        conns.check_url(url)
        seconds = self._settings.connect_timeout_seconds
        try:
            with anyio.fail_after(seconds + self._settings.connect_retry_seconds):
                await self._prepare(url)
        except TimeoutError:
            raise ConnectionFailed(
                f"Opening took longer than {seconds:g} s: the server does not answer, or another client is migrating.",
                hint="Try again, or raise SVR_CONNECT_TIMEOUT_SECONDS.",
            ) from None
        pool = conns.make_pool(url, self._settings)
        with conns.translated():
            await pool.open()
        self._opened = pool
        self._reads = Asker(url, pool, self._settings)

    async def _prepare(self, url: str) -> None:
        conn = await conns.connect(url, self._settings)
        async with conn:
            await conns.ensure_extension(conn)
            with conns.translated():
                await self._catalog.migrate(conn)

    async def close(self) -> None:
        if self._opened is not None:
            pool, self._opened = self._opened, None
            await self._asker.close()
            await conns.settled(pool)

    def tables(self, ref: CollectionRef) -> Tables:
        if ref.id not in self._tables:
            self._tables[ref.id] = Tables(self._settings.db_schema, ref)
        return self._tables[ref.id]

    # Collections and maps

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        async with borrowed(self._pool) as conn, conn.transaction():
            ref = await self._catalog.insert_collection(conn, config)
            for statement in self.tables(ref).create():
                await conn.execute(statement)
            return ref

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
                    await conn.execute(sql.SQL("analyze {}").format(self.tables(ref).child(partition)))
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
            for partition in await self._without_tail(conn, ref, built):
                for statement in self.tables(ref).create_tail(partition):
                    await conn.execute(statement)
            await self._catalog.mark_indexed(conn, built)
            await self._catalog.next_generation(conn, ref)

    async def _without_tail(
        self, conn: Connection, ref: CollectionRef, partitions: Sequence[int]
    ) -> list[int]:
        cursor = await conn.execute(
            "select p from unnest(%s::int[], %s::text[]) as w(p, name) where to_regclass(name) is null",
            (list(partitions), [self.tables(ref).tail(p).as_string(None) for p in partitions]),
        )
        return [int(row[0]) for row in await cursor.fetchall()]

    # Reading

    def shards(self, known: PartitionMap, partitions: Sequence[int]) -> list[tuple[int, ...]]:  # noqa: ARG002
        return [tuple(partitions)]  # one server: one round trip

    async def search(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Page:
        """One round trip; a second, exact one only when an index came back with too few.

        Without an index the question is put exactly, so that ties at the limit are decided by key.
        """
        asked, indexed = self._statement(ref, known, query)
        found = await self._ask(ref, known, query, asked)
        if indexed and len(found) < query.limit:
            again, indexed = self._statement(ref, known, queries.exactly(query))
            found = await self._ask(ref, known, query, again)
        return Page(tuple(found), exact=not indexed)

    def _statement(
        self, ref: CollectionRef, known: PartitionMap, query: Query
    ) -> tuple[queries.Search, bool]:
        """What is sent for the question, and whether an index takes part, which might miss rows."""
        tables, tailed = self.tables(ref), _tailed(known, query.partitions)
        choice = self._choice(ref, known, query)
        if choice is not None:
            made = filtered.search(tables, query, choice, tailed, 2 * len(known.leaves))
            return made, bool(choice.indexed)
        indexed = self._uses_index(ref, known, query)
        return queries.search(tables, query if indexed else queries.exactly(query), tailed), indexed

    def _choice(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Choice | None:
        most = self._settings.hnsw_max_scan_tuples
        return filtered.choice(self.tables(ref), known, query, self._ef_search(ref, query), most)

    def _uses_index(self, ref: CollectionRef, known: PartitionMap, query: Query) -> bool:
        if query.exact or not self.tables(ref).indexable:
            return False
        return any((p := known.get(i)) is not None and p.stats.indexed for i in query.partitions)

    async def _ask(
        self, ref: CollectionRef, known: PartitionMap, query: Query, asked: queries.Search
    ) -> list[Candidate]:
        """The rows come with the map's generation, from the same snapshot: if it is the caller's, so was the map."""
        settings = replace(self._read_settings(ref, known, query, asked.planning), sorts=asked.sorts)
        rows = await self._asker.rows(asked.text, asked.params, settings, ref.config.name)
        if rows:
            generation = rows[0][7]
        else:
            # Read after the rows: if it is still the caller's, so it was when there were none.
            later = self._catalog.statement("select generation from {collections} where id = %s")
            seen = await self._asker.rows(later.as_bytes(None), (ref.id,), settings, ref.config.name)
            generation = seen[0][0] if seen else None
        check_generation(generation, ref, known)
        return [candidate(row) for row in rows]

    def _read_settings(
        self, ref: CollectionRef, known: PartitionMap, query: Query, planning: queries.Planning
    ) -> ReadSettings:
        spec = ref.config.index
        probes = 1
        if spec.kind == "ivfflat":
            largest = max(
                (p.stats.rows for i in query.partitions if (p := known.get(i)) is not None), default=0
            )
            probes = min(32_768, spec.probes_for(largest))
        ef = self._ef_search(ref, query)
        return ReadSettings(ef, self._settings.hnsw_max_scan_tuples, probes, planning, query.timeout_seconds)

    def _ef_search(self, ref: CollectionRef, query: Query) -> int:
        spec = ref.config.index
        yielded = query.limit * self.tables(ref).candidates
        return min(
            1000, max(query.ef_search or spec.ef_search, yielded if yielded <= 200 or spec.rescore else 200)
        )

    async def explain(self, ref: CollectionRef, known: PartitionMap, query: Query) -> str:
        """How a filter's matches are found and why, and the plan of the statement that `search` would send first."""
        asked, _ = self._statement(ref, known, query)
        choice = self._choice(ref, known, query)
        settings = replace(self._read_settings(ref, known, query, "force_custom_plan"), sorts=asked.sorts)
        text = b"explain (costs off) " + asked.text
        rows = await self._asker.rows(text, asked.params, settings, ref.config.name)
        told = [choice.note] if choice is not None else []
        return _VECTOR_LITERAL.sub("'[...]'", "\n".join([*told, *(str(row[0]) for row in rows)]))

    async def find(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        which: Selection,
        *,
        limit: int | None,
        with_vectors: bool,
    ) -> list[Document]:
        statement = queries.find(self.tables(ref), which, limit=limit, with_vectors=with_vectors)
        rows = await self._list(ref, known, statement)
        return [
            Document(
                id=str(row[1]),
                text=str(row[2]),
                metadata=row[3],  # type: ignore[arg-type]
                vector=conns.vector_of(row[5]) if with_vectors else None,
                namespace=str(row[0]),
                version=int(row[4]),  # type: ignore[call-overload]
            )
            for row in rows
        ]

    async def count(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int:
        rows = await self._list(ref, known, queries.count(self.tables(ref), which))
        return int(rows[0][0])  # type: ignore[call-overload, no-any-return]

    async def _list(
        self, ref: CollectionRef, known: PartitionMap, statement: queries.Statement
    ) -> list[tuple[object, ...]]:
        async with self._reading(ref) as conn:
            async with conns.pipelined(conn):
                await conn.execute(
                    "select set_config('plan_cache_mode', 'force_custom_plan', true)", prepare=False
                )
                cursor = conn.cursor(binary=True)
                await cursor.execute(statement.text, statement.params, prepare=False)
                now = await conn.execute(
                    self._catalog.statement("select generation from {collections} where id = %s"),
                    (ref.id,),
                    prepare=True,
                )
            generation = await now.fetchone()
            check_generation(generation[0] if generation else None, ref, known)
            return await cursor.fetchall()

    async def sample(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int], rows_each: int
    ) -> dict[int, Vector]:
        """Whole pages at random where a partition is large, everything shuffled where it is small."""
        drawn: dict[int, Vector] = {}
        async with self._reading(ref) as conn:
            for partition in partitions:
                leaf = known.get(partition)
                rows = leaf.stats.rows if leaf is not None else 0
                percent = 100.0 if rows <= 4 * rows_each else min(100.0, 300.0 * rows_each / rows)
                cursor = conn.cursor(binary=True)
                await cursor.execute(
                    sql.SQL(
                        "select embedding from {} tablesample system (%s) repeatable (0) where part in (%s, %s)"
                        " order by random() limit %s"
                    ).format(self.tables(ref).space),
                    (percent, partition, -partition, rows_each),
                )
                vectors = [conns.vector_of(row[0]) for row in await cursor.fetchall()]
                if vectors:
                    drawn[partition] = np.stack(vectors)
        return drawn

    async def sample_keys(self, ref: CollectionRef, known: PartitionMap, rows: int) -> list[tuple[str, str]]:
        async with self._reading(ref) as conn:
            return await field_statistics.sample_keys(conn, self.tables(ref), known.rows, rows)

    def _reading(self, ref: CollectionRef) -> AbstractAsyncContextManager[Connection]:
        return conns.guarded(self._pool, ref.config.name, transaction=False)

    def _transaction(self, ref: CollectionRef) -> AbstractAsyncContextManager[Connection]:
        return conns.guarded(self._pool, ref.config.name, transaction=True)


def check_generation(seen: object, ref: CollectionRef, known: PartitionMap) -> None:
    if seen is None:
        raise CollectionNotFound(f"The collection {ref.config.name!r} was dropped.", hint="Create it again.")
    if seen != known.generation:
        raise StaleMap


def _tailed(known: PartitionMap, partitions: Sequence[int]) -> frozenset[int]:
    return frozenset(i for i in partitions if (p := known.get(i)) is not None and p.stats.tail)


def candidate(row: Sequence[object]) -> Candidate:
    part, namespace, doc_id, text, metadata, version, distance = row[:7]
    return Candidate(
        namespace,  # type: ignore[arg-type]
        doc_id,  # type: ignore[arg-type]
        text,  # type: ignore[arg-type]
        metadata,  # type: ignore[arg-type]
        version,  # type: ignore[arg-type]
        abs(part),  # type: ignore[arg-type]
        distance,  # type: ignore[arg-type]
        conns.vector_of(row[8]) if len(row) > 8 else None,
    )


async def _embedded_url(path: Path | None) -> str:
    from svr_retrievers.embedded import start

    return await start(path)
