"""Measures of rankings: small ones by hand, and any against ir-measures."""

from __future__ import annotations

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, nDCG

from svr_retrievers.evaluation import mean, ndcg, recall, reciprocal_rank

pytestmark = pytest.mark.hybrid

IDS = [f"d{n}" for n in range(12)]


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(IDS).flatmap(lambda ids: st.integers(0, 12).map(lambda n: ids[:n])),
    st.dictionaries(st.sampled_from(IDS), st.integers(0, 3), min_size=1).filter(lambda j: any(j.values())),
    st.sampled_from([1, 3, 10]),
)
def test_they_are_those_of_ir_measures(ranked: list[str], judged: dict[str, int], k: int) -> None:
    run = {"q": {doc_id: float(len(ranked) - at) for at, doc_id in enumerate(ranked)} or {"none": 0.0}}
    wanted = ir_measures.calc_aggregate([R @ k, RR @ k, nDCG @ k], {"q": judged}, run)
    grades = {doc_id: float(grade) for doc_id, grade in judged.items()}
    assert recall(ranked, grades, k) == pytest.approx(wanted[R @ k])
    assert reciprocal_rank(ranked, grades, k) == pytest.approx(wanted[RR @ k])
    assert ndcg(ranked, grades, k) == pytest.approx(wanted[nDCG @ k])


def test_small_ones_by_hand() -> None:
    judged = {"a": 1.0, "b": 1.0}
    assert recall(["x", "a"], judged, 10) == 0.5
    assert reciprocal_rank(["x", "a"], judged, 10) == 0.5
    assert reciprocal_rank(["x", "a"], judged, 1) == 0.0
    assert ndcg(["b", "a"], judged, 10) == 1.0
    assert ndcg(["x", "a"], {"a": 1.0}, 10) == pytest.approx(0.6309297535714575)


def test_nothing_relevant_is_worth_nothing() -> None:
    assert recall(["a"], {}, 10) == reciprocal_rank(["a"], {}, 10) == ndcg(["a"], {"a": 0.0}, 10) == 0.0


def test_the_mean_over_no_questions_is_nothing() -> None:
    assert (mean([]), mean([1.0, 0.0])) == (0.0, 0.5)
