"""Both rankings of a hybrid search in one round trip, by `$rankFusion`.

The stage brings each row with its score in either ranking; ranks are counted anew from the rows' own vectors and
stamps, so that the answer is the one that the rankings give when they are asked for themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from pymongo.errors import OperationFailure

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb import lexical, pipelines, ranking
from svr_retrievers.backends.mongodb.connection import FUSION_SINCE, Doc, translated
from svr_retrievers.backends.mongodb.freshness import is_below
from svr_retrievers.backends.mongodb.keywords import SPARE, Keywords, above_the_cut
from svr_retrievers.backends.mongodb.pipelines import FRESH, IndexSearch
from svr_retrievers.backends.mongodb.ranking import Found
from svr_retrievers.backends.mongodb.searching import (
    MOST_FRESH,
    Asked,
    first_limit,
    is_cut,
    is_floored,
    is_not_queryable,
)
from svr_retrievers.backends.protocol import CollectionRef, KeywordPage, KeywordQuery, Page, Query
from svr_retrievers.model import PartitionMap

_BATCH: Final = 1_000
_VECTOR: Final = "vector"
_WORDS: Final = "words"
_DETAILS: Final = "svr.details"
_UNKNOWN_STAGE: Final = 40324


@dataclass(frozen=True, slots=True)
class _Fused:
    """What came back: the rows of either index, and those above the mark of either."""

    near: Sequence[Found]
    said: Sequence[Found]
    fresh: Sequence[Found]


class Fusion(Keywords):
    """The call that asks for both rankings at once."""

    async def both(
        self, ref: CollectionRef, known: PartitionMap, near: Query, said: KeywordQuery
    ) -> tuple[Page, KeywordPage] | None:
        """None where the server has no such stage, where an index is over a view or not ready, where a filter has to
        be applied to the documents, and where an answer may lack something.
        """
        physical = await self.physical(ref)
        groups = physical.groups(near.partitions)
        if self._deployment.version < FUSION_SINCE or len(groups) != 1 or ref.config.embedding is not None:
            return None
        by_vector = self._asked(ref, known, near, physical)
        by_words = await self.asked_by_words(ref, known, said)
        if by_vector.target.view is not None or not (by_vector.push.exact and by_words.push.exact):
            return None
        with translated(ref.config.name):
            if not (
                await self.is_ready(ref, by_vector.target) and await self.has_words(ref, by_words.target)
            ):
                return None
            try:
                return await self._fused(by_vector, by_words)
            except OperationFailure as error:
                if error.code != _UNKNOWN_STAGE and not is_not_queryable(error):
                    raise
                return None

    async def _fused(self, by_vector: Asked, by_words: Asked) -> tuple[Page, KeywordPage] | None:
        limits = first_limit(by_vector), by_words.query.limit + SPARE
        found = await self._fusion_answer(by_vector, by_words, limits)
        page = await self._vector_page(by_vector, found, limits[0])
        best = self.by_score(by_words, found.said)
        if len(found.said) >= limits[1]:
            if len(best) < by_words.query.limit:
                return None
            best = above_the_cut(best, found.said)
        if page is None:
            return None
        if not found.said and not await self.recheck(by_words.ref, by_words.target):
            return None
        words = self._marks(by_words)
        fresh = [each for each in found.fresh if not is_below(_stamp(each), words)]
        return page, self.words_page(by_words, best, fresh)

    async def _vector_page(self, asked: Asked, found: _Fused, limit: int) -> Page | None:
        """As a search of its own would answer; None where it would have to ask wider."""
        query, marks = asked.query, self._marks(asked)
        fresh = [
            each
            for each in found.fresh
            if not is_below(_stamp(each), marks) and lay.number(lay.own(each)["p"]) in query.partitions
        ]
        if not asked.rows.exact:
            fresh = ranking.matching(fresh, query.filter, asked.ref.config, asked.layout)
        indexed = self.current(asked, found.near)
        rows = ranking.newest([*indexed, *fresh], asked.layout)
        best = ranking.ranked(rows, query, asked.ref.config, asked.layout)
        if len(best) < query.limit or len(indexed) < query.limit:
            return await self._few_matches(asked, query.limit + len(fresh))
        answer = ranking.Answer(indexed, fresh, None, len(found.near) + len(fresh), len(found.near))
        if is_floored(best[query.limit - 1][0], asked) or (
            query.exact and is_cut(answer, best, asked, limit)
        ):
            return None
        return self._page_of(asked, best, exact=query.exact)

    async def _fusion_answer(self, by_vector: Asked, by_words: Asked, limits: tuple[int, int]) -> _Fused:
        ref, layout = by_vector.ref, by_vector.layout
        near, said = self._marks(by_vector), self._marks(by_words)
        either = {slot: min(near.get(slot, 0), said.get(slot, 0)) for slot in {*near, *said}}
        fields = lexical.with_stamp(layout.reads(layout.whole_vector))
        waiting: list[Doc] = [
            {"$match": by_words.rows.condition({"$or": pipelines.fresher(either)})},
            {"$limit": MOST_FRESH},
            {"$project": fields},
            {"$set": {FRESH: True}},
        ]
        catalog = self._catalog
        stages: list[Doc] = [
            _stage(by_vector, by_words, limits),
            {"$project": fields},
            {"$set": {_DETAILS: {"$meta": "scoreDetails"}}},
            {"$unionWith": {"coll": self.documents_name(ref), "pipeline": waiting}},
            pipelines.united_generation(catalog.collections.name, catalog.generation_stages(ref)),
        ]
        source, left = self.documents(ref), by_vector.milliseconds()
        cursor = await source.aggregate(stages, batchSize=_BATCH, maxTimeMS=left)
        answer = ranking.sorted_out([each async for each in cursor])
        self._check_generation(by_vector, answer.generation)
        if answer.fresh:
            self.follow(ref, by_vector.target)
            self.follow(ref, by_words.target)
        return _told_apart(answer.indexed, answer.fresh)

    def _marks(self, asked: Asked) -> Mapping[int, int]:
        return self._freshness.of(asked.target.name).marks


def _stage(by_vector: Asked, by_words: Asked, limits: tuple[int, int]) -> Doc:
    query = by_vector.query
    ask = IndexSearch(
        by_vector.target.name,
        by_vector.path,
        by_vector.layout.bound_vector(query.vector),
        limits[0],
        None if query.exact else pipelines.candidates_for(limits[0], query.ef_search),
        by_vector.push.filter,
    )
    words = lexical.question(
        by_words.target.name, by_words.query.text or "", by_words.layout, by_words.rows, by_words.push.filter
    )
    rankings = {_VECTOR: [ask.stage(by_vector.rows)], _WORDS: [words, {"$limit": limits[1]}]}
    return {"$rankFusion": {"input": {"pipelines": rankings}, "scoreDetails": True}}


def _told_apart(found: Sequence[Found], fresh: Sequence[Found]) -> _Fused:
    near: list[Found] = []
    said: list[Found] = []
    for each in found:
        for detail in _details(each):
            if not isinstance(detail.get("rank"), int):
                continue
            scored = {**each, "svr": {**lay.own(each), "score": detail["value"]}}
            (near if detail["inputPipelineName"] == _VECTOR else said).append(scored)
    return _Fused(near, said, fresh)


def _details(found: Found) -> list[Mapping[str, object]]:
    told = cast("Mapping[str, object]", lay.own(found)["details"])
    return cast("list[Mapping[str, object]]", told["details"])


def _stamp(found: Found) -> int:
    return lay.number(lay.own(found)["w"])
