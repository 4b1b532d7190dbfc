"""The cascade: explicit, filter, centroids, all; never empty, never fewer than it says."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from svr_retrievers import by_cluster, by_field
from svr_retrievers.errors import PartitionNotFound
from svr_retrievers.filters import ALL, parse
from svr_retrievers.filters.statistics import FieldStatistics, FilterStatistics
from svr_retrievers.model import Metric, Partition, PartitionKey, PartitionMap, PartitionStats
from svr_retrievers.routing.centroids import CentroidTable
from svr_retrievers.routing.plan import FAN_OUT_BELOW_ROWS, Closeness, Wish, needs_centroids, plan
from svr_retrievers.routing.probe import Calibration, Depth

SCHEME = by_field("cat")
GAINS = {0.8: 0.4, 0.9: 0.2, 0.95: 0.1, 0.98: 0.02, 0.99: 0.0}
CALIBRATION = Calibration((Depth(1.0, 20.0, 0.0, 0.0, GAINS, dict.fromkeys(GAINS, 2.0)),), 1000)
QUERY = np.array([1, 0, 0, 0, 0, 0, 0, 0], dtype=np.float32)


def centroid(angle: float) -> np.ndarray:
    row = np.zeros((1, 8), dtype=np.float32)
    row[0, :2] = np.cos(angle), np.sin(angle)
    return row


def world(count=8, rows=10_000, without=()) -> PartitionMap:
    """`cat=0` is closest to the query, then `cat=1` and so on; those in `without` have no centroid."""
    return PartitionMap(
        3,
        [
            Partition(
                i + 1,
                f"cat={i}",
                PartitionKey("field", f"n:{i}"),
                stats=PartitionStats(rows=rows, centroids=None if i in without else centroid(i * 0.2)),
            )
            for i in range(count)
        ],
    )


def planned(known, query=None, calibration=CALIBRATION, scheme=SCHEME, **wish):
    table = CentroidTable(known.leaves, Metric.COSINE)
    asked = Wish(filter=parse(query, {}), **wish)
    use = needs_centroids(asked, known, calibration)
    return plan(asked, scheme, known, Closeness(table, QUERY, calibration) if use else None)


def test_explicit_partitions_win_over_everything():
    made = planned(world(), {"cat": 3}, partitions=["cat=5", "cat=1"], nprobe=1)
    assert made.route.step == "explicit"
    assert made.route.paths == ("cat=5", "cat=1")
    assert made.filter == parse({"cat": 3}, {})
    assert made.route.estimated_recall == 1.0


def test_a_filter_on_the_partition_field_decides_next():
    made = planned(world(), {"cat": 3, "lang": "en"})
    assert made.route.step == "filter"
    assert made.route.paths == ("cat=3",)
    assert made.filter == parse({"lang": "en"}, {})
    assert made.aside == ()
    assert made.route.complete


def test_then_closeness_at_the_default_target():
    made = planned(world())
    assert made.route.step == "centroid"
    assert 1 <= len(made.route.partitions) < 8
    assert made.route.paths[0] == "cat=0"
    assert made.route.considered == 8
    assert len(made.aside) == 8 - len(made.route.partitions)
    assert not {p.path for p in made.aside} & set(made.route.paths)
    assert made.route.estimated_recall is not None
    assert made.route.estimated_recall >= 0.95


def test_small_collections_and_exact_searches_look_everywhere():
    small = planned(world(rows=FAN_OUT_BELOW_ROWS // 8))
    exact = planned(world(), exact=True, nprobe=1, recall_target=0.8)
    uncalibrated = planned(world(), calibration=None)
    for made in (small, exact, uncalibrated):
        assert made.route.step == "fan_out"
        assert len(made.route.partitions) == 8
        assert made.route.estimated_recall == 1.0
        assert made.aside == ()


def test_exact_still_uses_the_filter():
    assert planned(world(), {"cat": {"$in": [1, 2]}}, exact=True).route.paths == ("cat=1", "cat=2")


def test_nprobe_is_obeyed_on_any_size_and_without_calibration():
    for calibration in (CALIBRATION, None):
        made = planned(world(rows=1), nprobe=3, calibration=calibration)
        assert made.route.paths == ("cat=0", "cat=1", "cat=2")
        assert (made.route.estimated_recall is None) == (
            calibration is None or made.route.estimated_recall is None
        )
    assert planned(world(), nprobe=100).route.step == "fan_out"


def test_recall_target_is_monotone_and_narrows_small_collections_too():
    counts = [
        len(planned(world(rows=1), recall_target=t).route.partitions)
        for t in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 8


def test_partitions_without_a_centroid_are_always_searched():
    made = planned(world(without=(2, 6)), nprobe=1)
    assert set(made.route.paths) == {"cat=2", "cat=6", "cat=0"}
    reasons = {p.path: p.reason for p in made.route.partitions}
    assert reasons["cat=6"] == "no centroid yet"
    assert reasons["cat=0"].startswith("centroid closeness 1.000")
    none_known = planned(world(without=range(8)), nprobe=1)
    assert none_known.route.step == "fan_out"
    assert len(none_known.route.partitions) == 8
    targeted = planned(world(without=range(8)), recall_target=0.8)
    assert len(targeted.route.partitions) == 8


def test_what_a_filter_leaves_is_narrowed_by_closeness():
    made = planned(world(rows=20_000), {"cat": {"$gte": 2}})
    assert made.route.step == "centroid"
    assert made.route.paths[0] == "cat=2"
    assert made.route.considered == 6
    assert made.filter == ALL
    assert {p.path for p in made.aside} | set(made.route.paths) == {f"cat={i}" for i in range(2, 8)}


def test_a_filter_that_rows_must_pass_is_narrowed_only_by_nprobe():
    loose = planned(world(), {"lang": "en"})
    assert loose.route.step == "fan_out"
    narrow = planned(world(), {"lang": "en"}, nprobe=2).route
    assert narrow.paths == ("cat=0", "cat=1")
    assert narrow.estimated_recall is None
    assert planned(world(), {"lang": "en"}, recall_target=0.8).route.step == "fan_out"


def filtered(shares, target=0.8, namespaces=None, tails=None, **wish):
    """A search with `lang == "en"` on clusters of which these shares of the rows are in English."""
    gains = {0.8: 0.3, 0.9: 0.2, 0.95: 0.1, 0.98: 0.05, 0.99: 0.04, 0.999: 0.03}
    probes = dict.fromkeys(gains, 2.0)
    depths = tuple(Depth(share, 20.0, 1.0, 0.0, gains, probes) for share in (1.0, 0.1, 0.01))
    known = world(len(shares))
    clusters = [replace(p, key=PartitionKey("cluster", str(p.id))) for p in known]
    for at, rows in (tails or {}).items():
        clusters[at] = replace(clusters[at], stats=replace(clusters[at].stats, tail=True, tail_rows=rows))
    known = PartitionMap(3, clusters)
    within = {p.id: {"lang": english(share)} for p, share in zip(known, shares, strict=True)}
    statistics = FilterStatistics(
        {"lang": english(sum(shares) / len(shares))}, within, 1000, namespaces or {}
    )
    table = CentroidTable(known.leaves, Metric.COSINE)
    near = Closeness(table, QUERY, Calibration(depths, 1000), target, statistics)
    return plan(Wish(filter=parse({"lang": "en"}, {}), **wish), by_cluster(len(shares)), known, near)


def english(share) -> FieldStatistics:
    return FieldStatistics(distinct=2.0, common=(("en", share), ("de", 1.0 - share)))


def test_a_filter_whose_rows_are_counted_in_each_partition_is_narrowed_to_where_they_are():
    even = filtered([0.1] * 8)
    assert even.route.step == "centroid"
    assert even.route.paths[0] == "cat=0"
    assert even.filter == parse({"lang": "en"}, {})
    assert even.route.estimated_recall is not None
    uneven = filtered([0.001, 0.001, 0.001, 0.9, 0.9, 0.001, 0.001, 0.001])
    assert uneven.route.paths[0] == "cat=3"
    assert {p.path for p in uneven.aside} | set(uneven.route.paths) == {f"cat={i}" for i in range(8)}


def test_under_a_filter_more_is_looked_at_than_the_target_asks_without_one():
    plain = [len(filtered([0.1] * 8, t, recall_target=t).route.partitions) for t in (0.8, 0.9)]
    assert plain == sorted(plain)
    known = world()
    unfiltered = planned(known, recall_target=0.8)
    assert plain[0] >= len(unfiltered.route.partitions)


def test_a_filter_that_nothing_can_match_is_answered_by_the_smallest_partition():
    known = world().with_rows({4: 2})
    made = planned(known, {"cat": 99})
    assert made.route.paths == ("cat=3",)
    assert made.route.step == "filter"
    assert made.filter == parse({"cat": 99}, {})


def test_an_empty_map_has_an_empty_route_in_every_case():
    empty = PartitionMap(1, ())
    for query in (None, {"cat": 1}):
        route = planned(empty, query).route
        assert route.partitions == ()
        assert route.step == "fan_out"
        assert route.complete
    with pytest.raises(PartitionNotFound, match="no partitions yet"):
        planned(empty, partitions=["cat=1"])


def test_unknown_paths_are_named_with_what_is_near():
    with pytest.raises(PartitionNotFound, match=r"'cat=77'.*Did you mean 'cat=7'"):
        planned(world(), partitions=["cat=1", "cat=77"])
    with pytest.raises(PartitionNotFound, match="There are 8 partitions, among them 'cat=0'"):
        planned(world(), partitions=["zzzzzzzzzzzzzz"])
    one = PartitionMap(1, tuple(world())[:1])
    with pytest.raises(PartitionNotFound, match=r"There is one partition: 'cat=0'\.$"):
        planned(one, partitions=["zzzzzzzzzzzzzz"])


def test_scores_are_only_computed_where_they_can_matter():
    known = world()
    assert needs_centroids(Wish(), known, CALIBRATION)
    assert needs_centroids(Wish(nprobe=1), world(rows=1), None)
    assert needs_centroids(Wish(recall_target=0.9), world(rows=1), CALIBRATION)
    assert not needs_centroids(Wish(recall_target=0.9), world(rows=1), None)
    assert not needs_centroids(Wish(), world(rows=1), CALIBRATION)
    assert not needs_centroids(Wish(nprobe=1, exact=True), known, CALIBRATION)
    assert not needs_centroids(Wish(nprobe=1, partitions=["cat=1"]), known, CALIBRATION)
    assert not needs_centroids(Wish(nprobe=1), world(count=1), CALIBRATION)


def test_scores_without_a_calibration_or_nprobe_narrow_nothing():
    known = world()
    table = CentroidTable(known.leaves, Metric.COSINE)
    made = plan(Wish(recall_target=0.8), SCHEME, known, Closeness(table, QUERY))
    assert made.route.step == "fan_out"
    assert made.route.complete


queries = st.sampled_from(
    [None, {"cat": 1}, {"cat": 99}, {"cat": {"$ne": 1}}, {"cat": {"$gt": 3}}, {"lang": "en"}, {"cat": None}]
)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from([0, 1, 5000, 50_000]),
    st.sets(st.integers(0, 8)),
    queries,
    st.one_of(st.none(), st.integers(1, 12)),
    st.one_of(st.none(), st.floats(0.01, 1.0)),
    st.booleans(),
    st.booleans(),
)
def test_a_route_is_never_empty_and_accounts_for_every_partition(
    count, rows, without, query, nprobe, target, exact, calibrated
):
    known = world(count, rows, without)
    made = planned(
        known, query, CALIBRATION if calibrated else None, nprobe=nprobe, recall_target=target, exact=exact
    )
    route = made.route
    assert route.partitions
    assert len(set(route.paths)) == len(route.paths)
    assert route.total == count
    if route.considered:
        assert len(route.partitions) + len(made.aside) == route.considered
    else:
        assert len(route.partitions) == 1
        assert repr(route) == f"Route(filter: none of {count} partitions can match)"
    assert route.generation == 3
    assert (route.step == "centroid") == bool(made.aside)
    if exact:
        assert made.aside == ()
    if not made.aside:
        assert route.estimated_recall == 1.0
    if made.aside:
        chosen = set(route.paths)
        unknown = {f"cat={i}" for i in without if i < count and rows}
        assert not unknown & {p.path for p in made.aside}
        nearest = [f"cat={i}" for i in range(count) if i not in without and f"cat={i}" in chosen]
        left = [int(p.path[4:]) for p in made.aside if int(p.path[4:]) not in without] or [count]
        assert not nearest or max(int(p[4:]) for p in nearest) < min(left)


def test_where_few_rows_pass_the_filter_all_of_them_are_looked_at():
    assert filtered([0.1] * 8).route.step == "centroid"
    few = filtered([0.001] * 8)  # 80 of 80,000
    assert few.route.step == "fan_out"
    assert few.route.estimated_recall == 1.0
    assert filtered([0.001] * 8, nprobe=2).route.step == "centroid"


def test_closeness_leaves_nothing_out_where_namespaces_share_partitions():
    shared = {"default": 0.4, "team": 0.6}
    assert filtered([0.1] * 8, namespaces={"default": 1.0}).route.step == "centroid"
    assert filtered([0.1] * 8, namespaces=shared).route.step == "fan_out"
    assert filtered([0.1] * 8, namespaces=shared, nprobe=2).route.step == "centroid"


def test_a_target_that_takes_all_partitions_still_widens_their_indexes():
    closeness = Closeness(
        CentroidTable(world(3).leaves, Metric.COSINE),
        QUERY,
        replace(CALIBRATION, index={40: 0.9, 160: 0.999}),
    )
    made = plan(Wish(recall_target=0.99), SCHEME, world(3), closeness)
    assert made.route.complete
    assert made.ef_search is not None


def test_fresh_rows_that_no_statistics_know_are_not_taken_for_none():
    shares = [0.0, 0.5, 0.5, 0.5]
    assert "cat=0" not in filtered(shares).route.paths
    assert "cat=0" in filtered(shares, tails={0: 5_000}).route.paths


@pytest.mark.parametrize(("kind", "probed"), [("cluster", ["0", "1"]), ("field", ["1"])])
def test_the_cluster_a_document_with_this_vector_would_lie_in_is_always_probed(kind, probed):
    """The larger neighbour is expected to hold nearly all that is near; for clusters that is not the last word."""
    sizes = (100, 1_000_000)
    known = PartitionMap(
        3,
        [
            Partition(i + 1, str(i), PartitionKey(kind, f"n:{i}"), stats=PartitionStats(rows=n, centroids=c))
            for i, (n, c) in enumerate(zip(sizes, (centroid(0.0), centroid(0.4)), strict=True))
        ],
    )
    depth = Depth(1.0, 1.0, 2.0, 0.0, GAINS, dict.fromkeys(GAINS, 2.0))
    near = Closeness(CentroidTable(known.leaves, Metric.COSINE), QUERY, Calibration((depth,), 1_000_100))
    route = plan(Wish(recall_target=0.9), by_cluster(2), known, near).route
    assert sorted(p.path for p in route.partitions) == probed
