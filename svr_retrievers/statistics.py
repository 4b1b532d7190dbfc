"""Keeps what routing relies on up to date: row counts, centroids, calibration, indexes, clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import anyio.to_thread
import numpy as np

from svr_retrievers.backends.protocol import Backend, CollectionRef, MapState, Written
from svr_retrievers.calibrating import calibrated, drifted
from svr_retrievers.concurrency import beside
from svr_retrievers.model import Metric, Partition, PartitionMap, PartitionStats, Vector
from svr_retrievers.placing import (
    TRAINING_ROWS_PER_CLUSTER,
    cluster_level,
    find_clusters,
    is_trained,
    new_clusters,
)
from svr_retrievers.routing.centroids import MOST_CENTROIDS, centroids_each, summarise
from svr_retrievers.routing.plan import FAN_OUT_BELOW_ROWS
from svr_retrievers.search.view import View

SAMPLE_ROWS = 256
"""Rows sampled from a partition for its centroids: enough for a few of them."""
MOST_SAMPLE_ROWS = 64 * MOST_CENTROIDS
"""Rows sampled by a refresh, which has the time: enough for all the centroids a partition may have."""
FIELDS_FROM_ROWS = 10_000
"""Below twice this every search takes a few milliseconds, and how many rows a filter passes decides nothing."""
BUILD_FROM = 2
"""A partition of so many times the rows that are searched exactly gets its index from the write that fills it."""
FOLD_FROM = 4
"""A tail of so many times the rows that are searched exactly is folded by the write that makes it so long."""
_MANY_ROWS = 2_000
"""A partition that doubled by so many rows is renewed at once; others once the collection has grown as a whole."""
_GROWTH_WHILE_SMALL = 4
"""Up to FAN_OUT_BELOW_ROWS centroids decide nothing but what `nprobe` and `recall_target` ask for."""
_GROWTH_OF_DRIFT = 1.1
_GROWTH = 2
"""Centroids, calibration and the statistics of fields are renewed when what they describe has doubled."""


async def after_write(
    backend: Backend, ref: CollectionRef, view: View, written: Written, fresh: Vector | None = None
) -> View:
    """The view after a write of the `fresh` vectors.

    Asks the database only when a partition doubled, needs an index, or can be cut into clusters, or when the
    fresh rows lie elsewhere than those before.
    """
    elsewhere = fresh is not None and await _lie_elsewhere(view, fresh)
    state = replace(view.state, map=view.map.with_rows(written.rows, written.tails))
    touched = [leaf for p in written.rows if (leaf := state.map.get(p)) is not None and state.map.is_leaf(p)]
    source = _trainable(ref, state, touched)
    if source is not None:
        await _split_into_clusters(backend, ref, state, source)
        state = await backend.load_map(ref)
        touched = list(state.map.leaves)
    if await _index_what_waits_long(backend, ref, state, touched):
        state = await backend.load_map(ref)
    grown = [leaf for leaf in touched if _outgrown(leaf)]
    if len(state.map) > 1 and elsewhere:
        state = await _renew(backend, ref, state, touched, anew=True)
    elif len(state.map) > 1 and _worth_renewing(grown, state.map):
        state = await _renew(backend, ref, state, grown)
    if state.map.rows >= _GROWTH * max(state.field_statistics.rows, FIELDS_FROM_ROWS):
        state = await _fields_measured(backend, ref, state)
    return View(state, ref.config.metric)


async def _lie_elsewhere(view: View, fresh: Vector) -> bool:
    """Whether the data has drifted; not asked again before a tenth more rows have come."""
    known = view.state.calibration
    if known is None or view.map.rows < _GROWTH_OF_DRIFT * known.rows:
        return False
    return await beside(drifted, known, view.table, fresh)


async def _index_what_waits_long(
    backend: Backend, ref: CollectionRef, state: MapState, touched: Sequence[Partition]
) -> bool:
    """A write pays for an index only where more rows wait than a refresh would have left waiting."""
    spec = ref.config.index
    least, fold_from = max(1, spec.min_rows * BUILD_FROM), max(1, spec.min_rows * FOLD_FROM)
    due = any(
        leaf.stats.tail_rows >= fold_from or (not leaf.stats.indexed and leaf.stats.rows >= least)
        for leaf in touched
    )
    if spec.kind == "flat" or not due:
        return False
    return bool(await backend.build_indexes(ref, state.map, build_from=least, fold_from=fold_from))


async def refresh(
    backend: Backend, ref: CollectionRef, progress: Callable[[int, int], None] | None = None
) -> View:
    """Everything anew, whatever has grown."""
    state = await backend.load_map(ref)
    source = _trainable(ref, state, state.map.leaves)
    if source is not None:
        await _split_into_clusters(backend, ref, state, source)
        state = await backend.load_map(ref)
    if await backend.build_indexes(ref, state.map, progress):
        state = await backend.load_map(ref)
    state = await _renew(backend, ref, state, list(state.map.leaves), calibrate_now=True)
    state = await _fields_measured(backend, ref, state)
    return View(state, ref.config.metric)


async def _fields_measured(backend: Backend, ref: CollectionRef, state: MapState) -> MapState:
    await backend.measure_fields(ref, state.map)
    return await backend.load_map(ref)


def _outgrown(partition: Partition) -> bool:
    return partition.stats.rows >= max(1, _GROWTH * partition.stats.rows_at_refresh)


def _worth_renewing(grown: Sequence[Partition], known: PartitionMap) -> bool:
    """Whether enough has come since: partitions that double one after the other must not renew with every write."""
    if any(p.stats.rows - p.stats.rows_at_refresh >= _MANY_ROWS for p in grown):
        return True
    described = sum(p.stats.rows_at_refresh for p in known.leaves)
    return known.rows >= (_GROWTH_WHILE_SMALL if known.rows < FAN_OUT_BELOW_ROWS else _GROWTH) * described


async def _renew(
    backend: Backend,
    ref: CollectionRef,
    state: MapState,
    grown: list[Partition],
    *,
    calibrate_now: bool = False,
    anew: bool = False,
) -> MapState:
    if ref.config.embedding is not None:
        return state  # no centroids without vectors
    each = MOST_SAMPLE_ROWS if calibrate_now else SAMPLE_ROWS
    sample = await backend.sample(ref, state.map, [p.id for p in grown], each)
    stats = await anyio.to_thread.run_sync(_summaries, grown, sample, ref.config.metric, len(state.map))
    await backend.save_statistics(ref, stats, None)
    renewed = await backend.load_map(ref)
    before = renewed.calibration.rows if renewed.calibration is not None else FAN_OUT_BELOW_ROWS
    due = calibrate_now or anew or renewed.map.rows >= _GROWTH * before
    if not due or len(renewed.map) < 2:
        return renewed
    calibration = await calibrated(backend, ref, renewed, thorough=calibrate_now)
    if calibration is not None:
        await backend.save_statistics(ref, {}, calibration)
        renewed = await backend.load_map(ref)
    return renewed


def _summaries(
    grown: list[Partition], sample: Mapping[int, Vector], metric: Metric, partitions: int
) -> dict[int, PartitionStats]:
    """A cluster's own centroid stays first: it decides where its documents go."""
    made: dict[int, PartitionStats] = {}
    for partition in grown:
        rows = sample.get(partition.id)
        if rows is None or not len(rows):
            continue
        stats = partition.stats
        centroids, spread = summarise(rows, metric, count=centroids_each(partitions, partition.key.kind))
        if partition.key.kind == "cluster" and stats.centroids is not None:
            centroids[0] = stats.centroids[0]
        made[partition.id] = replace(stats, centroids=centroids, spread=spread, rows_at_refresh=stats.rows)
    return made


def _trainable(ref: CollectionRef, state: MapState, touched: Sequence[Partition]) -> Partition | None:
    """A catch-all that has gathered enough rows to be cut into clusters."""
    level = cluster_level(ref)
    if level is None:
        return None
    for leaf in touched:
        waits = leaf.key.kind == "rest" and not is_trained(state.map, leaf.parent)
        if waits and leaf.stats.rows >= level.min_rows:
            return leaf
    return None


async def _split_into_clusters(
    backend: Backend, ref: CollectionRef, state: MapState, source: Partition
) -> None:
    level = cluster_level(ref)
    assert level is not None
    drawn = await backend.sample(ref, state.map, [source.id], level.k * TRAINING_ROWS_PER_CLUSTER)
    rows = drawn.get(source.id)
    if rows is None or len(rows) < level.k:
        return  # they were deleted or moved meanwhile
    centroids = await anyio.to_thread.run_sync(find_clusters, rows, level.k, ref.config.metric)
    made = await backend.add_partitions(ref, new_clusters(state.map, source.parent, centroids))
    found = [made.map.child(source.parent, level.key(n)) for n in range(len(centroids))]
    targets = [t for t in found if t is not None and t.stats.centroids is not None]
    theirs = np.stack([t.stats.centroids[0] for t in targets if t.stats.centroids is not None])
    await backend.recluster(
        ref, made.map, source.id, [t.id for t in targets], theirs
    )  # perhaps another writer's
