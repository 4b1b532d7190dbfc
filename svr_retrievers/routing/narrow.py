"""How many of the closest partitions a query probes: by number, or by recall target, under a filter too. PURE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from svr_retrievers.filters import ALL, Node
from svr_retrievers.filters.selectivity import is_estimated, selectivity, share_in
from svr_retrievers.filters.statistics import FilterStatistics
from svr_retrievers.model import Partition, Vector
from svr_retrievers.routing.centroids import PARTITIONS_IN_QUESTION, CentroidTable, Ranking, rank
from svr_retrievers.routing.probe import DEFAULT_RECALL_TARGET, TARGETS, Calibration, Decision, Depth

_FEWER_MISSES, _FEWEST_MISSES = 10.0, 50.0
"""Under a filter a tenth of the misses is aimed at, and a fiftieth unless the partitions are clusters: estimates of
what passes are rough, and the matching rows of a partition with many topics lie anywhere in it. A probe that looks
only at matching rows is cheap.
"""
_LEAST_SHARE = 1e-9


@dataclass(frozen=True, slots=True)
class Closeness:
    """What the centroid step goes by. `target` is the collection's own recall target."""

    table: CentroidTable
    query: Vector
    calibration: Calibration | None = None
    target: float = DEFAULT_RECALL_TARGET
    statistics: FilterStatistics = field(default_factory=FilterStatistics)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the step: the filter that rows must still pass, the partitions it is about (None:
    all), and how far to look.
    """

    filter: Node
    leaves: tuple[Partition, ...] | None
    nprobe: int | None
    recall_target: float | None
    ef_search: int | None


@dataclass(frozen=True, slots=True)
class Narrowed:
    """The chosen partitions with the reasons; `recall` is None where it is not known."""

    chosen: list[tuple[Partition, str]]
    recall: float | None
    ef_search: int | None


def narrow(closeness: Closeness, asked: Asked) -> Narrowed | None:
    """None where no number of partitions can be given: nothing is calibrated, or what passes is not known.

    For a recall target the query's own cluster is always probed: a document is found by its own vector.
    """
    known = closeness.calibration is not None and _measured(asked.filter, closeness.statistics)
    if asked.nprobe is not None:
        return _by_number(closeness, asked, asked.nprobe, known=known)
    if closeness.calibration is None or not known:
        return None
    depth, ranking = _ranked(closeness, closeness.calibration, asked)
    target = closeness.target if asked.recall_target is None else asked.recall_target
    if asked.filter != ALL:
        fewer = _FEWER_MISSES if closeness.table.coherent else _FEWEST_MISSES
        target = max(target, min(1.0 - (1.0 - target) / fewer, TARGETS[-1]))
    decision = closeness.calibration.decide(target, depth, asked.ef_search)
    probes = ranking.probes_for(decision.gain, decision.cap)
    chosen = ranking.take(probes, always=ranking.home)
    return Narrowed(chosen, _recall(ranking, probes, depth, decision), decision.ef_search)


def _by_number(closeness: Closeness, asked: Asked, nprobe: int, *, known: bool) -> Narrowed:
    if closeness.calibration is None:
        ranking = rank(closeness.table, closeness.query, None, asked.leaves)
        return Narrowed(ranking.take(nprobe), None, None)
    everything = nprobe > PARTITIONS_IN_QUESTION
    depth, ranking = _ranked(closeness, closeness.calibration, asked, everything=everything)
    recall = _recall(ranking, nprobe, depth, None) if known else None
    return Narrowed(ranking.take(nprobe), recall, None)


def _ranked(
    closeness: Closeness, calibration: Calibration, asked: Asked, *, everything: bool = False
) -> tuple[Depth, Ranking]:
    """The rule for the share of the rows near the query that pass, and the partitions by it.

    Neighbours under a filter that passes a share of the rows lie as far as that many more without one, and
    where more rows pass, more of them lie.
    """
    table, query = closeness.table, closeness.query
    depth = calibration.unfiltered
    if asked.filter == ALL or not _measured(asked.filter, closeness.statistics):
        return depth, rank(table, query, depth, asked.leaves, everything=everything)
    share = _share_in(asked.filter, closeness.statistics)
    near = rank(table, query, depth, asked.leaves)
    depth = calibration.at(max(near.passing(share), _LEAST_SHARE))
    return depth, rank(table, query, depth, asked.leaves, share, everything=everything)


def _measured(node: Node, statistics: FilterStatistics) -> bool:
    """Whether it is known how many rows of each partition pass: a figure for all of them could hide that
    the matching rows lie together, far from the query.
    """
    return node == ALL or (bool(statistics.partitions) and is_estimated(node, statistics.fields))


def _share_in(node: Node, statistics: FilterStatistics) -> Callable[[Partition], float]:
    """Fresh rows came after the statistics of their partition: they may be like those of the whole collection."""
    found: dict[int, float] = {}
    anywhere = selectivity(node, statistics.fields)

    def share(partition: Partition) -> float:
        made = found.get(partition.id)
        if made is None:
            made = share_in(node, statistics, partition.id)
            if partition.stats.tail_rows and made < anywhere:
                fresh = min(1.0, partition.stats.tail_rows / max(1, partition.stats.rows))
                made += fresh * (anywhere - made)
            found[partition.id] = made
        return made

    return share


def _recall(ranking: Ranking, probes: int, depth: Depth, decision: Decision | None) -> float | None:
    covered = ranking.covered(probes)
    if covered is None:
        return None
    return depth.recall_for(covered) * (decision.found if decision is not None else 1.0)
