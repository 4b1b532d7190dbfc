"""The cascade: explicit partitions, then the filter, then centroids, then all. First match wins. PURE.

Filter and centroids compose: what the filter leaves is narrowed by closeness. The route is never empty.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from svr_retrievers.errors import PartitionNotFound
from svr_retrievers.filters import ALL, Node
from svr_retrievers.filters.selectivity import is_estimated, selectivity
from svr_retrievers.model import Partition, PartitionMap, Route, RoutedPartition, RouteStep
from svr_retrievers.routing.filter_map import Facts, matching, residual
from svr_retrievers.routing.narrow import Asked, Closeness, Narrowed, narrow
from svr_retrievers.routing.probe import DEFAULT_RECALL_TARGET, Calibration
from svr_retrievers.routing.schemes import NamespaceLevel, Scheme

FAN_OUT_BELOW_ROWS = 10_000
"""Up to here looking everywhere costs a few milliseconds, and leaving something out gains nothing."""
FEW_MATCHES, FEW_PARTITIONS = 100, 100
"""A hundred rows are fetched in a quarter of a millisecond, and a hundred B-trees looked into in two."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked of the route."""

    filter: Node = ALL
    namespace: str = "default"
    partitions: Sequence[str] | None = None
    nprobe: int | None = None
    recall_target: float | None = None
    exact: bool = False
    ef_search: int | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """The route, the rest of the filter that rows must still pass, and the candidates it chose from.

    `ef_search` is what the recall target takes of the indexes; None where they decide themselves.
    """

    route: Route
    filter: Node
    candidates: tuple[Partition, ...] = ()
    ef_search: int | None = None

    @property
    def aside(self) -> tuple[Partition, ...]:
        """The candidates that were left out, found when asked for: most searches never ask."""
        if len(self.candidates) <= len(self.route.partitions):
            return ()
        taken = {p.id for p in self.route.partitions}
        return tuple(leaf for leaf in self.candidates if leaf.id not in taken)


def plan(
    wish: Wish, scheme: Scheme | None, known: PartitionMap, closeness: Closeness | None = None
) -> Planned:
    """`closeness` is None where the question has no vector to compare."""
    if wish.partitions is not None:
        return _explicit(wish, known)
    found = matching(scheme, known, wish.filter, wish.namespace)
    if found is not None and not found:
        return Planned(_stand_in(known), wish.filter)
    leaves = known.leaves if found is None else tuple(leaf for leaf, _ in found)
    left = wish.filter if found is None else residual(wish.filter, [facts for _, facts in found])
    pruned = found is not None and len(leaves) < len(known.leaves)
    near = None
    if closeness is not None and not wish.exact and len(leaves) > 1:
        near = _narrowed(wish, scheme, left, leaves, known, closeness, pruned)
    if near is None:
        return Planned(_all_of(leaves, known, pruned), left)
    if len(near.chosen) >= len(leaves):
        return Planned(_all_of(leaves, known, pruned), left, ef_search=near.ef_search)
    route = _route("centroid", near.chosen, len(leaves), known, near.recall)
    return Planned(route, left, leaves, near.ef_search)


def needs_centroids(wish: Wish, known: PartitionMap, calibration: Calibration | None) -> bool:
    """Whether the plan could use centroids at all, so that they are prepared only then."""
    if wish.partitions is not None or wish.exact or len(known) < 2:
        return False
    return wish.nprobe is not None or (
        calibration is not None and (wish.recall_target is not None or known.rows > FAN_OUT_BELOW_ROWS)
    )


def _narrowed(
    wish: Wish,
    scheme: Scheme | None,
    left: Node,
    leaves: tuple[Partition, ...],
    known: PartitionMap,
    closeness: Closeness,
    pruned: bool,
) -> Narrowed | None:
    """The centroid step; None where it has nothing to say or nothing to gain."""
    if wish.nprobe is None:
        rows = sum(leaf.stats.rows for leaf in leaves) if pruned else known.rows
        if wish.recall_target is None and rows <= FAN_OUT_BELOW_ROWS:
            return None
        if _few_match(left, closeness, rows, len(leaves)):
            return None
        if not _of_one_namespace(wish, scheme, closeness):
            return None
    asked = Asked(left, leaves if pruned else None, wish.nprobe, wish.recall_target, wish.ef_search)
    found = narrow(closeness, asked)
    return found if found is not None and found.chosen else None


def _all_of(leaves: tuple[Partition, ...], known: PartitionMap, pruned: bool) -> Route:
    step: RouteStep = "filter" if pruned else "fan_out"
    reason = "the filter admits it" if pruned else "nothing rules it out"
    return _route(step, [(leaf, reason) for leaf in leaves], len(leaves), known, 1.0)


def _of_one_namespace(wish: Wish, scheme: Scheme | None, closeness: Closeness) -> bool:
    """Whether (nearly) all rows of the partitions are of the namespace asked for. Where others share them, its rows
    may lie anywhere: how many of them are in which partition is not known.
    """
    by_namespace = scheme is not None and any(isinstance(level, NamespaceLevel) for level in scheme.levels)
    return by_namespace or closeness.statistics.alone(wish.namespace)


def _few_match(left: Node, closeness: Closeness, rows: int, partitions: int) -> bool:
    """Whether so few rows pass the filter that looking at each costs less than choosing among partitions loses."""
    if left == ALL or partitions > FEW_PARTITIONS or not is_estimated(left, closeness.statistics.fields):
        return False
    return selectivity(left, closeness.statistics.fields) * rows <= FEW_MATCHES


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
    if close:
        hint = f"Did you mean {listed}?"
    elif not paths:
        hint = "The collection has no partitions yet; add documents first."
    elif len(paths) == 1:
        hint = f"There is one partition: {listed}."
    else:
        hint = f"There are {len(paths)} partitions, {'among them ' if len(paths) > 5 else ''}{listed}."
    return PartitionNotFound(f"There is no partition {name!r}.", hint=hint)


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
    "Closeness",
    "Facts",
    "Planned",
    "Wish",
    "needs_centroids",
    "plan",
]
