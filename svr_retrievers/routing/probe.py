"""How many partitions a query must probe for a recall target. PURE.

A query's closeness to each partition's best centroid, passed through a softmax, estimates where its
neighbours lie. How much of that mass has to be covered for a given recall is not guessed: it is
calibrated on a sample of the collection's own vectors, whose neighbours are known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from svr_retrievers.model import Metric, Vector
from svr_retrievers.routing.kmeans import closeness

TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
_MASSES = 1.0 / (1.0 + np.exp(-np.linspace(-3.0, 14.0, 120)))
_NEIGHBOURS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a sample of the collection taught: `masses[target]` of softmax mass at `temperature`
    gives a mean recall of `target`. `rows` is the collection's size when it was measured.
    """

    temperature: float
    masses: Mapping[float, float]
    rows: int

    def mass_for(self, target: float) -> float:
        """The mass to cover: that of the smallest calibrated target not below; 1 where none is."""
        return min((m for t, m in self.masses.items() if t >= target - 1e-9), default=1.0)

    def recall_for(self, mass: float) -> float | None:
        """The largest calibrated recall that this much covered mass gives; None below the smallest."""
        return max((t for t, m in self.masses.items() if m <= mass + 1e-9), default=None)


def softmax(scores: Vector, temperature: float) -> npt.NDArray[np.float64]:
    """Rows that sum to 1, shape of `scores`."""
    shifted = (scores - scores.max(axis=-1, keepdims=True)) / temperature
    weights = np.exp(shifted.astype(np.float64))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def partition_scores(
    queries: Vector, centroids: Vector, owner: npt.NDArray[np.intp], partitions: int, metric: Metric
) -> Vector:
    """Shape (q, partitions): each partition's best centroid. `owner` (c,) is sorted and names each."""
    best = np.full((len(queries), partitions), -np.inf, dtype=np.float32)
    scores = closeness(queries, centroids, metric)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    best[:, owner[starts]] = np.maximum.reduceat(scores, starts, axis=1)
    return best


def calibrate(
    sample: Vector,
    labels: npt.NDArray[np.intp],
    centroids: Vector,
    owner: npt.NDArray[np.intp],
    metric: Metric,
    *,
    rows: int,
    seed: int = 0,
) -> Calibration | None:
    """Measures on `sample` (n, d), whose row i lies in partition `labels[i]`.

    A quarter of the queries are blends of two rows, since real questions also fall between topics.
    The sample is thinner than the collection, so its neighbours lie further apart and the result errs
    on the side of more probes. None where the sample is too small to say anything (under 200 rows).
    """
    if len(sample) < 200:
        return None
    rng = np.random.default_rng(seed)
    queries, own = _held_out(sample, rng)
    partitions = int(max(labels.max(), owner.max())) + 1
    scores = partition_scores(queries, centroids, owner, partitions, metric)
    truth = _neighbour_shares(queries, own, sample, labels, partitions, metric)
    spread = float(np.std(scores[np.isfinite(scores)])) or 1.0
    tried = [_measure(scores, truth, spread * f) for f in (0.02, 0.05, 0.1, 0.2, 0.4)]
    temperature, masses, _ = min(tried, key=lambda t: t[2])
    return Calibration(temperature, masses, rows)


def _held_out(sample: Vector, rng: np.random.Generator) -> tuple[Vector, npt.NDArray[np.intp]]:
    count = min(400, len(sample) // 2)
    own = rng.permutation(len(sample))[:count]
    queries = sample[own].copy()
    blended = count // 4
    other = rng.integers(0, len(sample), blended)
    queries[:blended] = (queries[:blended] + sample[other]) / 2.0
    own[:blended] = -1
    return queries, own


def _neighbour_shares(
    queries: Vector,
    own: npt.NDArray[np.intp],
    sample: Vector,
    labels: npt.NDArray[np.intp],
    partitions: int,
    metric: Metric,
) -> npt.NDArray[np.float64]:
    near = closeness(queries, sample, metric)
    itself = np.flatnonzero(own >= 0)
    near[itself, own[itself]] = -np.inf
    k = min(_NEIGHBOURS, len(sample) - 1)
    top = np.argpartition(near, -k, axis=1)[:, -k:]
    shares = np.zeros((len(queries), partitions))
    np.add.at(shares, (np.arange(len(queries))[:, None], labels[top]), 1.0 / k)
    return shares


def _measure(
    scores: Vector, truth: npt.NDArray[np.float64], temperature: float
) -> tuple[float, dict[float, float], float]:
    """The mass needed for each target at this temperature, and the mean probes at the default target."""
    order = np.argsort(-scores, axis=1)
    covered = np.cumsum(np.take_along_axis(softmax(scores, temperature), order, axis=1), axis=1)
    recall = np.cumsum(np.take_along_axis(truth, order, axis=1), axis=1)
    masses: dict[float, float] = {}
    probes_at_default = float(scores.shape[1])
    for mass in _MASSES:
        needed = np.minimum((covered < mass).sum(axis=1), scores.shape[1] - 1)
        reached = float(recall[np.arange(len(recall)), needed].mean())
        for target in TARGETS:
            if reached >= target and target not in masses:
                masses[target] = float(mass)
                if target == 0.95:
                    probes_at_default = float((needed + 1).mean())
    return temperature, masses, probes_at_default
