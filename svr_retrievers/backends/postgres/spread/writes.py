"""Writes to collections that lie on several servers: documents here, vectors where they were placed.

Every write is two steps. First, in one transaction, documents and new vectors: the other servers commit just
before this one, and until this one has, their rows belong to no document and are not seen. Then the vectors that
were replaced go; what an interruption leaves behind is not seen either, and `recount` removes it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import numpy as np
from psycopg import sql

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres import indexing, queries, writing
from svr_retrievers.backends.postgres.connection import Connection, borrowed
from svr_retrievers.backends.postgres.spread import failures
from svr_retrievers.backends.postgres.spread.placed import Placed, by_server, server_of
from svr_retrievers.backends.postgres.spread.share import Dead, Share
from svr_retrievers.backends.protocol import Batch, CollectionRef, Selection, Written
from svr_retrievers.concurrency import first_error
from svr_retrievers.errors import SVRError
from svr_retrievers.model import Metric, Partition, PartitionMap, Vector
from svr_retrievers.routing.kmeans import assign

_log = logging.getLogger(__name__)
_BUILD_LOCK = 0x535653
_CUSTOM_PLANS = "select set_config('plan_cache_mode', 'force_custom_plan', true)"


class SpreadWrites(Placed):
    """Everything that changes vectors on further servers."""

    async def upsert(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> Written:
        if not ref.config.servers:
            return await super().upsert(ref, known, batch, partitions)
        try:
            written, dead = await self._write(ref, known, batch, partitions)
        except failures.LeftBehind:
            await self._clean(ref, known)
            written, dead = await self._write(ref, known, batch, partitions)
        await self._forget(ref, known, dead)
        return written

    async def _write(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> tuple[Written, list[Dead]]:
        async with self._spread_write(ref) as conn:
            await self._catalog.fence(conn, ref, known)
            dead = await self._stage(conn, ref, known, batch, partitions)
            for name, there in by_server(known, partitions).items():
                text, params = (await self._share(ref, name)).insert(there)
                with failures.reaching(name), failures.conflicting():
                    await conn.execute(text, params)
            counts = Counter(partitions)
            counts.subtract(Counter(part for part, *_ in dead))
            rows, tails = await self._catalog.add_rows(conn, counts, {})
        gone = {(namespace, doc_id) for _, namespace, doc_id, _ in dead}
        inserted = [key not in gone for key in zip(batch.namespaces, batch.ids, strict=True)]
        return Written(inserted, rows, tails), dead

    async def _stage(
        self,
        conn: Connection,
        ref: CollectionRef,
        known: PartitionMap,
        batch: Batch,
        partitions: Sequence[int],
    ) -> list[Dead]:
        """Writes the documents and leaves the vectors staged; the vectors that they replace."""
        tables = self.tables(ref)
        await writing.stage(conn, tables, known, batch, partitions)
        cursor = await conn.execute(
            sql.SQL(
                "select d.moved_from, d.namespace, d.id, d.version - 1 from {stage} g join {documents} d"
                " on d.namespace = g.namespace and d.id = g.id where d.version > 1"
            ).format(stage=tables.stage, documents=tables.documents)
        )
        return [(int(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in await cursor.fetchall()]

    @asynccontextmanager
    async def _spread_write(self, ref: CollectionRef) -> AsyncIterator[Connection]:
        """A transaction that the other servers commit just before this one: fails one, nothing of it counts."""
        async with self._reading(ref) as conn:
            with failures.reaching(" or ".join(ref.config.servers)):
                async with conn.transaction():
                    await conn.execute(_CUSTOM_PLANS)
                    yield conn

    async def _forget(self, ref: CollectionRef, known: PartitionMap, dead: Sequence[Dead]) -> None:
        """Removes vectors that no longer count. It may fail: nobody sees them, and `recount` removes them."""
        for name, parts in by_server(known, [part for part, *_ in dead]).items():
            there = set(parts)
            try:
                share = await self._share(ref, name)
                async with borrowed(self._pool) as conn:
                    await self._run(conn, share, *share.forget([row for row in dead if row[0] in there]))
            except SVRError as error:
                _log.warning("replaced vectors of collection %r stay for now: %s", ref.config.name, error)

    async def delete(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int:
        """Needs no other server: a vector without a document is not found, and removed when its server answers."""
        if not ref.config.servers:
            return await super().delete(ref, known, which)
        statement = queries.delete(self.tables(ref), which)
        async with self._transaction(ref) as conn:
            await self._catalog.fence(conn, ref, known)
            await conn.execute(_CUSTOM_PLANS)
            cursor = await conn.execute(statement.text + sql.SQL(", t.version"), statement.params)
            dead = [(int(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in await cursor.fetchall()]
            if dead:
                counts = Counter(part for part, *_ in dead)
                await self._catalog.add_rows(conn, {part: -rows for part, rows in counts.items()}, {})
        await self._forget(ref, known, dead)
        return len(dead)

    async def recluster(
        self, ref: CollectionRef, known: PartitionMap, source: int, targets: Sequence[int], centroids: Vector
    ) -> None:
        if not ref.config.servers:
            await super().recluster(ref, known, source, targets, centroids)
            return
        share = await self._share(ref, server_of(known, source))
        async with self._spread_write(ref) as conn:
            await self._catalog.fence(conn, ref, known, change=True)
            cursor = conn.cursor(binary=True)
            await cursor.execute(*share.keys(source))
            rows = await cursor.fetchall()
            if rows:
                await self._move(conn, ref, known, source, rows, targets, centroids)
            await self._catalog.next_generation(conn, ref)
        await self._forget(ref, known, [(source, str(r[0]), str(r[1]), int(r[2])) for r in rows])

    async def _move(
        self,
        conn: Connection,
        ref: CollectionRef,
        known: PartitionMap,
        source: int,
        rows: Sequence[tuple[object, ...]],
        targets: Sequence[int],
        centroids: Vector,
    ) -> None:
        """Copies every row to the partition of its closest centroid, and points its document there."""
        vectors = np.stack([conns.vector_of(row[3]) for row in rows])
        inner = Metric.COSINE if ref.config.metric is Metric.COSINE else Metric.L2
        moved = [targets[i] for i in assign(vectors, centroids, inner)]
        share = await self._share(ref, server_of(known, source))
        for name, there in by_server(known, moved).items():
            going = [i for i, part in enumerate(moved) if part in set(there)]
            keys = ([rows[i][0] for i in going], [rows[i][1] for i in going], [moved[i] for i in going])
            with failures.reaching(name):
                await conn.execute((await self._share(ref, name)).receive(share), (*keys, source))
        await conn.execute(
            sql.SQL(
                "update {} d set part = g.part from unnest(%s::text[], %s::text[], %s::int[])"
                " g(namespace, id, part) where d.namespace = g.namespace and d.id = g.id"
            ).format(self.tables(ref).documents),
            ([row[0] for row in rows], [row[1] for row in rows], moved),
        )
        counts = Counter(moved)
        counts[source] -= len(rows)
        await self._catalog.add_rows(conn, counts, {})

    async def recount(self, ref: CollectionRef, known: PartitionMap) -> None:
        """Also removes vectors without a document, and tells of documents without a vector."""
        await super().recount(ref, known)
        if ref.config.servers:
            await self._clean(ref, known)

    async def _clean(self, ref: CollectionRef, known: PartitionMap) -> None:
        """Compares documents and vectors while no one writes: a write that is under way looks like a leftover."""
        shares = await self._shares(ref)
        async with self._spread_write(ref) as conn:
            await self._catalog.fence(conn, ref, known, change=True)
            for name, there in by_server(known, [p.id for p in known.leaves]).items():
                if name not in shares:
                    continue
                share = shares[name]
                with failures.reaching(name):
                    found = await (await conn.execute(share.dead())).fetchall()
                    missing = await (await conn.execute(*share.without_vector(there))).fetchall()
                if found:
                    dead = [(int(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in found]
                    await self._run(conn, share, *share.forget(dead))
                if missing:
                    ids = ", ".join(repr(row[0]) for row in missing[:3])
                    _log.warning(
                        "%d documents of collection %r have no vector on the server %r and are not found"
                        " by closeness (%s ...): add them again.", len(missing), ref.config.name, name, ids,
                    )  # fmt: skip

    async def build_indexes(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        progress: Callable[[int, int], None] | None = None,
        *,
        build_from: int | None = None,
        fold_from: int = 0,
    ) -> int:
        """The servers build at the same time, each one partition after the other. They have no tails to fold."""
        if not ref.config.servers:
            return await super().build_indexes(
                ref, known, progress, build_from=build_from, fold_from=fold_from
            )
        least = max(1, ref.config.index.min_rows if build_from is None else build_from)
        due = indexing.Due(known, least, fold_from).builds(self.tables(ref))
        total, built = sum(p.stats.rows for p in due), list[Partition]()

        async def one(name: str, partitions: Sequence[int]) -> None:
            share = await self._share(ref, name)
            for partition in (p for p in due if p.id in partitions):
                if await self._build(share, partition):
                    built.append(partition)
                if progress is not None:
                    progress(sum(p.stats.rows for p in built), total)

        with first_error():
            async with anyio.create_task_group() as group:
                for name, there in by_server(known, [p.id for p in due]).items():
                    group.start_soon(one, name, there)
        if built:
            async with borrowed(self._pool) as conn, conn.transaction():
                await self._catalog.lock_map(conn, ref)
                await self._catalog.mark_indexed(conn, [p.id for p in built])
                await self._catalog.next_generation(conn, ref)
        return len(built)

    async def _build(self, share: Share, partition: Partition) -> bool:
        """Whether the indexes are there now: not while another client builds them."""
        async with borrowed(self._pool) as conn, conn.transaction():
            cursor = await conn.execute(
                "select pg_try_advisory_xact_lock(%s, %s)", (_BUILD_LOCK, partition.id)
            )
            got = await cursor.fetchone()
            if got is None or not got[0]:
                return False
            megabytes = self._settings.build_memory_megabytes
            await self._run(conn, share, *share.build(partition.id, partition.stats.rows, megabytes))
            return True
