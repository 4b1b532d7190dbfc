"""A second look at the best hits by a reranker: more are fetched than asked for, and the best of them answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from svr_retrievers.errors import InputError, RerankFailed, SVRError
from svr_retrievers.model import Hit, Incomplete, SearchResult
from svr_retrievers.names import check_text
from svr_retrievers.reranking.protocol import AnyReranker, check_reranker, name_of, scores
from svr_retrievers.search.execute import approximate
from svr_retrievers.search.request import MAX_LIMIT, check_seconds, check_whole

DEFAULT_SECONDS: Final = 10.0
"""A search that waits longer for a better order is rarely worth it; hosted rerankers answer within one second."""
LEAST_CANDIDATES: Final = 50
CANDIDATES_PER_HIT: Final = 4


@dataclass(frozen=True, slots=True)
class Reranking:
    """What is to be reranked: the best `limit` of `candidates`, by how well they answer `query`."""

    reranker: AnyReranker
    query: str
    limit: int
    candidates: int
    seconds: float


def reranking(
    reranker: object,
    query: str | None,
    limit: int,
    fetch_k: int | None,
    timeout_seconds: float | None,
) -> Reranking:
    """The checked wish. `limit` is checked before. Raises InputError naming the argument that cannot be used."""
    if reranker is None:
        raise InputError(
            "fetch_k, rerank_query and rerank_timeout_seconds say how a reranker is asked, and there is none.",
            hint="Pass reranker=... as well, or leave them out.",
        )
    asked = check_reranker(reranker)
    if query is None:
        raise InputError(
            "A reranker reads words, and this search has only a vector.",
            hint="Pass rerank_query='...', or search by text.",
        )
    if not check_text(query, "rerank_query").strip():
        raise InputError("A reranker needs a question that is not empty.", hint="Pass rerank_query='...'.")
    if timeout_seconds is not None:
        check_seconds("rerank_timeout_seconds", timeout_seconds)
    seconds = DEFAULT_SECONDS if timeout_seconds is None else float(timeout_seconds)
    return Reranking(asked, query, limit, _candidates(limit, fetch_k), seconds)


def _candidates(limit: int, fetch_k: int | None) -> int:
    """How many hits the reranker sees: enough that one far down the first order can still come first."""
    if fetch_k is None:
        return min(max(LEAST_CANDIDATES, CANDIDATES_PER_HIT * limit), MAX_LIMIT)
    check_whole("fetch_k", fetch_k, 1, MAX_LIMIT)
    if fetch_k < limit:
        raise InputError(
            f"fetch_k is {fetch_k}, but limit asks for {limit} hits.",
            hint="fetch_k is how many candidates the reranker sees: at least limit.",
        )
    return fetch_k


async def rerank(found: SearchResult, asked: Reranking, seconds: float) -> SearchResult:
    """The best `asked.limit` of what was found, in the reranker's order, equal ones in the order found.

    Hits without text stand behind all others, in the order found. A reranker that fails, is late (`seconds` are
    what is left of the search's own time) or answers nonsense leaves the order found, and `notes` says so.
    """
    started = time.perf_counter()
    read = [at for at, hit in enumerate(found.hits) if hit.text.strip()]
    given: list[float] | None = None
    try:
        if read:
            given = await _scored(asked, [found.hits[at].text for at in read], seconds)
        notes = _unread(len(found), len(read))
    except SVRError as error:
        notes = (_stands(asked, error),)
    hits = found.hits if given is None else _ordered(found.hits, read, given)
    spent = (time.perf_counter() - started) * 1e3
    return SearchResult(
        hits[: asked.limit],
        limit=asked.limit,
        route=found.route,
        incomplete=_short(found, asked.limit),
        timings=replace(found.timings, rerank_ms=spent, total_ms=found.timings.total_ms + spent),
        reranked=given is not None,
        notes=found.notes + notes,
    )


async def _scored(asked: Reranking, texts: list[str], seconds: float) -> list[float]:
    if seconds <= 0:
        raise RerankFailed("The search's timeout_seconds left the reranker no time.", reason="timeout")
    return await scores(asked.reranker, asked.query, texts, timeout_seconds=min(asked.seconds, seconds))


def _stands(asked: Reranking, error: SVRError) -> str:
    """The reason in a sentence without its hint, which is for who calls the reranker."""
    said = error.message.rstrip(".")
    if not isinstance(error, RerankFailed):
        said = f"The reranker {name_of(asked.reranker)} failed: {said}"
    return f"{'the' + said[3:] if said.startswith('The ') else said}; the merged order stands"


def _unread(hits: int, read: int) -> tuple[str, ...]:
    if hits == read:
        return ()
    if not read:
        return ("no hit has a text to rerank; the merged order stands",)
    one = hits - read == 1
    return (
        f"{hits - read} {'hit has' if one else 'hits have'} no text and {'stands' if one else 'stand'} last",
    )


def _ordered(hits: Sequence[Hit], read: Sequence[int], given: Sequence[float]) -> list[Hit]:
    scored = sorted(zip(given, read, strict=True), key=lambda pair: (-pair[0], pair[1]))
    rest = sorted(set(range(len(hits))).difference(read))
    return [replace(hits[at], rerank_score=score) for score, at in scored] + [hits[at] for at in rest]


def _short(found: SearchResult, limit: int) -> Incomplete | None:
    """What is missing of `limit` hits; too few candidates are no shortfall of the answer."""
    short = found.incomplete
    if short is None or short.code not in {"few_matches", "approximate"}:
        return short
    if len(found) >= limit:
        return None
    return short if short.code == "few_matches" else approximate(len(found), limit)
