"""The exact in-process backend: small, obvious, and the oracle that every other backend is held to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from svr_retrievers.backends.distance import distances
from svr_retrievers.backends.memory_words import Words, words_of
from svr_retrievers.backends.protocol import (
    Batch,
    Candidate,
    Capabilities,
    CollectionConfig,
    CollectionRef,
    KeywordPage,
    KeywordQuery,
    MapState,
    NewPartition,
    Page,
    Query,
    Selection,
    StaleMap,
    Written,
)
from svr_retrievers.errors import ClientClosed, CollectionExists, CollectionNotFound
from svr_retrievers.filters import Node, evaluate
from svr_retrievers.filters.statistics import FilterStatistics, of_metadata
from svr_retrievers.model import (
    Document,
    JsonValue,
    Metric,
    Partition,
    PartitionMap,
    PartitionStats,
    Vector,
)
from svr_retrievers.routing.kmeans import assign
from svr_retrievers.routing.place import unused_path
from svr_retrievers.routing.probe import Calibration

Key = tuple[str, str]
_SAMPLED_ROWS = 1_000


@dataclass(slots=True)
class _Row:
    text: str
    metadata: Mapping[str, JsonValue]
    typed: Mapping[str, object]
    vector: Vector
    partition: int
    version: int


@dataclass(slots=True)
class _Store:
    """One collection: its rows by key, each partition's keys, and the map they belong to."""

    ref: CollectionRef
    map: PartitionMap
    calibration: Calibration | None = None
    field_statistics: FilterStatistics = field(default_factory=FilterStatistics)
    rows: dict[Key, _Row] = field(default_factory=dict)
    members: dict[int, dict[Key, None]] = field(default_factory=dict)
    changes: int = 0
    words: Words = field(default_factory=Words)


class MemoryBackend:
    """Keeps everything in this process and searches exactly. Data ends with the client."""

    name = "memory"
    capabilities = Capabilities(
        persistent=False,
        approximate_indexes=(),
        max_dimensions=16_000,
        max_indexed_dimensions=0,
        shared_between_processes=False,
        explains=False,
    )

    def __init__(self) -> None:
        self._stores: dict[str, _Store] = {}
        self._next_id = 1
        self._closed = False

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        self._closed = True
        self._stores.clear()

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        if config.name in self._stores:
            raise CollectionExists(
                f"The collection {config.name!r} exists already.", hint="Open it with if_exists='open'."
            )
        ref = CollectionRef(self._next_id, config)
        self._next_id += 1
        self._stores[config.name] = _Store(ref, PartitionMap(1, ()))
        return ref

    async def load_collection(self, name: str) -> CollectionRef:
        if name not in self._stores:
            raise CollectionNotFound(
                f"There is no collection {name!r}.", hint="Create it with create_collection()."
            )
        return self._stores[name].ref

    async def list_collections(self) -> list[str]:
        return sorted(self._stores)

    async def drop_collection(self, name: str) -> None:
        await self.load_collection(name)
        del self._stores[name]

    def _store(self, ref: CollectionRef) -> _Store:
        if self._closed:
            raise ClientClosed("This client is closed.", hint="Make a new one.")
        store = self._stores.get(ref.config.name)
        if store is None or store.ref.id != ref.id:
            raise CollectionNotFound(
                f"The collection {ref.config.name!r} was dropped.", hint="Create it again."
            )
        return store

    def _current(self, ref: CollectionRef, known: PartitionMap) -> _Store:
        store = self._store(ref)
        if store.map.generation != known.generation:
            raise StaleMap
        return store

    async def load_map(self, ref: CollectionRef, known: MapState | None = None) -> MapState:
        store = self._store(ref)
        if known is not None and known.map.generation == store.map.generation:
            return known
        counted = [
            replace(p, stats=replace(p.stats, rows=len(store.members.get(p.id, ()))))
            for p in store.map.partitions
        ]
        return MapState(
            PartitionMap(store.map.generation, counted), store.calibration, store.field_statistics
        )

    async def add_partitions(self, ref: CollectionRef, wanted: Sequence[NewPartition]) -> MapState:
        store = self._store(ref)
        partitions = list(store.map.partitions)
        taken = {p.path for p in partitions}
        for new in wanted:
            if PartitionMap(0, partitions).child(new.parent, new.key) is None:
                path = unused_path(new.path, taken)
                made = Partition(len(partitions) + 1, path, new.key, new.parent, stats=new.stats)
                partitions.append(replace(made, holds_rows=new.leaf))
        if len(partitions) > len(store.map.partitions):
            store.map = PartitionMap(store.map.generation + 1, partitions)
        return await self.load_map(ref)

    async def upsert(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> Written:
        store = self._current(ref, known)
        store.changes += 1
        inserted: list[bool] = []
        for i, key in enumerate(zip(batch.namespaces, batch.ids, strict=True)):
            old = store.rows.get(key)
            if old is not None:
                store.members[old.partition].pop(key)
            version = 1 if old is None else old.version + 1
            vector = batch.vectors[i].copy()
            row = _Row(
                batch.texts[i], batch.metadatas[i], batch.typed[i], vector, int(partitions[i]), version
            )
            store.rows[key] = row
            store.members.setdefault(row.partition, {})[key] = None
            inserted.append(old is None)
        return Written(inserted, {p: len(members) for p, members in store.members.items()})

    def shards(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int]
    ) -> list[tuple[int, ...]]:
        return [(p,) for p in partitions]

    async def search(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Page:
        store = self._current(ref, known)
        keys = [key for key, _ in _select(store, query.namespace, query.filter, query.partitions)]
        if not keys:
            return Page((), exact=True)
        rows = [store.rows[key] for key in keys]
        distance = distances(query.vector, np.stack([row.vector for row in rows]), ref.config.metric)
        order = sorted(range(len(keys)), key=lambda i: (distance[i], keys[i]))[: query.limit]
        found = tuple(
            _candidate(keys[i], rows[i], distance[i], with_vector=query.with_vectors) for i in order
        )
        return Page(found, exact=True)

    async def keywords(self, ref: CollectionRef, known: PartitionMap, query: KeywordQuery) -> KeywordPage:
        store = self._current(ref, known)
        if not words_of(query.text):
            return KeywordPage(wordless=True)
        scores = store.words.scores(store.rows, store.changes, query.namespace, query.text)
        where = frozenset(query.partitions)
        found = [
            (-score, key)
            for key, score in scores.items()
            if (row := store.rows[key]).partition in where and evaluate(query.filter, row.metadata, row.typed)
        ]
        best = sorted(found)[: query.limit]
        rows = [store.rows[key] for _, key in best]
        far = [math.nan] * len(rows)
        if rows and query.vector.size:
            far = distances(query.vector, np.stack([row.vector for row in rows]), ref.config.metric)
        candidates = tuple(
            _candidate(key, row, distance, with_vector=query.with_vectors)
            for (_, key), row, distance in zip(best, rows, far, strict=True)
        )
        return KeywordPage(candidates, tuple(-score for score, _ in best))

    async def both(
        self, ref: CollectionRef, known: PartitionMap, near: Query, said: KeywordQuery
    ) -> tuple[Page, KeywordPage] | None:
        """Nothing waits between the two, so no write can come between them either."""
        return await self.search(ref, known, near), await self.keywords(ref, known, said)

    async def explain(self, ref: CollectionRef, known: PartitionMap, query: Query) -> str:
        return f"exact scan of {len(query.partitions)} partitions in memory"

    async def find(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        which: Selection,
        *,
        limit: int | None,
        with_vectors: bool,
        after: str | None = None,
    ) -> list[Document]:
        store = self._current(ref, known)
        there = (item for item in _matching(store, which) if after is None or item[0][1] > after)
        found = sorted(there, key=lambda item: item[0])[:limit]
        return [
            Document(
                id=key[1],
                text=row.text,
                metadata=deepcopy(row.metadata),
                vector=row.vector.copy() if with_vectors else None,
                namespace=key[0],
                version=row.version,
            )
            for key, row in found
        ]

    async def delete(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int:
        store = self._current(ref, known)
        store.changes += 1
        doomed = list(_matching(store, which))
        for key, row in doomed:
            del store.rows[key]
            store.members[row.partition].pop(key)
        return len(doomed)

    async def count(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int:
        return sum(1 for _ in _matching(self._current(ref, known), which))

    async def sample(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int], rows_each: int
    ) -> dict[int, Vector]:
        store = self._current(ref, known)
        rng = np.random.default_rng(0)
        taken: dict[int, Vector] = {}
        for partition in partitions:
            keys = list(store.members.get(partition, ()))
            if len(keys) > rows_each:
                keys = [keys[i] for i in rng.permutation(len(keys))[:rows_each]]
            if keys:
                taken[partition] = np.stack([store.rows[key].vector for key in keys])
        return taken

    async def sample_keys(self, ref: CollectionRef, known: PartitionMap, rows: int) -> list[tuple[str, str]]:
        keys = list(self._current(ref, known).rows)
        drawn = np.random.default_rng(0).permutation(len(keys))[:rows]
        return [keys[i] for i in drawn]

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        store = self._store(ref)
        partitions = [replace(p, stats=stats[p.id]) if p.id in stats else p for p in store.map.partitions]
        store.map = PartitionMap(store.map.generation + 1, partitions)
        store.calibration = calibration or store.calibration

    async def recount(self, ref: CollectionRef, known: PartitionMap) -> None:
        self._store(ref)

    async def measure_fields(self, ref: CollectionRef, known: PartitionMap) -> None:
        store = self._store(ref)
        sample = [row.metadata for row in islice(store.rows.values(), _SAMPLED_ROWS)]
        spaces = Counter(namespace for namespace, _ in store.rows)
        store.field_statistics = FilterStatistics(
            of_metadata(sample, len(store.rows)),
            rows=len(store.rows),
            namespaces={namespace: rows / len(store.rows) for namespace, rows in spaces.items()},
        )

    async def build_indexes(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        progress: Callable[[int, int], None] | None = None,
        *,
        build_from: int | None = None,
        fold_from: int = 0,
    ) -> int:
        return 0

    async def recluster(
        self, ref: CollectionRef, known: PartitionMap, source: int, targets: Sequence[int], centroids: Vector
    ) -> None:
        store = self._current(ref, known)
        keys = list(store.members.get(source, ()))
        if keys:
            inner = Metric.COSINE if ref.config.metric is Metric.COSINE else Metric.L2
            owner = assign(np.stack([store.rows[key].vector for key in keys]), centroids, inner)
            for key, target in zip(keys, owner, strict=True):
                store.rows[key].partition = targets[target]
                store.members.setdefault(targets[target], {})[key] = None
            store.members[source] = {}
        store.map = PartitionMap(store.map.generation + 1, store.map.partitions)


def _candidate(key: Key, row: _Row, distance: float, *, with_vector: bool) -> Candidate:
    return Candidate(
        *key,
        row.text,
        deepcopy(row.metadata),
        row.version,
        row.partition,
        float(distance),
        row.vector.copy() if with_vector else None,
    )


def _select(
    store: _Store, namespace: str, node: Node, partitions: Sequence[int] | None
) -> Iterator[tuple[Key, _Row]]:
    where = partitions if partitions is not None else list(store.members)
    for partition in where:
        for key in store.members.get(partition, ()):
            row = store.rows[key]
            if key[0] == namespace and evaluate(node, row.metadata, row.typed):
                yield key, row


def _matching(store: _Store, which: Selection) -> Iterator[tuple[Key, _Row]]:
    if which.ids is None:
        yield from _select(store, which.namespace, which.filter, which.partitions)
        return
    for doc_id in dict.fromkeys(which.ids):
        key = (which.namespace, doc_id)
        row = store.rows.get(key)
        if row is not None and evaluate(which.filter, row.metadata, row.typed):
            yield key, row
