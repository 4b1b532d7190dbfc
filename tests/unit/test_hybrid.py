"""Two rankings fused into one: reciprocal ranks, shared ranks, weights, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers import errors
from svr_retrievers.backends.mongodb.lexical import clause
from svr_retrievers.model import Legs
from svr_retrievers.search.hybrid import RANK_CONSTANT, Ranking, best_score, check_weights, depth, fuse

EVEN = (1.0, 1.0)


def ranking(*ids: str) -> Ranking:
    return [(("n", doc_id), float(at)) for at, doc_id in enumerate(ids)]


def ids(fused: object) -> list[str]:
    return [each.key[1] for each in fused]  # type: ignore[attr-defined]


def test_a_middling_rank_in_both_beats_the_first_of_one() -> None:
    fused = fuse(ranking("a", "b", "c"), ranking("d", "b", "e"), EVEN)

    assert ids(fused)[0] == "b"
    assert fused[0].score == 2 / (RANK_CONSTANT + 2)
    assert fused[0].legs == Legs(2, 2)


def test_documents_of_one_ranking_only_take_part() -> None:
    fused = fuse(ranking("a"), ranking("b"), EVEN)

    assert [(each.key[1], each.legs) for each in fused] == [("a", Legs(1, None)), ("b", Legs(None, 1))]
    assert fused[0].score == fused[1].score == 1 / 61


def test_equal_sums_are_ordered_by_key() -> None:
    fused = fuse([(("b", "1"), 0.0)], [(("a", "2"), 5.0)], EVEN)

    assert [each.key for each in fused] == [("a", "2"), ("b", "1")]


def test_documents_that_were_equal_share_a_rank() -> None:
    fused = fuse([(("n", "a"), 0.1), (("n", "b"), 0.1), (("n", "c"), 0.2)], [], EVEN)

    assert [each.legs.vector for each in fused] == [1, 1, 3]


def test_weights_decide_between_the_rankings() -> None:
    near, said = ranking("a", "b"), ranking("b", "a")

    assert ids(fuse(near, said, (2.0, 1.0))) == ["a", "b"]
    assert ids(fuse(near, said, (1.0, 2.0))) == ["b", "a"]
    assert fuse(near, said, (0.0, 1.0))[0].score == 1 / 61


def test_the_best_score_is_that_of_the_first_in_both() -> None:
    assert best_score((1.0, 0.5)) == fuse(ranking("a"), ranking("a"), (1.0, 0.5))[0].score


def test_nothing_fused_is_nothing() -> None:
    assert fuse([], [], EVEN) == []


@pytest.mark.parametrize(("limit", "deep"), [(1, 100), (25, 100), (26, 104), (1000, 4000)])
def test_rankings_are_read_deeper_than_asked_for(limit: int, deep: int) -> None:
    assert depth(limit) == deep


@pytest.mark.parametrize(
    "odd",
    [
        None,
        1.0,
        (1.0,),
        (1, 2, 3),
        (-1.0, 1.0),
        (0, 0),
        (5e-324, 0),
        (math.nan, 1),
        (math.inf, 1),
        (True, 1),
        ("1", 1),
        "11",
    ],
)
def test_odd_weights_are_refused(odd: object) -> None:
    with pytest.raises(errors.InputError, match="weights"):
        check_weights(odd)


def test_weights_may_be_whole_numbers_and_a_list() -> None:
    assert check_weights([2, 0]) == (2.0, 0.0)


names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@given(names, names, st.floats(0, 10), st.floats(0.1, 10))
def test_fusing_agrees_with_its_definition(
    near: list[str], said: list[str], first: float, second: float
) -> None:
    fused = fuse(ranking(*near), ranking(*said), (first, second))

    assert sorted(ids(fused)) == sorted({*(near if first else []), *said})
    assert [each.score for each in fused] == sorted((each.score for each in fused), reverse=True)
    for each in fused:
        doc_id = each.key[1]
        told = sum(
            weight / (60 + ranks.index(doc_id) + 1)
            for ranks, weight in ((near, first), (said, second))
            if doc_id in ranks
        )
        assert each.score == pytest.approx(told)


# Filters in the terms of text search


def test_filters_are_said_in_the_operators_of_text_search() -> None:
    assert clause({"a": {"$eq": 1}}) == {"equals": {"path": "a", "value": 1}}
    assert clause({"a": {"$in": [1, 2]}}) == {"in": {"path": "a", "value": [1, 2]}}
    assert clause({"a": {"$gte": 1, "$lt": 3}}) == {
        "compound": {"filter": [{"range": {"path": "a", "gte": 1}}, {"range": {"path": "a", "lt": 3}}]}
    }
    assert clause({"$or": [{"a": {"$eq": 1}}, {"b": {"$eq": 2}}]}) == {
        "compound": {
            "should": [{"equals": {"path": "a", "value": 1}}, {"equals": {"path": "b", "value": 2}}],
            "minimumShouldMatch": 1,
        }
    }


def test_exclusions_stand_beside_something_that_every_row_has() -> None:
    there = [{"exists": {"path": "svr.n"}}]
    excluded = [{"equals": {"path": "a", "value": 1}}]

    assert clause({"a": {"$ne": 1}}) == {"compound": {"filter": there, "mustNot": excluded}}
    assert clause({"$nor": [{"a": {"$eq": 1}}]}) == {"compound": {"filter": there, "mustNot": excluded}}
