"""The frozen values that everything else passes around."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float32]
VectorLike: TypeAlias = Sequence[float] | Vector | npt.NDArray[np.float64]
JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
OnFailure: TypeAlias = Literal["fail", "partial"]

_Slice: TypeAlias = "slice[int | None, int | None, int | None]"

DEFAULT_NAMESPACE = "default"


class Metric(StrEnum):
    """How closeness is measured. A hit's `score` is always higher for closer."""

    COSINE = "cosine"
    """score = cosine similarity, -1 to 1; distance = 1 - score."""
    L2 = "l2"
    """distance = Euclidean distance; score = -distance."""
    INNER_PRODUCT = "inner_product"
    """score = dot product; distance = -score."""

    def score(self, distance: float) -> float:
        return 1.0 - distance if self is Metric.COSINE else -distance

    def relevance(self, distance: float) -> float:
        """A number in [0, 1], 1 for best, monotone in closeness and comparable within one collection.

        Cosine: similarity, with everything beyond a right angle at 0. L2: 1 / (1 + distance).
        Inner product: the logistic function of the dot product.
        """
        if self is Metric.COSINE:
            return min(1.0, max(0.0, 1.0 - distance))
        if self is Metric.L2:
            return 1.0 / (1.0 + max(distance, 0.0))
        return float(1.0 / (1.0 + np.exp(np.clip(distance, -700.0, 700.0))))


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One stored text with its metadata and vector. `(namespace, id)` is its key.

    `vector` is any sequence of numbers of the collection's length (numpy arrays are used as they are);
    None means that the collection's embedder makes it from `text`. `metadata` is anything JSON can
    hold, plus `datetime` and `date`, which are stored as ISO 8601 text. `version` counts the writes
    of this key, from 1; it is set by the store.
    """

    id: str
    text: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    vector: VectorLike | None = None
    namespace: str | None = None
    version: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        mine, theirs = self.vector, other.vector
        same = mine is theirs or (mine is not None and theirs is not None and np.array_equal(mine, theirs))
        return same and (
            (self.id, self.text, self.namespace, self.version)
            == (other.id, other.text, other.namespace, other.version)
            and dict(self.metadata) == dict(other.metadata)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"Document(id={self.id!r}, text={text!r}, metadata={dict(self.metadata)!r})"


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search.

    `score` is higher for closer and never rescaled; `distance` is the metric's own number;
    `relevance` lies in [0, 1]. `partition` is the display path of the partition it came from.
    `vector` is set only when the search asked for vectors.
    """

    id: str
    score: float
    text: str
    metadata: Mapping[str, JsonValue]
    partition: str
    distance: float
    relevance: float
    namespace: str = DEFAULT_NAMESPACE
    version: int = 1
    vector: Vector | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"Hit({self.id!r}, score={self.score:.4f}, partition={self.partition!r}, text={text!r})"


class PartitionState(StrEnum):
    HIDDEN = "hidden"
    BUILDING = "building"
    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"


KeyKind: TypeAlias = Literal["all", "field", "time", "hash", "cluster", "namespace", "rest"]


@dataclass(frozen=True, slots=True)
class PartitionKey:
    """What a partition holds, relative to its parent.

    `kind` is the scheme that made it; `rest` is a level's catch-all. `value` is the canonical text
    of the field value, the start of the time bucket, the hash bucket, the cluster number or the namespace.
    """

    kind: KeyKind
    value: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """Measured facts about a partition. Counts are exact when written and may lag behind writes.

    `centroids` has shape (c, dimensions), float32, unit rows under cosine; `spread` has shape (c,):
    the mean distance of the sampled rows to their centroid, in the metric's distance.
    """

    rows: int = 0
    centroids: Vector | None = field(default=None, compare=False, repr=False)
    spread: Vector | None = field(default=None, compare=False, repr=False)
    rows_at_refresh: int = 0
    indexed: bool = False


@dataclass(frozen=True, slots=True)
class Partition:
    """A coherent part of a collection. `path` is its display name, e.g. `category=tickets/2024-05`."""

    id: int
    path: str
    key: PartitionKey
    parent: int | None = None
    state: PartitionState = PartitionState.ACTIVE
    stats: PartitionStats = field(default_factory=PartitionStats)

    def __repr__(self) -> str:
        return f"Partition({self.path!r}, rows={self.stats.rows}, {self.state.value})"


class PartitionMap:
    """All partitions of a collection at one generation: immutable, with its lookups prepared.

    A reader holds one map for a whole query. Leaves are the partitions that hold rows now: active,
    and not replaced by children. Retired parents stay so that older references still lead to the
    leaves that hold their rows.
    """

    __slots__ = (
        "__weakref__",
        "_by_id",
        "_by_path",
        "_children",
        "_leaf_ids",
        "_leaves",
        "_lookup",
        "_mixed",
        "generation",
        "partitions",
    )

    def __init__(self, generation: int, partitions: Sequence[Partition]) -> None:
        self.generation = generation
        self.partitions = tuple(partitions)
        self._by_id = {p.id: p for p in self.partitions}
        self._by_path = {p.path: p for p in self.partitions}
        children: dict[int | None, list[Partition]] = {}
        for p in self.partitions:
            children.setdefault(p.parent, []).append(p)
        self._children = {parent: tuple(group) for parent, group in children.items()}
        self._lookup = {(p.parent, p.key.kind, p.key.value): p for p in self.partitions}
        visible = (PartitionState.ACTIVE, PartitionState.RETIRING)
        self._leaves = tuple(p for p in self.partitions if p.state in visible and not self._live(p.id))
        self._leaf_ids = frozenset(p.id for p in self._leaves)
        self._mixed = {
            parent: len({c.key.kind for c in group} - {"rest"}) > 1 for parent, group in children.items()
        }

    def with_rows(self, rows: Mapping[int, int]) -> PartitionMap:
        """The same generation with newer row counts."""
        counted = [
            replace(p, stats=replace(p.stats, rows=rows[p.id])) if p.id in rows else p
            for p in self.partitions
        ]
        return PartitionMap(self.generation, counted)

    def _live(self, parent: int) -> tuple[Partition, ...]:
        live = (PartitionState.ACTIVE, PartitionState.RETIRING, PartitionState.RETIRED)
        return tuple(p for p in self._children.get(parent, ()) if p.state in live)

    @property
    def leaves(self) -> tuple[Partition, ...]:
        return self._leaves

    @property
    def rows(self) -> int:
        return sum(p.stats.rows for p in self._leaves)

    def get(self, partition_id: int) -> Partition | None:
        return self._by_id.get(partition_id)

    def by_path(self, path: str) -> Partition | None:
        return self._by_path.get(path)

    def child(self, parent: int | None, key: PartitionKey) -> Partition | None:
        return self._lookup.get((parent, key.kind, key.value))

    def children(self, parent: int | None) -> tuple[Partition, ...]:
        return self._children.get(parent, ())

    def is_leaf(self, partition_id: int) -> bool:
        return partition_id in self._leaf_ids

    def mixed(self, parent: int | None) -> bool:
        """Whether the children were made by more than one kind of scheme, as after a split in place."""
        return self._mixed.get(parent, False)

    def leaves_under(self, partition_id: int) -> tuple[Partition, ...]:
        """The live leaves that hold this partition's rows: itself, or its descendants after a split."""
        start = self._by_id.get(partition_id)
        if start is None:
            return ()
        found: list[Partition] = []
        stack = [start]
        while stack:
            here = stack.pop()
            below = self._live(here.id)
            if below:
                stack.extend(reversed(below))
            elif here.state in (PartitionState.ACTIVE, PartitionState.RETIRING):
                found.append(here)
        return tuple(found)

    def __len__(self) -> int:
        return len(self._leaves)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._leaves)

    def __repr__(self) -> str:
        return f"PartitionMap(generation={self.generation}, partitions={len(self)}, rows={self.rows})"

    def _repr_html_(self) -> str:
        top = max((p.stats.rows for p in self), default=0) or 1
        rows = "".join(
            f"<tr><td>{html.escape(p.path)}</td><td style='text-align:right'>{p.stats.rows:,}</td>"
            f"<td><div style='background:#4c78a8;height:.8em;width:{100 * p.stats.rows / top:.1f}px'></div></td>"
            f"<td>{'index' if p.stats.indexed else 'exact'}</td></tr>"
            for p in self
        )
        head = "<tr><th>partition</th><th>rows</th><th></th><th>search</th></tr>"
        return f"<p>{html.escape(repr(self))}</p><table>{head}{rows}</table>"


RouteStep: TypeAlias = Literal["explicit", "filter", "centroid", "fan_out"]


@dataclass(frozen=True, slots=True)
class RoutedPartition:
    """A partition that a query will look into, and why."""

    id: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """Which step of the cascade decided, what it chose, and from how many.

    `estimated_recall` is the calibrated share of the true neighbours expected in the chosen
    partitions: 1.0 where no partition that could match was left out, None where it is not known.
    """

    step: RouteStep
    partitions: tuple[RoutedPartition, ...]
    considered: int
    generation: int
    estimated_recall: float | None = None
    widened: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(p.path for p in self.partitions)

    @property
    def complete(self) -> bool:
        """Whether every partition that could hold a match is searched."""
        return len(self.partitions) >= self.considered

    def __repr__(self) -> str:
        shown = ", ".join(self.paths[:4]) + (", ..." if len(self.partitions) > 4 else "")
        return f"Route({self.step}: {len(self.partitions)} of {self.considered} partitions: {shown})"


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Why a result holds fewer hits than asked for, or was cut short.

    `code` is one of `few_matches` (only so many documents match), `partition_failed`, `deadline`,
    `approximate` (an index may have missed matches).
    """

    code: Literal["few_matches", "partition_failed", "deadline", "approximate"]
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


class SearchResult(Sequence[Hit]):
    """The hits, best first, and how they were found.

    Holds `limit` hits, or `incomplete` says why not. Equal distances are ordered by namespace and id.
    """

    __slots__ = ("hits", "incomplete", "limit", "route", "timings")

    def __init__(
        self,
        hits: Sequence[Hit],
        *,
        limit: int,
        route: Route,
        incomplete: Incomplete | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.hits = tuple(hits)
        self.limit = limit
        self.route = route
        self.incomplete = incomplete
        self.timings = timings or Timings()

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
            self.hits, limit=self.limit, route=self.route, incomplete=self.incomplete, timings=timings
        )

    def __repr__(self) -> str:
        reason = f", incomplete: {self.incomplete.message}" if self.incomplete else ""
        where = f"{self.route.step}, {len(self.route.partitions)} of {self.route.considered} partitions"
        return (
            f"SearchResult({len(self)} of {self.limit} hits, {where}, {self.timings.total_ms:.1f} ms{reason})"
        )

    def _repr_html_(self) -> str:
        def cell(value: str) -> str:
            return f"<td>{html.escape(value if len(value) <= 120 else value[:117] + '...')}</td>"

        rows = "".join(
            f"<tr>{cell(h.id)}<td>{h.score:.4f}</td>{cell(h.partition)}{cell(h.text)}</tr>" for h in self.hits
        )
        head = "<tr><th>id</th><th>score</th><th>partition</th><th>text</th></tr>"
        return f"<table>{head}{rows}</table><p>{html.escape(repr(self))}</p>"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to one document of an `add`: its key, whether it was new, where it lives."""

    namespace: str
    id: str
    action: Literal["inserted", "updated"]
    partition: str


class AddResult(Sequence[Outcome]):
    """One outcome per document, in the order given."""

    __slots__ = ("outcomes",)

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = tuple(outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: _Slice) -> tuple[Outcome, ...]: ...
    def __getitem__(self, index: int | _Slice) -> Outcome | tuple[Outcome, ...]:
        return self.outcomes[index]

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def ids(self) -> list[str]:
        return [o.id for o in self.outcomes]

    @property
    def inserted(self) -> int:
        return sum(o.action == "inserted" for o in self.outcomes)

    @property
    def updated(self) -> int:
        return len(self.outcomes) - self.inserted

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
        lines = [
            f"route: {self.route.step}, {len(self.route.partitions)} of {self.route.considered} partitions"
        ]
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
