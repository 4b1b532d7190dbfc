"""Where documents belong: from their metadata and vectors to the keys of the partition tree. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from svr_retrievers.model import JsonValue, Metric, Partition, PartitionKey, PartitionMap, Vector
from svr_retrievers.routing.kmeans import assign
from svr_retrievers.routing.schemes import (
    REST,
    WHOLE,
    ClusterLevel,
    FieldLevel,
    HashLevel,
    Level,
    NamespaceLevel,
    Scheme,
    TimeLevel,
)

Keys = tuple[PartitionKey, ...]


class Batch(Protocol):
    """The rows to place: parallel sequences, `vectors` of shape (n, d)."""

    @property
    def namespaces(self) -> Sequence[str]: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def metadatas(self) -> Sequence[Mapping[str, JsonValue]]: ...
    @property
    def typed(self) -> Sequence[Mapping[str, object]]: ...
    @property
    def vectors(self) -> Vector: ...


def field_value(field: str, metadata: Mapping[str, JsonValue], typed: Mapping[str, object]) -> object:
    """The value that decides a placement: the declared one if there is one, else what filters see at the path.

    A list on the way may hold several values; it is returned itself, for the level to refuse.
    """
    if field in typed:
        return typed[field]
    here: JsonValue = dict(metadata)
    for step in field.split("."):
        if isinstance(here, list):
            return here
        here = here.get(step) if isinstance(here, dict) else None
    return here


def check_placement(scheme: Scheme, metadata: Mapping[str, JsonValue], typed: Mapping[str, object]) -> None:
    """Raises InputError when a partition field holds something no partition can stand for."""
    for level in scheme.levels:
        if isinstance(level, FieldLevel | TimeLevel):
            level.key(field_value(level.field, metadata, typed))
        elif isinstance(level, HashLevel) and level.field is not None:
            level.field_text(field_value(level.field, metadata, typed))


def least_filled(
    known: PartitionMap, servers: Sequence[str], placed: Sequence[str | None] = ()
) -> str | None:
    """The server for a new partition: the one with the fewest rows of the collection, then the fewest partitions,
    then the first named. `placed` are the servers of partitions that the map does not show yet.
    """
    if not servers:
        return None
    rows, count = dict.fromkeys(servers, 0), dict.fromkeys(servers, 0)
    for partition in known.leaves:
        if partition.server in rows:
            rows[partition.server] += partition.stats.rows
            count[partition.server] += 1
    for server in placed:
        if server in count:
            count[server] += 1
    return min(servers, key=lambda name: (rows[name], count[name]))


class Placement:
    """Places documents one after the other against one map, remembering what had to be missing.

    `missing` maps the keys of each leaf that does not exist yet to the documents that need it.
    """

    def __init__(self, scheme: Scheme | None, known: PartitionMap) -> None:
        self.scheme = scheme
        self.known = known
        self.missing: dict[Keys, list[int]] = {}
        self.waiting: dict[int | None, list[int]] = {}
        self._leaves: dict[Keys, Partition | None] = {}
        self._siblings: dict[int | None, int] = {}
        self._wanted: dict[Keys, set[PartitionKey]] = {}
        self._listed = (
            [level.listed if isinstance(level, FieldLevel) else () for level in scheme.levels]
            if scheme
            else []
        )

    def leaf(self, keys: Keys) -> Partition | None:
        if keys not in self._leaves:
            self._leaves[keys] = _leaf(self.known, keys)
        return self._leaves[keys]

    def walk(
        self, namespace: str, doc_id: str, metadata: Mapping[str, JsonValue], typed: Mapping[str, object]
    ) -> tuple[Keys, int | None, bool]:
        """The document's keys from the root down, the last existing parent, and whether clusters decide there."""
        keys: Keys = ()
        parent: int | None = None
        exists = True
        for level in self.scheme.levels if self.scheme else ():
            if isinstance(level, ClusterLevel):
                if exists and any(c.key.kind == "cluster" for c in self.known.children(parent)):
                    return keys, parent, True
                return (*keys, REST), parent, False
            key = _key(level, namespace, doc_id, metadata, typed)
            child = self.known.child(parent, key) if exists else None
            if child is None and not self._may_create(level, parent, keys, key, exists=exists):
                key = REST
                child = self.known.child(parent, key) if exists else None
            keys = (*keys, key)
            exists = child is not None
            parent = child.id if child is not None else None
        return keys or (WHOLE,), parent, False

    def _may_create(
        self, level: Level, parent: int | None, above: Keys, key: PartitionKey, *, exists: bool
    ) -> bool:
        """Whether policy lets this value have a partition of its own; counts it as wanted if so."""
        if key.kind == "rest" or not isinstance(level, FieldLevel | NamespaceLevel):
            return True
        if (
            isinstance(level, FieldLevel)
            and level.unseen == "rest"
            and key.value not in self._listed[len(above)]
        ):
            return False
        wanted = self._wanted.setdefault(above, set())
        if key in wanted:
            return True
        if len(wanted) + (self._count(parent) if exists else 0) >= level.max_partitions:
            return False
        wanted.add(key)
        return True

    def _count(self, parent: int | None) -> int:
        if parent not in self._siblings:
            self._siblings[parent] = sum(c.key.kind != "rest" for c in self.known.children(parent))
        return self._siblings[parent]


def place(
    scheme: Scheme | None, known: PartitionMap, batch: Batch, metric: Metric
) -> tuple[npt.NDArray[np.int64], dict[Keys, list[int]]]:
    """The leaf of each document, shape (n,), and the documents (by keys) whose leaf does not exist yet.

    A place in the array is -1 exactly for the documents listed as missing.
    """
    places = np.full(len(batch.ids), -1, dtype=np.int64)
    state = Placement(scheme, known)
    alike: dict[object, tuple[Keys, int | None, bool]] = {}
    for i, (namespace, doc_id) in enumerate(zip(batch.namespaces, batch.ids, strict=True)):
        value = _decisive(scheme, batch.metadatas[i], batch.typed[i])
        walked = alike.get(value) if value is not None else None
        if walked is None:
            walked = state.walk(namespace, doc_id, batch.metadatas[i], batch.typed[i])
            if value is not None:
                alike[value] = walked
        keys, parent, cluster = walked
        if cluster:
            state.waiting.setdefault(parent, []).append(i)
        elif (leaf := state.leaf(keys)) is not None:
            places[i] = leaf.id
        else:
            state.missing.setdefault(keys, []).append(i)
    for parent, rows in state.waiting.items():
        places[rows] = _nearest(known, parent, batch.vectors[rows], metric)
    return places, state.missing


def _decisive(
    scheme: Scheme | None, metadata: Mapping[str, JsonValue], typed: Mapping[str, object]
) -> str | None:
    """The text that alone decides where the document goes, for a scheme of a single field; None otherwise."""
    if scheme is None or len(scheme.levels) != 1 or not isinstance(level := scheme.levels[0], FieldLevel):
        return None
    value = field_value(level.field, metadata, typed)
    return value if type(value) is str else None


def path_of(keys: Keys) -> str:
    """The display path of a partition with these keys; distinct keys whose labels agree are told apart by it."""
    return "/".join(key.label or key.value for key in keys)


def unused_path(path: str, taken: set[str]) -> str:
    """A display path no other partition has, now taken too: long values are cut, so two may read the same."""
    number, candidate = 2, path
    while candidate in taken:
        candidate = f"{path}~{number}"
        number += 1
    taken.add(candidate)
    return candidate


def _key(
    level: Level, namespace: str, doc_id: str, metadata: Mapping[str, JsonValue], typed: Mapping[str, object]
) -> PartitionKey:
    match level:
        case FieldLevel(field) | TimeLevel(field):
            return level.key(field_value(field, metadata, typed))
        case HashLevel(_, None):
            return level.key(f"{namespace}\x00{doc_id}")
        case HashLevel(_, str() as field):
            return level.key(level.field_text(field_value(field, metadata, typed)))
        case NamespaceLevel():
            return level.key(namespace)
    raise AssertionError(level)


def _leaf(known: PartitionMap, keys: Keys) -> Partition | None:
    parent: int | None = None
    here: Partition | None = None
    for key in keys:
        here = known.child(parent, key)
        if here is None:
            return None
        parent = here.id
    return here


def _nearest(known: PartitionMap, parent: int | None, vectors: Vector, metric: Metric) -> list[int]:
    clusters = [
        c for c in known.children(parent) if c.key.kind == "cluster" and c.stats.centroids is not None
    ]
    first = np.stack([c.stats.centroids[0] for c in clusters if c.stats.centroids is not None])
    inner = Metric.COSINE if metric is Metric.COSINE else Metric.L2
    return [clusters[j].id for j in assign(vectors, first, inner)]
