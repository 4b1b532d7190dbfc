"""What a reranker's scores make of a result, whatever they are: an order, and nothing lost or invented."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers import Hit, Route, SearchResult
from svr_retrievers.model import Incomplete
from svr_retrievers.search.rerank import rerank, reranking

pytestmark = pytest.mark.rerank

ROUTE = Route("fan_out", (), 1, 1)


class Says:
    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = scores

    async def arerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        return self.scores


def hits(texts: Sequence[str]) -> list[Hit]:
    return [Hit(f"d{at}", -at, text, {}, "p", at, 0.5) for at, text in enumerate(texts)]


def reranked(found: SearchResult, scores: Sequence[float], limit: int) -> SearchResult:
    asked = reranking(Says(scores), "q", limit, None, None)
    return asyncio.run(rerank(found, asked, 60.0))


@given(
    st.lists(st.one_of(st.none(), st.floats(-2, 2).map(lambda x: round(x, 1))), max_size=12),
    st.integers(1, 15),
)
def test_the_order_is_by_score_then_as_found_then_those_without_text(
    given_scores: list[float | None], limit: int
) -> None:
    found = SearchResult(hits(["" if s is None else "t" for s in given_scores]), limit=50, route=ROUTE)
    scores = [score for score in given_scores if score is not None]
    made = reranked(found, scores, limit)
    expected = sorted(
        range(len(given_scores)),
        key=lambda at: (given_scores[at] is None, -(given_scores[at] or 0.0), at),
    )

    assert made.ids == tuple(f"d{at}" for at in expected[:limit])
    assert made.reranked == bool(scores)
    assert [hit.rerank_score for hit in made] == [given_scores[at] for at in expected[:limit]]
    assert [(hit.score, hit.text) for hit in made] == [
        (found[at].score, found[at].text) for at in expected[:limit]
    ]


@pytest.mark.parametrize("code", ["partition_failed", "deadline", "not_indexed", "leg_failed"])
@pytest.mark.parametrize("scores", [[1.0, 2.0, 3.0], [1.0]], ids=["reranked", "not reranked"])
def test_what_the_search_could_not_see_is_told_however_many_hits_there_are(
    code: str, scores: list[float]
) -> None:
    short = Incomplete(code, "gone", ("p",))  # type: ignore[arg-type]
    found = SearchResult(hits("abc"), limit=50, route=ROUTE, incomplete=short, notes=("a note",))
    made = reranked(found, scores, 2)

    assert made.incomplete is short
    assert made.notes[0] == "a note"
    assert len(made) == 2


def test_an_index_that_found_too_few_is_told_by_the_limit_asked_for() -> None:
    short = Incomplete("approximate", "the index found 3 of 50; exact=True looks at every row")
    found = SearchResult(hits("abc"), limit=50, route=ROUTE, incomplete=short)
    made = reranked(found, [1.0, 2.0, 3.0], 10)

    assert made.incomplete == Incomplete(
        "approximate", "the index found 3 of 10; exact=True looks at every row"
    )
    assert reranked(found, [1.0, 2.0, 3.0], 3).incomplete is None
