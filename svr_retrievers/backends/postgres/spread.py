"""PostgreSQL with collections that lie on several servers: documents and map here, vectors where they were placed.

Every write is two steps. First, in one transaction, documents and new vectors: the other servers commit just
before this one, and until this one has, their rows belong to no document and are not seen. Then the vectors that
were replaced go; what an interruption leaves behind is not seen either, and `recount` removes it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import numpy as np
from psycopg import sql
from psycopg.rows import TupleRow

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres import indexing, queries, servers, writing
from svr_retrievers.backends.postgres.asking import ReadSettings
from svr_retrievers.backends.postgres.connection import Connection, borrowed
from svr_retrievers.backends.postgres.foreign import Dead, Share
from svr_retrievers.backends.postgres.servers import Registered
from svr_retrievers.backends.postgres.store import PostgresBackend, candidate, check_generation
from svr_retrievers.backends.protocol import (
    Batch,
    Candidate,
    CollectionConfig,
    CollectionRef,
    Page,
    Query,
    Selection,
    Written,
)
from svr_retrievers.concurrency import NeedsLoop, on_loop
from svr_retrievers.errors import BackendError, ConnectionFailed, PartitionFailed, ServerNotFound
from svr_retrievers.model import (
    Document,
    Metric,
    Partition,
    PartitionMap,
    PartitionStats,
    Server,
    Vector,
)
from svr_retrievers.routing.kmeans import assign
from svr_retrievers.routing.probe import Calibration

_log = logging.getLogger(__name__)
_FETCHED_MORE = 8
"""A search that met rows without a document asks again for so many times as many."""
_DROPPED_AT_ONCE = 100
_BUILD_LOCK = 0x535653
_VECTOR = re.compile(r"'\[[^']*\]'")
_HIDDEN = "'[...]'"
_LOCAL_SETTINGS = (
    "select set_config('statement_timeout', %s, true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true)"
)
_CUSTOM_PLANS = "select set_config('plan_cache_mode', 'force_custom_plan', true)"


class SpreadBackend(PostgresBackend):
    """One database that may place the partitions of a collection on further servers."""

    _servers: dict[str, Registered]

    async def open(self) -> None:
        await super().open()
        await self._learn()

    async def _learn(self) -> None:
        async with borrowed(self._pool) as conn:
            self._servers = await servers.registered(conn, self._catalog)

    async def _named(self, name: str) -> Registered:
        if name not in self._servers:
            if not on_loop():
                raise NeedsLoop
            await self._learn()
        return servers.named(self._servers, name)

    async def _share(self, ref: CollectionRef, name: str) -> Share:
        return Share(self.tables(ref), await self._named(name))

    async def _shares(self, ref: CollectionRef) -> dict[str, Share]:
        """The shares on servers that are registered still."""
        await self._learn()
        known = [name for name in ref.config.servers if name in self._servers]
        return {name: Share(self.tables(ref), self._servers[name]) for name in known}

    # Servers

    async def add_server(self, name: str, url: str) -> Server:
        async with borrowed(self._pool) as conn:
            await servers.add(conn, self._catalog, self._settings, name, url)
        return next(s for s in await self.list_servers() if s.name == name)

    async def list_servers(self) -> list[Server]:
        async with borrowed(self._pool) as conn:
            return await servers.listed(conn, self._catalog)

    async def remove_server(self, name: str, *, lost: bool) -> None:
        async with borrowed(self._pool) as conn:
            await servers.remove(conn, self._catalog, name, lost=lost)
        await self._learn()

    async def _run(self, conn: Connection, share: Share, *commands: sql.Composable | str) -> None:
        for command in commands:
            await servers.execute(conn, self._settings.db_schema, share.server, command)

    # Collections and maps

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        if not config.servers:
            return await super().create_collection(config)
        for name in config.servers:
            await self._named(name)
        async with borrowed(self._pool) as conn, conn.transaction():
            ref = await self._catalog.insert_collection(conn, config)
            for statement in self.tables(ref).create():
                await conn.execute(statement)
            for share in [await self._share(ref, name) for name in config.servers]:
                await self._run(conn, share, *share.create())
                for made in share.create_foreign(conn.info.server_version):
                    await conn.execute(made)
            return ref

    async def drop_collection(self, name: str) -> None:
        ref = await self.load_collection(name)
        if ref.config.servers:
            known = (await self.load_map(ref)).map
            for server, share in (await self._shares(ref)).items():
                await self._drop_share(share, [p.id for p in known.partitions if p.server == server])
        await super().drop_collection(name)

    async def _drop_share(self, share: Share, partitions: Sequence[int]) -> None:
        async with borrowed(self._pool) as conn:
            for start in range(0, len(partitions), _DROPPED_AT_ONCE):
                await self._run(
                    conn, share, share.drop_children(partitions[start : start + _DROPPED_AT_ONCE])
                )
            async with conn.transaction():
                await self._run(conn, share, share.drop())
                await conn.execute(share.drop_foreign())

    async def _create_child(
        self, conn: Connection, ref: CollectionRef, number: int, server: str | None
    ) -> None:
        if server is None:
            await super()._create_child(conn, ref, number, server)
        else:
            share = await self._share(ref, server)
            await self._run(conn, share, *share.create_child(number))

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        """A server analyses its partitions itself, when their indexes are built and as it thinks fit."""
        if not ref.config.servers:
            await super().save_statistics(ref, stats, calibration)
            return
        async with borrowed(self._pool) as conn:
            await self._catalog.save_statistics(conn, ref, stats, calibration)

    # Writing

    async def upsert(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> Written:
        if not ref.config.servers:
            return await super().upsert(ref, known, batch, partitions)
        try:
            written, dead = await self._write(ref, known, batch, partitions)
        except servers.LeftBehind:
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
            for name, there in _by_server(known, partitions).items():
                text, params = (await self._share(ref, name)).insert(there)
                with servers.reaching(name), servers.conflicting():
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
            with servers.reaching(" or ".join(ref.config.servers)):
                async with conn.transaction():
                    await conn.execute(_CUSTOM_PLANS)
                    yield conn

    async def _forget(self, ref: CollectionRef, known: PartitionMap, dead: Sequence[Dead]) -> None:
        """Removes vectors that no longer count. It may fail: nobody sees them, and `recount` removes them."""
        for name, parts in _by_server(known, [part for part, *_ in dead]).items():
            share, there = await self._share(ref, name), set(parts)
            try:
                async with borrowed(self._pool) as conn:
                    await self._run(conn, share, share.forget([row for row in dead if row[0] in there]))
            except BackendError as error:
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
        for name, there in _by_server(known, moved).items():
            going = [i for i, part in enumerate(moved) if part in set(there)]
            keys = ([rows[i][0] for i in going], [rows[i][1] for i in going], [moved[i] for i in going])
            with servers.reaching(name):
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
            for name, there in _by_server(known, [p.id for p in known.leaves]).items():
                if name not in shares:
                    continue
                share = shares[name]
                with servers.reaching(name):
                    found = await (await conn.execute(share.dead())).fetchall()
                    missing = await (await conn.execute(*share.without_vector(there))).fetchall()
                if found:
                    dead = [(int(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in found]
                    await self._run(conn, share, share.forget(dead))
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

        async with anyio.create_task_group() as group:
            for name, there in _by_server(known, [p.id for p in due]).items():
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

    # Reading

    def shards(self, known: PartitionMap, partitions: Sequence[int]) -> list[tuple[int, ...]]:
        """A server each, so that one that fails leaves the others' answers."""
        groups: dict[str | None, list[int]] = {}
        for partition in partitions:
            found = known.get(partition)
            groups.setdefault(found.server if found is not None else None, []).append(partition)
        return [tuple(group) for group in groups.values()]

    async def search(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Page:
        """As on one server. When rows came over that no longer count, more are asked for in their stead.

        Raises PartitionFailed when the server does not answer.
        """
        if not ref.config.servers:
            return await super().search(ref, known, query)
        try:
            return await self._search_share(ref, known, query)
        except (ConnectionFailed, ServerNotFound) as error:
            paths = [p.path for i in query.partitions if (p := known.get(i)) is not None]
            raise PartitionFailed(
                error.message,
                partitions=paths,
                hint="Take what the other servers hold with on_failure='partial'.",
            ) from error

    async def _search_share(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Page:
        share = await self._share(ref, server_of(known, query.partitions[0]))
        asked, fetched = self._first(ref, known, share, query)
        while True:
            found, came = await self._ask_share(ref, known, share, asked, fetched)
            if len(found) >= query.limit or (asked.exact and came < fetched):
                return Page(tuple(found), exact=asked.exact)
            if asked.exact:
                fetched *= _FETCHED_MORE
            else:
                asked, fetched = queries.exactly(query), query.limit

    def _first(
        self, ref: CollectionRef, known: PartitionMap, share: Share, query: Query
    ) -> tuple[Query, int]:
        """What is asked first, and how many rows of it are to come over."""
        choice = self._choice(ref, known, query)
        if self._uses_index(ref, known, query) and (choice is None or choice.indexed):
            return query, share.fetched(query)
        return queries.exactly(query), query.limit

    async def _ask_share(
        self, ref: CollectionRef, known: PartitionMap, share: Share, query: Query, fetched: int
    ) -> tuple[list[Candidate], int]:
        """The rows that count, and how many came over. The generation is read after them: if it is still the
        caller's, so it was when they were read.
        """
        statement = share.search(query, fetched)
        settings = self._read_settings(ref, known, query, "force_custom_plan")
        rows = await self._rows_of(ref, share, statement, settings, scans=not query.exact)
        later = self._catalog.statement("select generation from {collections} where id = %s")
        seen = await self._asker.rows(later.as_bytes(None), (ref.id,), settings, ref.config.name)
        check_generation(seen[0][0] if seen else None, ref, known)
        return [candidate(row) for row in rows if row[0] is not None], int(rows[0][7])

    async def _rows_of(
        self,
        ref: CollectionRef,
        share: Share,
        statement: queries.Statement,
        settings: ReadSettings,
        *,
        scans: bool,
    ) -> list[TupleRow]:
        """The settings of an index scan do not travel: those that differ from the server's own are sent before."""
        text, name = statement.text.as_bytes(None), share.server.name
        if not scans or servers.has_settings(settings):
            with servers.reaching(name):
                return await self._asker.rows(text, statement.params, settings, ref.config.name)
        if not on_loop():
            raise NeedsLoop
        async with self._reading(ref) as conn:
            with servers.reaching(name):
                async with conn.transaction():
                    await conn.execute(_LOCAL_SETTINGS, (settings.texts()[-1],))
                    await self._run(conn, share, servers.scan_settings(settings))
                    cursor = conn.cursor(binary=True)
                    await cursor.execute(text, statement.params)
                    return await cursor.fetchall()

    async def explain(self, ref: CollectionRef, known: PartitionMap, query: Query) -> str:
        """Verbose, to show what each server is sent."""
        if not ref.config.servers:
            return await super().explain(ref, known, query)
        plans = []
        for partitions in self.shards(known, query.partitions):
            share = await self._share(ref, server_of(known, partitions[0]))
            asked, fetched = self._first(ref, known, share, replace(query, partitions=partitions))
            statement = share.search(asked, fetched)
            settings = self._read_settings(ref, known, query, "force_custom_plan")
            text = b"explain (verbose, costs off) " + statement.text.as_bytes(None)
            rows = await self._asker.rows(text, statement.params, settings, ref.config.name)
            lines = "\n".join(str(row[0]) for row in rows)
            plans.append(f"server {share.server.name}:\n{_VECTOR.sub(_HIDDEN, lines)}")
        return "\n\n".join(plans)

    async def find(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        which: Selection,
        *,
        limit: int | None,
        with_vectors: bool,
    ) -> list[Document]:
        spread = with_vectors and bool(ref.config.servers)
        found = await super().find(ref, known, which, limit=limit, with_vectors=with_vectors and not spread)
        if not spread or not found:
            return found
        ids = [document.id for document in found]
        vectors: dict[str, Vector] = {}
        for name in _by_server(known, which.partitions or [p.id for p in known.leaves]):
            share = await self._share(ref, name)
            async with self._reading(ref) as conn:
                with servers.reaching(name):
                    cursor = conn.cursor(binary=True)
                    await cursor.execute(*share.vectors(which.namespace, ids))
                    vectors |= {str(row[0]): conns.vector_of(row[1]) for row in await cursor.fetchall()}
        return [replace(document, vector=vectors.get(document.id)) for document in found]

    async def sample(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int], rows_each: int
    ) -> dict[int, Vector]:
        if not ref.config.servers:
            return await super().sample(ref, known, partitions, rows_each)
        drawn: dict[int, Vector] = {}
        async with self._reading(ref) as conn:
            for name, there in _by_server(known, partitions).items():
                share = await self._share(ref, name)
                for partition in there:
                    with servers.reaching(name):
                        cursor = conn.cursor(binary=True)
                        await cursor.execute(*share.sample(partition, rows_each))
                        vectors = [conns.vector_of(row[0]) for row in await cursor.fetchall()]
                    if vectors:
                        drawn[partition] = np.stack(vectors)
        return drawn


def server_of(known: PartitionMap, partition: int) -> str:
    """Where a partition of a spread collection lies."""
    found = known.get(partition)
    assert found is not None
    assert found.server is not None
    return found.server


def _by_server(known: PartitionMap, partitions: Iterable[int]) -> dict[str, list[int]]:
    """The different partitions among these, by server, both in a fixed order."""
    groups: dict[str, list[int]] = {}
    for partition in sorted(set(partitions)):
        groups.setdefault(server_of(known, partition), []).append(partition)
    return dict(sorted(groups.items()))
