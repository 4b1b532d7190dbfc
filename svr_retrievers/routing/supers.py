"""Two-level search over the partitions' first centroids: groups of them first, then their members. PURE.

A product with every centroid reads all of them from memory for each query: 12 ms for 100,000. Here the
centroids lie group by group, and only the groups closest to the query are read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from svr_retrievers.model import Metric, Vector
from svr_retrievers.routing.kmeans import assign, kmeans

GROUPS_FROM = 4096
"""Below, one product over all of them takes a few tenths of a millisecond."""
_ROWS_PER_GROUP = 8
_ITERATIONS = 6
_BLOCK = 1024

Positions = npt.NDArray[np.intp]


class Groups:
    """The rows `firsts` of a matrix of centroids sorted into groups; of unit length under cosine.

    Groups may be taken over from an earlier table: which centroids lead them matters little, so they are
    not found anew for each generation of the map.
    """

    __slots__ = ("_bounds", "_metric", "_offset", "_order", "_rows", "leaders")

    def __init__(
        self, matrix: Vector, firsts: Positions, metric: Metric, leaders: Vector | None = None
    ) -> None:
        self._metric = metric
        self.leaders = leaders if leaders is not None else _leaders(matrix, firsts, metric)
        owner = _owners(matrix, firsts, self.leaders, metric)
        self._order = np.argsort(owner, kind="stable").astype(np.intp)
        self._bounds = np.searchsorted(owner[self._order], np.arange(len(self.leaders) + 1)).tolist()
        self._rows = np.empty((len(firsts), matrix.shape[1]), dtype=np.float32)
        np.take(matrix, firsts[self._order], axis=0, out=self._rows, mode="clip")
        self._offset = half_squares(self._rows) if metric is Metric.L2 else None

    @property
    def probed(self) -> int:
        """The groups looked into: measured to lose less than 0.5 % of the closest eight partitions."""
        return min(len(self.leaders), max(24, len(self.leaders) // 20))

    def closest(
        self, query: Vector, want: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Positions, Vector]:
        """Positions of at least `want` of the allowed centroids, if there are as many, with their products."""
        ranked = self._ranked(query)
        groups = self.probed
        positions, products = self._look(query, ranked[:groups], allowed)
        while len(positions) < want and groups < len(ranked):
            groups = min(len(ranked), 4 * groups)
            positions, products = self._look(query, ranked[:groups], allowed)
        return positions, products

    def _ranked(self, query: Vector) -> list[int]:
        if len(self.leaders) == 1:
            return [0]
        scores = self.leaders @ query
        if self._metric is Metric.L2:
            scores = scores - half_squares(self.leaders)
        ranked: list[int] = np.argsort(-scores).tolist()
        return ranked

    def _look(
        self, query: Vector, groups: list[int], allowed: npt.NDArray[np.bool_] | None
    ) -> tuple[Positions, Vector]:
        spans = [slice(self._bounds[g], self._bounds[g + 1]) for g in groups]
        positions = np.concatenate([self._order[s] for s in spans])
        products = np.concatenate([self._rows[s] @ query for s in spans])
        if self._offset is not None:
            products -= np.concatenate([self._offset[s] for s in spans])
        if allowed is None:
            return positions, products
        keep = allowed[positions]
        return positions[keep], products[keep]


def half_squares(rows: Vector) -> Vector:
    """Half the squared length of each row, shape (n,)."""
    return np.asarray(0.5 * np.einsum("ij,ij->i", rows, rows), dtype=np.float32)


def _leaders(matrix: Vector, firsts: Positions, metric: Metric) -> Vector:
    count = round(2.5 * len(firsts) ** 0.5) if len(firsts) >= GROUPS_FROM else 1
    if count == 1:
        return matrix[firsts[:1]]
    step = max(1, len(firsts) // (count * _ROWS_PER_GROUP))
    inner = Metric.COSINE if metric is Metric.COSINE else Metric.L2
    return kmeans(matrix[firsts[::step]], count, inner, iterations=_ITERATIONS)


def _owners(matrix: Vector, firsts: Positions, leaders: Vector, metric: Metric) -> Positions:
    """The group of each; a block at a time, since a client holds many maps of many partitions."""
    inner = Metric.COSINE if metric is Metric.COSINE else Metric.L2
    owner = np.zeros(len(firsts), dtype=np.intp)
    for start in range(0, len(firsts) if len(leaders) > 1 else 0, _BLOCK):
        block = slice(start, start + _BLOCK)
        owner[block] = assign(matrix[firsts[block]], leaders, inner)
    return owner
