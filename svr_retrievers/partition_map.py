"""Partitions and the immutable map of them that a query holds from beginning to end."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, TypeAlias

from svr_retrievers.values import Vector


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
    label: str = field(default="", compare=False)
    """How it is shown, as first seen: the values 1 and 1.0 are one key."""


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """Measured facts about a partition. Counts are exact when written and may lag behind writes.

    `centroids` has shape (c, dimensions), float32, unit rows under cosine; `spread` has shape (c,):
    the mean distance of the sampled rows to their centroid, in the metric's distance.
    `tail`: fresh rows may stand beside the index and are searched as well; `tail_rows` is how many, part of `rows`.
    """

    rows: int = 0
    centroids: Vector | None = field(default=None, compare=False, repr=False)
    spread: Vector | None = field(default=None, compare=False, repr=False)
    rows_at_refresh: int = 0
    indexed: bool = False
    tail: bool = False
    tail_rows: int = 0


@dataclass(frozen=True, slots=True)
class Partition:
    """A coherent part of a collection. `path` is its display name, e.g. `category=tickets/2024-05`."""

    id: int
    path: str
    key: PartitionKey
    parent: int | None = None
    state: PartitionState = PartitionState.ACTIVE
    stats: PartitionStats = field(default_factory=PartitionStats)
    holds_rows: bool = True
    """False for an inner partition of a nested scheme, which exists only to group its children."""
    server: str | None = None
    """The name of the further server that its vectors lie on; None: on the one that holds the documents."""

    def __repr__(self) -> str:
        place = f", on {self.server!r}" if self.server is not None else ""
        return f"Partition({self.path!r}, rows={self.stats.rows}, {self.state.value}{place})"


@dataclass(frozen=True, slots=True)
class Server:
    """A further PostgreSQL server and what lies on it. `address` is host, port and database, never a login."""

    name: str
    address: str
    partitions: int = 0
    rows: int = 0
    collections: tuple[str, ...] = ()


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
        "_kinds",
        "_leaf_ids",
        "_leaves",
        "_lookup",
        "generation",
        "partitions",
        "rows",
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
        self._leaves = tuple(
            p for p in self.partitions if p.state in visible and p.holds_rows and not self._live(p.id)
        )
        self._leaf_ids = frozenset(p.id for p in self._leaves)
        self.rows = sum(p.stats.rows for p in self._leaves)
        self._kinds = {
            parent: frozenset(c.key.kind for c in group) - {"rest"} for parent, group in children.items()
        }

    def with_rows(self, rows: Mapping[int, int], tails: Mapping[int, int] | None = None) -> PartitionMap:
        """The same generation with newer row counts."""
        waiting = tails or {}
        counted = [
            replace(
                p, stats=replace(p.stats, rows=rows[p.id], tail_rows=waiting.get(p.id, p.stats.tail_rows))
            )
            if p.id in rows
            else p
            for p in self.partitions
        ]
        return PartitionMap(self.generation, counted)

    def _live(self, parent: int) -> tuple[Partition, ...]:
        return tuple(p for p in self._children.get(parent, ()) if self._holds_rows(p))

    def _holds_rows(self, partition: Partition) -> bool:
        """Whether it, or what replaced it, is searched: not so once a split was folded back."""
        if partition.state is PartitionState.RETIRED:
            return bool(self._live(partition.id))
        return partition.state in (PartitionState.ACTIVE, PartitionState.RETIRING)

    @property
    def leaves(self) -> tuple[Partition, ...]:
        return self._leaves

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

    def kinds(self, parent: int | None) -> frozenset[KeyKind]:
        """The kinds of scheme that made the children, the catch-all aside: several after a split in place."""
        return self._kinds.get(parent, frozenset())

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
            elif here.id in self._leaf_ids:
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
            f"<td>{'index' if p.stats.indexed else 'exact'}</td><td>{html.escape(p.server or '')}</td></tr>"
            for p in self
        )
        where = "server" if any(p.server for p in self) else ""
        head = f"<tr><th>partition</th><th>rows</th><th></th><th>search</th><th>{where}</th></tr>"
        return f"<p>{html.escape(repr(self))}</p><table>{head}{rows}</table>"
