"""What calls answer with: routes, results and their reasons, outcomes of writes, explanations."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, overload

from svr_retrievers.errors import DocumentProblem
from svr_retrievers.values import Hit

_Slice: TypeAlias = "slice[int | None, int | None, int | None]"

Written: TypeAlias = "tuple[Sequence[str], Sequence[str], Sequence[bool], Sequence[str]]"
RouteStep: TypeAlias = Literal["explicit", "filter", "centroid", "fan_out"]


@dataclass(frozen=True, slots=True)
class Adopted:
    """What one adoption took in, and what it could not: `refused` documents, the first thousand in `problems`.

    Those that were taken in before count as neither.
    """

    taken: int
    refused: int
    problems: tuple[DocumentProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class RoutedPartition:
    """A partition that a query will look into, and why."""

    id: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """Which step of the cascade decided, what it chose, and from how many.

    `considered` partitions could hold a match, out of `total` in the collection. Where none could, the
    smallest is searched all the same, so that the answer comes from the database.
    `estimated_recall` is the calibrated share of the true neighbours expected in the chosen
    partitions: 1.0 where no partition that could match was left out, None where it is not known.
    """

    step: RouteStep
    partitions: tuple[RoutedPartition, ...]
    considered: int
    generation: int
    estimated_recall: float | None = None
    widened: bool = False
    total: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(p.path for p in self.partitions)

    @property
    def complete(self) -> bool:
        """Whether every partition that could hold a match is searched."""
        return len(self.partitions) >= self.considered

    def __repr__(self) -> str:
        shown = ", ".join(self.paths[:4]) + (", ..." if len(self.partitions) > 4 else "")
        return (
            f"Route({self.step}: {self.reach}: {shown})"
            if self.considered
            else f"Route({self.step}: {self.reach})"
        )

    @property
    def reach(self) -> str:
        """How many partitions are searched out of all, in words."""
        if not self.considered:
            return f"none of {self.total} partitions can match" if self.total else "no partitions yet"
        return f"{len(self.partitions)} of {max(self.total, self.considered)} partitions"


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Why a result holds fewer hits than asked for, or was cut short.

    `code` is one of `few_matches` (only so many documents match), `partition_failed`, `deadline`,
    `approximate` (an index may have missed matches), `not_indexed` (the server has yet to embed
    or to index matches), `leg_failed` (a hybrid search went without one of its rankings).
    """

    code: Literal["few_matches", "partition_failed", "deadline", "approximate", "not_indexed", "leg_failed"]
    message: str
    partitions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock milliseconds of each phase of a search."""

    embed_ms: float = 0.0
    route_ms: float = 0.0
    search_ms: float = 0.0
    total_ms: float = 0.0
    rerank_ms: float = 0.0


class SearchResult(Sequence[Hit]):
    """The hits, best first, and how they were found.

    Holds `limit` hits, or `incomplete` says why not. Equal distances are ordered by namespace and id.
    `reranked` is True only where a reranker's scores decided the order; where one was asked for and did not,
    `notes` says why, and the order is the one that it would have seen.
    """

    __slots__ = ("hits", "incomplete", "limit", "notes", "reranked", "route", "timings")

    def __init__(
        self,
        hits: Sequence[Hit],
        *,
        limit: int,
        route: Route,
        incomplete: Incomplete | None = None,
        timings: Timings | None = None,
        reranked: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.hits = tuple(hits)
        self.limit = limit
        self.route = route
        self.incomplete = incomplete
        self.timings = timings or Timings()
        self.reranked = reranked
        self.notes = notes

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: _Slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | _Slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(h.id for h in self.hits)

    def with_timings(self, timings: Timings) -> SearchResult:
        return SearchResult(
            self.hits,
            limit=self.limit,
            route=self.route,
            incomplete=self.incomplete,
            timings=timings,
            reranked=self.reranked,
            notes=self.notes,
        )

    def __repr__(self) -> str:
        said = [", reranked"] if self.reranked else []
        said += [f", incomplete: {self.incomplete.message}"] if self.incomplete else []
        said += [f", note: {note}" for note in self.notes]
        where = f"{self.route.step}, {self.route.reach}"
        told = f"{where}, {self.timings.total_ms:.1f} ms{''.join(said)}"
        return f"SearchResult({len(self)} of {self.limit} hits, {told})"

    def _repr_html_(self) -> str:
        def cell(value: str) -> str:
            return f"<td>{html.escape(value if len(value) <= 120 else value[:117] + '...')}</td>"

        def second(score: float | None) -> str:
            shown = "" if score is None else f"{score:.4f}"
            return f"<td>{shown}</td>" if self.reranked else ""

        rows = "".join(
            f"<tr>{cell(h.id)}<td>{h.score:.4f}</td>{second(h.rerank_score)}{cell(h.partition)}{cell(h.text)}</tr>"
            for h in self.hits
        )
        more = "<th>rerank score</th>" if self.reranked else ""
        head = f"<tr><th>id</th><th>score</th>{more}<th>partition</th><th>text</th></tr>"
        return f"<table>{head}{rows}</table><p>{html.escape(repr(self))}</p>"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to one document of an `add`: its key, whether it was new, where it lives."""

    namespace: str
    id: str
    action: Literal["inserted", "updated"]
    partition: str


class AddResult(Sequence[Outcome]):
    """One outcome per document, in the order given; they are put together when first looked at."""

    __slots__ = ("_outcomes", "_written")

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes: tuple[Outcome, ...] | None = tuple(outcomes)
        self._written: Written = ((), (), (), ())

    @classmethod
    def of(
        cls, namespaces: Sequence[str], ids: Sequence[str], new: Sequence[bool], partitions: Sequence[str]
    ) -> AddResult:
        """From parallel sequences, one entry a document: its key, whether it was new, its partition's path."""
        made = cls(())
        made._outcomes, made._written = None, (namespaces, ids, new, partitions)
        return made

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        if self._outcomes is None:
            self._outcomes = tuple(
                Outcome(namespace, doc_id, "inserted" if new else "updated", path)
                for namespace, doc_id, new, path in zip(*self._written, strict=True)
            )
        return self._outcomes

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: _Slice) -> tuple[Outcome, ...]: ...
    def __getitem__(self, index: int | _Slice) -> Outcome | tuple[Outcome, ...]:
        return self.outcomes[index]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> list[str]:
        if self._outcomes is None:
            return list(self._written[1])
        return [o.id for o in self._outcomes]

    @property
    def inserted(self) -> int:
        if self._outcomes is None:
            return sum(self._written[2])
        return sum(o.action == "inserted" for o in self._outcomes)

    @property
    def updated(self) -> int:
        return len(self) - self.inserted

    def __repr__(self) -> str:
        return f"AddResult(inserted={self.inserted}, updated={self.updated})"


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a search is, or was, answered. `plan` is the database's own plan, where it has one.

    `recall` is the measured share of the exact answer that the search returned, when asked for.
    """

    route: Route
    backend: str
    plan: str = ""
    filter_text: str = ""
    recall: float | None = None
    result: SearchResult | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"route: {self.route.step}, {self.route.reach}"]
        lines += [f"  {p.path}: {p.reason}" for p in self.route.partitions[:20]]
        if len(self.route.partitions) > 20:
            lines.append(f"  ... and {len(self.route.partitions) - 20} more")
        if self.route.estimated_recall is not None:
            lines.append(f"estimated recall: {self.route.estimated_recall:.3f}")
        if self.recall is not None:
            lines.append(f"measured recall: {self.recall:.3f}")
        if self.filter_text:
            lines.append(f"filter: {self.filter_text}")
        lines += self.notes
        if self.plan:
            lines += ["plan:", self.plan]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"
