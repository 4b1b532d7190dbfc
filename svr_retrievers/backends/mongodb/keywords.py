"""Searches by words, over an index of their own that the first such search makes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

from svr_retrievers.backends.distance import distances
from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb import lexical, pipelines, ranking
from svr_retrievers.backends.mongodb.connection import translated
from svr_retrievers.backends.mongodb.freshness import is_below, marks_of, probes
from svr_retrievers.backends.mongodb.pipelines import MOST_CANDIDATES
from svr_retrievers.backends.mongodb.ranking import Answer, Found
from svr_retrievers.backends.mongodb.searching import MOST_FRESH, WIDER, Asked, Searches, is_not_queryable
from svr_retrievers.backends.mongodb.targets import Physical, Target
from svr_retrievers.backends.protocol import Candidate, CollectionRef, KeywordPage, KeywordQuery, Query
from svr_retrievers.errors import IndexFailed
from svr_retrievers.filters import ALL
from svr_retrievers.model import PartitionMap

SPARE: Final = 10
_BATCH: Final = 1_000
_KIND: Final = "search"


class Keywords(Searches):
    """The call that ranks by words. The index of words lives as the others do, under a name of its own.

    Rows above its mark are left out, since their words may have changed; those among them that hold one of the words
    asked for are counted as waiting.
    """

    async def keywords(self, ref: CollectionRef, known: PartitionMap, query: KeywordQuery) -> KeywordPage:
        asked = await self.asked_by_words(ref, known, query)
        with translated(ref.config.name):
            if not await self.has_words(ref, asked.target):
                return KeywordPage(ready=False)
            try:
                return await self._by_words(asked, query)
            except OperationFailure as error:
                if not is_not_queryable(error):
                    raise
                self._freshness.of(asked.target.name).ready = False
                return KeywordPage(ready=False)

    async def complete_words(self, ref: CollectionRef) -> None:
        """Waits until the index of words, if there is one, holds every row."""
        target = words_target(ref)
        if await self._listed(ref, target) is not None:
            await self.wait_ready(ref, target)
            await self.wait_caught_up(ref, target)

    async def asked_by_words(self, ref: CollectionRef, known: PartitionMap, query: KeywordQuery) -> Asked:
        near = Query(
            query.vector,
            query.limit,
            query.namespace,
            query.filter,
            query.partitions,
            with_vectors=query.with_vectors,
            timeout_seconds=query.timeout_seconds,
            text=query.text,
        )
        asked = self._asked(ref, known, near, await self.physical(ref))
        return replace(asked, target=words_target(ref))

    async def has_words(self, ref: CollectionRef, target: Target) -> bool:
        """Whether the index may be asked; where there is none it is asked for. Raises IndexFailed."""
        if await self.is_ready(ref, target):
            return True
        found = await self._listed(ref, target)
        if found is None:
            await self.create_index(ref, await self.physical(ref), target)
        elif found.get("status") == "FAILED":
            raise IndexFailed(
                f"The search index {target.name!r} of {ref.config.name!r} failed.",
                hint="refresh() raises the server's reason.",
            )
        return False

    async def _by_words(self, asked: Asked, query: KeywordQuery) -> KeywordPage:
        """Where words alone decide, equals at the limit are asked for until all are there, and go by their ids."""
        limit = query.limit + SPARE
        while True:
            answer = await self._words_answer(asked, limit)
            best = self.by_score(asked, answer.indexed)
            if len(answer.indexed) < limit:
                break
            above = above_the_cut(best, answer.indexed)
            enough = above if query.alone else best
            if len(enough) >= query.limit or limit >= MOST_CANDIDATES:
                best = above if len(above) >= query.limit or not query.alone else best
                break
            limit = min(MOST_CANDIDATES, limit * WIDER)
        if not answer.indexed and not await self.recheck(asked.ref, asked.target):
            return KeywordPage(ready=False)
        return self.words_page(asked, best, answer.fresh)

    @staticmethod
    def words_page(asked: Asked, best: Sequence[Found], fresh: Sequence[Found]) -> KeywordPage:
        """`fresh`: rows that the index does not hold yet."""
        if not asked.rows.exact:
            fresh = ranking.matching(fresh, asked.query.filter, asked.ref.config, asked.layout)
        kept = best[: asked.query.limit]
        return KeywordPage(_candidates(kept, asked), tuple(map(_score, kept)), _holding_words(asked, fresh))

    def by_score(self, asked: Asked, found: Sequence[Found]) -> list[Found]:
        """Those that the index holds as they are now, best first, equal ones by key."""
        return sorted(self.current(asked, found), key=lambda each: (-_score(each), asked.layout.key_of(each)))

    async def _words_answer(self, asked: Asked, limit: int) -> Answer:
        ref, text = asked.ref, asked.query.text or ""
        layout, name = asked.layout, asked.target.name
        path = None if layout.embedded else layout.whole_vector
        stages = lexical.search(
            lexical.question(name, text, layout, asked.rows, asked.push.filter),
            limit,
            asked.rows,
            pipelines.fresher(self._freshness.of(name).marks),
            lexical.with_stamp(layout.reads(path)),
            most_fresh=MOST_FRESH,
            documents=self.documents_name(ref),
            generation=self._catalog.generation_stages(ref),
            catalog=self._catalog.collections.name,
        )
        cursor = await self.documents(ref).aggregate(stages, batchSize=_BATCH, maxTimeMS=asked.milliseconds())
        answer = ranking.sorted_out([each async for each in cursor])
        self._check_generation(asked, answer.generation)
        if answer.fresh:
            self.follow(ref, asked.target)
        return answer

    def current(self, asked: Asked, found: Sequence[Found]) -> list[Found]:
        """Those that the index holds as they are now, and that are surely what was asked for."""
        marks = self._freshness.of(asked.target.name).marks
        query = asked.query
        kept = [
            each
            for each in found
            if is_below(lay.number(lay.own(each)["w"]), marks)
            and asked.layout.key_of(each)[0] == query.namespace
            and lay.number(lay.own(each)["p"]) in query.partitions
        ]
        if query.filter == ALL:
            return kept
        return ranking.matching(kept, query.filter, asked.ref.config, asked.layout)

    # The index's life

    async def create_index(self, ref: CollectionRef, physical: Physical, target: Target) -> None:
        if not _is_words(ref, target):
            return await super().create_index(ref, physical, target)
        wanted = lexical.definition(ref.config, self.layout(ref, physical))
        with translated(ref.config.name):
            await self.documents(ref).create_search_index(SearchIndexModel(wanted, target.name, _KIND))
        return None

    async def update_index(self, ref: CollectionRef, physical: Physical, target: Target) -> None:
        if not _is_words(ref, target):
            return await super().update_index(ref, physical, target)
        wanted = lexical.definition(ref.config, self.layout(ref, physical))
        with translated(ref.config.name):
            await self.documents(ref).update_search_index(target.name, wanted)
        return None

    async def drop_indexes(self, ref: CollectionRef, physical: Physical) -> None:
        target = words_target(ref)
        await self._drop_index(self.documents(ref), target.name)
        self._freshness.forget(target.name)
        await super().drop_indexes(ref, physical)

    def _is_wanted(self, found: Mapping[str, object], ref: CollectionRef, physical: Physical) -> bool:
        if found.get("type") != _KIND:
            return super()._is_wanted(found, ref, physical)
        wanted = lexical.definition(ref.config, self.layout(ref, physical))
        return lexical.is_defined(found.get("latestDefinition"), wanted)

    async def _seen(self, ref: CollectionRef, target: Target) -> dict[int, int]:
        if not _is_words(ref, target):
            return await super()._seen(ref, target)
        asked = probes(await self.waiting(ref, target))
        if not asked:
            return {}
        cursor = await self.documents(ref).aggregate(lexical.probe(target.name, asked))
        return marks_of([w for w in [lay.number(each["w"]) async for each in cursor] if w in set(asked)])

    async def _mark_ready(self, ref: CollectionRef, target: Target) -> None:
        """The map says nothing of the index of words: each client looks once."""
        if not _is_words(ref, target):
            await super()._mark_ready(ref, target)


def words_target(ref: CollectionRef) -> Target:
    return Target(lexical.index_name(ref.id))


def _is_words(ref: CollectionRef, target: Target) -> bool:
    return target.name == lexical.index_name(ref.id)


def _score(found: Found) -> float:
    return float(str(lay.own(found)["score"]))


def above_the_cut(best: Sequence[Found], found: Sequence[Found]) -> list[Found]:
    """Those with a higher score than the last that the index named: of its equals the others were not named.

    A word that stands in most texts gives thousands the same score; which of them came first says nothing.
    """
    lowest = min(map(_score, found))
    return [each for each in best if _score(each) > lowest]


def _holding_words(asked: Asked, fresh: Sequence[Found]) -> int:
    words = lexical.words_of(asked.query.text or "")
    return sum(not words.isdisjoint(lexical.words_of(asked.layout.text_of(each))) for each in fresh)


def _candidates(best: Sequence[Found], asked: Asked) -> tuple[Candidate, ...]:
    """Their distances are told where their vectors are known here."""
    query, layout = asked.query, asked.layout
    if not best or layout.embedded or not query.vector.size:
        return ranking.candidates([(math.nan, each) for each in best], query, layout)
    rows = [layout.vector_of(each) for each in best]
    far = distances(query.vector, np.stack(rows), asked.ref.config.metric)
    return ranking.candidates(list(zip(far, best, strict=True)), query, layout)
