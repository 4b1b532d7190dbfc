"""k-means and closeness: every metric, few distinct rows, empty clusters, the same answer each time."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from svr_retrievers.model import Metric, Partition, PartitionKey, PartitionStats
from svr_retrievers.routing.centroids import CentroidTable, rank, summarise
from svr_retrievers.routing.kmeans import _means, assign, closeness, kmeans, normalise

METRICS = list(Metric)
small = st.floats(-8, 8, width=32).map(lambda x: round(x, 2))
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=small)


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(1, 15), st.sampled_from(METRICS))
def test_centroids_are_few_finite_distinct_and_repeatable(rows, k, metric):
    centroids = kmeans(rows, k, metric)
    assert 1 <= len(centroids) <= min(k, len(rows))
    assert centroids.dtype == np.float32
    assert np.isfinite(centroids).all()
    assert np.array_equal(centroids, kmeans(rows, k, metric))
    if metric is Metric.COSINE:
        norms = np.linalg.norm(centroids, axis=1)
        assert ((np.abs(norms - 1) < 1e-3) | (norms < 1e-3)).all()


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_distinct_rows_than_clusters_give_fewer_centroids(metric):
    rows = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    centroids = kmeans(rows, 8, metric)
    assert len(centroids) == 3
    assert sorted(map(tuple, centroids.round(3).tolist())) == sorted(map(tuple, np.eye(3).tolist()))


def test_one_cluster_is_the_mean():
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert np.allclose(kmeans(rows, 1, Metric.L2)[0], rows.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_separate_groups_are_found(metric):
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(6, 16)) * 5
    owner = np.repeat(np.arange(6), 40)
    rows = (centres[owner] + rng.normal(0, 0.1, (240, 16))).astype(np.float32)
    found = assign(rows, kmeans(rows, 6, metric), Metric.COSINE if metric is Metric.COSINE else Metric.L2)
    assert len(set(zip(owner.tolist(), found.tolist(), strict=True))) == 6


def test_a_cluster_that_runs_empty_restarts_at_the_farthest_row():
    rows = np.array([[0, 0], [0, 1], [9, 9]], dtype=np.float32)
    old = np.array([[0, 0], [50, 50]], dtype=np.float32)
    moved = _means(rows, np.zeros(3, dtype=np.intp), old, Metric.L2)
    assert moved.tolist() == [[3.0, np.float32(10 / 3)], [9.0, 9.0]]


@settings(max_examples=60, deadline=None)
@given(matrices, st.sampled_from(METRICS), st.data())
def test_closeness_is_the_metric(rows, metric, data):
    others = data.draw(hnp.arrays(np.float32, (3, rows.shape[1]), elements=small))
    got = closeness(rows, others, metric)
    a, b = rows.astype(float), others.astype(float)
    if metric is Metric.COSINE:
        lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        wanted = np.where(lengths == 0, 0.0, a @ b.T / np.where(lengths == 0, 1, lengths))
    elif metric is Metric.L2:
        wanted = -np.linalg.norm(a[:, None] - b, axis=2)
    else:
        wanted = a @ b.T
    assert np.allclose(got, wanted, atol=2e-2, rtol=1e-3)


def test_assignment_in_chunks_is_the_assignment(monkeypatch):
    rows = np.random.default_rng(5).normal(size=(100, 4)).astype(np.float32)
    whole = assign(rows, rows[:7], Metric.L2)
    monkeypatch.setattr("svr_retrievers.routing.kmeans._CHUNK_CELLS", 30)
    assert np.array_equal(assign(rows, rows[:7], Metric.L2), whole)
    assert assign(rows[:0], rows[:7], Metric.L2).shape == (0,)


def test_zero_rows_stay_zero():
    assert normalise(np.zeros((2, 3), dtype=np.float32)).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("metric", METRICS)
def test_a_summary_begins_with_the_mean_and_has_a_centroid_for_so_many_rows(metric):
    rows = np.random.default_rng(2).normal(size=(300, 5)).astype(np.float32)
    centroids, spread = summarise(rows, metric)
    assert centroids.shape == (5, 5)
    assert spread.shape == (5,)
    mean = rows.mean(axis=0)
    assert np.allclose(centroids[0], normalise(mean) if metric is Metric.COSINE else mean, atol=1e-5)
    assert np.isfinite(spread).all()
    if metric is not Metric.INNER_PRODUCT:
        assert (spread >= 0).all()
    assert summarise(rows, metric, count=3)[0].shape == (3, 5)
    alone, gap = summarise(rows[:1], metric)
    assert alone.shape == (1, 5)
    if metric is not Metric.INNER_PRODUCT:
        assert abs(float(gap[0])) < 1e-2


def _partition(number: int, centroids) -> Partition:
    stats = PartitionStats(rows=5, centroids=centroids)
    return Partition(number, f"p{number}", PartitionKey("field", str(number)), stats=stats)


@pytest.mark.parametrize("metric", METRICS)
def test_a_partition_scores_by_its_best_centroid(metric):
    rng = np.random.default_rng(4)
    blocks = [rng.normal(size=(n, 3)).astype(np.float32) for n in (1, 4, 2)]
    parts = [_partition(i, normalise(b) if metric is Metric.COSINE else b) for i, b in enumerate(blocks)]
    parts.insert(1, _partition(7, None))
    parts.append(_partition(8, np.empty((0, 3), dtype=np.float32)))
    table = CentroidTable(tuple(parts), metric)
    assert [p.id for p in table.unknown] == [7, 8]
    query = rng.normal(size=3).astype(np.float32)
    wanted = [closeness(query[None], b, metric).max() for b in blocks]
    near = table.near(query)
    assert np.allclose(near.best[np.argsort(near.positions)], wanted, atol=1e-5)
    ranking = rank(table, query, None)
    order = np.argsort(-np.array(wanted)).tolist()
    assert [p.id for p, _ in ranking.take(3)] == [7, 8, *order]
    only = rank(table, query, None, (parts[3],))
    assert [p.id for p, _ in only.take(1)] == [2]
    only = rank(table, query, None, (parts[3], parts[4]))
    assert [p.id for p, _ in only.take(1)] == [8, 2]


def test_an_empty_table_has_nothing_near():
    table = CentroidTable((), Metric.COSINE)
    assert len(table.near(np.ones(3, dtype=np.float32)).positions) == 0
    assert rank(table, np.ones(3, dtype=np.float32), None).take(3) == []


@pytest.mark.parametrize(
    ("sibling", "rows", "probed"), [("cluster", 0, []), ("cluster", 3, [2]), ("field", 0, [2])]
)
def test_only_a_catch_all_emptied_into_clusters_is_not_probed_for_want_of_a_centroid(sibling, rows, probed):
    stats = PartitionStats(rows=5, centroids=np.ones((1, 3), dtype=np.float32))
    home = Partition(1, "a", PartitionKey(sibling, "1"), stats=stats)
    rest = Partition(2, "(rest)", PartitionKey("rest"), stats=PartitionStats(rows=rows))
    assert [p.id for p in CentroidTable((home, rest), Metric.COSINE).unknown] == probed


@pytest.mark.parametrize("metric", METRICS)
def test_a_large_table_searched_by_groups_finds_what_all_of_it_would(metric, monkeypatch):
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(60, 24)) * 2
    rows = (centres[np.arange(5000) // 84] + 0.5 * rng.normal(size=(5000, 24))).astype(np.float32)
    rows = normalise(rows) if metric is Metric.COSINE else rows
    blocks = [rows[i : i + 2] for i in range(0, 5000, 2)]
    parts = tuple(_partition(i, block) for i, block in enumerate(blocks))
    flat = CentroidTable(parts, metric)
    monkeypatch.setattr("svr_retrievers.routing.centroids._ONE_PRODUCT_CELLS", 1000)
    monkeypatch.setattr("svr_retrievers.routing.supers.GROUPS_FROM", 1000)
    grouped = CentroidTable(parts, metric)
    later = CentroidTable(parts, metric, grouped)
    assert later.leaders is grouped.leaders
    assert flat.leaders is None
    few = tuple(parts[::500])
    found = []
    for query in rows[::250] + 0.1 * rng.normal(size=(20, 24)).astype(np.float32):
        wanted = flat.every(query)[0][:4]
        near = grouped.near(query)
        found.append(np.isin(wanted, near.positions).mean())
        best = dict(zip(flat.every(query)[0].tolist(), flat.every(query)[1].tolist(), strict=True))
        assert np.allclose(near.best, [best[i] for i in near.positions.tolist()], atol=1e-4)
        assert sorted(grouped.near(query, grouped.places(few)).positions) == list(range(0, 2500, 500))
    assert np.mean(found) > 0.9


def test_centroids_that_lie_in_one_array_are_not_copied():
    whole = normalise(np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32))
    parts = tuple(_partition(i, whole[2 * i : 2 * i + 2]) for i in range(3))
    assert CentroidTable(parts, Metric.COSINE).matrix.base is whole
    assert CentroidTable(parts[1:], Metric.COSINE).matrix.base is whole
    scattered = CentroidTable((parts[0], parts[2]), Metric.COSINE)
    assert scattered.matrix.base is not whole
    assert np.array_equal(scattered.matrix, whole[[0, 1, 4, 5]])
