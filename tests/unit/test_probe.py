"""Calibration: what it promises on a sample holds on questions it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from svr_retrievers.model import Metric, Partition, PartitionKey, PartitionStats
from svr_retrievers.routing.calibrate import Neighbours, fitted, questions
from svr_retrievers.routing.centroids import CentroidTable, rank
from svr_retrievers.routing.kmeans import assign, closeness, kmeans, normalise
from svr_retrievers.routing.probe import MOST_PROBES, TARGETS, Calibration, Depth, Near

PARTS, DIMENSIONS = 24, 24


def collection(metric: Metric, seed=0, n=4000):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(PARTS, DIMENSIONS)) * 1.2
    rows = centres[rng.integers(0, PARTS, n)] + rng.normal(0, 0.7, (n, DIMENSIONS))
    rows = normalise(rows.astype(np.float32)) if metric is Metric.COSINE else rows.astype(np.float32)
    inner = Metric.COSINE if metric is Metric.COSINE else Metric.L2
    centroids = kmeans(rows, PARTS, inner)
    return rows, assign(rows, centroids, inner), centroids


def table_of(centroids, labels, metric) -> CentroidTable:
    rows = np.bincount(labels, minlength=len(centroids))
    parts = tuple(
        Partition(i, f"c{i}", PartitionKey("cluster", str(i)), stats=PartitionStats(int(rows[i]), c[None]))
        for i, c in enumerate(centroids)
    )
    return CentroidTable(parts, metric)


def calibrated(rows, labels, table, metric, sampled=1.0, blocks=3) -> Calibration:
    asked = questions(rows, 500, metric)
    found = Neighbours(asked, metric, sampled)
    for part in np.array_split(np.arange(len(rows)), blocks):
        found.look(rows[part], labels[part])
    return Calibration(fitted(table, asked, found.places()), len(rows))


@pytest.mark.parametrize("metric", list(Metric))
def test_the_target_is_reached_on_held_out_questions_with_few_probes(metric):
    rows, labels, centroids = collection(metric)
    held, kept = np.arange(300), np.arange(300, len(rows))
    table = table_of(centroids, labels[kept], metric)
    depth = calibrated(rows[kept], labels[kept], table, metric).unfiltered
    near = closeness(rows[held], rows[kept], metric)
    truth = labels[kept][np.argsort(-near, axis=1)[:, :10]]
    for target in (0.8, 0.9, 0.95, 0.99):
        recalls, probes, told = [], [], []
        for i, query in enumerate(rows[held]):
            ranking = rank(table, query, depth)
            count = ranking.probes_for(depth.gain_for(target), depth.cap_for(target))
            recalls.append(np.isin(truth[i], ranking.positions[:count]).mean())
            told.append(depth.recall_for(ranking.covered(count)))
            probes.append(count)
        assert target - 0.03 <= np.mean(recalls)
        assert abs(np.mean(told) - np.mean(recalls)) < 0.05
        assert np.mean(probes) < len(centroids) / 2


def test_the_neighbours_are_the_exact_ones_without_the_question_itself():
    rows, labels, _ = collection(Metric.COSINE, n=900)
    asked = questions(rows, 100, Metric.COSINE)
    found = Neighbours(asked, Metric.COSINE)
    for part in np.array_split(np.arange(len(rows)), 7):
        found.look(rows[part], labels[part])
    near = asked.vectors @ rows.T
    for q in np.flatnonzero(asked.drawn):
        near[q, near[q].argmax()] = -np.inf
    truth = labels[np.argsort(-near, axis=1)[:, :10]]
    same = np.sort(found.places()[1.0], axis=1) == np.sort(truth, axis=1)
    assert same.all(axis=1).mean() >= 0.98, "but for rows that are equally close"


def test_a_thinner_sample_stands_for_all_by_its_few_closest_rows():
    rows, _, _ = collection(Metric.COSINE, n=900)
    found = Neighbours(questions(rows, 50, Metric.COSINE), Metric.COSINE, sampled=0.1)
    found.look(rows, np.zeros(len(rows), dtype=np.int64))
    places = found.places()
    assert {share: kept.shape[1] for share, kept in places.items()} == {1.0: 1, 0.1: 10, 0.01: 10, 0.001: 10}
    assert (places[0.001] < 0).any()


def test_neighbours_under_a_filter_are_expected_farther_out():
    rows, labels, centroids = collection(Metric.COSINE)
    table = table_of(centroids, labels, Metric.COSINE)
    made = calibrated(rows, labels, table, Metric.COSINE)
    assert [d.share for d in made.depths][:3] == [1.0, 0.1, 0.01]
    assert made.at(0.01).probes_for(0.95) > made.at(0.1).probes_for(0.95) > 1.0
    between = made.at(0.03)
    assert made.at(0.1).closeness >= between.closeness >= made.at(0.01).closeness
    assert made.at(5.0) == made.unfiltered
    assert made.at(1e-9) == made.depths[-1]


def test_the_same_sample_gives_the_same_calibration():
    rows, labels, centroids = collection(Metric.L2, n=600)
    table = table_of(centroids, labels, Metric.L2)
    assert calibrated(rows, labels, table, Metric.L2) == calibrated(rows, labels, table, Metric.L2)


def test_identical_vectors_are_calibrated_without_dividing_by_zero():
    rows, labels = np.ones((250, 4), dtype=np.float32), np.repeat([0, 1], 125)
    for metric in Metric:
        made = calibrated(rows, labels, table_of(rows[:2], labels, metric), metric)
        assert all(np.isfinite([d.closeness, d.rows, d.border]).all() for d in made.depths)


def depth(gains, capped=()) -> Depth:
    return Depth(1.0, 10.0, 1.0, 1.0, gains, {t: 1.0 + t for t in gains}, capped)


def test_a_target_that_was_never_reached_asks_for_everything():
    made = depth({0.8: 0.3, 0.9: 0.03, 0.95: 0.0})
    assert made.gain_for(0.5) == pytest.approx(0.3)
    assert made.gain_for(0.8) == pytest.approx(0.3)
    assert 0.03 < made.gain_for(0.85) < 0.3
    assert made.gain_for(0.9) == pytest.approx(0.03)
    assert made.gain_for(0.91) == made.gain_for(1.0) == 0.0


def test_probes_are_capped_only_where_the_target_holds_within_the_cap():
    made = depth({0.8: 0.3, 0.9: 0.03, 0.99: 0.001}, capped=(0.8, 0.9))
    assert made.cap_for(0.7) == made.cap_for(0.85) == made.cap_for(0.9) == MOST_PROBES
    assert made.cap_for(0.95) is None
    assert made.cap_for(0.999) is None


def test_expected_shares_grow_with_closeness_rows_and_nearness_of_the_border():
    zeros = np.zeros(2)
    positions = np.arange(2)
    made = depth(dict.fromkeys(TARGETS, 0.1))
    for best, border, rows in (
        ([0.9, 0.8], zeros, zeros),
        (zeros, [0.0, -0.2], zeros),
        (zeros, zeros, [5.0, 4.0]),
    ):
        near = Near(positions, np.array(best), np.array(border), np.array(rows))
        shares = made.expected(near)
        assert shares[0] > shares[1]
        assert shares.sum() == pytest.approx(1.0)
    extreme = Near(positions, np.array([1e6, -1e6]), zeros, zeros)
    assert made.expected(extreme).tolist() == [1.0, 0.0]


def test_what_the_index_loses_is_made_up_by_a_wider_search_or_more_probes():
    gains = {0.8: 0.4, 0.9: 0.2, 0.95: 0.1, 0.99: 0.01, 0.999: 0.001}
    curve = Depth(1.0, 10.0, 0.0, 0.0, gains, {0.8: 1.0, 0.9: 1.1, 0.95: 1.3, 0.99: 2.0, 0.999: 4.0})
    made = Calibration((curve,), 1000, index={20: 0.93, 40: 0.97, 80: 0.99, 160: 0.995})
    low, high = made.decide(0.8, curve), made.decide(0.99, curve)
    assert low.ef_search == 20
    assert high.ef_search == 160
    assert low.gain < gains[0.8]
    assert made.decide(0.9, curve, 60).ef_search == 60
    assert 0.97 < made.decide(0.9, curve, 60).found < 0.99
    assert made.decide(0.9, curve) is made.decide(0.9, curve)
    exact = Calibration((curve,), 1000)
    assert exact.decide(0.9, curve).ef_search is None
    assert exact.decide(0.9, curve).gain == pytest.approx(0.2)
    assert exact.decide(1.0, curve).gain == 0.0


def test_without_enough_of_the_collection_a_hopeless_target_takes_the_widest_search():
    gains = {0.8: 0.4, 0.9: 0.2}
    curve = Depth(1.0, 10.0, 0.0, 0.0, gains, {0.8: 1.0, 0.9: 1.1})
    made = Calibration((curve,), 1000, index={20: 0.5, 40: 0.6})
    assert made.decide(0.9, curve).ef_search == 40
    assert made.decide(0.99, curve).gain == 0.0
