"""The centroid step: which partitions lie close to a query. PURE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svr_retrievers.model import Metric, Partition, Vector
from svr_retrievers.routing.kmeans import closeness, kmeans, normalise
from svr_retrievers.routing.probe import Calibration, softmax

CENTROIDS_PER_PARTITION = 4
"""Several, because a partition by field value often holds more than one topic."""


class CentroidTable:
    """All centroids of some partitions as one matrix, prepared once per map.

    `known` are the partitions with centroids, `unknown` those without, which every query must probe.
    """

    __slots__ = ("known", "matrix", "starts", "unknown")

    def __init__(self, partitions: tuple[Partition, ...], metric: Metric) -> None:
        self.known = tuple(p for p in partitions if p.stats.centroids is not None and len(p.stats.centroids))
        self.unknown = tuple(p for p in partitions if p.stats.centroids is None or not len(p.stats.centroids))
        blocks = [p.stats.centroids for p in self.known if p.stats.centroids is not None]
        matrix = np.concatenate(blocks) if blocks else np.empty((0, 0), dtype=np.float32)
        self.matrix = normalise(matrix) if metric is Metric.COSINE and len(matrix) else matrix
        starts = np.cumsum([0, *(len(b) for b in blocks)])[:-1]
        self.starts = starts.astype(np.intp)

    def scores(self, query: Vector, metric: Metric) -> Vector:
        """Shape (len(known),): the best closeness of each known partition."""
        if not self.known:
            return np.empty(0, dtype=np.float32)
        return np.maximum.reduceat(closeness(query[None, :], self.matrix, metric)[0], self.starts)

    @property
    def cells(self) -> int:
        """Multiplications of one query: decides whether it runs on the loop or in a thread."""
        return int(self.matrix.size)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Partitions by closeness, closest first, with their `scores`; `unknown` have no centroid yet."""

    partitions: tuple[Partition, ...]
    scores: Vector
    unknown: tuple[Partition, ...]

    def take(self, probes: int) -> list[tuple[Partition, str]]:
        """The unknown and the `probes` closest; never none while there is any."""
        chosen = [(p, "no centroid yet") for p in self.unknown]
        near = zip(self.partitions[:probes], self.scores[:probes], strict=True)
        return chosen + [(p, f"centroid closeness {score:.3f}") for p, score in near]

    def mass(self, probes: int, calibration: Calibration) -> float:
        if probes >= len(self.partitions):
            return 1.0
        return float(softmax(self.scores, calibration.temperature)[:probes].sum())

    def probes_for(self, target: float, calibration: Calibration) -> int:
        """The fewest closest partitions that cover the calibrated mass for `target`; at least one."""
        if not len(self.scores):
            return 0
        covered = np.cumsum(softmax(self.scores, calibration.temperature))
        probes = int(np.searchsorted(covered, calibration.mass_for(target) - 1e-12)) + 1
        return min(probes, len(self.scores))


def rank(table: CentroidTable, scores: Vector, allowed: frozenset[int] | None) -> Ranking:
    """The allowed partitions (None: all) of the table in the order of their scores."""
    order = np.argsort(-scores, kind="stable")
    if allowed is not None:
        keep = np.fromiter((table.known[i].id in allowed for i in order), dtype=bool, count=len(order))
        order = order[keep]
    unknown = tuple(p for p in table.unknown if allowed is None or p.id in allowed)
    return Ranking(tuple(table.known[i] for i in order), scores[order], unknown)


def summarise(
    sample: Vector, metric: Metric, *, count: int = CENTROIDS_PER_PARTITION
) -> tuple[Vector, Vector]:
    """Centroids (c, d) and their spread (c,) for a sample of a partition's rows."""
    centroids = kmeans(sample, count, metric, iterations=10)
    near = closeness(sample, centroids, metric)
    owner = near.argmax(axis=1)
    distance = 1.0 - near.max(axis=1) if metric is Metric.COSINE else -near.max(axis=1)
    counts = np.maximum(np.bincount(owner, minlength=len(centroids)), 1)
    spread = np.bincount(owner, weights=distance, minlength=len(centroids)) / counts
    return centroids, spread.astype(np.float32)
