"""Fusions of two rankings: what holds for any rankings, and the numbers of small ones."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers.errors import InputError
from svr_retrievers.search.hybrid import Fusion, Key, best_score, check_fusion, fuse

pytestmark = pytest.mark.hybrid

FUSIONS: tuple[Fusion, ...] = ("rrf", "distribution", "convex")
EVEN = (1.0, 1.0)
Ranked = list[tuple[Key, float]]


@st.composite
def rankings(draw: st.DrawFn) -> Ranked:
    scores = [n / 64 for n in draw(st.lists(st.integers(-(10**6), 10**6), max_size=12))]
    ids = draw(st.permutations([f"d{n}" for n in range(12)]))
    return [(("n", i), s) for i, s in zip(ids, sorted(scores, reverse=True), strict=False)]


weights = st.tuples(st.floats(0, 100), st.floats(0, 100)).filter(lambda pair: sum(pair) > 1e-3)
fusions = st.sampled_from(FUSIONS)


def ranking(*pairs: tuple[str, float]) -> Ranked:
    return [(("n", doc_id), score) for doc_id, score in pairs]


@given(rankings(), rankings(), weights, fusions)
def test_each_document_comes_once_within_bounds_best_first(
    near: Ranked, said: Ranked, weight: tuple[float, float], fusion: Fusion
) -> None:
    fused = fuse(near, said, weight, fusion)
    keys = [each.key for each in fused]
    weighty = [*(near if weight[0] else []), *(said if weight[1] else [])]
    assert sorted(keys) == sorted({key for key, _ in weighty})
    scores = [each.score for each in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= best_score(weight, fusion) * (1 + 1e-12) for score in scores)
    assert fused == sorted(fused, key=lambda each: (-each.score, each.key))
    for each in fused:
        assert (each.legs.vector_score, each.legs.keyword_score) == (
            dict(near).get(each.key),
            dict(said).get(each.key),
        )


@given(rankings(), rankings(), weights, fusions)
def test_the_rankings_may_change_places_with_their_weights(
    near: Ranked, said: Ranked, weight: tuple[float, float], fusion: Fusion
) -> None:
    there = {each.key: each.score for each in fuse(near, said, weight, fusion)}
    back = {each.key: each.score for each in fuse(said, near, (weight[1], weight[0]), fusion)}
    assert there == pytest.approx(back, rel=1e-12, abs=1e-15)


@given(rankings(), weights, fusions)
def test_one_ranking_alone_keeps_its_order(near: Ranked, weight: tuple[float, float], fusion: Fusion) -> None:
    """Documents may become equal, which the ends of a distribution are, but never change places."""
    fused = {each.key: each.score for each in fuse(near, [], weight, fusion)}
    scores = [fused[key] for key, _ in near if weight[0]]
    assert all(a >= b - 1e-12 for a, b in pairwise(scores))


@given(
    rankings(), rankings(), st.sampled_from(("distribution", "convex")), st.sampled_from((0.5, 2.0, 1024.0))
)
def test_the_scale_of_a_ranking_does_not_matter(
    near: Ranked, said: Ranked, fusion: Fusion, factor: float
) -> None:
    scaled = [(key, score * factor) for key, score in said]
    before = {each.key: each.score for each in fuse(near, said, EVEN, fusion)}
    after = {each.key: each.score for each in fuse(near, scaled, EVEN, fusion)}
    assert before == pytest.approx(after, abs=1e-6)


@given(rankings(), rankings())
def test_ranks_ignore_scores(near: Ranked, said: Ranked) -> None:
    steep = [(key, math.copysign(abs(score) ** 0.5, score)) for key, score in said]
    if len({s for _, s in steep}) == len({s for _, s in said}):
        assert fuse(near, said, EVEN) == fuse(near, steep, EVEN)


def test_a_distribution_lies_within_three_deviations() -> None:
    said = ranking(("a", 9.0), ("b", 2.0), ("c", 1.0))
    mean, spread = statistics.fmean([9, 2, 1]), statistics.pstdev([9, 2, 1])
    fused = fuse([], said, (1.0, 2.0), "distribution")
    assert [each.score for each in fused] == pytest.approx(
        [2 * (score - mean + 3 * spread) / (6 * spread) for score in (9, 2, 1)]
    )


def test_far_beyond_three_deviations_is_the_best_there_is() -> None:
    said = ranking(("a", 1e6), *((f"b{n}", 0.0) for n in range(50)))
    assert fuse([], said, EVEN, "distribution")[0].score == 1.0


def test_a_convex_sum_lies_between_the_extremes() -> None:
    near, said = ranking(("a", 0.9), ("b", 0.8), ("c", 0.4)), ranking(("b", 7.0), ("d", 3.0))
    fused = {each.key[1]: each.score for each in fuse(near, said, (3.0, 1.0), "convex")}
    assert fused == pytest.approx({"a": 0.75, "b": 0.75 * 0.8 + 0.25, "c": 0.0, "d": 0.0})


@pytest.mark.parametrize(("fusion", "score"), [("distribution", 0.5), ("convex", 1.0), ("rrf", 1 / 61)])
def test_equal_scores_are_worth_the_same(fusion: Fusion, score: float) -> None:
    fused = fuse([], ranking(("a", 3.0), ("b", 3.0)), EVEN, fusion)
    share = 0.5 if fusion == "convex" else 1.0
    assert [each.score for each in fused] == pytest.approx([score * share] * 2)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("weight", "kept"), [((0.0, 1.0), ["b", "c"]), ((1.0, 0.0), ["a", "b"])])
def test_a_ranking_without_weight_brings_nothing_in(
    fusion: Fusion, weight: tuple[float, float], kept: list[str]
) -> None:
    near, said = ranking(("a", 0.9), ("b", 0.8)), ranking(("b", 2.0), ("c", 1.0))
    fused = fuse(near, said, weight, fusion)
    assert [each.key[1] for each in fused] == kept
    both = next(each.legs for each in fused if each.key[1] == "b")
    assert (both.vector, both.keyword) == (2, 1)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_rankings_are_nothing(fusion: Fusion) -> None:
    assert fuse([], [], EVEN, fusion) == []


@pytest.mark.parametrize("odd", ["RRF", "", None, 1, ["rrf"], "sum"])
def test_unknown_fusions_are_refused(odd: object) -> None:
    with pytest.raises(InputError, match="'rrf', 'distribution' or 'convex'"):
        check_fusion(odd)
