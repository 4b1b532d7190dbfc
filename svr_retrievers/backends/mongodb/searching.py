"""Searches: one aggregate where the index can be trusted, the documents themselves where it cannot."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb import lexical, pipelines, ranking
from svr_retrievers.backends.mongodb.connection import Doc, translated
from svr_retrievers.backends.mongodb.filters import compile_match
from svr_retrievers.backends.mongodb.freshness import is_below
from svr_retrievers.backends.mongodb.indexing import SearchIndexes
from svr_retrievers.backends.mongodb.layout import Layout
from svr_retrievers.backends.mongodb.pipelines import MOST_CANDIDATES, IndexSearch, Rows
from svr_retrievers.backends.mongodb.push import Pushed, compile_push
from svr_retrievers.backends.mongodb.ranking import Answer, Found
from svr_retrievers.backends.mongodb.targets import Physical, Target
from svr_retrievers.backends.protocol import CollectionRef, Page, Query, StaleMap
from svr_retrievers.control.mongodb_fence import dropped
from svr_retrievers.errors import DeadlineExceeded
from svr_retrievers.model import Metric, PartitionMap

MOST_FRESH = 2_000
"""Rows that wait for their index are read up to this many by a search that need not be exact."""
_SPARE = 3
"""Hits asked for beyond the limit, for documents that were deleted or replaced since the index took them."""
_SPARE_OF_SCANS = 16
_MATCHES_READ = 2_000
"""A filter that the index cannot apply is first answered from the documents, up to this many matches."""
WIDER = 8
_BATCH = 1_000
_SCORE_ERROR = 64 * 2.0**-24
"""Relative error of a score: the unit roundoff of 32 bits, times what a sum of thousands of products adds to it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One search, prepared: over one index and the partitions that it serves."""

    ref: CollectionRef
    query: Query
    generation: int
    layout: Layout
    target: Target
    rows: Rows
    push: Pushed
    until: float | None

    @property
    def path(self) -> str:
        return self.layout.vector_path(self.query.partitions[0])

    @property
    def fields(self) -> Doc:
        return self.layout.reads(self.path)

    def milliseconds(self) -> int:
        """What is left of the deadline, 0 where there is none. Raises DeadlineExceeded when nothing is left."""
        if self.until is None:
            return 0
        left = self.until - time.perf_counter()
        if left <= 0:
            raise DeadlineExceeded("The search did not end in time.", hint="Raise timeout_seconds.")
        return max(1, int(left * 1000))


class Searches(SearchIndexes):
    """The calls that compare vectors."""

    def shards(
        self,
        ref: CollectionRef,
        known: PartitionMap,  # noqa: ARG002
        partitions: Sequence[int],
    ) -> list[tuple[int, ...]]:
        physical = self._physical.get(ref.id)
        return [tuple(partitions)] if physical is None else physical.groups(partitions)

    async def search(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Page:
        physical = await self.physical(ref)
        groups = physical.groups(query.partitions)
        with translated(ref.config.name):
            pages = [
                await self._page(self._asked(ref, known, replace(query, partitions=group), physical))
                for group in groups
            ]
        return pages[0] if len(pages) == 1 else _joined(pages, query.limit)

    def _asked(self, ref: CollectionRef, known: PartitionMap, query: Query, physical: Physical) -> Asked:
        layout = self.layout(ref, physical)
        match = compile_match(query.filter, layout.paths)
        seconds = query.timeout_seconds
        rows_there = sum(p.stats.rows for p in map(known.get, query.partitions) if p is not None)
        few = rows_there <= max(ref.config.index.min_rows, 1) or ref.config.index.kind == "flat"
        return Asked(
            ref,
            replace(query, exact=query.exact or few),
            known.generation,
            layout,
            physical.of(query.partitions[0]),
            Rows(query.namespace, query.partitions, match.match, match.exact, layout),
            compile_push(query.filter, layout.paths),
            None if seconds is None else time.perf_counter() + seconds,
        )

    async def _page(self, asked: Asked) -> Page:
        if not await self.is_ready(asked.ref, asked.target):
            return await self._scanned(asked)
        if not asked.push.exact:
            few = await self._few_matches(asked, _MATCHES_READ)
            if few is not None:
                return few
        try:
            return await self._by_index(asked)
        except OperationFailure as error:
            if not is_not_queryable(error) and await self.recheck(asked.ref, asked.target):
                raise
            self._freshness.of(asked.target.name).ready = False
            return await self._scanned(asked)

    async def _by_index(self, asked: Asked) -> Page:
        """Asks wider where hits were dropped after the index named them, then looks at the documents themselves."""
        query = asked.query
        limit = first_limit(asked)
        before: int | None = None
        while True:
            answer = await self._answer(asked, limit)
            if query.exact and len(answer.fresh) >= MOST_FRESH:
                return await self._scanned(asked)
            best = _ranked([*answer.indexed, *answer.fresh], asked)
            enough = len(best) >= query.limit and len(answer.indexed) >= query.limit
            if enough and is_floored(best[query.limit - 1][0], asked):
                return await self._scanned(asked)
            if enough and not (query.exact and is_cut(answer, best, asked, limit, before)):
                return self._page_of(asked, best, exact=query.exact)
            if not enough:
                few = await self._few_matches(asked, query.limit + len(answer.fresh))
                if few is not None:
                    return few
                if not answer.indexed and not await self.recheck(asked.ref, asked.target):
                    return await self._scanned(asked)
            if limit >= MOST_CANDIDATES:
                return await self._scanned(asked)
            before = answer.named
            limit = min(MOST_CANDIDATES, limit * WIDER)

    async def _answer(self, asked: Asked, limit: int) -> Answer:
        query, ref = asked.query, asked.ref
        marks = dict(self._freshness.of(asked.target.name).marks)
        ask = IndexSearch(
            asked.target.name,
            asked.path,
            asked.layout.bound_vector(query.vector),
            limit,
            None if query.exact else pipelines.candidates_for(limit, query.ef_search),
            asked.push.filter,
        )
        stages = pipelines.search(
            ask,
            asked.rows,
            pipelines.fresher(marks),
            lexical.with_stamp(asked.fields),
            documents=self.documents_name(ref),
            most_fresh=MOST_FRESH,
            generation=self._catalog.generation_stages(ref),
            catalog=self._catalog.collections.name,
        )
        answer = await self._read(asked, self.named(asked.target, ref), stages)
        if answer.fresh:
            self.follow(ref, asked.target)
        held = [each for each in answer.indexed if is_below(lay.number(lay.own(each)["w"]), marks)]
        return replace(answer, indexed=held)

    async def _read(self, asked: Asked, source: AsyncCollection[Doc], stages: list[Doc]) -> Answer:
        cursor = await source.aggregate(stages, batchSize=_BATCH, maxTimeMS=asked.milliseconds())
        answer = ranking.sorted_out(await cursor.to_list())
        self._check_generation(asked, answer.generation)
        return answer if asked.rows.exact else self._matching(asked, answer)

    @staticmethod
    def _check_generation(asked: Asked, found: int | None) -> None:
        if found is None:
            raise dropped(asked.ref)
        if found != asked.generation:
            raise StaleMap

    @staticmethod
    def _matching(asked: Asked, answer: Answer) -> Answer:
        config, node = asked.ref.config, asked.query.filter
        return replace(
            answer,
            indexed=ranking.matching(answer.indexed, node, config, asked.layout),
            fresh=ranking.matching(answer.fresh, node, config, asked.layout),
        )

    @staticmethod
    def _page_of(asked: Asked, best: Sequence[tuple[float, Found]], *, exact: bool) -> Page:
        query = asked.query
        return Page(ranking.candidates(best[: query.limit], query, asked.layout), exact=exact)

    async def _few_matches(self, asked: Asked, most: int) -> Page | None:
        """The exact answer where no more rows than that match; None where there are more."""
        stages = self._scan(asked, asked.rows, asked.fields, most=most + 1)
        answer = await self._read(asked, self.documents(asked.ref), stages)
        if answer.read > most:
            return None
        best = _ranked(answer.indexed, asked)
        return self._page_of(asked, best, exact=True)

    def _scan(self, asked: Asked, rows: Rows, fields: Doc, *, most: int | None = None) -> list[Doc]:
        return pipelines.scan(
            rows,
            fields,
            most=most,
            generation=self._catalog.generation_stages(asked.ref),
            catalog=self._catalog.collections.name,
        )

    async def _scanned(self, asked: Asked) -> Page:
        """Compares every row that matches, some at a time, and reads the texts of the closest then."""
        self.follow(asked.ref, asked.target)
        whole = not asked.rows.exact
        fields: Doc = (
            asked.fields
            if whole
            else {asked.path: 1, lay.PARTITION: 1, "svr.v": 1, **asked.layout.reads_keys}
        )
        best: list[tuple[float, Found]] = []
        generation: int | None = None
        kept = asked.query.limit + (0 if whole else _SPARE_OF_SCANS)
        async for part in self._parts(asked, self._scan(asked, asked.rows, fields)):
            answer = self._matching(asked, part) if whole else part
            generation = part.generation if part.generation is not None else generation
            best = _ranked([*(each for _, each in best), *answer.indexed], asked)[:kept]
        self._check_generation(asked, generation)
        if whole:
            return self._page_of(asked, best, exact=True)
        complete = await self._completed(asked, best)
        if len(complete) < min(asked.query.limit, len(best)) and asked.milliseconds() >= 0:
            return await self._scanned(asked)  # so many of them went meanwhile that others come into question
        return self._page_of(asked, complete, exact=True)

    async def _parts(self, asked: Asked, stages: list[Doc]) -> AsyncIterator[Answer]:
        left = asked.milliseconds()
        cursor = await self.documents(asked.ref).aggregate(stages, batchSize=_BATCH, maxTimeMS=left)
        part: list[Found] = []
        async for each in cursor:
            part.append(each)
            if len(part) == _BATCH:
                yield ranking.sorted_out(part)
                part = []
        yield ranking.sorted_out(part)

    async def _completed(
        self, asked: Asked, best: Sequence[tuple[float, Found]]
    ) -> list[tuple[float, Found]]:
        """The same documents with their texts, without those that were deleted or replaced meanwhile."""
        versions = {asked.layout.key_of(found): lay.own(found)["v"] for _, found in best}
        keys = [found["_id"] for _, found in best]
        rows = replace(asked.rows, match={"$and": [asked.rows.match, {"_id": {"$in": keys}}]})
        answer = await self._read(asked, self.documents(asked.ref), self._scan(asked, rows, asked.fields))
        same = [
            each for each in answer.indexed if versions.get(asked.layout.key_of(each)) == lay.own(each)["v"]
        ]
        return _ranked(same, asked)

    async def explain(self, ref: CollectionRef, known: PartitionMap, query: Query) -> str:
        """The aggregates that the search begins with, and how far their indexes have come."""
        physical = await self.physical(ref)
        told = []
        for group in physical.groups(query.partitions):
            asked = self._asked(ref, known, replace(query, partitions=group), physical)
            ready = await self.is_ready(ref, asked.target)
            state = "ready" if ready else "not ready: every row is compared"
            told.append(f"index {asked.target.name} ({state}) over {asked.target.view or 'the documents'}")
            told.append(_shown(asked))
        return "\n".join(told)


def _shown(asked: Asked) -> str:
    query = asked.query
    ask = IndexSearch(
        asked.target.name,
        asked.path,
        "[...]",
        query.limit + _SPARE,
        None if query.exact else pipelines.candidates_for(query.limit + _SPARE, query.ef_search),
        asked.push.filter,
        query.text,
    )
    after = "" if asked.push.exact else "\n  then the rest of the filter, on the documents"
    return "  " + json.dumps(ask.stage(asked.rows), default=str, ensure_ascii=False) + after


def first_limit(asked: Asked) -> int:
    """The hits to ask the index for: more where the documents have to be filtered after it named them."""
    wanted = asked.query.limit + _SPARE
    known = asked.query.estimates
    if not asked.push.exact and known is not None and known.shares:
        share = max(min(known.shares.values()), 1e-3)
        wanted = int(wanted / share)
    return min(MOST_CANDIDATES, max(wanted, asked.query.limit))


def is_cut(
    answer: Answer, best: Sequence[tuple[float, Found]], asked: Asked, limit: int, before: int | None = None
) -> bool:
    """Whether the index may have left out a row that is as close as the last hit.

    It orders rows by scores of 32 bits, which many distances share: two that lie within the error of their
    computation may stand in either order. `before`: how many it named when it was asked for fewer; where that
    was all it has, nothing is left out.
    """
    if answer.named < limit and answer.named == before:
        return False
    last = best[asked.query.limit - 1][0]
    farthest = _ranked(answer.indexed, asked)[-1][0]
    if farthest <= last + _SCORE_ERROR * abs(last):
        return True
    scores = [ranking.score_of(found) for _, found in best[: asked.query.limit] if ranking.is_indexed(found)]
    worst = min(ranking.score_of(found) for found in answer.indexed)
    return bool(scores) and worst >= min(scores) * (1 - _SCORE_ERROR)


def _ranked(found: Sequence[Found], asked: Asked) -> list[tuple[float, Found]]:
    newest = ranking.newest(found, asked.layout)
    return ranking.ranked(newest, asked.query, asked.ref.config, asked.layout)


def is_floored(last: float, asked: Asked) -> bool:
    """Scores of inner products end at 0, where the index orders rows no more: from an inner product of -1 down."""
    return asked.ref.config.metric is Metric.INNER_PRODUCT and last >= 1.0


def _joined(pages: Sequence[Page], limit: int) -> Page:
    best = sorted(
        (c for page in pages for c in page.candidates), key=lambda c: (c.distance, c.namespace, c.id)
    )
    return Page(tuple(best[:limit]), exact=all(page.exact for page in pages))


def is_not_queryable(error: OperationFailure) -> bool:
    return "while in state" in str(error)
