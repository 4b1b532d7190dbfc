"""Placement: every document has exactly one leaf, the same each time, whatever the size of the batch."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from svr_retrievers import by_cluster, by_field, by_hash, by_namespace
from svr_retrievers.backends.protocol import Batch
from svr_retrievers.model import Metric, Partition, PartitionKey, PartitionMap, PartitionStats
from svr_retrievers.placing import find_clusters, is_trained, new_clusters, next_level
from svr_retrievers.routing.place import least_filled, path_of, place
from svr_retrievers.routing.schemes import REST, WHOLE

EMPTY = PartitionMap(1, ())


def batch(values, *, field="cat", namespaces=None, vectors=None) -> Batch:
    n = len(values)
    return Batch(
        namespaces or ["default"] * n,
        [f"d{i}" for i in range(n)],
        [""] * n,
        [{} if v is None else {field: v} for v in values],
        [{}] * n,
        np.ones((n, 2), dtype=np.float32) if vectors is None else vectors,
    )


def grown(scheme, rows: Batch, known: PartitionMap = EMPTY, metric=Metric.COSINE):
    """The map after the writes that `rows` need, their leaves, and how many rounds it took."""
    depth = len(scheme.levels) if scheme else 1
    for rounds in range(depth + 1):
        places, missing = place(scheme, known, rows, metric)
        assert (places == -1).sum() == sum(map(len, missing.values()))
        if not missing:
            return known, places.tolist(), rounds
        wanted = next_level(known, missing, depth=depth)
        assert wanted
        assert len({(n.parent, n.key) for n in wanted}) == len(wanted)
        start = len(known.partitions) + 1
        made = [Partition(start + i, n.path, n.key, n.parent, stats=n.stats) for i, n in enumerate(wanted)]
        known = PartitionMap(known.generation + 1, (*known.partitions, *made))
    raise AssertionError("the map never became complete")


def test_without_a_scheme_there_is_one_partition():
    known, places, _ = grown(None, batch(["a", None]))
    assert places == [1, 1]
    assert known.partitions[0].key == WHOLE
    assert known.partitions[0].path == "(all)"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdef"), st.integers(0, 3), st.booleans()), max_size=20),
    st.integers(1, 5),
)
def test_each_document_has_one_leaf_and_keeps_it(values, most):
    scheme = by_namespace().then(by_field("cat", max_partitions=most)).then(by_hash(2))
    rows = batch(values, namespaces=[f"n{i % 3}" for i in range(len(values))])
    known, places, _ = grown(scheme, rows)
    leaves = {leaf.id for leaf in known.leaves}
    assert all(p in leaves for p in places)
    again, missing = place(scheme, known, rows, Metric.COSINE)
    assert not missing
    assert again.tolist() == places
    reordered = batch(values, namespaces=list(rows.namespaces))
    assert place(scheme, known, reordered, Metric.COSINE)[0].tolist() == places
    for inner in known.children(None):
        kinds = [c for c in known.children(inner.id) if c.key.kind == "field"]
        assert len(kinds) <= most
    assert len({p.path for p in known.partitions}) == len(known.partitions)


def test_a_large_batch_of_many_categories_is_placed_in_two_rounds():
    values = [f"category {i * 7919 % 500}" for i in range(20_000)]
    known, places, rounds = grown(by_field("cat"), batch(values))
    assert rounds == 1
    assert len(known) == 500
    path = {p.id: p.path for p in known}
    assert all(path[p] == f"cat={v}" for p, v in zip(places, values, strict=True))


def test_a_large_batch_of_unlisted_values_joins_the_catch_all():
    listed = [f"v{i}" for i in range(800)]
    values = [f"v{i % 1600}" for i in range(20_000)]
    known, places, _ = grown(by_field("cat", values=listed), batch(values))
    rest = known.child(None, REST)
    assert rest is not None
    assert sum(p == rest.id for p in places) == sum(int(v[1:]) >= 800 for v in values)


def test_values_with_equal_cut_labels_get_paths_of_their_own():
    long = "x" * 100
    known, places, _ = grown(by_field("cat"), batch([long + "1", long + "2", long + "1"]))
    first, second = (p.path for p in known)
    assert second == first + "~2"
    assert places == [1, 2, 1]


def test_numbers_that_are_equal_share_a_partition_and_booleans_do_not():
    known, places, _ = grown(by_field("cat"), batch([1, 1.0, True, "1", 1]))
    assert places == [1, 1, 2, 3, 1]
    assert len(known) == 3


def test_a_namespace_beyond_the_limit_joins_the_catch_all():
    from svr_retrievers.routing.schemes import NamespaceLevel, Scheme

    scheme = Scheme((NamespaceLevel(max_partitions=2),))
    known, places, _ = grown(scheme, batch([None] * 4, namespaces=["a", "b", "c", "a"]))
    assert [p.path for p in known] == ["namespace=a", "namespace=b", "(rest)"]
    assert places == [1, 2, 3, 1]


def test_a_document_with_the_same_key_moves_with_its_value():
    scheme = by_field("cat")
    known, before, _ = grown(scheme, batch(["a"]))
    _, after, _ = grown(scheme, batch(["b"]), known)
    assert before != after


def test_next_level_creates_parents_first_and_only_what_is_missing():
    keys = (PartitionKey("field", "s:a", "cat=a"), PartitionKey("hash", "0", "hash-0"))
    top = next_level(EMPTY, [keys], depth=2)
    assert [(n.parent, n.path, n.leaf) for n in top] == [(None, "cat=a", False)]
    known = PartitionMap(2, [Partition(1, "cat=a", keys[0])])
    below = next_level(known, [keys], depth=2)
    assert [(n.parent, n.path, n.leaf) for n in below] == [(1, "cat=a/hash-0", True)]
    full = PartitionMap(3, [*known.partitions, Partition(2, "cat=a/hash-0", keys[1], 1)])
    assert next_level(full, [keys], depth=2) == []
    assert path_of(keys) == "cat=a/hash-0"


def _clustered(metric: Metric):
    rng = np.random.default_rng(1)
    centres = np.array([[10, 0], [0, 10], [-10, -10]], dtype=np.float32)
    owner = rng.integers(0, 3, 90)
    return centres, owner, (centres[owner] + rng.normal(0, 0.5, (90, 2))).astype(np.float32)


@pytest.mark.parametrize("metric", list(Metric))
def test_documents_join_the_cluster_whose_centroid_is_closest(metric):
    _, owner, vectors = _clustered(metric)
    scheme = by_field("cat").then(by_cluster(3))
    rows = batch(["a"] * 90, vectors=vectors)
    known, places, _ = grown(scheme, rows, metric=metric)
    assert [p.path for p in known] == ["cat=a/(rest)"]
    assert set(places) == {2}
    parent = known.child(None, PartitionKey("field", "s:a"))
    assert parent is not None
    assert not is_trained(known, parent.id)
    made = new_clusters(known, parent.id, find_clusters(vectors, 3, metric))
    assert [n.path for n in made] == [f"cat=a/cluster-{i}" for i in range(3)]
    parts = [Partition(10 + i, n.path, n.key, n.parent, stats=n.stats) for i, n in enumerate(made)]
    known = PartitionMap(9, (*known.partitions, *parts))
    assert is_trained(known, parent.id)
    places, missing = place(scheme, known, rows, metric)
    assert not missing
    assert len(set(zip(places.tolist(), owner.tolist(), strict=True))) == 3


def test_clusters_at_the_root_have_no_prefix_and_learn_from_an_even_sample():
    vectors = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    centroids = find_clusters(vectors, 2, Metric.L2)
    assert centroids.shape == (2, 3)
    made = new_clusters(EMPTY, None, centroids)
    assert [n.path for n in made] == ["cluster-0", "cluster-1"]
    assert all(isinstance(n.stats, PartitionStats) and n.leaf for n in made)


def _on(server: str | None, number: int, rows: int) -> Partition:
    key = PartitionKey("field", str(number))
    return Partition(number, f"p{number}", key, stats=PartitionStats(rows=rows), server=server)


@pytest.mark.parametrize(
    ("there", "placed", "expected"),
    [
        ([], [], "a"),
        ([], ["a"], "b"),
        ([], ["a", "b", "a", None], "b"),
        ([("a", 5)], [], "b"),
        ([("a", 5), ("b", 3), ("b", 3)], [], "a"),
        ([("a", 5), ("b", 5), ("b", 0)], [], "a"),
        ([("a", 1), ("b", 5), (None, 0), ("gone", 0)], [], "a"),
    ],
)
def test_a_new_partition_goes_where_the_fewest_rows_then_partitions_are(
    there: list[tuple[str | None, int]], placed: list[str | None], expected: str
) -> None:
    known = PartitionMap(1, [_on(server, n, rows) for n, (server, rows) in enumerate(there, start=1)])

    assert least_filled(known, ("a", "b"), placed) == expected


def test_without_servers_a_partition_lies_beside_its_documents() -> None:
    assert least_filled(PartitionMap(1, [_on(None, 1, 3)]), ()) is None
