"""Routed search against one big index over the same rows: settings swept, the ones that count measured again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from svr_retrievers.bench import ours
from svr_retrievers.bench.arena import Arena
from svr_retrievers.bench.timing import Ask, Series, interleave
from svr_retrievers.model import JsonValue

PLAIN, WELL, OURS = "defaults", "well built", "ours"
ANCHOR = "one big index, defaults, ef_search 40"
UNTUNED = "routed, defaults"
GOAL = 0.97
MARGIN = 0.005
"""Ours must exceed the goal by this where settings are chosen, so as to hold it on the other queries."""
NO_BETTER = 0.003
"""Where the goal is out of reach, what the cheapest setting with so little less recall takes is told as well."""
EF_BIG = (40, 60, 100, 150, 200, 300, 400, 800)
EF_TRIED = 400
"""Where the goal is out of reach, a big index stands with its highest recall up to here: beyond, time buys nothing."""
TARGETS = (0.9, 0.95, 0.96, 0.97, 0.98, 0.99)
EF_OURS = (20, 30, 40)
"""Beside leaving it to the recall target."""
_GRAPH = {"enable_seqscan": "off"}
"""On a small table the planner leaves the index for a scan as ef_search grows, which would flatter us."""

Truth = Sequence[set[int]]


@dataclass(frozen=True, slots=True)
class Study:
    """All settings on the tuning queries; those chosen, on the others; and which of them stand for what.

    `fastest`: the cheapest of each system that reaches the goal, or that comes as close as the system can.
    `frugal`: the cheapest that comes nearly as close. `equal`: of each big index, the setting whose recall comes
    closest to that of ours without passing it.
    """

    swept: Mapping[str, Series]
    series: Mapping[str, Series]
    groups: Mapping[str, Sequence[str]]
    in_time: str
    fastest: Mapping[str, str]
    frugal: Mapping[str, str]
    equal: Mapping[str, str]
    truth: Truth
    between: npt.NDArray[np.bool_]

    def reached(self, name: str) -> bool:
        return self.swept[name].recall(self.truth) >= GOAL

    @property
    def mine(self) -> Series:
        return self.series[self.fastest[OURS]]

    def medians(self) -> dict[str, JsonValue]:
        """What was measured on the queries that no setting was chosen on."""
        return {name: self._told(one) for name, one in self.series.items()}

    def sweep(self) -> dict[str, JsonValue]:
        """Every setting of every system, on the tuning queries: the curves of the picture."""
        return {
            name: self.swept[name].to_json(self.truth) for names in self.groups.values() for name in names
        }

    def _told(self, one: Series) -> dict[str, JsonValue]:
        told = one.to_json(self.truth)
        if self.between.any():
            told["in_topic"] = round(one.recall(self.truth, ~self.between), 4)
            told["between"] = round(one.recall(self.truth, self.between), 4)
        return told


def systems(arena: Arena, *, well_built: bool = True) -> dict[str, dict[str, Ask]]:
    """What is compared, by system and setting."""
    queries = arena.corpus.queries
    tables = {PLAIN: arena.big} | ({WELL: arena.well_built} if well_built else {})
    widest = _GRAPH | {"hnsw__ef_search": str(max(EF_BIG))}
    if not all(table.uses_graph(queries, None, widest) for table in tables.values()):
        raise RuntimeError("the big table's query does not use its HNSW index")
    made: dict[str, dict[str, Ask]] = {
        kind: {
            f"one big index, {kind}, ef_search {ef}": table.asker(queries, ef_search=ef, settings=_GRAPH)
            for ef in EF_BIG
        }
        for kind, table in tables.items()
    }
    made[OURS] = {name: mine(arena, name) for name in SETTINGS}
    return made


def mine(arena: Arena, name: str) -> Ask:
    """Ours with the settings of this name, through a client of its own."""
    return ours.asker(arena.alone(), arena.corpus.queries, **SETTINGS[name])


class Setting(TypedDict, total=False):
    """What a search of ours is given besides the vector."""

    recall_target: float
    ef_search: int


SETTINGS: Mapping[str, Setting] = {
    UNTUNED: {},
    **{f"routed, recall_target {t}": {"recall_target": t} for t in TARGETS},
    **{
        f"routed, recall_target {t}, ef_search {ef}": {"recall_target": t, "ef_search": ef}
        for t in TARGETS
        for ef in EF_OURS
    },
}


def studied(arena: Arena, *, seed: int, well_built: bool = True) -> Study:
    """Settings are swept on the tuning queries, all systems in turn. From each system the cheapest setting that
    reaches the recall goal is taken (or its highest recall, where none does), from ours also
    the one with the highest recall in the time of the anchor. Those, the anchor and our defaults are then measured
    on the other queries.
    """
    groups = systems(arena, well_built=well_built)
    every = {name: ask for group in groups.values() for name, ask in group.items()}
    arena.say("sweeping settings on the tuning queries")
    swept = interleave(every, arena.tuning, seed=seed)
    truth = arena.truth()
    recall = {name: one.recall(truth) for name, one in swept.items()}
    p50 = {name: one.p50 for name, one in swept.items()}
    fastest = {
        group: cheapest(list(names), recall, p50, GOAL + (MARGIN if group == OURS else 0.0))
        for group, names in groups.items()
    }
    frugal = {group: _frugal(fastest[group], names, recall, p50) for group, names in groups.items()}
    in_time = best_within(list(groups[OURS]), recall, p50, p50[ANCHOR])
    rivals = {
        group: _around(list(names), closest_below(list(names), recall, p50, recall[fastest[OURS]]))
        for group, names in groups.items()
        if group != OURS
    }
    near = [name for names in rivals.values() for name in names]
    final = dict.fromkeys([ANCHOR, UNTUNED, in_time, *fastest.values(), *frugal.values(), *near])
    arena.say("measuring the chosen settings")
    series = interleave({n: every[n] for n in final}, arena.testing, seed=seed + 1, rounds=2)
    arena.part_with_clients()
    equal = {group: _equal(names, series, truth, fastest[OURS]) for group, names in rivals.items()}
    named = {group: list(names) for group, names in groups.items()}
    return Study(swept, series, named, in_time, fastest, frugal, equal, truth, arena.between)


def _around(names: list[str], chosen: str) -> list[str]:
    """A setting with its neighbours: on other queries, one of these may be the closest."""
    at = names.index(chosen)
    return names[max(0, at - 1) : at + 2]


def _equal(names: Sequence[str], series: Mapping[str, Series], truth: Truth, mine: str) -> str:
    recall = {name: series[name].recall(truth) for name in (*names, mine)}
    return closest_below(names, recall, {name: series[name].p50 for name in names}, recall[mine])


def cheapest(
    names: Sequence[str], recall: Mapping[str, float], cost: Mapping[str, float], goal: float
) -> str:
    """The cheapest that reaches the goal, or else the highest recall."""
    good = [name for name in names if recall[name] >= goal]
    return min(good, key=lambda n: cost[n]) if good else _highest(names, recall, cost)


def best_within(
    names: Sequence[str], recall: Mapping[str, float], cost: Mapping[str, float], budget: float
) -> str:
    """The highest recall for at most this cost; the cheapest of all where nothing is cheap enough."""
    good = [name for name in names if cost[name] <= budget]
    return max(good, key=lambda n: (recall[n], -cost[n])) if good else min(names, key=lambda n: cost[n])


def closest_below(
    names: Sequence[str], recall: Mapping[str, float], cost: Mapping[str, float], other: float
) -> str:
    """The best that does not pass `other`, so that the comparison is never with a better answer than ours."""
    below = [name for name in names if recall[name] <= other]
    return _highest(below, recall, cost) if below else min(names, key=lambda n: recall[n])


def _highest(names: Sequence[str], recall: Mapping[str, float], cost: Mapping[str, float]) -> str:
    tried = [n for n in names if not n.startswith("one big") or _ef(n) <= EF_TRIED] or list(names)
    return max(tried, key=lambda n: (recall[n], -cost[n]))


def _ef(name: str) -> int:
    return int(name.rpartition(" ")[2])


def _frugal(chosen: str, names: Iterable[str], recall: Mapping[str, float], cost: Mapping[str, float]) -> str:
    """The cheapest with nearly the recall of the chosen one, where that does not reach the goal either."""
    if recall[chosen] >= GOAL:
        return chosen
    return min((n for n in names if recall[n] >= recall[chosen] - NO_BETTER), key=lambda n: cost[n])
