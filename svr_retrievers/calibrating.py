"""Measures on a collection's own vectors what its recall targets take, and what its indexes lose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import anyio.to_thread
import numpy as np

from svr_retrievers.backends.protocol import Backend, CollectionRef, MapState, Query, StaleMap
from svr_retrievers.filters import ALL
from svr_retrievers.model import DEFAULT_NAMESPACE, Partition, Vector
from svr_retrievers.routing.calibrate import (
    LEAST_ROWS,
    NEIGHBOURS,
    Ints,
    Neighbours,
    Questions,
    fitted,
    questions,
)
from svr_retrievers.routing.centroids import CentroidTable
from svr_retrievers.routing.probe import Calibration

QUESTIONS = 1_250
_ALL_ROWS_BYTES = 512 * 2**20
"""A refresh looks at every row up to this much, and at a sample of it beyond."""
_SOME_ROWS = 12_000
"""Rows sampled when a write makes the calibration due: under a second of work."""
_ASKED_PARTITIONS = 256
"""Questions come from so many partitions at most: each costs a round trip."""
_BLOCK_ROWS = 8_192
_EF_SEARCHES = (20, 30, 40, 80, 160, 320)
"""Not less than the engine's own default: below it a graph answers unseen questions worse than any sample says."""
_INDEX_QUESTIONS, _INDEX_PARTITIONS = 120, 8
_JUDGED_ROWS = 100


async def calibrated(
    backend: Backend, ref: CollectionRef, state: MapState, *, thorough: bool
) -> Calibration | None:
    """None where there is too little to say anything.

    `thorough` looks at all rows where they fit and asks the indexes too; otherwise a sample has to do,
    and what was measured of the indexes before stays.
    """
    leaves = tuple(p for p in state.map.leaves if p.stats.rows and p.stats.centroids is not None)
    rows = sum(p.stats.rows for p in leaves)
    if len(leaves) < 2 or rows < LEAST_ROWS:
        return None
    table = CentroidTable(leaves, ref.config.metric)
    asked = await _questions(backend, ref, state, leaves)
    if asked is None:
        return None
    most = _ALL_ROWS_BYTES // (4 * ref.config.dimensions) if thorough else _SOME_ROWS
    sampled = min(1.0, most / rows)
    found = Neighbours(asked, ref.config.metric, sampled)
    async for block, places in _rows(backend, ref, state, leaves, sampled):
        await anyio.to_thread.run_sync(found.look, block, places)
    depths = await anyio.to_thread.run_sync(fitted, table, asked, found.places())
    before = state.calibration.index if state.calibration is not None else {}
    index = await _index_recall(backend, ref, state, table, asked, before) if thorough else before
    return Calibration(depths, rows, _closeness(table, asked), index)


async def _questions(
    backend: Backend, ref: CollectionRef, state: MapState, leaves: Sequence[Partition]
) -> Questions | None:
    """Drawn from each partition in proportion to its size."""
    rng = np.random.default_rng(0)
    rows = np.array([p.stats.rows for p in leaves], dtype=np.float64)
    wanted = rng.multinomial(QUESTIONS, rows / rows.sum())
    if np.count_nonzero(wanted) > _ASKED_PARTITIONS:
        few = rng.choice(len(leaves), _ASKED_PARTITIONS, replace=False, p=rows / rows.sum())
        wanted = np.zeros(len(leaves), dtype=np.int64)
        wanted[few] = max(1, QUESTIONS // _ASKED_PARTITIONS)
    asking = [int(i) for i in np.flatnonzero(wanted)]
    drawn = await backend.sample(ref, state.map, [leaves[i].id for i in asking], int(wanted.max()))
    taken = [drawn[leaves[i].id][: wanted[i]] for i in asking if leaves[i].id in drawn]
    found = np.concatenate(taken) if taken else np.empty((0, ref.config.dimensions), np.float32)
    if len(found) < min(LEAST_ROWS, QUESTIONS) // 2:
        return None
    return questions(found, QUESTIONS, ref.config.metric)


async def _rows(
    backend: Backend, ref: CollectionRef, state: MapState, leaves: Sequence[Partition], sampled: float
) -> AsyncIterator[tuple[Vector, Ints]]:
    """All rows, or a share of each partition's, in blocks; partitions of like size are asked for together."""
    order = sorted(range(len(leaves)), key=lambda i: leaves[i].stats.rows)
    group: list[int] = []
    for at, place in enumerate(order):
        group.append(place)
        most = leaves[place].stats.rows * sampled
        full = len(group) * most >= _BLOCK_ROWS
        if not full and at + 1 < len(order):
            continue
        each = round(most) + 1 if sampled < 1.0 else round(1.2 * most) + 100
        drawn = await backend.sample(ref, state.map, [leaves[i].id for i in group], each)
        for block in _blocks(leaves, group, drawn, sampled):
            yield block
        group = []


def _blocks(
    leaves: Sequence[Partition], group: Sequence[int], drawn: dict[int, Vector], sampled: float
) -> list[tuple[Vector, Ints]]:
    rows, places = [], []
    for i in group:
        taken = drawn.pop(leaves[i].id, None)
        if taken is not None:
            taken = taken if sampled >= 1.0 else taken[: max(1, round(sampled * leaves[i].stats.rows))]
            rows.append(taken)
            places.append(np.full(len(taken), i, dtype=np.int64))
    if not rows:
        return []
    joined, owners = (np.concatenate(rows), np.concatenate(places)) if len(rows) > 1 else (rows[0], places[0])
    starts = range(0, len(joined), _BLOCK_ROWS)
    return [(joined[s : s + _BLOCK_ROWS], owners[s : s + _BLOCK_ROWS]) for s in starts]


def _closeness(table: CentroidTable, asked: Questions) -> float:
    """How close the drawn rows lie to their nearest centroid, in the mean."""
    return float(np.mean([table.near(v).best.max() for v in asked.vectors[asked.drawn][:400]]))


async def _index_recall(
    backend: Backend,
    ref: CollectionRef,
    state: MapState,
    table: CentroidTable,
    asked: Questions,
    before: Mapping[int, float],
) -> Mapping[int, float]:
    """The share of the closest rows of a partition that its index finds, for each ef_search.

    Measured on a few of the largest indexed partitions, half with questions between topics: a graph finds the
    way to a row that is part of it more easily than to anything else. A partition without an index loses
    nothing, so the loss counts for the share of the rows that lie in indexed ones. When the map moves on
    meanwhile, what was known `before` stays.
    """
    indexed = sorted((p for p in table.known if p.stats.indexed), key=lambda p: -p.stats.rows)
    if ref.config.index.kind != "hnsw" or not indexed:
        return {}
    share = sum(p.stats.rows for p in indexed) / max(1, sum(p.stats.rows for p in table.known))
    homes = {p.id for p in indexed[:_INDEX_PARTITIONS]}
    pairs = [
        pair
        for vectors in (asked.vectors[asked.drawn], asked.vectors[~asked.drawn])
        for pair in _at_home(table, vectors, homes)[: _INDEX_QUESTIONS // 2]
    ]
    try:
        found = [await _found(backend, ref, state, vector, home) for vector, home in pairs]
    except StaleMap:
        return before
    told = [f for f in found if f is not None]
    if not told:
        return {}
    mean = np.mean(told, axis=0)
    return _rising({ef: 1.0 - share * (1.0 - float(m)) for ef, m in zip(_EF_SEARCHES, mean, strict=True)})


async def _found(
    backend: Backend, ref: CollectionRef, state: MapState, vector: Vector, home: int
) -> list[float] | None:
    """What the index finds of the truth at each ef_search; None where the partition holds too little."""
    truth = await _ids(backend, ref, state, vector, home, None)
    if len(truth) <= NEIGHBOURS:
        return None
    return [
        len(await _ids(backend, ref, state, vector, home, ef) & truth) / len(truth) for ef in _EF_SEARCHES
    ]


def _rising(found: dict[int, float]) -> dict[int, float]:
    """A wider search never finds less; where a few questions say so it is chance."""
    best = 0.0
    for ef in sorted(found):
        best = max(best, found[ef])
        found[ef] = best
    return found


def _at_home(table: CentroidTable, vectors: Vector, homes: AbstractSet[int]) -> list[tuple[Vector, int]]:
    """The vectors whose closest partition is one of these, with its id."""
    near = ((vector, table.near(vector)) for vector in vectors)
    closest = ((vector, table.known[n.positions[n.best.argmax()]].id) for vector, n in near)
    return [(vector, home) for vector, home in closest if home in homes]


async def _ids(
    backend: Backend, ref: CollectionRef, state: MapState, vector: Vector, home: int, ef_search: int | None
) -> set[str]:
    """What lies closest in one partition: exactly, or as its index says. The row asked with is among it."""
    query = Query(
        vector, NEIGHBOURS + 1, DEFAULT_NAMESPACE, ALL, (home,), exact=ef_search is None, ef_search=ef_search
    )
    page = await backend.search(ref, state.map, query)
    return {candidate.id for candidate in page.candidates}


def drifted(calibration: Calibration, table: CentroidTable, fresh: Vector) -> bool:
    """Whether fresh rows lie elsewhere than those the calibration was measured on.

    They do when their mean closeness to the nearest centroid is lower by a quarter of the way to the
    closeness of rows at random; a hundred are enough to tell.
    """
    if calibration.closeness is None or len(fresh) < LEAST_ROWS or not table.known:
        return False
    step = max(1, len(fresh) // _JUDGED_ROWS)
    near = [table.near(v) for v in fresh[::step]]
    mine = float(np.mean([n.best.max() for n in near]))
    typical = float(np.mean([np.median(n.best) for n in near]))
    return mine < calibration.closeness - 0.25 * max(calibration.closeness - typical, 1e-9)


__all__ = ["calibrated", "drifted"]
