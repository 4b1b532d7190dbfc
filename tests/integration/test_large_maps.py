"""A map whose centroids come apart from it, a part at a time, is the one that comes in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from svr_retrievers import Document, SVRClient, by_field


def test_centroids_fetched_a_part_at_a_time_are_the_same_and_lie_side_by_side(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(280, 8)).astype(np.float32)
    with SVRClient(postgres_url) as client:
        made = client.create_collection("large map", dimensions=8, partition_by=by_field("cat"))
        made.add([Document(str(i), vector=v, metadata={"cat": i % 7}) for i, v in enumerate(vectors)])
        whole = made.refresh()
        monkeypatch.setattr("svr_retrievers.control.postgres._BYTES_AT_ONCE", 0)
        monkeypatch.setattr("svr_retrievers.control.postgres._PARTITIONS_AT_ONCE", 3)
        apart = client.collection("large map").partitions
        client.drop_collection("large map")
    assert [p.id for p in apart] == [p.id for p in whole]
    for one, other in zip(whole, apart, strict=True):
        assert one.stats.centroids is not None
        assert other.stats.centroids is not None
        assert np.array_equal(one.stats.centroids, other.stats.centroids)
    first = next(iter(apart)).stats.centroids
    assert first is not None
    assert all(p.stats.centroids is not None and p.stats.centroids.base is first.base for p in apart)


def test_a_route_loads_the_map_again_only_when_it_has_changed(postgres_url: str) -> None:
    with SVRClient(postgres_url) as client:
        made = client.create_collection("routed map", dimensions=2, partition_by=by_field("cat"))
        made.add([Document("a", vector=[1.0, 0.0], metadata={"cat": 1})])
        made.route(vector=[1.0, 0.0])
        held = made.partitions
        assert made.route(vector=[1.0, 0.0]).generation == held.generation
        assert made.partitions is held
        client.collection("routed map").add([Document("b", vector=[0.0, 1.0], metadata={"cat": 2})])
        assert made.route(vector=[1.0, 0.0]).total == 2
        assert made.partitions is not held
        client.drop_collection("routed map")
