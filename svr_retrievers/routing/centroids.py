"""The centroid step: which partitions lie close to a query. PURE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from svr_retrievers.model import Metric, Partition, Vector
from svr_retrievers.routing.kmeans import closeness, kmeans, normalise
from svr_retrievers.routing.probe import Depth, Near, Shares
from svr_retrievers.routing.supers import Groups, Positions, half_squares

MOST_CENTROIDS = 33
"""Of one partition: its mean and 32 more, because a partition by field value or month holds many topics."""
_FEW_IN_ALL, _MOST_IN_ALL = 8_192, 40_000
"""Centroids of one map: so many that one product reads them all at once, and at most 60 MB at 384 dimensions."""
PARTITIONS_IN_QUESTION = 128
"""Partitions that are compared in full; beyond them no neighbour is expected."""
_ONE_PRODUCT_CELLS = 3_200_000
"""Cells of a matrix that one product per query reads in half a millisecond."""
_ALL_PAIRS_UP_TO = 512
_LEAST_PASSING = 0.02
_LEAST_GAP = 0.05
"""Of the centroids' own length: closer ones would make a border of any hair's breadth count."""


def centroids_each(partitions: int, kind: str = "field") -> int:
    """How many centroids a partition gets beside so many others: a cluster needs few, being coherent."""
    few = max(_FEW_IN_ALL // max(1, partitions), min(4, _MOST_IN_ALL // max(1, partitions)))
    return max(1, min(5 if kind == "cluster" else MOST_CENTROIDS, few))


class CentroidTable:
    """All centroids of some partitions as one matrix, prepared once per map.

    A partition's first centroid stands for all of it. `known` are the partitions with centroids, `unknown`
    those that every query must probe for want of one. `coherent`: all are clusters. `before` lends what
    does not change much.
    """

    __slots__ = (
        "_groups", "_half", "_log_rows", "_pairs", "_places", "_scale", "_single",
        "coherent",
        "known", "matrix", "metric", "starts", "unknown",
    )  # fmt: skip

    def __init__(
        self, partitions: tuple[Partition, ...], metric: Metric, before: CentroidTable | None = None
    ) -> None:
        self.metric = metric
        self.known = tuple(p for p in partitions if p.stats.centroids is not None and len(p.stats.centroids))
        self.unknown = _to_be_probed(partitions)
        blocks = [p.stats.centroids for p in self.known if p.stats.centroids is not None]
        self.matrix = _prepared(blocks, metric)
        starts = np.zeros(len(blocks), dtype=np.intp)
        np.cumsum([len(b) for b in blocks[:-1]], out=starts[1:])
        self.starts = starts
        self._single = len(self.matrix) == len(self.known)
        self._half = half_squares(self.matrix) if metric is Metric.L2 else None
        rows = (max(p.stats.rows, p.stats.rows_at_refresh, 1) for p in self.known)
        self._log_rows = np.log(np.fromiter(rows, dtype=np.float64, count=len(self.known)))
        self.coherent = all(p.key.kind == "cluster" for p in self.known)
        self._places: dict[int, int] | None = None
        self._prepare(before)

    def _prepare(self, before: CentroidTable | None) -> None:
        few = self.matrix[self.starts[:_ALL_PAIRS_UP_TO]] if self.known else self.matrix
        lengths = half_squares(few)
        self._scale = sqrt(2.0 * float(lengths.mean())) if len(lengths) else 1.0
        self._pairs: Vector | None = None
        self._groups: Groups | None = None
        if self.matrix.size > _ONE_PRODUCT_CELLS:
            grown = before is None or len(self.known) >= 2 * len(before.known)
            leaders = None if before is None or grown else before.leaders
            self._groups = Groups(self.matrix, self.starts, self.metric, leaders)
        if 0 < len(self.known) <= _ALL_PAIRS_UP_TO:
            squares = 2.0 * (lengths[:, None] + lengths[None, :] - few @ few.T)
            self._pairs = self._gaps(np.sqrt(np.maximum(squares, 0.0)))

    @property
    def leaders(self) -> Vector | None:
        """What leads the groups of a table so large that it is searched group by group."""
        return self._groups.leaders if self._groups is not None else None

    def places(self, partitions: tuple[Partition, ...]) -> Positions:
        """Where those of the partitions that have centroids stand in the table."""
        if self._places is None:
            self._places = {p.id: i for i, p in enumerate(self.known)}
        found = [i for p in partitions if (i := self._places.get(p.id)) is not None]
        return np.array(found, dtype=np.intp)

    def near(self, query: Vector, allowed: Positions | None = None) -> Near:
        """Compares the closest of the allowed partitions (None: all) in full."""
        asked = self._asked(query)
        positions, first, best = self._closest(asked, allowed)
        if not len(positions):
            none = np.empty(0, dtype=np.float64)
            return Near(positions, none, none, none)
        return Near(
            positions,
            best.astype(np.float64),
            self._border(positions, first),
            self._log_rows[positions],
        )

    def every(self, query: Vector, allowed: Positions | None = None) -> tuple[Positions, Shares]:
        """All of the allowed partitions, closest first, by their best centroid alone."""
        asked = self._asked(query)
        best = self._closeness(self._products(asked), asked)
        if not self._single and len(best):
            best = np.maximum.reduceat(best, self.starts)
        positions = np.arange(len(self.known), dtype=np.intp) if allowed is None else allowed
        order = np.argsort(-best[positions], kind="stable")
        return positions[order], best[positions[order]].astype(np.float64)

    def _asked(self, query: Vector) -> Vector:
        length = sqrt(float(query @ query)) if self.metric is Metric.COSINE else 1.0
        return query if length in (0.0, 1.0) else np.asarray(query / np.float32(length), dtype=np.float32)

    def _closest(self, query: Vector, allowed: Positions | None) -> tuple[Positions, Vector, Vector]:
        """Positions in question, with the closeness of the first and of the best centroid."""
        if self._groups is not None:
            return self._closest_in_groups(self._groups, query, allowed)
        scores = self._closeness(self._products(query), query)
        first = scores if self._single else scores[self.starts]
        best = scores if self._single else np.maximum.reduceat(scores, self.starts) if len(scores) else scores
        if allowed is not None:
            first, best = first[allowed], best[allowed]
        if len(best) <= PARTITIONS_IN_QUESTION:
            positions = np.arange(len(best), dtype=np.intp) if allowed is None else allowed
            return positions, first, best
        kept = np.argpartition(best, -PARTITIONS_IN_QUESTION)[-PARTITIONS_IN_QUESTION:]
        return kept if allowed is None else allowed[kept], first[kept], best[kept]

    def _closest_in_groups(
        self, groups: Groups, query: Vector, allowed: Positions | None
    ) -> tuple[Positions, Vector, Vector]:
        mask = None
        if allowed is not None:
            mask = np.zeros(len(self.known), dtype=np.bool_)
            mask[allowed] = True
        positions, products = groups.closest(query, PARTITIONS_IN_QUESTION, mask)
        if len(positions) > PARTITIONS_IN_QUESTION:
            kept = np.argpartition(products, -PARTITIONS_IN_QUESTION)[-PARTITIONS_IN_QUESTION:]
            positions, products = positions[kept], products[kept]
        first = self._closeness(products, query)
        return positions, first, first if self._single else self._best(positions, query)

    def _best(self, positions: Positions, query: Vector) -> Vector:
        """The closeness of the best centroid of each of a few partitions."""
        ends = np.append(self.starts, len(self.matrix))
        counts = ends[positions + 1] - ends[positions]
        offsets = np.concatenate(([0], np.cumsum(counts)[:-1]))
        rows = np.arange(counts.sum()) + np.repeat(self.starts[positions] - offsets, counts)
        products = self.matrix[rows] @ query
        if self._half is not None:
            products -= self._half[rows]
        return self._closeness(np.maximum.reduceat(products, offsets), query)

    def _products(self, query: Vector) -> Vector:
        if not self.known:
            return np.empty(0, dtype=np.float32)
        products = self.matrix @ query
        if self._half is not None:
            products -= self._half
        return products

    def _closeness(self, products: Vector, query: Vector) -> Vector:
        if self.metric is not Metric.L2:
            return products
        squares = float(query @ query) - 2.0 * products
        return np.asarray(-np.sqrt(np.maximum(squares, 0.0)), dtype=np.float32)

    def _border(self, positions: Positions, first: Vector) -> Shares:
        """How far the query lies beyond the plane midway to each first centroid, from the closest one's side."""
        top = int(first.argmax())
        if self._pairs is not None:
            gaps = self._pairs[positions[top]][positions]
        else:
            gaps = self._gaps(self._apart(self.starts[positions], top))
        behind = first.astype(np.float64)
        behind = 0.5 * (behind[top] ** 2 - behind**2) if self.metric is Metric.L2 else behind - behind[top]
        border: Shares = behind / gaps
        return border

    def _apart(self, rows: Positions, top: int) -> Vector:
        """The distance of these rows of the matrix from one of them."""
        near = self.matrix[rows]
        squares = -2.0 * (near @ near[top])
        if self.metric is Metric.COSINE:
            squares += 2.0
        else:
            half = half_squares(near)
            squares += 2.0 * (half + half[top])
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)), dtype=np.float32)

    def _gaps(self, distances: Vector) -> Vector:
        return np.maximum(distances, _LEAST_GAP * self._scale or 1.0)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Partitions of a table, best first: by the share of the neighbours expected in each, where calibrated.

    `home` is the place in that order of the cluster that a document with the query's vector would be stored in.
    """

    table: CentroidTable
    positions: Positions
    best: Shares
    shares: Shares | None
    unknown: tuple[Partition, ...]
    home: int | None = None

    def take(self, probes: int, *, always: int | None = None) -> list[tuple[Partition, str]]:
        """The unknown, the `probes` best and the one at the place `always`; never none while there is any."""
        chosen = [(p, "no centroid yet") for p in self.unknown]
        places = [*range(min(probes, len(self.positions)))]
        if always is not None and always >= probes:
            places.append(always)
        for at in places:
            reason = f"centroid closeness {self.best[at]:.3f}"
            if self.shares is not None and at < len(self.shares):
                reason += f", expected share {self.shares[at]:.2f}"
            chosen.append((self.table.known[self.positions[at]], reason))
        return chosen

    def probes_for(self, gain: float, cap: int | None) -> int:
        """How many are worth a probe: at least one, if there is any."""
        if self.shares is None or not len(self.shares):
            return 0
        if gain <= 0.0:
            return len(self.table.known)
        worth = int((self.shares >= gain).sum())
        return max(1, worth if cap is None else min(worth, cap))

    def passing(self, share: Callable[[Partition], float]) -> float:
        """The share of the rows near the query that pass a filter, given the share in each partition."""
        if self.shares is None or not len(self.shares):
            return 1.0
        known = [self.table.known[i] for i in self.positions[: len(self.shares)]]
        return float(self.shares @ np.array([share(p) for p in known]))

    def covered(self, probes: int) -> float | None:
        """The share of the neighbours expected in the first `probes`."""
        return None if self.shares is None else float(self.shares[:probes].sum())


def rank(
    table: CentroidTable,
    query: Vector,
    depth: Depth | None,
    allowed: tuple[Partition, ...] | None = None,
    passing: Callable[[Partition], float] | None = None,
    *,
    everything: bool = False,
) -> Ranking:
    """Ranks the allowed partitions (None: all); with `everything` also those beyond the ones in question.

    `passing` gives the share of a partition's rows that pass a filter; they count instead of all its rows.
    """
    places = None if allowed is None else table.places(allowed)
    unknown = table.unknown
    if allowed is not None:
        admitted = {p.id for p in allowed}
        unknown = tuple(p for p in unknown if p.id in admitted)
    if depth is None:
        positions, best = table.every(query, places)
        return Ranking(table, positions, best, None, unknown)
    near = table.near(query, places)
    if passing is not None:
        near = Near(near.positions, near.best, near.border, _log_passing(table, near, passing))
    shares = depth.expected(near) if len(near.positions) else near.best
    order = np.argsort(-shares, kind="stable")
    positions, best, shares = near.positions[order], near.best[order], shares[order]
    home = None
    if table.coherent and passing is None and len(order):
        home = int((order == near.border.argmax()).argmax())
    if everything:
        farther, scores = table.every(query, places)
        beyond = ~np.isin(farther, positions)
        positions = np.concatenate((positions, farther[beyond]))
        best = np.concatenate((best, scores[beyond]))
    return Ranking(table, positions, best, shares, unknown, home)


def _log_passing(table: CentroidTable, near: Near, passing: Callable[[Partition], float]) -> Shares:
    """Of an estimate of none a little stays: it is an estimate."""
    partitions = (table.known[i] for i in near.positions)
    return np.array([log(max(passing(p) * p.stats.rows, _LEAST_PASSING)) for p in partitions])


def _to_be_probed(partitions: tuple[Partition, ...]) -> tuple[Partition, ...]:
    """Those without a centroid, but for a catch-all that has been emptied into clusters: no row comes there again.

    Another that is empty may have got its first rows since the map was loaded.
    """
    clustered = {p.parent for p in partitions if p.key.kind == "cluster"}
    bare = (p for p in partitions if p.stats.centroids is None or not len(p.stats.centroids))
    return tuple(p for p in bare if p.stats.rows or p.key.kind != "rest" or p.parent not in clustered)


def _prepared(blocks: list[Vector], metric: Metric) -> Vector:
    """The centroids as one matrix, of unit length under cosine: the array they lie in, where they lie in one."""
    if not blocks:
        return np.empty((0, 0), dtype=np.float32)
    whole = _as_one(blocks)
    if metric is not Metric.COSINE:
        return whole
    lengths = np.sqrt(np.einsum("ij,ij->i", whole, whole))
    return whole if bool(np.all(np.abs(lengths - 1.0) < 1e-3)) else normalise(whole)


def _as_one(blocks: list[Vector]) -> Vector:
    base = blocks[0].base
    if (
        isinstance(base, np.ndarray)
        and base.ndim == 2
        and base.dtype == np.float32
        and base.flags.c_contiguous
    ):
        width = base.strides[0]
        start = at = blocks[0].ctypes.data - base.ctypes.data
        for block in blocks:
            if block.base is not base or block.ctypes.data - base.ctypes.data != at:
                return np.concatenate(blocks)
            at += len(block) * width
        return base[start // width : at // width]
    return np.concatenate(blocks)


def summarise(sample: Vector, metric: Metric, *, count: int = MOST_CENTROIDS) -> tuple[Vector, Vector]:
    """Centroids (c, d) and their spread (c,) for a sample of a partition's rows; the first is its mean.

    One of each 64 sampled rows at most: a centroid of fewer says little.
    """
    mean = sample.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    mean = normalise(mean) if metric is Metric.COSINE else mean
    more = min(count - 1, len(sample) // 64)
    centroids = np.concatenate((mean, kmeans(sample, more, metric, iterations=10))) if more > 1 else mean
    near = closeness(sample, centroids, metric)
    owner = near.argmax(axis=1)
    distance = 1.0 - near.max(axis=1) if metric is Metric.COSINE else -near.max(axis=1)
    counts = np.maximum(np.bincount(owner, minlength=len(centroids)), 1)
    spread = np.bincount(owner, weights=distance, minlength=len(centroids)) / counts
    return centroids, spread.astype(np.float32)


__all__ = ["PARTITIONS_IN_QUESTION", "CentroidTable", "Ranking", "centroids_each", "rank", "summarise"]
