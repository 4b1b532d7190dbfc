"""The cascade: explicit partitions, then the filter, then centroids, then all. First match wins. PURE.

Filter and centroids compose: what the filter leaves is narrowed by closeness. The route is never empty.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from svr_retrievers.errors import PartitionNotFound
from svr_retrievers.filters import ALL, Node
from svr_retrievers.model import Partition, PartitionMap, Route, RoutedPartition, RouteStep, Vector
from svr_retrievers.routing.centroids import CentroidTable, rank
from svr_retrievers.routing.filter_map import Facts, matching, residual
from svr_retrievers.routing.probe import Calibration
from svr_retrievers.routing.schemes import Scheme

DEFAULT_RECALL_TARGET = 0.95
FAN_OUT_BELOW_ROWS = 10_000
"""Up to here looking everywhere costs a few milliseconds, and leaving something out gains nothing."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked of the route."""

    filter: Node = ALL
    namespace: str = "default"
    partitions: Sequence[str] | None = None
    nprobe: int | None = None
    recall_target: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """The route, the rest of the filter that rows must still pass, and the candidates left aside."""

    route: Route
    filter: Node
    aside: tuple[Partition, ...] = ()


def plan(
    wish: Wish,
    scheme: Scheme | None,
    known: PartitionMap,
    table: CentroidTable,
    scores: Vector | None,
    calibration: Calibration | None,
) -> Planned:
    """`scores` are `table.scores(query)`, or None where the query has no vector to compare."""
    if wish.partitions is not None:
        return _explicit(wish, known)
    found = matching(scheme, known, wish.filter, wish.namespace)
    if found is not None and not found:
        return Planned(_stand_in(known), wish.filter)
    leaves = known.leaves if found is None else tuple(leaf for leaf, _ in found)
    left = wish.filter if found is None else residual(wish.filter, [facts for _, facts in found])
    pruned = found is not None and len(leaves) < len(known.leaves)
    if scores is not None and not wish.exact and len(leaves) > 1:
        allowed = frozenset(leaf.id for leaf in leaves) if pruned else None
        narrowed = _narrow(wish, left, leaves, allowed, known, table, scores, calibration)
        if narrowed is not None:
            return narrowed
    step: RouteStep = "filter" if pruned else "fan_out"
    reasons = [(leaf, "the filter admits it" if pruned else "nothing rules it out") for leaf in leaves]
    return Planned(_route(step, reasons, len(leaves), known, 1.0), left)


def needs_centroids(wish: Wish, known: PartitionMap, calibration: Calibration | None) -> bool:
    """Whether the plan could use centroid scores at all, so that they are computed only then."""
    if wish.partitions is not None or wish.exact or len(known) < 2:
        return False
    return wish.nprobe is not None or (
        calibration is not None and (wish.recall_target is not None or known.rows > FAN_OUT_BELOW_ROWS)
    )


def _narrow(
    wish: Wish,
    left: Node,
    leaves: tuple[Partition, ...],
    allowed: frozenset[int] | None,
    known: PartitionMap,
    table: CentroidTable,
    scores: Vector,
    calibration: Calibration | None,
) -> Planned | None:
    """The centroid step; None where it has nothing to say or nothing to gain.

    A filter that rows must still pass moves the neighbours further out than the calibration saw, so
    then no recall can be promised for less than all of them, and only an explicit `nprobe` narrows.
    """
    ranking = rank(table, scores, allowed)
    if wish.nprobe is not None:
        probes = wish.nprobe
    elif calibration is None or left != ALL:
        return None
    elif wish.recall_target is not None or sum(leaf.stats.rows for leaf in leaves) > FAN_OUT_BELOW_ROWS:
        probes = ranking.probes_for(wish.recall_target or DEFAULT_RECALL_TARGET, calibration)
    else:
        return None
    chosen = ranking.take(probes)
    if len(chosen) >= len(leaves):
        return None
    taken = {leaf.id for leaf, _ in chosen}
    recall = None
    if calibration is not None and left == ALL:
        recall = calibration.recall_for(ranking.mass(probes, calibration))
    aside = tuple(leaf for leaf in leaves if leaf.id not in taken)
    return Planned(_route("centroid", chosen, len(leaves), known, recall), left, aside)


def _explicit(wish: Wish, known: PartitionMap) -> Planned:
    chosen: dict[int, tuple[Partition, str]] = {}
    for name in wish.partitions or ():
        named = known.by_path(name)
        leaves = known.leaves_under(named.id) if named is not None else ()
        if named is None or not leaves:
            raise _unknown(name, known)
        for leaf in leaves:
            chosen.setdefault(leaf.id, (leaf, "asked for" if leaf is named else f"asked for as {name}"))
    return Planned(_route("explicit", list(chosen.values()), len(chosen), known, 1.0), wish.filter)


def _unknown(name: str, known: PartitionMap) -> PartitionNotFound:
    paths = [p.path for p in known]
    close = difflib.get_close_matches(name, paths[:5000], n=3, cutoff=0.4)
    listed = ", ".join(repr(p) for p in (close or sorted(paths)[:5]))
    return PartitionNotFound(
        f"There is no partition {name!r}.",
        hint=f"{'Did you mean' if close else 'There are'} {listed}?"
        if close
        else f"There are {len(paths)} partitions, among them {listed}."
        if paths
        else "The collection has no partitions yet; add documents first.",
    )


def _stand_in(known: PartitionMap) -> Route:
    """The filter rules everything out; the smallest partition stands in, so that the answer comes from a search."""
    if not known.leaves:
        return _route("fan_out", [], 0, known, 1.0)
    smallest = min(known.leaves, key=lambda p: (p.stats.rows, p.id))
    return _route("filter", [(smallest, "no partition can match; the smallest stands in")], 0, known, 1.0)


def _route(
    step: RouteStep,
    chosen: list[tuple[Partition, str]],
    considered: int,
    known: PartitionMap,
    recall: float | None,
) -> Route:
    return Route(
        step=step,
        partitions=tuple(RoutedPartition(leaf.id, leaf.path, reason) for leaf, reason in chosen),
        considered=considered,
        total=len(known.leaves),
        generation=known.generation,
        estimated_recall=recall,
    )


__all__ = [
    "DEFAULT_RECALL_TARGET",
    "FAN_OUT_BELOW_ROWS",
    "Facts",
    "Planned",
    "Wish",
    "needs_centroids",
    "plan",
]
