"""How many partitions a query must probe for a recall target. PURE.

From how close a partition's best centroid is, how large the partition is and how far the query lies from
the border to it, a softmax expects a share of the query's neighbours in each partition. A partition is
worth a probe where that share reaches a threshold, and the threshold for a target is not guessed: weights
and thresholds are fitted on the collection's own vectors, whose neighbours are known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Shares: TypeAlias = npt.NDArray[np.float64]
DEFAULT_RECALL_TARGET = 0.95
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
MOST_PROBES = 8
"""A query probes no more partitions than this where the target is met without."""
_PROBE_COST, _EF_COST = 0.55, 0.01
"""Milliseconds of a probe of an HNSW index, and of each step of its ef_search: only their ratio counts."""


@dataclass(frozen=True, slots=True)
class Near:
    """The partitions that come into question for one query, as positions in the centroid table.

    `best` is the closeness of each one's best centroid, `border` how far beyond the border to it the query
    lies, never positive, `log_rows` the logarithm of its rows.
    """

    positions: npt.NDArray[np.intp]
    best: Shares
    border: Shares
    log_rows: Shares


@dataclass(frozen=True, slots=True)
class Depth:
    """What was learnt for filters that pass `share` of the rows; 1.0 is no filter.

    `closeness`, `rows` and `border` weigh the three in the softmax. `gains[target]` is the least expected
    share that is worth a probe, `probes[target]` the mean number of probes that takes, `capped` the targets
    met within MOST_PROBES. `curve` leads from the covered share to the recall it gave.
    """

    share: float
    closeness: float
    rows: float
    border: float
    gains: Mapping[float, float]
    probes: Mapping[float, float]
    capped: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))

    def expected(self, near: Near) -> Shares:
        """The share of the neighbours expected in each partition; they sum to 1."""
        weights = self.closeness * near.best
        weights += self.rows * near.log_rows
        weights += self.border * near.border
        weights -= weights.max()
        np.exp(weights, out=weights)
        weights /= weights.sum()
        return weights

    def gain_for(self, target: float) -> float:
        """0, which no partition falls short of, for a target that no threshold reached."""
        known = [t for t in sorted(self.gains) if self.gains[t] > 0.0]
        if not known or target > known[-1] + 1e-9:
            return 0.0
        steps = [-np.log(1.0 - t) for t in known]
        logs = [np.log(self.gains[t]) for t in known]
        return float(np.exp(np.interp(-np.log(1.0 - target), steps, logs)))

    def probes_for(self, target: float) -> float:
        known = sorted(self.probes)
        return float(np.interp(target, known, [self.probes[t] for t in known])) if known else 1.0

    def cap_for(self, target: float) -> int | None:
        above = [t for t in self.gains if t >= target - 1e-9]
        return MOST_PROBES if above and min(above) in self.capped else None

    def recall_for(self, covered: float) -> float:
        mass, recall = zip(*self.curve, strict=True)
        return float(np.interp(covered, mass, recall))


@dataclass(frozen=True, slots=True)
class Decision:
    """What a target comes to: probe while the expected share is at least `gain`, at most `cap` partitions,
    each with `ef_search`, whose index finds `found` of what is in it.
    """

    gain: float
    cap: int | None
    ef_search: int | None
    found: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a sample of the collection taught, for each share of rows that may pass a filter, largest first.

    `rows` is the collection's size when it was measured and `closeness` the mean closeness of the sampled
    vectors to their partitions, which drifts when the data does. `index` maps ef_search to the share of
    a partition's true neighbours its index found; empty where everything is searched exactly.
    """

    depths: tuple[Depth, ...]
    rows: int
    closeness: float | None = None
    index: Mapping[int, float] = field(default_factory=dict)
    _decided: dict[tuple[float, float, int | None], Decision] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @property
    def unfiltered(self) -> Depth:
        return self.depths[0]

    def at(self, share: float) -> Depth:
        """What holds where this share of the rows passes: between two that were measured, a blend of both."""
        if share >= self.depths[0].share or len(self.depths) == 1:
            return self.depths[0]
        for more, less in zip(self.depths, self.depths[1:], strict=False):
            if share >= less.share:
                span = np.log(more.share / less.share)
                return _blend(more, less, float(np.log(more.share / share) / span))
        return self.depths[-1]

    def decide(self, target: float, depth: Depth, ef_search: int | None = None) -> Decision:
        """The cheapest of the measured ef_search with the probes that it takes; a given one stays."""
        key = (target, depth.share, ef_search)
        made = self._decided.get(key)
        if made is None:
            made = self._decision(target, depth, ef_search)
            if len(self._decided) < 1000:
                self._decided[key] = made
        return made

    def _decision(self, target: float, depth: Depth, ef_search: int | None) -> Decision:
        if not self.index:
            return _decision(depth, target, ef_search, 1.0)
        if ef_search is not None:
            known = sorted(self.index)
            found = float(np.interp(ef_search, known, [self.index[e] for e in known]))
            return _decision(depth, target, ef_search, found)
        most = max(depth.gains, default=0.0)
        costs = {
            ef: depth.probes_for(target / found) * (_PROBE_COST + _EF_COST * ef)
            for ef, found in self.index.items()
            if target / found <= most
        }
        chosen = min(costs, key=lambda ef: (costs[ef], ef)) if costs else max(self.index)
        return _decision(depth, target, chosen, self.index[chosen])


def _decision(depth: Depth, target: float, ef_search: int | None, found: float) -> Decision:
    most = max(depth.gains, default=target)
    needed = target if target > most else min(target / max(found, 1e-9), most)
    return Decision(depth.gain_for(needed), depth.cap_for(needed), ef_search, found)


def _blend(more: Depth, less: Depth, part: float) -> Depth:
    def between(one: float, other: float) -> float:
        return one * (1.0 - part) + other * part

    def logs(one: float, other: float) -> float:
        return float(np.exp(between(np.log(one), np.log(other)))) if one > 0.0 and other > 0.0 else 0.0

    shared = [t for t in more.gains if t in less.gains]
    return Depth(
        logs(more.share, less.share),
        between(more.closeness, less.closeness),
        between(more.rows, less.rows),
        between(more.border, less.border),
        {t: logs(more.gains[t], less.gains[t]) for t in shared},
        {t: between(more.probes[t], less.probes[t]) for t in shared},
        tuple(t for t in more.capped if t in less.capped),
        less.curve,
    )
