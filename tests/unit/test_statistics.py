"""Statistics follow the rows: centroids, calibration and clusters over the in-memory backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from svr_retrievers import by_cluster, by_field, flat, hnsw
from svr_retrievers.backends.memory import MemoryBackend
from svr_retrievers.backends.protocol import Batch, CollectionConfig
from svr_retrievers.calibrating import calibrated
from svr_retrievers.errors import WriteConflict
from svr_retrievers.model import Metric, PartitionMap
from svr_retrievers.placing import ensure_places
from svr_retrievers.search.view import View
from svr_retrievers.statistics import after_write, refresh


def rows(first, vectors, cats=None) -> Batch:
    n = len(vectors)
    return Batch(
        ["default"] * n,
        [f"d{first + i}" for i in range(n)],
        [""] * n,
        [{"cat": cats[i] if cats else "a"} for i in range(n)],
        [{}] * n,
        np.asarray(vectors, dtype=np.float32),
    )


def topics(n, seed=0, count=4):
    rng = np.random.default_rng(seed)
    centres = np.eye(8, dtype=np.float32)[:count] * 5
    owner = np.arange(n) % count
    return owner, (centres[owner] + rng.normal(0, 0.3, (n, 8))).astype(np.float32)


class World:
    """One collection on a backend, written to as a collection does."""

    def __init__(self, scheme, *, metric=Metric.COSINE, backend=None, index=None):
        self.backend = backend or MemoryBackend()
        self.config = CollectionConfig("c", 8, metric, scheme, index=index or flat())

    async def open(self):
        self.ref = await self.backend.create_collection(self.config)
        self.view = View(await self.backend.load_map(self.ref), self.config.metric)
        return self

    async def write(self, batch):
        self.view, places = await ensure_places(self.backend, self.ref, self.view, batch)
        written = await self.backend.upsert(self.ref, self.view.map, batch, places)
        self.view = await after_write(self.backend, self.ref, self.view, written, batch.vectors)
        return places

    async def refresh(self):
        self.view = await refresh(self.backend, self.ref)
        return self.view


async def test_partitions_get_centroids_when_they_and_the_collection_have_grown():
    world = await World(by_field("cat")).open()
    owner, vectors = topics(80)
    await world.write(rows(0, vectors, [f"c{o}" for o in owner]))
    first = world.view.map
    assert [p.stats.rows for p in first] == [20] * 4
    assert all(p.stats.centroids is not None and p.stats.rows_at_refresh == 20 for p in first)
    await world.write(rows(80, vectors[:4], ["c0"] * 4))
    assert world.view.map.leaves[0].stats.rows_at_refresh == 20
    await world.write(rows(90, vectors[:40], ["c0"] * 40))
    assert (
        world.view.map.leaves[0].stats.rows_at_refresh == 20
    )  # the collection is small, and has not grown enough
    for start in range(200, 500, 80):
        await world.write(rows(start, vectors, ["c0"] * 80))
    assert world.view.map.leaves[0].stats.rows_at_refresh == 304
    assert world.view.map.leaves[1].stats.rows_at_refresh == 20


async def test_large_collections_renew_what_doubled_once_they_have_doubled(monkeypatch):
    monkeypatch.setattr("svr_retrievers.statistics.FAN_OUT_BELOW_ROWS", 80)
    world = await World(by_field("cat")).open()
    owner, vectors = topics(80)
    await world.write(rows(0, vectors, [f"c{o}" for o in owner]))
    await world.write(rows(100, vectors[:40], ["c0"] * 40))
    assert world.view.map.leaves[0].stats.rows_at_refresh == 20
    await world.write(rows(200, vectors[:40], ["c0"] * 40))
    assert world.view.map.leaves[0].stats.rows_at_refresh == 100


async def test_one_partition_needs_no_centroids():
    world = await World(None).open()
    await world.write(rows(0, topics(30)[1]))
    assert world.view.map.leaves[0].stats.centroids is None
    assert (await world.refresh()).state.calibration is None


@pytest.mark.parametrize("metric", list(Metric))
async def test_refresh_calibrates_whatever_the_size(metric):
    world = await World(by_field("cat"), metric=metric).open()
    owner, vectors = topics(600)
    await world.write(rows(0, vectors, [f"c{o}" for o in owner]))
    assert world.view.state.calibration is None
    calibration = (await world.refresh()).state.calibration
    assert calibration is not None
    assert calibration.rows == 600
    assert 0.95 in calibration.unfiltered.gains


async def test_large_collections_calibrate_as_they_grow(monkeypatch):
    monkeypatch.setattr("svr_retrievers.statistics.FAN_OUT_BELOW_ROWS", 200)
    world = await World(by_field("cat")).open()
    owner, vectors = topics(500)
    await world.write(rows(0, vectors, [f"c{o}" for o in owner]))
    first = world.view.state.calibration
    assert first is not None
    await world.write(rows(1000, vectors[:100], [f"c{o}" for o in owner[:100]]))
    assert world.view.state.calibration is first
    await world.write(rows(2000, vectors, [f"c{o}" for o in owner]))
    assert world.view.state.calibration is not first


async def test_a_batch_large_enough_is_cut_into_clusters_before_it_is_written():
    world = await World(by_cluster(4)).open()
    owner, vectors = topics(120)
    places = await world.write(rows(0, vectors))
    assert len(set(zip(places, owner.tolist(), strict=True))) == 4
    kinds = [p.key.kind for p in world.view.map if p.stats.rows]
    assert kinds == ["cluster"] * 4


async def test_rows_wait_until_there_are_enough_and_then_move():
    world = await World(by_field("cat").then(by_cluster(4))).open()
    _, vectors = topics(120)
    await world.write(rows(0, vectors[:50]))
    assert [(p.path, p.stats.rows) for p in world.view.map] == [("cat=a/(rest)", 50)]
    await world.write(rows(50, vectors[50:]))
    counted = {p.path: p.stats.rows for p in world.view.map}
    assert counted == {"cat=a/(rest)": 0} | {f"cat=a/cluster-{i}": 30 for i in range(4)}
    centroids = {p.id: p.stats.centroids for p in world.view.map if p.key.kind == "cluster"}
    await world.refresh()
    for number, before in centroids.items():
        after = world.view.map.get(number)
        assert after is not None
        assert np.array_equal(after.stats.centroids, before)
        assert after.stats.spread is not None
    places = await world.write(rows(500, vectors[:4]))
    assert {world.view.path(p) for p in places} == {f"cat=a/cluster-{i}" for i in range(4)}


async def test_refresh_cuts_what_was_left_waiting(monkeypatch):
    world = await World(by_cluster(4)).open()
    _, vectors = topics(120)
    await world.write(rows(0, vectors[:79]))
    batch = rows(79, vectors[79:])
    world.view, places = await ensure_places(world.backend, world.ref, world.view, batch)
    await world.backend.upsert(world.ref, world.view.map, batch, places)
    assert {p.key.kind for p in world.view.map} == {"rest"}
    await world.refresh()
    assert sum(p.stats.rows for p in world.view.map if p.key.kind == "cluster") == 120


async def test_indexes_are_asked_for_where_the_spec_wants_them():
    class Building(MemoryBackend):
        built = 0

        async def build_indexes(self, ref, known, progress=None, *, build_from=None, fold_from=0):
            self.built += 1
            return 1

    for spec, times in ((flat(), 0), (hnsw(min_rows=11), 0), (hnsw(min_rows=10), 1), (hnsw(min_rows=0), 1)):
        world = await World(by_field("cat"), backend=Building(), index=spec).open()
        await world.write(rows(0, topics(20)[1]))
        assert world.backend.built == times


async def test_empty_samples_leave_statistics_as_they_are():
    """Counts may lag behind deletions by others: then there is nothing to measure."""

    class Emptied(MemoryBackend):
        async def sample(self, ref, known, partitions, rows_each):
            return {}

    world = await World(by_field("cat"), backend=Emptied()).open()
    owner, vectors = topics(40)
    await world.write(rows(0, vectors, [f"c{o}" for o in owner]))
    assert all(p.stats.centroids is None for p in world.view.map)
    real = MemoryBackend.sample
    Emptied.sample = real
    await world.refresh()
    Emptied.sample = lambda *a: _nothing()
    assert (await world.refresh()).state.calibration is None


async def _nothing():
    return {}


async def test_a_map_that_keeps_changing_ends_in_a_conflict():
    class Forgetting(MemoryBackend):
        asked = 0

        async def add_partitions(self, ref, wanted):
            self.asked += 1
            state = await self.load_map(ref)
            assert isinstance(state.map, PartitionMap)
            return state

    world = await World(by_field("cat"), backend=Forgetting()).open()
    with pytest.raises(WriteConflict, match="keep changing"):
        await world.write(rows(0, topics(2)[1]))
    assert world.backend.asked == 20


async def test_rows_that_lie_elsewhere_renew_the_calibration_before_the_collection_doubles():
    world = await World(by_cluster(3)).open()
    _, vectors = topics(2000, count=3)
    await world.write(rows(0, vectors))
    before = (await world.refresh()).state.calibration
    assert before is not None
    await world.write(rows(2000, topics(500, seed=1, count=3)[1]))
    assert world.view.state.calibration == before
    elsewhere = np.roll(topics(500, seed=2, count=3)[1], 4, axis=1)
    await world.write(rows(3000, elsewhere))
    renewed = world.view.state.calibration
    assert renewed is not None
    assert renewed.rows == 3000
    await world.write(rows(4000, elsewhere[:250]))
    assert world.view.state.calibration == renewed


class Lossy(MemoryBackend):
    """Says that every partition is indexed, and finds all but one of the rows unless it searches widely."""

    async def load_map(self, ref, known=None):
        state = await super().load_map(ref, known)
        stats = [replace(p, stats=replace(p.stats, indexed=True)) for p in state.map.partitions]
        return replace(state, map=PartitionMap(state.map.generation, stats))

    async def search(self, ref, known, query):
        page = await super().search(ref, known, query)
        lost = 0 if query.exact or (query.ef_search or 0) >= 160 else 1
        return replace(page, candidates=page.candidates[: len(page.candidates) - lost])


async def test_a_refresh_measures_what_the_indexes_lose_and_a_write_keeps_it():
    world = await World(by_field("cat"), backend=Lossy(), index=hnsw()).open()
    owner, vectors = topics(600)
    await world.write(rows(0, vectors, [f"c{o}" for o in owner]))
    made = (await world.refresh()).state.calibration
    assert made is not None
    lossy = dict.fromkeys((20, 30, 40, 80), pytest.approx(10 / 11))
    assert made.index == lossy | {160: 1.0, 320: 1.0}
    assert made.decide(0.99, made.unfiltered).ef_search == 160
    kept = await calibrated(world.backend, world.ref, world.view.state, thorough=False)
    assert kept is not None
    assert kept.index == made.index
