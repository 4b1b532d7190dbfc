"""The exact merge and maximal marginal relevance, each held to a slow, obvious reference."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from svr_retrievers import maximal_marginal_relevance
from svr_retrievers.backends.protocol import Candidate
from svr_retrievers.errors import InputError
from svr_retrievers.search.merge import merge


def candidate(doc_id: str, distance: float, namespace="default", version=1, partition=1) -> Candidate:
    return Candidate(namespace, doc_id, "", {}, version, partition, distance)


rows = st.lists(
    st.builds(
        candidate,
        st.sampled_from("abcdefgh"),
        st.sampled_from([0.0, 0.1, 0.1, 0.5, 2.0, -3.0]),
        st.sampled_from(["n", "m"]),
    ),
    max_size=16,
    unique_by=lambda c: (c.namespace, c.id),
)


@settings(max_examples=150, deadline=None)
@given(rows, st.lists(st.integers(0, 3), min_size=16, max_size=16), st.integers(1, 20))
def test_merging_equals_sorting_the_union_however_it_was_cut(union, cut, limit):
    pages = [[c for c, p in zip(union, cut, strict=False) if p == i] for i in range(4)]
    wanted = sorted(union, key=lambda c: (c.distance, c.namespace, c.id))[:limit]
    assert merge(pages, limit) == wanted
    assert merge(reversed(pages), limit) == wanted
    assert merge(iter(pages), limit) == wanted


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.1, 0.2])), min_size=1, max_size=8), st.randoms()
)
def test_of_a_key_seen_twice_the_newest_version_stays_whatever_the_order(seen, random):
    made = [candidate("a", distance, version=version) for version, distance in seen]
    random.shuffle(made)
    (kept,) = merge([[c] for c in made], 5)
    assert kept.version == max(v for v, _ in seen)
    assert kept.distance == min(d for v, d in seen if v == kept.version)


def test_a_newer_version_that_lies_further_away_replaces_the_closer_old_one():
    old, new, other = candidate("a", 0.1), candidate("a", 0.9, version=2), candidate("b", 0.5)
    assert merge([[old, other], [new]], 2) == [other, new]
    assert merge([], 3) == []


def _reference(query, vectors, k, lam):
    """Quadratic and literal: at each step the best of what is left, ties to the earlier row."""

    def cos(a, b):
        lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
        return float(a @ b) / lengths if lengths else 0.0

    chosen: list[int] = []
    while len(chosen) < min(k, len(vectors)):
        best, best_gain = -1, -math.inf
        for i in range(len(vectors)):
            if i in chosen:
                continue
            near = max((cos(vectors[i], vectors[j]) for j in chosen), default=None)
            gain = cos(query, vectors[i]) if near is None else lam * cos(query, vectors[i]) - (1 - lam) * near
            if gain > best_gain + 1e-9:
                best, best_gain = i, gain
        chosen.append(best)
    return chosen


whole = st.integers(-4, 4)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(whole, whole, whole), min_size=1, max_size=8, unique=True),
    st.tuples(whole, whole, whole),
    st.integers(0, 10),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_mmr_gains_as_much_at_each_step_as_the_reference(vectors, query, k, lam):
    """Rows of equal gain may differ by rounding, so the gains are compared, and the rows where they are distinct."""
    array, q = np.array(vectors, dtype=float), np.array(query, dtype=float)
    got = maximal_marginal_relevance(query, array, k=k, lambda_mult=lam)
    assert len(got) == min(k, len(vectors))
    assert len(set(got)) == len(got)

    def unit(rows):
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
        return rows / np.where(norms == 0, 1, norms)

    sims, close = unit(array) @ unit(array).T, unit(array) @ unit(q)
    for step, pick in enumerate(got):
        before = got[:step]
        gains = close if not before else lam * close - (1 - lam) * sims[:, before].max(axis=1)
        left = [i for i in range(len(vectors)) if i not in before]
        assert gains[pick] >= max(gains[i] for i in left) - 1e-9


def test_mmr_equals_the_reference_on_random_rows():
    rng = np.random.default_rng(0)
    for lam in (0.0, 0.25, 0.5, 0.9, 1.0):
        vectors, query = rng.normal(size=(30, 8)), rng.normal(size=8)
        got = maximal_marginal_relevance(query, vectors, k=12, lambda_mult=lam)
        assert got == _reference(query, vectors, 12, lam)


def test_mmr_at_its_ends():
    query, vectors = [1.0, 0.0], np.array([[1, 0.1], [1, 0.11], [0, 1], [0, 0]])
    assert maximal_marginal_relevance(query, vectors, k=3, lambda_mult=1.0) == [0, 1, 2]
    assert maximal_marginal_relevance(query, vectors, k=2, lambda_mult=0.0) == [0, 3]
    assert maximal_marginal_relevance(query, vectors, k=99)[0] == 0
    assert sorted(maximal_marginal_relevance(query, vectors, k=99)) == [0, 1, 2, 3]
    assert maximal_marginal_relevance([0.0, 0.0], np.zeros((3, 2)), k=3) == [0, 1, 2]
    for empty in (np.empty((0, 2)), []):
        assert maximal_marginal_relevance(query, empty, k=3) == []
    for k in (0, -1):
        assert maximal_marginal_relevance(query, vectors, k=k) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf])
def test_mmr_refuses_a_weight_outside_its_range(wrong):
    with pytest.raises(InputError, match="lambda_mult"):
        maximal_marginal_relevance([1.0], [[1.0]], k=1, lambda_mult=wrong)


def test_mmr_refuses_rows_of_another_length_than_the_query():
    with pytest.raises(InputError, match=r"query.*3.*vectors.*2"):
        maximal_marginal_relevance([1.0, 2.0, 3.0], [[1.0, 2.0]], k=1)
