"""The measurement: the same filtered questions to every store, against the exact answer."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

import numpy as np

from svr_retrievers.demo.questions import Question
from svr_retrievers.model import Document, Vector

LIMIT = 10
WARM_UP = 3
# Two documents this close to one another are equally good answers: float32 sums differ by about 1e-7.
TIE = 1e-5
FILTER_FIELDS = ("category", "module", "kind")

Where = Mapping[str, str]
OnAsk = Callable[[int, int], None]


class Way(Protocol):
    """One way to store and ask. Every way gets the same vectors and returns ids, best first."""

    @property
    def name(self) -> str: ...
    def ask(self, vector: Vector, where: Where, limit: int) -> Sequence[str]: ...
    def how(self, vector: Vector, where: Where, limit: int) -> str:
        """How this question is answered, in a word or two."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the stores see it: its vector and its filter."""

    vector: Vector
    where: Where


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of filter, with one question after the other under it."""

    name: str
    detail: str
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way did in one case.

    `recall` takes a document as close as the exact tenth for right; `short` is the share of questions
    that got fewer answers than there are; `how` counts the ways they were answered.
    """

    way: str
    found: float
    short: float
    recall: float
    median_ms: float
    how: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """`possible` is the mean number of answers there are: 10, or fewer where fewer documents match."""

    name: str
    detail: str
    questions: int
    median_matches: int
    possible: float
    ways: tuple[Measured, ...]

    def way(self, name: str) -> Measured:
        return next(w for w in self.ways if w.way == name)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The corpus in memory, for exact answers and for choosing filters."""

    documents: tuple[Document, ...]
    vectors: Vector
    position: dict[str, int] = field(init=False)
    columns: dict[str, np.ndarray[tuple[int], np.dtype[np.object_]]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", {d.id: i for i, d in enumerate(self.documents)})
        columns = {
            name: np.array([str(d.metadata[name]) for d in self.documents], dtype=object)
            for name in FILTER_FIELDS
        }
        object.__setattr__(self, "columns", columns)

    def matching(self, where: Where) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        mask = np.ones(len(self.documents), dtype=bool)
        for name, value in where.items():
            mask &= self.columns[name] == value
        return np.flatnonzero(mask)

    def judge(self, asked: Asked, ids: Sequence[str], limit: int = LIMIT) -> tuple[int, int]:
        """(right answers, possible answers). A document that does not match the filter is never right."""
        rows = self.matching(asked.where)
        possible = min(limit, len(rows))
        if not possible:
            return 0, 0
        scores = self.vectors[rows] @ asked.vector
        bar = np.partition(scores, -possible)[-possible] - TIE
        good = set(rows[scores >= bar].tolist())
        right = sum(self.position.get(i, -1) in good for i in set(ids))
        return min(right, possible), possible


def cases(truth: Truth, questions: Sequence[Question], vectors: Vector, seed: int = 7) -> list[Case]:
    """No filter, the question's own category, another one, and filters that keep about 10, 1 and 0.1 %."""
    rng = random.Random(seed)  # noqa: S311 - the same filters on every run
    own: list[Where] = [{"category": q.category} for q in questions]
    made = [
        _case("no filter", "every document may answer", [{}] * len(own), vectors),
        _case("category", "the question is about it", own, vectors),
    ]
    names = sorted(set(truth.columns["category"].tolist()))
    if len(names) > 1:
        others: list[Where] = [
            {"category": rng.choice([n for n in names if n != q.category])} for q in questions
        ]
        made.append(_case("another category", "the question is not about it", others, vectors))
    for share in (0.1, 0.01, 0.001):
        if kept := _filters_keeping(truth, share):
            fields = ", ".join(sorted({" + ".join(w) for w in kept}))
            drawn = [rng.choice(kept) for _ in questions]
            made.append(_case(f"about {share * 100:g} % of all", f"by {fields}", drawn, vectors))
    return made


def _case(name: str, detail: str, filters: Sequence[Where], vectors: Vector) -> Case:
    return Case(name, detail, tuple(map(Asked, vectors, filters)))


def _filters_keeping(truth: Truth, share: float) -> list[Where]:
    """Filters by one or two fields that keep between half and twice `share` of the documents."""
    total = len(truth.documents)
    kept: list[Where] = []
    for fields in _combinations():
        counts = Counter(zip(*(truth.columns[f].tolist() for f in fields), strict=True))
        kept += [
            dict(zip(fields, values, strict=True))
            for values, count in sorted(counts.items())
            if share / 2 <= count / total <= share * 2
        ]
    return kept


def _combinations() -> Iterator[tuple[str, ...]]:
    """Not the category alone, which has a case of its own; a module lies within one category."""
    yield ("kind",)
    for pair in combinations(FILTER_FIELDS, 2):
        if pair != ("category", "module"):
            yield pair


def measure(
    truth: Truth, made: Sequence[Case], ways: Sequence[Way], on_ask: OnAsk | None = None
) -> list[CaseResult]:
    """Every question to every way in turn, so that noise on the machine falls on all of them alike."""
    total, done = sum(len(case.asked) for case in made), 0
    results = []
    for case in made:
        for asked in case.asked[:WARM_UP]:
            for way in ways:
                way.ask(asked.vector, asked.where, LIMIT)
        tallies = [_Tally(way) for way in ways]
        for asked in case.asked:
            for tally in tallies:
                tally.take(truth, asked)
            done += 1
            if on_ask is not None:
                on_ask(done, total)
        results.append(_result(truth, case, tallies))
    return results


@dataclass(slots=True)
class _Tally:
    way: Way
    found: list[int] = field(default_factory=list)
    right: int = 0
    possible: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def take(self, truth: Truth, asked: Asked) -> None:
        started = time.perf_counter()
        ids = self.way.ask(asked.vector, asked.where, LIMIT)
        self.milliseconds.append((time.perf_counter() - started) * 1000)
        right, possible = truth.judge(asked, ids)
        self.found.append(len(ids))
        self.right += right
        self.possible.append(possible)

    def measured(self, asked: Sequence[Asked]) -> Measured:
        short = sum(f < p for f, p in zip(self.found, self.possible, strict=True))
        return Measured(
            way=self.way.name,
            found=statistics.fmean(self.found),
            short=short / len(self.found),
            recall=self.right / max(1, sum(self.possible)),
            median_ms=statistics.median(self.milliseconds),
            how=dict(Counter(self.way.how(a.vector, a.where, LIMIT) for a in asked)),
        )


def _result(truth: Truth, case: Case, tallies: Sequence[_Tally]) -> CaseResult:
    matches = [len(truth.matching(asked.where)) for asked in case.asked]
    return CaseResult(
        name=case.name,
        detail=case.detail,
        questions=len(case.asked),
        median_matches=round(statistics.median(matches)),
        possible=statistics.fmean(tallies[0].possible),
        ways=tuple(tally.measured(case.asked) for tally in tallies),
    )
