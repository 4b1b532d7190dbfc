"""Calibration: what it promises on a sample holds on questions it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from svr_retrievers.model import Metric, Partition, PartitionKey, PartitionStats
from svr_retrievers.routing.centroids import CentroidTable, rank
from svr_retrievers.routing.kmeans import assign, closeness, kmeans, normalise
from svr_retrievers.routing.probe import Calibration, calibrate, partition_scores, softmax

PARTS, DIMENSIONS = 24, 24


def collection(metric: Metric, seed=0, n=4000):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(PARTS, DIMENSIONS)) * 1.2
    rows = centres[rng.integers(0, PARTS, n)] + rng.normal(0, 0.7, (n, DIMENSIONS))
    rows = normalise(rows.astype(np.float32)) if metric is Metric.COSINE else rows.astype(np.float32)
    inner = Metric.COSINE if metric is Metric.COSINE else Metric.L2
    centroids = kmeans(rows, PARTS, inner)
    return rows, assign(rows, centroids, inner), centroids


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2])
def test_the_target_is_reached_on_held_out_questions_with_few_probes(metric):
    rows, labels, centroids = collection(metric)
    rng = np.random.default_rng(9)
    held = rng.permutation(len(rows))[:200]
    kept = np.setdiff1d(np.arange(len(rows)), held)
    made = calibrate(
        rows[kept][:2000], labels[kept][:2000], centroids, np.arange(len(centroids)), metric, rows=len(rows)
    )
    assert made is not None
    assert set(made.masses) <= {0.8, 0.9, 0.95, 0.98, 0.99}
    parts = tuple(
        Partition(i, f"c{i}", PartitionKey("cluster", str(i)), stats=PartitionStats(1, c[None]))
        for i, c in enumerate(centroids)
    )
    table = CentroidTable(parts, metric)
    near = closeness(rows[held], rows[kept], metric)
    truth = labels[kept][np.argsort(-near, axis=1)[:, :10]]
    for target in (0.8, 0.9, 0.95):
        recalls, probes = [], []
        for i, query in enumerate(rows[held]):
            ranking = rank(table, table.scores(query, metric), None)
            count = ranking.probes_for(target, made)
            chosen = [p.id for p in ranking.partitions[:count]]
            assert ranking.mass(count, made) >= made.mass_for(target) - 1e-9
            recalls.append(np.isin(truth[i], chosen).mean())
            probes.append(count)
        assert np.mean(recalls) >= target - 0.03
        assert np.mean(probes) < len(centroids) / 2


def test_inner_product_is_calibrated_too():
    rows, labels, centroids = collection(Metric.INNER_PRODUCT, n=1500)
    made = calibrate(rows, labels, centroids, np.arange(len(centroids)), Metric.INNER_PRODUCT, rows=1500)
    assert made is not None
    assert 0 < made.mass_for(0.95) <= 1


def test_a_sample_too_small_to_say_anything():
    rows, labels, centroids = collection(Metric.COSINE, n=300)
    owner = np.arange(len(centroids))
    assert calibrate(rows[:199], labels[:199], centroids, owner, Metric.COSINE, rows=199) is None
    assert calibrate(rows[:200], labels[:200], centroids, owner, Metric.COSINE, rows=200) is not None


def test_the_same_sample_gives_the_same_calibration():
    rows, labels, centroids = collection(Metric.L2, n=600)
    args = (rows, labels, centroids, np.arange(len(centroids)), Metric.L2)
    assert calibrate(*args, rows=600) == calibrate(*args, rows=600)


def test_identical_vectors_are_calibrated_without_dividing_by_zero():
    rows = np.ones((250, 4), dtype=np.float32)
    labels = np.repeat([0, 1], 125)
    made = calibrate(rows, labels, rows[:2], np.array([0, 1]), Metric.L2, rows=250)
    assert made is not None
    assert np.isfinite(made.temperature)


def test_a_target_that_was_never_reached_asks_for_everything():
    made = Calibration(1.0, {0.8: 0.3, 0.95: 0.6}, 10)
    assert made.mass_for(0.5) == made.mass_for(0.8) == 0.3
    assert made.mass_for(0.81) == made.mass_for(0.95) == 0.6
    assert made.mass_for(0.96) == made.mass_for(1.0) == 1.0
    assert made.recall_for(0.1) is None
    assert made.recall_for(0.3) == 0.8
    assert made.recall_for(1.0) == 0.95


def test_softmax_of_equal_extreme_and_missing_scores():
    assert np.allclose(softmax(np.array([5.0, 5.0, 5.0, 5.0]), 0.01), 0.25)
    assert softmax(np.array([-np.inf, 0.0]), 0.5).tolist() == [0.0, 1.0]
    assert np.allclose(softmax(np.array([1e30, 1e30, -1e30]), 1e-6), [0.5, 0.5, 0.0])
    rows = softmax(np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32), 0.1)
    assert np.allclose(rows.sum(axis=1), 1.0)
    assert softmax(np.array([3.0]), 1.0).tolist() == [1.0]


def test_partitions_without_centroids_score_minus_infinity():
    queries = np.eye(2, dtype=np.float32)
    centroids = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    scores = partition_scores(queries, centroids, np.array([0, 0, 2]), 4, Metric.COSINE)
    assert scores.tolist() == [[1, -np.inf, 0, -np.inf], [1, -np.inf, 1, -np.inf]]
