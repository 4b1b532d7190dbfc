"""Searches of collections whose texts the server embeds: only its index can compare them, so only it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pymongo.errors import OperationFailure

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb import pipelines
from svr_retrievers.backends.mongodb.connection import Doc
from svr_retrievers.backends.mongodb.pipelines import COUNT, MOST_CANDIDATES, SCORE, IndexSearch
from svr_retrievers.backends.mongodb.ranking import Found
from svr_retrievers.backends.mongodb.searching import WIDER, Asked, Searches, first_limit, is_not_queryable
from svr_retrievers.backends.mongodb.targets import Target
from svr_retrievers.backends.protocol import CollectionRef, Page
from svr_retrievers.errors import IndexFailed

_LOOK_AGAIN_SECONDS: Final = 2.0
"""Looking how far the index is asks the embedding model, whose rate is limited, so it is done less often."""
_MOST_COUNTED: Final = 10_000
"""Rows that wait are counted up to this many."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Hits in order, and how many rows that match wait for the index."""

    best: Sequence[tuple[float, Found]]
    waiting: int


class EmbeddedTexts(Searches):
    """Searches by text, each hit with the distance that its score means.

    A row above the index's mark is left out even where the index names it: the score may be that of its former
    text. It counts as waiting, and the result says so.
    """

    async def _page(self, asked: Asked) -> Page:
        if asked.ref.config.embedding is None:
            return await super()._page(asked)
        if not await self.is_ready(asked.ref, asked.target):
            return await self._all_wait(asked)
        try:
            return await self._by_text(asked)
        except OperationFailure as error:
            if not is_not_queryable(error):
                raise
            self._freshness.of(asked.target.name).ready = False
            return await self._all_wait(asked)

    async def _by_text(self, asked: Asked) -> Page:
        """Asks wider until there are enough hits, or all that match and are embedded."""
        limit, exact = first_limit(asked), asked.query.exact
        found = await self._asked_for(asked, limit, exact=exact)
        if found.waiting and await self._has_come_on(asked):
            found = await self._asked_for(asked, limit, exact=exact)
        if _is_enough(found.best, asked):
            return self._told(asked, found, exact=exact)
        if not found.best and not await self.recheck(asked.ref, asked.target):
            return await self._all_wait(asked)
        there = await self._embedded(asked)
        rows = await self.documents(asked.ref).estimated_document_count()
        while len(found.best) < there and not _is_enough(found.best, asked):
            if exact and limit >= rows:  # what the index does not name by now it does not hold
                return self._told(
                    asked, replace(found, waiting=found.waiting + there - len(found.best)), exact=exact
                )
            limit *= WIDER
            exact = exact or limit > MOST_CANDIDATES
            found = await self._asked_for(asked, limit, exact=exact)
        return self._told(asked, found, exact=exact or len(found.best) >= there)

    async def _asked_for(self, asked: Asked, limit: int, *, exact: bool) -> _Found:
        ref, query = asked.ref, asked.query
        ask = IndexSearch(
            asked.target.name,
            asked.path,
            None,
            limit,
            None if exact else pipelines.candidates_for(limit, query.ef_search),
            asked.push.filter,
            query.text,
        )
        stages = pipelines.search_by_text(
            ask,
            asked.rows,
            pipelines.fresher(self._freshness.of(asked.target.name).marks),
            most_fresh=_MOST_COUNTED,
            documents=self.documents_name(ref),
            generation=self._catalog.generation_stages(ref),
            catalog=self._catalog.collections.name,
        )
        answer = await self._read(asked, self.named(asked.target, ref), stages)
        return _Found(_ranked(answer.indexed, asked), sum(map(_weight, answer.fresh)))

    async def _has_come_on(self, asked: Asked) -> bool:
        """Looks how far the index is, unless that was done a moment ago; whether it is further than was known."""
        known = dict(self._freshness.of(asked.target.name).marks)
        self._look(asked.ref, asked.target)
        await self._freshness.looked(asked.target.name)
        return known != self._freshness.of(asked.target.name).marks

    async def _embedded(self, asked: Asked) -> int:
        """How many of the rows that match the index should hold."""
        held: Doc = {"$nor": pipelines.fresher(self._freshness.of(asked.target.name).marks)}
        return await self._count(asked, held)

    async def _all_wait(self, asked: Asked) -> Page:
        """The index does not answer yet: no row can be compared. Raises IndexFailed when it never will."""
        found = await self._listed(asked.ref, asked.target)
        if found is not None and found.get("status") == "FAILED":
            raise IndexFailed(
                f"The search index {asked.target.name!r} of {asked.ref.config.name!r} failed.",
                hint="refresh() raises the server's reason.",
            )
        self._look(asked.ref, asked.target)
        return Page((), exact=False, waiting=await self._count(asked, {}))

    async def _count(self, asked: Asked, which: Doc) -> int:
        match: Doc = {"$and": [part for part in (asked.rows.match, which, lay.HAS_TEXT) if part]}
        rows = replace(asked.rows, match=match)
        stages = pipelines.counted(
            rows,
            generation=self._catalog.generation_stages(asked.ref),
            catalog=self._catalog.collections.name,
        )
        answer = await self._read(replace(asked, rows=rows), self.documents(asked.ref), stages)
        return sum(map(_weight, [*answer.fresh, *answer.indexed]))

    def _look(self, ref: CollectionRef, target: Target) -> None:
        self._freshness.nudge(target.name, lambda: self.advance(ref, target), _LOOK_AGAIN_SECONDS)

    def _told(self, asked: Asked, found: _Found, *, exact: bool) -> Page:
        return replace(self._page_of(asked, found.best, exact=exact), waiting=found.waiting)


def _weight(found: Found) -> int:
    """A document counts once; one that only counts others for as many."""
    return lay.number(found[COUNT]) if COUNT in found and "_id" not in found else 1


def _ranked(found: Sequence[Found], asked: Asked) -> list[tuple[float, Found]]:
    """By closeness, equal ones by namespace and id."""
    embedding = asked.ref.config.embedding
    squared = embedding is not None and embedding.quantization.startswith("binary")
    far = [(_distance(float(str(each[SCORE])), squared=squared), each) for each in found]
    return sorted(far, key=lambda each: (each[0], asked.layout.key_of(each[1])))


def _distance(score: float, *, squared: bool) -> float:
    """One minus the cosine of vectors of length 1, from `1 / (1 + d * d)` where `squared`, else `(1 + dot) / 2`."""
    return max(0.0, (1.0 / score - 1.0) / 2.0 if squared else 2.0 - 2.0 * score)


def _is_enough(best: Sequence[tuple[float, Found]], asked: Asked) -> bool:
    """Whether no row that was left out can belong to the answer: an exact one goes on while the last ones are equal."""
    limit = asked.query.limit
    return len(best) >= limit and not (asked.query.exact and best[-1][0] <= best[limit - 1][0])
