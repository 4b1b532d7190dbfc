"""Searches by words, over a column and an index that the first such search makes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import anyio
import numpy as np

from svr_retrievers.backends.distance import distances
from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres import keyword_queries, words_building
from svr_retrievers.backends.postgres.asking import ReadSettings
from svr_retrievers.backends.postgres.connection import borrowed
from svr_retrievers.backends.postgres.searching import Reads, check_generation
from svr_retrievers.backends.protocol import Candidate, CollectionRef, KeywordPage, KeywordQuery, Page, Query
from svr_retrievers.model import PartitionMap

_PATIENCE_SECONDS: Final = 5.0
"""How long a search waits for the words to be made; some 20,000 documents take so long."""
_PAUSE_SECONDS: Final = 0.1


class Keywords(Reads):
    """The call that ranks by words."""

    _word_builds: dict[int, asyncio.Task[bool]]
    _with_words: set[int]

    async def open(self) -> None:
        self._word_builds, self._with_words = {}, set()
        await super().open()

    async def close(self) -> None:
        running = list(self._word_builds.values()) if self._opened is not None else []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await super().close()

    async def keywords(self, ref: CollectionRef, known: PartitionMap, query: KeywordQuery) -> KeywordPage:
        if not await self._has_words(ref, query.timeout_seconds):
            return KeywordPage(ready=False)
        return await self._ranked(ref, known, query, vectors=query.with_vectors or bool(query.vector.size))

    async def both(
        self,
        ref: CollectionRef,  # noqa: ARG002
        known: PartitionMap,  # noqa: ARG002
        near: Query,  # noqa: ARG002
        said: KeywordQuery,  # noqa: ARG002
    ) -> tuple[Page, KeywordPage] | None:
        """None: two connections answer at the same time, where one statement would do one after the other."""
        return None

    async def _ranked(
        self, ref: CollectionRef, known: PartitionMap, query: KeywordQuery, *, vectors: bool
    ) -> KeywordPage:
        tables = self.tables(ref)
        asked = keyword_queries.ranked(tables, query, known.rows, vectors=vectors)
        settings = ReadSettings(40, 20_000, 1, "force_custom_plan", query.timeout_seconds)
        rows = await self._asker.rows(asked.text, asked.params, settings, ref.config.name)
        if rows:
            check_generation(rows[0][7], ref, known)
            scores = tuple(float(row[6]) for row in rows)
            return KeywordPage(_candidates(rows, ref, query), scores)
        why = keyword_queries.emptiness(tables, query)
        seen = await self._asker.rows(why.text, why.params, settings, ref.config.name)
        check_generation(seen[0][0] if seen else None, ref, known)
        return KeywordPage(wordless=not seen[0][1])

    # The words' life

    async def _has_words(self, ref: CollectionRef, seconds: float | None) -> bool:
        """Waits a moment for words that are being made; they go on being made when that is not enough."""
        if ref.id in self._with_words:
            return True
        async with self._reading(ref) as conn:
            if await words_building.column(conn, self.tables(ref)) == "words":
                self._with_words.add(ref.id)
                return True
        patience = _PATIENCE_SECONDS if seconds is None else min(_PATIENCE_SECONDS, seconds / 2)
        task = self._words_made(ref)
        done, _ = await asyncio.wait([task], timeout=patience)
        return bool(done) and task.result()

    async def finish_words(self, ref: CollectionRef) -> None:
        """Completes the words of a collection that was asked for some, or declared them; others have none."""
        if ref.id in self._with_words:
            return
        async with self._reading(ref) as conn:
            there = await words_building.column(conn, self.tables(ref))
        while there == "words_new":
            if await asyncio.shield(self._words_made(ref)):
                return
            await anyio.sleep(_PAUSE_SECONDS)

    def _words_made(self, ref: CollectionRef) -> asyncio.Task[bool]:
        """One at a time and collection. Who waits for it may go; it stays."""
        running = self._word_builds.get(ref.id)
        if running is None:
            running = self._word_builds[ref.id] = asyncio.create_task(self._make_words(ref))
            running.add_done_callback(lambda task: self._words_ended(ref, task))
        return running

    def _words_ended(self, ref: CollectionRef, task: asyncio.Task[bool]) -> None:
        self._word_builds.pop(ref.id, None)
        if not task.cancelled() and task.exception() is None and task.result():
            self._with_words.add(ref.id)

    async def _make_words(self, ref: CollectionRef) -> bool:
        async with await conns.connect(self._address, self._settings) as keeper, borrowed(self._pool) as conn:
            with conns.translated(ref.config.name):
                return await words_building.build(conn, keeper, self.tables(ref))


def _candidates(
    rows: Sequence[Sequence[object]], ref: CollectionRef, query: KeywordQuery
) -> tuple[Candidate, ...]:
    """With distances from the question's vector, NaN where there is none."""
    vectors = [conns.vector_of(row[8]) if len(row) > 8 and row[8] is not None else None for row in rows]
    far = np.full(len(rows), np.nan)
    at = [i for i, vector in enumerate(vectors) if vector is not None]
    if at and query.vector.size:
        stacked = np.stack([vector for vector in vectors if vector is not None])
        far[at] = distances(query.vector, stacked, ref.config.metric)
    return tuple(
        Candidate(
            str(row[1]),
            str(row[2]),
            str(row[3]),
            row[4],  # type: ignore[arg-type]
            int(row[5]),  # type: ignore[call-overload]
            abs(int(row[0])),  # type: ignore[call-overload]
            float(distance),
            vector if query.with_vectors else None,
        )
        for row, distance, vector in zip(rows, far, vectors, strict=True)
    )
