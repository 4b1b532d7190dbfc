"""PostgreSQL with collections that lie on several servers: each searched with one statement, all at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from psycopg.rows import TupleRow

from svr_retrievers.backends.distance import distances
from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres import queries
from svr_retrievers.backends.postgres.asking import ReadSettings
from svr_retrievers.backends.postgres.searching import candidate, check_generation
from svr_retrievers.backends.postgres.spread import failures, servers
from svr_retrievers.backends.postgres.spread.placed import by_server, server_of
from svr_retrievers.backends.postgres.spread.share import Share
from svr_retrievers.backends.postgres.spread.writes import SpreadWrites
from svr_retrievers.backends.protocol import (
    Candidate,
    CollectionRef,
    KeywordPage,
    KeywordQuery,
    Page,
    Query,
    Selection,
)
from svr_retrievers.concurrency import NeedsLoop, on_loop
from svr_retrievers.errors import ConnectionFailed, PartitionFailed, ServerNotFound
from svr_retrievers.model import Document, PartitionMap, Vector

_FETCHED_MORE = 8
"""A search that met rows without a document asks again for so many times as many."""
_VECTOR = re.compile(r"'\[[^']*\]'")
_HIDDEN = "'[...]'"
_LOCAL_SETTINGS = (
    "select set_config('statement_timeout', %s, true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true)"
)


class SpreadBackend(SpreadWrites):
    """One database that may place the partitions of a collection on further servers."""

    def shards(
        self,
        ref: CollectionRef,  # noqa: ARG002
        known: PartitionMap,
        partitions: Sequence[int],
    ) -> list[tuple[int, ...]]:
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
            with failures.reaching(name):
                return await self._asker.rows(text, statement.params, settings, ref.config.name)
        if not on_loop():
            raise NeedsLoop
        milliseconds = 0 if settings.seconds is None else max(1, int(settings.seconds * 1000))
        async with self._reading(ref) as conn:
            with failures.reaching(name):
                async with conn.transaction():
                    await conn.execute(_LOCAL_SETTINGS, (str(milliseconds),))
                    await self._run(conn, share, servers.scan_settings(settings))
                    cursor = conn.cursor(binary=True)
                    await cursor.execute(text, statement.params)
                    return await cursor.fetchall()

    async def keywords(self, ref: CollectionRef, known: PartitionMap, query: KeywordQuery) -> KeywordPage:
        """Texts and their words are here, vectors on the servers: a distance is NaN where one does not answer."""
        wanted = query.with_vectors or bool(query.vector.size)
        if not (ref.config.servers and wanted):
            return await super().keywords(ref, known, query)
        page = await super().keywords(ref, known, replace(query, vector=query.vector[:0], with_vectors=False))
        ids = [candidate.id for candidate in page.candidates]
        where = {candidate.partition for candidate in page.candidates}
        try:
            vectors = await self._vectors(ref, known, where, query.namespace, ids)
        except (ConnectionFailed, ServerNotFound):
            if query.with_vectors:
                raise
            vectors = {}
        return replace(
            page,
            candidates=tuple(
                _with_vector(each, vectors.get(each.id), ref, query) for each in page.candidates
            ),
        )

    async def explain(self, ref: CollectionRef, known: PartitionMap, query: Query) -> str:
        """Verbose, to show what each server is sent."""
        if not ref.config.servers:
            return await super().explain(ref, known, query)
        plans = []
        for partitions in self.shards(ref, known, query.partitions):
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
        after: str | None = None,
    ) -> list[Document]:
        spread = with_vectors and bool(ref.config.servers)
        here = with_vectors and not spread
        found = await super().find(ref, known, which, limit=limit, with_vectors=here, after=after)
        if not spread or not found:
            return found
        ids = [document.id for document in found]
        where = which.partitions or [p.id for p in known.leaves]
        vectors = await self._vectors(ref, known, where, which.namespace, ids)
        return [replace(document, vector=vectors.get(document.id)) for document in found]

    async def _vectors(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        partitions: Iterable[int],
        namespace: str,
        ids: list[str],
    ) -> dict[str, Vector]:
        vectors: dict[str, Vector] = {}
        for name in by_server(known, partitions):
            share = await self._share(ref, name)
            async with self._reading(ref) as conn:
                with failures.reaching(name):
                    cursor = conn.cursor(binary=True)
                    await cursor.execute(*share.vectors(namespace, ids))
                    vectors |= {str(row[0]): conns.vector_of(row[1]) for row in await cursor.fetchall()}
        return vectors

    async def sample(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int], rows_each: int
    ) -> dict[int, Vector]:
        if not ref.config.servers:
            return await super().sample(ref, known, partitions, rows_each)
        drawn: dict[int, Vector] = {}
        async with self._reading(ref) as conn:
            for name, there in by_server(known, partitions).items():
                share = await self._share(ref, name)
                for partition in there:
                    with failures.reaching(name):
                        cursor = conn.cursor(binary=True)
                        await cursor.execute(*share.sample(partition, rows_each))
                        vectors = [conns.vector_of(row[0]) for row in await cursor.fetchall()]
                    if vectors:
                        drawn[partition] = np.stack(vectors)
        return drawn


def _with_vector(
    found: Candidate, vector: Vector | None, ref: CollectionRef, query: KeywordQuery
) -> Candidate:
    """With its distance, which is not known where there is no vector to compare."""
    if vector is None:
        return found
    distance = found.distance
    if query.vector.size:
        distance = float(distances(query.vector, vector[np.newaxis], ref.config.metric)[0])
    return found._replace(distance=distance, vector=vector if query.with_vectors else None)
