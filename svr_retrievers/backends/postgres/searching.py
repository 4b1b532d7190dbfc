"""Searches, listings and samples: everything that reads rows, each on one map from beginning to end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from psycopg import sql

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres import field_statistics, filtered, queries
from svr_retrievers.backends.postgres.asking import ReadSettings
from svr_retrievers.backends.postgres.database import Database
from svr_retrievers.backends.protocol import Candidate, CollectionRef, Page, Query, Selection, StaleMap
from svr_retrievers.errors import CollectionNotFound
from svr_retrievers.filters import ALL
from svr_retrievers.filters.choice import Choice
from svr_retrievers.model import Document, PartitionMap, Vector

_VECTOR_LITERAL = re.compile(r"'\[[^']*\]'(?=::(?:vector|halfvec))")


class Reads(Database):
    """The calls of a backend that read."""

    def shards(
        self,
        ref: CollectionRef,  # noqa: ARG002
        known: PartitionMap,  # noqa: ARG002
        partitions: Sequence[int],
    ) -> list[tuple[int, ...]]:
        return [tuple(partitions)]  # one server: one round trip

    async def search(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Page:
        """One round trip; more only when an index came back with too few: it is then asked to go on, and if that
        does not help either, every row is compared.

        Without an index the question is put exactly, so that ties at the limit are decided by key.
        """
        asked, indexed = self._statement(ref, known, query)
        found = await self._ask(ref, known, query, asked)
        if indexed and len(found) < query.limit and not self._iterates(ref, query):
            found = await self._ask(ref, known, replace(query, alone=False), asked)
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
        asked = query if indexed else queries.exactly(query)
        return queries.search(tables, asked, tailed, known_tables=2 * len(known.leaves)), indexed

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
        return ReadSettings(
            ef,
            self._settings.hnsw_max_scan_tuples,
            probes,
            planning,
            query.timeout_seconds,
            iterates=self._iterates(ref, query),
        )

    def _iterates(self, ref: CollectionRef, query: Query) -> bool:
        """Whether a graph may have to look beyond its candidates: half of them may be of rows deleted since."""
        if ref.config.index.kind != "hnsw" or not query.alone or query.filter != ALL:
            return True
        return self._ef_search(ref, query) < 2 * query.limit

    def _ef_search(self, ref: CollectionRef, query: Query) -> int:
        tables = self.tables(ref)
        most = 1_000 if tables.quantized else 200
        asked = query.ef_search or ref.config.index.ef_search
        return min(1_000, max(asked, min(query.limit * tables.candidates, most)))

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
        after: str | None = None,
    ) -> list[Document]:
        statement = queries.find(self.tables(ref), which, limit=limit, with_vectors=with_vectors, after=after)
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
