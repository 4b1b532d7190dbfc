"""Rows 6 and 6b: filtered search against one big index with iterative scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from svr_retrievers.bench import ours
from svr_retrievers.bench.arena import Arena
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.study import Truth
from svr_retrievers.bench.timing import Ask, Series, interleave
from svr_retrievers.model import JsonValue

ITERATIVE, PLANNER, DEFAULTS = "iterative scan", "planner's choice, iterative scan on", "pgvector's defaults"
UNTUNED = "routed, defaults"
NPROBES = (4, 6, 8, 12, 16)
BESIDE = 150
_GRAPH = {"hnsw__iterative_scan": "relaxed_order", "enable_sort": "off", "enable_seqscan": "off"}
_CUSTOM = {"plan_cache_mode": "force_custom_plan"}
_FREE = {"hnsw__iterative_scan": "relaxed_order"} | _CUSTOM


@dataclass(frozen=True, slots=True)
class Filtered:
    """Every way of asking under one filter, and which of ours was chosen on the tuning queries."""

    series: Mapping[str, Series]
    chosen: str
    truth: Truth

    @property
    def mine(self) -> Series:
        return self.series[self.chosen]

    def checks(self, recall: float | None) -> list[Check]:
        """What any filter is judged by: recall, answers that are short, and what the others manage."""
        others = [name for name in (ITERATIVE, PLANNER, DEFAULTS) if name in self.series]
        return [
            Check("recall", self.mine.recall(self.truth), least=recall),
            Check("queries answered short", self.mine.short_count(self.truth), most=0.0),
            *(Check(f"recall of {name}", self.series[name].recall(self.truth)) for name in others),
            *(
                Check(f"answered short by {name}", self.series[name].short_count(self.truth))
                for name in others
            ),
        ]

    def times(self, percentile: str, *, name: str = ITERATIVE, most: float | None = None) -> Check:
        mine, theirs = self.mine, self.series[name]
        ratio = mine.p50 / theirs.p50 if percentile == "p50" else mine.p95 / theirs.p95
        return Check(f"{percentile} relative to {name}", ratio, most=most)

    def medians(self) -> dict[str, JsonValue]:
        return {name: one.to_json(self.truth) for name, one in self.series.items()}


def random_one_percent(lab: Lab) -> Finding:
    """Row 6: one value of a hundred, unrelated to the vectors.

    The big index is asked with relaxed iterative scan and the planner kept from its B-tree, and for
    information also as the planner pleases, and with pgvector's defaults. Ours: the default, and fixed numbers
    of probes; the cheapest that reaches the recall goal on the tuning queries is measured on the others.
    Filters of 10 % and 0.1 % are shown beside it, with our defaults.
    """
    found = asked(lab.main, "r100", 0.99, seed=lab.seed)
    wider, told = _beside(lab)
    checks = [
        found.times("p50", most=0.15),
        *found.checks(0.99),
        found.times("p95"),
        found.times("p50", name=PLANNER),
        *wider,
    ]
    return Finding(checks, found.medians() | told, (f"ours: {found.chosen}",))


def _beside(lab: Lab) -> tuple[list[Check], dict[str, JsonValue]]:
    """Recall and time under filters that let more or fewer rows pass."""
    checks: list[Check] = []
    medians: dict[str, JsonValue] = {}
    arena, queries = lab.main, lab.main.corpus.queries
    for field, share in (("r10", "10 %"), ("r1000", "0.1 %")):
        systems: dict[str, Ask] = {
            ITERATIVE: arena.big.asker(queries, field=field, settings=_GRAPH),
            PLANNER: arena.big.asker(queries, field=field, settings=_FREE),
            UNTUNED: ours.asker(arena.alone(), queries, field=field),
        }
        found = interleave(systems, arena.testing[:BESIDE], seed=lab.seed + 2)
        truth, mine = arena.truth(field), found[UNTUNED]
        checks += [
            Check(f"recall at {share}", mine.recall(truth)),
            Check(f"queries answered short at {share}", mine.short_count(truth)),
            Check(f"p50 relative to iterative scan at {share}", mine.p50 / found[ITERATIVE].p50),
        ]
        medians |= {f"{name}, {share}": one.to_json(truth) for name, one in found.items()}
    return checks, medians


def skewed_category(lab: Lab) -> Finding:
    """Row 6b: a category that follows the topic for 85 % of the rows; 30 % of the queries ask for another one."""
    found = asked(lab.main, "cat", 0.98, seed=lab.seed, by_tail=True)
    checks = [
        found.times("p95", most=0.5),
        *found.checks(0.98),
        found.times("p50"),
        found.times("p95", name=PLANNER),
    ]
    return Finding(checks, found.medians(), (f"ours: {found.chosen}",))


def asked(arena: Arena, field: str, goal: float, *, seed: int, by_tail: bool = False) -> Filtered:
    """The big table's ways and ours, the setting of ours chosen on the tuning queries."""
    queries, truth = arena.corpus.queries, arena.truth(field)
    if not arena.big.uses_graph(queries, field, _GRAPH):
        raise RuntimeError("the big table's query does not use its HNSW index")
    mine = _ours(arena, field)
    swept = interleave(mine, arena.tuning, seed=seed)
    good = [name for name, one in swept.items() if one.recall(truth) >= goal]
    best = (
        min(good, key=lambda n: swept[n].p95 if by_tail else swept[n].p50)
        if good
        else max(swept, key=lambda n: swept[n].recall(truth))
    )
    systems: dict[str, Ask] = {
        ITERATIVE: arena.big.asker(queries, field=field, settings=_GRAPH),
        PLANNER: arena.big.asker(queries, field=field, settings=_FREE),
        DEFAULTS: arena.big.asker(queries, field=field, settings=_CUSTOM),
        UNTUNED: mine[UNTUNED],
        best: mine[best],
    }
    series = interleave(systems, arena.testing, seed=seed + 1)
    arena.part_with_clients()
    return Filtered(series, best, truth)


def _ours(arena: Arena, field: str) -> dict[str, Ask]:
    queries = arena.corpus.queries
    systems = {UNTUNED: ours.asker(arena.alone(), queries, field=field)}
    for n in NPROBES:
        if n < arena.clusters:
            systems[f"routed, nprobe {n}"] = ours.asker(arena.alone(), queries, field=field, nprobe=n)
    return systems
