"""The benchmark's data: seeded, clustered, with the shares it promises, and truth that is exact."""

from __future__ import annotations

import numpy as np
import pytest

from svr_retrievers.bench.data import (
    BETWEEN,
    CATEGORIES,
    DISAGREEING,
    TOPICS,
    corpus,
    nearest,
)


@pytest.fixture(scope="module")
def made():
    return corpus(6_000, 200, 400, seed=3, dimensions=96)


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data(made):
    again = corpus(6_000, 200, 400, seed=3, dimensions=96)
    other = corpus(6_000, 200, 400, seed=4, dimensions=96)

    assert np.array_equal(made.rows.vectors, again.rows.vectors)
    assert np.array_equal(made.queries.fields["cat"], again.queries.fields["cat"])
    assert not np.array_equal(made.rows.vectors, other.rows.vectors)


def test_vectors_are_float32_of_unit_length_and_no_query_is_a_row(made):
    for vectors in (made.rows.vectors, made.fresh.vectors, made.queries.vectors):
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert (made.queries.vectors @ made.rows.vectors.T).max() < 0.9999


def test_topics_are_unequal_and_categories_follow_them_for_most_rows(made):
    counts = np.bincount(made.rows.topics, minlength=TOPICS)
    agreeing = np.mean(made.rows.fields["cat"] == made.rows.topics % CATEGORIES)

    assert counts.max() > 20 * counts.min()
    assert 0.83 < agreeing < 0.88  # 85 %, and one in forty of the rest by chance


@pytest.mark.parametrize(("field", "values"), [("r10", 10), ("r100", 100), ("r1000", 1000)])
def test_random_fields_are_even_and_unrelated_to_the_topic(made, field, values):
    column = made.rows.fields[field]
    largest = made.rows.topics == np.bincount(made.rows.topics).argmax()

    assert set(np.unique(column)) <= set(range(values))
    assert abs(np.mean(column < values / 2) - 0.5) < 0.03
    assert abs(np.mean(column[largest] < values / 2) - 0.5) < 0.08


def test_queries_have_the_promised_shares(made):
    assert made.queries.between.sum() == round(BETWEEN * 400)
    near = (made.queries.vectors @ made.rows.vectors.T).max(axis=1)
    assert near[made.queries.between].mean() < near[~made.queries.between].mean()
    assert DISAGREEING == 0.3


def test_truth_is_what_sorting_all_rows_gives_with_and_without_a_filter(made):
    plain, filtered = nearest(made.rows, made.queries), nearest(made.rows, made.queries, "cat")
    for query in (0, 17, 399):
        scores = made.rows.vectors @ made.queries.vectors[query]
        assert plain[query] == set(np.argsort(-scores)[:10].tolist())
        scores[made.rows.fields["cat"] != made.queries.fields["cat"][query]] = -np.inf
        expected = [i for i in np.argsort(-scores)[:10].tolist() if np.isfinite(scores[i])]
        assert filtered[query] == set(expected)


def test_truth_under_a_filter_that_few_rows_pass_is_short(made):
    truth = nearest(made.rows, made.queries, "r1000")
    matching = np.bincount(made.rows.fields["r1000"], minlength=1000)

    for query in range(len(made.queries)):
        assert len(truth[query]) == min(10, matching[made.queries.fields["r1000"][query]])


def test_metadata_and_filters_speak_of_the_same_values(made):
    for row in (0, 41, 5_999):
        metadata = made.rows.metadata(row)
        for field in ("cat", "r10", "r100", "r1000"):
            assert made.rows.value(field, row) == metadata[field]
    assert metadata["cat"] == f"category-{int(made.rows.fields['cat'][5_999]):02d}"
    assert {made.queries.value("cat", q) for q in range(400)} <= {
        f"category-{n:02d}" for n in range(CATEGORIES)
    }
    assert len(made.rows.text(5).split()) == 30
