"""Searches by words, alone or fused with one by vector, from the checked request to the result and what it lacks."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import anyio

from svr_retrievers.backends.protocol import Candidate, KeywordPage, KeywordQuery, KeywordSearch, StaleMap
from svr_retrievers.errors import BackendError, DeadlineExceeded, InputError, NotFound, SVRError, UsageError
from svr_retrievers.model import Hit, Incomplete, Legs, SearchResult, Timings, Vector
from svr_retrievers.routing.plan import Wish
from svr_retrievers.search import hybrid
from svr_retrievers.search.execute import Engine, hits_of, query_for, run, shortfall
from svr_retrievers.search.fanout import Answers, late
from svr_retrievers.search.request import MAX_LIMIT, Request
from svr_retrievers.search.view import View

T = TypeVar("T")
_WORDLESS = "the text has no word that counts: stop words and punctuation do not"


@dataclass(frozen=True, slots=True)
class Asked:
    """One search by words on one map. `request` goes as deep as the rankings are read; `vector` is empty where words
    alone decide.
    """

    engine: Engine
    backend: KeywordSearch
    view: View
    request: Request
    wish: Wish
    vector: Vector
    seconds: float


@dataclass(frozen=True, slots=True)
class Fusing:
    """How two rankings become one."""

    fusion: hybrid.Fusion = "rrf"
    weights: tuple[float, float] = (1.0, 1.0)


@dataclass(slots=True)
class _Leg(Generic[T]):
    """One of the two rankings: what it answered, or why it did not."""

    found: T | None = None
    error: SVRError | None = None


_Legs = tuple[_Leg[SearchResult], _Leg[KeywordPage]]


async def run_hybrid(asked: Asked, limit: int, fusing: Fusing, *, embed_ms: float = 0.0) -> SearchResult:
    """The `limit` best. Raises StaleMap, and an error where no ranking that has a weight answered."""
    started = time.perf_counter()
    deep = replace(asked.request, limit=min(hybrid.depth(limit), MAX_LIMIT))
    asked = replace(asked, request=deep)
    words = await _words(asked, alone=not fusing.weights[0])
    legs = await _together(asked, words) if all(fusing.weights) else None
    near, said = legs or await _apart(asked, words)
    _check_weighty(near, said, fusing)
    hits = _fused(asked, near, said, fusing)[:limit]
    if near.found is not None:
        route = near.found.route
    else:
        route = (await asked.engine.route(asked.view, asked.wish, None)).route
    total = (time.perf_counter() - started) * 1e3
    timings = Timings(embed_ms=embed_ms, search_ms=total, total_ms=total + embed_ms)
    if fusing.weights[0]:
        short = _told(len(hits) < limit, near, said, fusing)
    else:
        short = _wordless(replace(deep, limit=limit), said.found or KeywordPage(), len(hits))
    wordless = said.found is not None and said.found.wordless and all(fusing.weights)
    notes = (_WORDLESS + ", vectors alone decided",) if wordless else ()
    return SearchResult(hits, limit=limit, route=route, incomplete=short, timings=timings, notes=notes)


async def run_keywords(asked: Asked) -> SearchResult:
    """The best by words alone. Raises StaleMap."""
    started = time.perf_counter()
    planned = await asked.engine.route(asked.view, asked.wish, None)
    words = await _words(asked, alone=True)
    page = KeywordPage()
    if words is not None:
        try:
            with anyio.fail_after(asked.seconds):
                page = await asked.backend.keywords(asked.engine.ref, asked.view.map, words)
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):
                raise
            raise late(words.partitions, asked.seconds, asked.view.path) from None
    hits = _by_words(asked, page)[: asked.request.limit]
    spent = (time.perf_counter() - started) * 1e3
    return SearchResult(
        hits,
        limit=asked.request.limit,
        route=planned.route,
        incomplete=_wordless(asked.request, page, len(hits)),
        timings=Timings(search_ms=spent, total_ms=spent),
    )


def _by_words(asked: Asked, page: KeywordPage) -> list[Hit]:
    """Equal scores share a rank. The relevance is the share of the best score."""
    hits = hits_of(page.candidates, asked.view, asked.engine.ref.config.metric)
    ranks = hybrid.ranks(
        [(_key(each), score) for each, score in zip(page.candidates, page.scores, strict=True)]
    )
    best = max(page.scores, default=1.0)
    return [
        replace(
            hit,
            score=score,
            distance=math.nan,
            relevance=min(1.0, max(0.0, score / best)) if best > 0 else 0.0,
            legs=Legs(None, ranks[hit.namespace, hit.id], None, score),
        )
        for hit, score in zip(hits, page.scores, strict=True)
    ]


def _wordless(request: Request, page: KeywordPage, found: int) -> Incomplete | None:
    """Why an answer by words alone lacks something."""
    if not page.ready:
        return Incomplete("not_indexed", "the index of words is being built; refresh() waits for it")
    if page.waiting:
        one = page.waiting == 1
        rows = f"{page.waiting:,} document{' ' if one else 's '}with these words wait{'s' if one else ''}"
        return Incomplete("not_indexed", f"{rows} for the index of words; refresh() waits for it")
    if found >= request.limit:
        return None
    if page.wordless:
        return Incomplete("few_matches", _WORDLESS)
    what = "document holds" if found == 1 else "documents hold"
    which = " and match the filter" if request.filter else ""
    return Incomplete("few_matches", f"{found or 'no'} {what} one of the words{which}")


async def _words(asked: Asked, *, alone: bool = False) -> KeywordQuery | None:
    """Words may stand in any partition that the filter admits, however far from the query its vectors lie.

    A ranking that is to be fused is asked for one more, to see which are equal where it is cut.
    """
    request = asked.request
    planned = await asked.engine.route(asked.view, asked.wish, None)
    partitions = tuple(p.id for p in planned.route.partitions)
    if not partitions or request.text is None:
        return None
    return KeywordQuery(
        request.text,
        asked.vector,
        request.limit if alone else request.limit + 1,
        request.namespace,
        planned.filter,
        partitions,
        request.with_vectors,
        asked.seconds,
        alone,
    )


async def _together(asked: Asked, words: KeywordQuery | None) -> _Legs | None:
    """Both rankings in one round trip; None where the backend cannot, or fails: then each is asked for itself."""
    engine, view, request = asked.engine, asked.view, asked.request
    planned = await engine.route(view, asked.wish, asked.vector)
    ids = tuple(p.id for p in planned.route.partitions)
    if words is None or not ids or len(engine.backend.shards(engine.ref, view.map, ids)) > 1:
        return None
    query = query_for(view, request, asked.vector, planned, ids, asked.seconds)
    try:
        with anyio.fail_after(asked.seconds):
            pages = await asked.backend.both(engine.ref, view.map, query, words)
    except TimeoutError as error:
        if isinstance(error, DeadlineExceeded):
            raise
        raise late(ids, asked.seconds, view.path) from None
    except BackendError:
        return None
    if pages is None or (len(pages[0].candidates) < request.limit and planned.aside):
        return None
    hits = hits_of(pages[0].candidates, view, engine.ref.config.metric)
    short = shortfall(request, Answers(pages=[pages[0]]), len(hits), view)
    found = SearchResult(hits, limit=request.limit, route=planned.route, incomplete=short)
    return _Leg(found), _Leg(pages[1])


async def _apart(asked: Asked, words: KeywordQuery | None) -> _Legs:
    """Each ranking for itself, both at once. Raises the error of the first where both failed."""
    near: _Leg[SearchResult] = _Leg()
    said: _Leg[KeywordPage] = _Leg()
    engine, view, seconds = asked.engine, asked.view, asked.seconds

    async def by_vector() -> SearchResult:
        return await run(engine, view, asked.request, asked.wish, asked.vector, timeout_seconds=seconds)

    async def by_words() -> KeywordPage:
        if words is None:
            return KeywordPage()
        return await asked.backend.keywords(engine.ref, view.map, words)

    fatal: list[Exception] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_ask, near, by_vector, fatal, seconds)
        group.start_soon(_ask, said, by_words, fatal, seconds)
    if fatal:
        raise fatal[0]
    if near.error is not None and said.error is not None:
        raise near.error
    return near, said


async def _ask(
    leg: _Leg[T], call: Callable[[], Awaitable[T]], fatal: list[Exception], seconds: float
) -> None:
    """A stale map, a wrong argument, a dropped collection and a closed client concern both; all else this leg alone."""
    try:
        with anyio.fail_after(seconds):
            leg.found = await call()
    except (StaleMap, InputError, NotFound, UsageError) as error:
        fatal.append(error)
    except SVRError as error:
        leg.error = error
    except TimeoutError:
        leg.error = DeadlineExceeded(f"It did not end within {seconds:g} s.", hint="Raise timeout_seconds.")


def _fused(asked: Asked, near: _Leg[SearchResult], said: _Leg[KeywordPage], fusing: Fusing) -> list[Hit]:
    found: Sequence[Hit] = near.found.hits if near.found is not None else ()
    page = _above_the_cut(said.found or KeywordPage(), asked.request.limit)
    said_hits = hits_of(page.candidates, asked.view, asked.engine.ref.config.metric)
    known = {(hit.namespace, hit.id): hit for hit in [*said_hits, *found]}
    by_vector = [((hit.namespace, hit.id), hit.score) for hit in found]
    by_keyword = [(_key(each), score) for each, score in zip(page.candidates, page.scores, strict=True)]
    best = hybrid.best_score(fusing.weights, fusing.fusion)
    return [
        replace(known[each.key], score=each.score, relevance=each.score / best, legs=each.legs)
        for each in hybrid.fuse(by_vector, by_keyword, fusing.weights, fusing.fusion)
    ]


def _above_the_cut(page: KeywordPage, limit: int) -> KeywordPage:
    """Without those that are equal to one left out: which of them came first says nothing."""
    if len(page.scores) <= limit:
        return page
    kept = sum(score > page.scores[limit] for score in page.scores[:limit])
    return replace(page, candidates=page.candidates[:kept], scores=page.scores[:kept])


def _key(candidate: Candidate) -> hybrid.Key:
    return candidate.namespace, candidate.id


def _check_weighty(near: _Leg[SearchResult], said: _Leg[KeywordPage], fusing: Fusing) -> None:
    """Raises the error of a ranking beside which the other has no weight."""
    first, second = fusing.weights
    if near.error is not None and not second:
        raise near.error
    if said.error is not None and not first:
        raise said.error


def _told(
    fewer: bool, near: _Leg[SearchResult], said: _Leg[KeywordPage], fusing: Fusing
) -> Incomplete | None:
    """The worst of what is missing; of words that have no weight nothing is."""
    if not fusing.weights[1]:
        said = _Leg(KeywordPage())
    for what, other, error in (("vectors", "words", near.error), ("words", "vectors", said.error)):
        if error is not None:
            return Incomplete("leg_failed", f"the ranking by {what} failed, {other} alone decided: {error}")
    short = near.found.incomplete if near.found is not None else None
    if short is not None and short.code == "not_indexed":
        return short
    if said.found is not None and not said.found.ready:
        return Incomplete("not_indexed", "the index of words is being built, vectors alone decided")
    if said.found is not None and said.found.waiting:
        return Incomplete("not_indexed", _waiting(said.found.waiting))
    return short if fewer else None


def _waiting(rows: int) -> str:
    if rows == 1:
        return "1 document with these words waits for the index of words; it was ranked by its vector alone"
    return f"{rows:,} documents with these words wait for the index of words; they were ranked by their vectors alone"
