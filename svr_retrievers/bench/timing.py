"""Asks several systems the same questions in turn, in random order, and keeps every time and answer."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from svr_retrievers.model import JsonValue

Ask: TypeAlias = "Callable[[int], Asked | Sequence[int]]"
"""Answers query number i with row numbers, or with those and its own time."""

_AT_ONCE = 25
_WARM, _WARM_SECONDS = 500, 3.0
"""Queries each system is asked beforehand, or for so long: prepared statements, one a partition, find their plan
after five uses, and what is measured is a server that has been running."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer that was timed where it was given, in another process."""

    ids: Sequence[int]
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Series:
    """What one system took and answered: `ms` (rounds, queries) and the ids of the first round."""

    queries: npt.NDArray[np.int64]
    ms: npt.NDArray[np.float64]
    ids: tuple[frozenset[int], ...]

    @property
    def p50(self) -> float:
        return float(np.median(self.ms))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.ms, 95))

    def recall(self, truth: Sequence[set[int]], among: npt.NDArray[np.bool_] | None = None) -> float:
        """The mean share of the true neighbours found, over the queries marked in `among`."""
        shares = [
            len(ids & truth[q]) / len(truth[q])
            for q, ids in zip(self.queries, self.ids, strict=True)
            if truth[q] and (among is None or among[q])
        ]
        return float(np.mean(shares)) if shares else float("nan")

    def short(self, truth: Sequence[set[int]]) -> float:
        """The share of queries answered with fewer rows than there are."""
        return self.short_count(truth) / len(self.queries)

    def short_count(self, truth: Sequence[set[int]]) -> int:
        return sum(len(ids) < len(truth[q]) for q, ids in zip(self.queries, self.ids, strict=True))

    def to_json(self, truth: Sequence[set[int]] | None = None) -> dict[str, JsonValue]:
        made: dict[str, JsonValue] = {"p50_ms": round(self.p50, 4), "p95_ms": round(self.p95, 4)}
        if truth is not None:
            made["recall"] = round(self.recall(truth), 4)
            made["short"] = self.short_count(truth)
            made["queries"] = len(self.queries)
        return made


def interleave(
    systems: Mapping[str, Ask], queries: Sequence[int] | npt.NDArray[np.int64], *, seed: int, rounds: int = 1
) -> dict[str, Series]:
    """Every system gets every query, in an order of its own, a few of each system in turn, each turn in a new order.

    A system cannot profit from what the machine does at one moment, nor always follow the same other, nor find
    in the caches what another setting of the same table has just read for the same query. A few at a time, because
    systems in use do not share the processor's caches with those they are compared with.
    """
    rng = np.random.default_rng(seed)
    names, asked = list(systems), np.asarray(queries, dtype=np.int64)
    ms = {name: np.zeros((rounds, len(asked))) for name in names}
    ids: dict[str, list[frozenset[int]]] = {name: [frozenset()] * len(asked) for name in names}
    for ask in systems.values():
        _warm(ask, rng.choice(asked, _WARM))
    gc.collect()
    gc.freeze()
    try:
        for round_ in range(rounds):
            orders = [rng.permutation(len(asked)) for _ in names]
            for start in range(0, len(asked), _AT_ONCE):
                for which in rng.permutation(len(names)):
                    name = names[which]
                    for at in orders[which][start : start + _AT_ONCE]:
                        found, took = _timed(systems[name], int(asked[at]))
                        ms[name][round_, at] = took
                        if round_ == 0:
                            ids[name][at] = found
    finally:
        gc.unfreeze()
    return {name: Series(asked, ms[name], tuple(ids[name])) for name in names}


def _warm(ask: Ask, queries: npt.NDArray[np.int64]) -> None:
    until = time.perf_counter() + _WARM_SECONDS
    for query in queries:
        ask(int(query))
        if time.perf_counter() > until:
            return


def ids_of(answer: Asked | Sequence[int]) -> set[int]:
    return set(answer.ids if isinstance(answer, Asked) else answer)


def _timed(ask: Ask, query: int) -> tuple[frozenset[int], float]:
    started = time.perf_counter()
    answer = ask(query)
    took = (time.perf_counter() - started) * 1e3
    if isinstance(answer, Asked):
        return frozenset(answer.ids), answer.milliseconds
    return frozenset(answer), took
