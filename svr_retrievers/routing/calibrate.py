"""Fits the probing rule on questions whose neighbours are known exactly. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from svr_retrievers.model import Metric, Vector
from svr_retrievers.routing.centroids import CentroidTable
from svr_retrievers.routing.kmeans import normalise
from svr_retrievers.routing.probe import MOST_PROBES, TARGETS, Depth, Near, Shares

NEIGHBOURS = 10
DEPTHS = (1.0, 0.1, 0.01, 0.001)
"""Shares of rows that pass a filter for which the rule is fitted."""
LEAST_ROWS = 200
"""A smaller sample says nothing."""
_BETWEEN = 0.12
"""Weight of the questions between two topics among all: asked more rarely than they are drawn."""
_GAINS = np.exp(np.linspace(np.log(0.5), np.log(1e-6), 240))
_STEPS = 40
_RIDGE = 1e-3
_CURVE = 12

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Questions:
    """Vectors (q, d) to ask, each with its weight; `drawn` marks those that are rows of the collection."""

    vectors: Vector
    weights: Shares
    drawn: npt.NDArray[np.bool_]


def questions(rows: Vector, most: int, metric: Metric, *, seed: int = 0) -> Questions:
    """Up to `most` of the rows, and for each four of them one blend of two, as far apart as they come."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(len(rows))[: max(1, most * 4 // 5)]
    one, other = rng.integers(0, len(rows), (2, max(1, len(own) // 4)))
    unit = normalise(rows) if metric is Metric.COSINE else rows
    vectors = np.concatenate((unit[own], (unit[one] + unit[other]) / np.float32(2.0)))
    weights = np.full(len(vectors), (1.0 - _BETWEEN) / len(own))
    weights[len(own) :] = _BETWEEN / len(one)
    return Questions(vectors, weights, np.arange(len(vectors)) < len(own))


class Neighbours:
    """Collects the closest rows of each question while the rows pass by in blocks.

    The neighbours under a filter that passes a share of the rows are those among a random subset of that
    share. Where only a sample of the rows passes by, the few closest of the sample stand for the ten
    closest of all, since ten rows of all are that much fewer in the sample.
    """

    def __init__(
        self, asked: Questions, metric: Metric, sampled: float = 1.0, depths: Sequence[float] = DEPTHS
    ) -> None:
        self.asked = asked
        self._metric = metric
        self._rng = np.random.default_rng(1)
        self._depths: dict[float, _Depth] = {}
        for share in depths:
            kept = min(1.0, share / sampled)
            count = max(1, round(NEIGHBOURS * min(1.0, sampled / share)))
            self._depths[share] = _Depth(kept, count, len(asked.vectors))

    def look(self, rows: Vector, places: Ints) -> None:
        """Takes note of a block of rows, each with the place of its partition in the table."""
        scores = self._scores(rows)
        draw = self._rng.random(len(rows))
        for depth in self._depths.values():
            taken = np.flatnonzero(draw < depth.kept) if depth.kept < 1.0 else None
            if taken is None:
                depth.note(scores, places)
            elif len(taken):
                depth.note(scores[:, taken], places[taken])

    def _scores(self, rows: Vector) -> Vector:
        asked = self.asked.vectors
        if self._metric is Metric.COSINE:
            rows = normalise(rows)
        products: Vector = asked @ rows.T
        if self._metric is Metric.L2:
            products -= 0.5 * np.einsum("ij,ij->i", rows, rows)[None, :]
        return products

    def places(self) -> dict[float, Ints]:
        """For each share the partitions of the neighbours, shape (q, k); -1 where there were fewer."""
        itself = self._itself()
        return {share: depth.settled(itself) for share, depth in self._depths.items()}

    def _itself(self) -> Vector:
        """The score a drawn row has with itself, by which it is told from its neighbours; inf for blends."""
        squares = np.einsum("qd,qd->q", self.asked.vectors, self.asked.vectors)
        own = 0.5 * squares if self._metric is Metric.L2 else squares
        return np.where(self.asked.drawn, own, np.inf).astype(np.float32)


class _Depth:
    """The best of one random subset of the rows so far; one more than wanted, for the question itself."""

    def __init__(self, kept: float, count: int, questions: int) -> None:
        self.kept = kept
        self._count = count
        self._best = np.full((questions, count + 1), -np.inf, dtype=np.float32)
        self._where = np.full((questions, count + 1), -1, dtype=np.int64)

    def note(self, scores: Vector, places: Ints) -> None:
        better = scores > self._best.min(axis=1)[:, None]
        for question in np.flatnonzero(better.any(axis=1)):
            new = better[question]
            merged = np.concatenate((self._best[question], scores[question, new]))
            where = np.concatenate((self._where[question], places[new]))
            top = np.argpartition(-merged, self._count)[: self._count + 1]
            self._best[question], self._where[question] = merged[top], where[top]

    def settled(self, itself: Vector) -> Ints:
        order = np.argsort(-self._best, axis=1)
        best = np.take_along_axis(self._best, order, axis=1)
        where = np.take_along_axis(self._where, order, axis=1)
        drawn = np.isfinite(itself)
        own = np.where(drawn, itself, 0.0)[:, None]
        near = (np.abs(best - own) <= 1e-5 * np.maximum(1.0, np.abs(own))) & drawn[:, None]
        dropped = np.where(near.any(axis=1), near.argmax(axis=1), self._count)
        keep = np.arange(self._count + 1)[None, :] != dropped[:, None]
        settled: Ints = where[keep].reshape(len(where), self._count)
        return settled


def fitted(table: CentroidTable, asked: Questions, places: Mapping[float, Ints]) -> tuple[Depth, ...]:
    """The rule for each share of rows, largest first; only for shares that found enough neighbours."""
    near = [table.near(vector) for vector in asked.vectors]
    seen = _Seen.of(near, len(table.known))
    made = []
    for share in sorted(places, reverse=True):
        truth = seen.shares(places[share])
        told = truth.sum(axis=1) > 0.0
        if share == 1.0 or told.mean() > 0.5:
            made.append(_depth(share, seen.only(told), truth[told], asked.weights[told]))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Features of the partitions in question, shape (q, k, 3), and their places, shape (q, k)."""

    features: Shares
    positions: npt.NDArray[np.intp]
    partitions: int

    @staticmethod
    def of(near: Sequence[Near], partitions: int) -> _Seen:
        best = np.stack([n.best for n in near])
        gap = best - best.max(axis=1, keepdims=True)
        features = np.stack(
            [gap, np.stack([n.log_rows for n in near]), np.stack([n.border for n in near])], -1
        )
        return _Seen(features, np.stack([n.positions for n in near]), partitions)

    def only(self, which: npt.NDArray[np.bool_]) -> _Seen:
        return _Seen(self.features[which], self.positions[which], self.partitions)

    def shares(self, places: Ints) -> Shares:
        """The share of each question's neighbours in each partition in question."""
        counts = np.zeros((len(places), self.partitions + 1))
        np.add.at(counts, (np.arange(len(places))[:, None], places), 1.0)
        found = counts[:, : self.partitions]
        found = found / np.maximum(found.sum(axis=1, keepdims=True), 1.0)
        return np.take_along_axis(found, self.positions, axis=1)


def _depth(share: float, seen: _Seen, truth: Shares, weights: Shares) -> Depth:
    weights = weights / weights.sum()
    factors = _fit(seen.features, truth, weights)
    expected = _softmax(seen.features @ factors)
    order = np.argsort(-expected, axis=1, kind="stable")
    best = np.take_along_axis(expected, order, axis=1)
    recall = np.cumsum(np.take_along_axis(truth, order, axis=1), axis=1)
    ranked = _Ranked(best, np.cumsum(best, axis=1), recall, weights)
    gains, probes, capped = _gains(ranked, cap=share == 1.0)
    curve = _curve(ranked, gains, capped)
    closeness, rows, border = (float(f) for f in factors)
    return Depth(share, closeness, rows, border, gains, probes, capped, curve)


def _fit(features: Shares, truth: Shares, weights: Shares) -> Shares:
    """The weights under which a softmax explains the neighbours best (Newton's method, damped)."""
    scale = np.maximum(features.std(axis=(0, 1)), 1e-9)
    scaled = features / scale
    factors = np.array([1.0, 0.0, 0.0])
    loss = _loss(scaled, truth, weights, factors)
    for _ in range(_STEPS):
        expected = _softmax(scaled @ factors) * truth.sum(axis=1, keepdims=True)
        mean = np.einsum("qk,qkf->qf", expected, scaled)
        slope = weights @ (mean - np.einsum("qk,qkf->qf", truth, scaled)) + _RIDGE * factors
        bend = np.einsum("q,qk,qkf,qkg->fg", weights, expected, scaled, scaled)
        bend -= np.einsum("q,qf,qg->fg", weights, mean, mean) - (_RIDGE + 1e-9) * np.eye(len(factors))
        step = np.linalg.lstsq(bend, slope, rcond=None)[0]
        size = 1.0
        while size > 1e-4 and _loss(scaled, truth, weights, factors - size * step) > loss:
            size /= 2.0
        factors = factors - size * step
        before, loss = loss, _loss(scaled, truth, weights, factors)
        if before - loss < 1e-7:
            break
    made: Shares = factors / scale
    return made


def _loss(features: Shares, truth: Shares, weights: Shares, factors: Shares) -> float:
    scores = features @ factors
    scores = scores - scores.max(axis=1, keepdims=True)
    total = np.log(np.exp(scores).sum(axis=1)) * truth.sum(axis=1)
    return float(weights @ (total - (truth * scores).sum(axis=1)) + 0.5 * _RIDGE * factors @ factors)


def _softmax(scores: Shares) -> Shares:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    made: Shares = raised / raised.sum(axis=1, keepdims=True)
    return made


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Expected shares, best first, what they sum to, and the recall so far, each of shape (q, k)."""

    expected: Shares
    covered: Shares
    recall: Shares
    weights: Shares

    def stops(self, gain: float, cap: int | None) -> npt.NDArray[np.intp]:
        """The last partition each question probes at this threshold."""
        most = self.expected.shape[1] if cap is None else min(cap, self.expected.shape[1])
        stops: npt.NDArray[np.intp] = np.clip((self.expected >= gain).sum(axis=1), 1, most) - 1
        return stops

    def at(self, stops: npt.NDArray[np.intp]) -> tuple[Shares, Shares]:
        each = np.arange(len(stops))
        return self.covered[each, stops], self.recall[each, stops]

    def reached(self, gain: float, cap: int | None) -> tuple[float, float]:
        """Mean recall and mean probes."""
        stops = self.stops(gain, cap)
        return float(self.weights @ self.at(stops)[1]), float(self.weights @ (stops + 1))


def _gains(ranked: _Ranked, *, cap: bool) -> tuple[dict[float, float], dict[float, float], tuple[float, ...]]:
    """The threshold for each target, its mean probes, and the targets that hold within MOST_PROBES.

    A target no threshold reaches has the threshold 0: everything is probed.
    """
    within = [ranked.reached(gain, MOST_PROBES) for gain in _GAINS] if cap else [(0.0, 0.0)]
    beyond = [ranked.reached(gain, None) for gain in _GAINS]
    gains, probes, capped = {}, {}, []
    for target in TARGETS:
        tried = within if max(recall for recall, _ in within) >= target else beyond
        at = next((i for i, (recall, _) in enumerate(tried) if recall >= target), None)
        gains[target] = 0.0 if at is None else float(_GAINS[at])
        probes[target] = float(ranked.expected.shape[1]) if at is None else tried[at][1]
        if tried is within:
            capped.append(target)
    return gains, probes, tuple(capped)


def _curve(
    ranked: _Ranked, gains: Mapping[float, float], capped: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """What recall a covered share gave in the mean, never falling, where the targets' questions stopped."""
    stopped = [
        ranked.at(ranked.stops(gain, MOST_PROBES if target in capped else None))
        for target, gain in gains.items()
        if gain > 0.0
    ]
    if not stopped:
        return (0.0, 0.0), (1.0, 1.0)
    covered, recall = (np.concatenate(parts) for parts in zip(*stopped, strict=True))
    weights = np.tile(ranked.weights, len(stopped))
    points = [(0.0, 0.0)]
    for part in np.array_split(np.argsort(covered, kind="stable"), _CURVE):
        if len(part) and (total := weights[part].sum()) > 0.0:
            at = float(weights[part] @ covered[part] / total)
            points.append((at, max(points[-1][1], float(weights[part] @ recall[part] / total))))
    return (*(p for p in points if p[0] < 1.0), (1.0, 1.0))
