"""What a backend must do, and what it says it can do.

A backend stores the documents of collections in the partitions it is told to use and answers
searches over the partitions it is told to search. It decides nothing about routing. Every write and
every search carries the partition map it was planned with; when the map has moved on, the backend
raises `StaleMap` before anything is written or returned, and the caller plans again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from svr_retrievers.backends.auto_embedding import AtlasEmbedding
from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.sources import Source
from svr_retrievers.filters import FieldType, Node
from svr_retrievers.filters.choice import Estimates
from svr_retrievers.filters.statistics import FilterStatistics
from svr_retrievers.model import (
    Document,
    JsonValue,
    Metric,
    PartitionKey,
    PartitionMap,
    PartitionStats,
    Server,
    Vector,
)
from svr_retrievers.routing.probe import DEFAULT_RECALL_TARGET, Calibration
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.spaces import VectorSpace


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine offers, so that callers never have to guess."""

    persistent: bool
    approximate_indexes: tuple[str, ...]
    max_dimensions: int
    max_indexed_dimensions: int
    shared_between_processes: bool
    explains: bool
    reads_without_loop: bool = False
    """Whether `search` may be driven on any thread that has no event loop."""
    index_kinds: tuple[str, ...] = ("hnsw", "ivfflat", "flat")
    quantizations: tuple[str, ...] = ("none", "half", "binary")
    stored_vectors: tuple[str, ...] = ("float32",)
    index_modes: tuple[str, ...] = ("auto",)
    """What an `IndexSpec` may ask for here."""
    embeds: bool = False
    """Whether the server can embed texts and queries by itself."""
    languages: bool = False
    """Whether `text_search` may name more than `simple`."""


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """What was fixed when the collection was created. `fields` are the declared filter fields."""

    name: str
    dimensions: int
    metric: Metric = Metric.COSINE
    scheme: Scheme | None = None
    fields: Mapping[str, FieldType] = field(default_factory=dict)
    index: IndexSpec = field(default_factory=IndexSpec)
    servers: tuple[str, ...] = ()
    """Where its partitions are placed; empty: beside the documents."""
    recall_target: float = DEFAULT_RECALL_TARGET
    embedding: AtlasEmbedding | None = None
    """Set where the server embeds: its documents carry no vectors, and it is searched by text."""
    source: Source | None = None
    """Set where the documents are those of a collection that others made."""
    space: VectorSpace | None = None
    """Which embedding space the vectors are of; None where the embedder of its creation declared none."""
    text_search: str | None = None
    """How texts are taken apart into words, where that was said; None: plainly, once words are first asked for."""


@dataclass(frozen=True, slots=True)
class CollectionRef:
    """A collection as the control plane knows it."""

    id: int
    config: CollectionConfig


@dataclass(frozen=True, slots=True)
class MapState:
    """The partition map with the measured facts that go with it."""

    map: PartitionMap
    calibration: Calibration | None = None
    field_statistics: FilterStatistics = field(default_factory=FilterStatistics)


@dataclass(frozen=True, slots=True)
class NewPartition:
    """A partition to create below `parent` (None: the root), with what is already known of it."""

    parent: int | None
    key: PartitionKey
    path: str
    leaf: bool
    stats: PartitionStats = field(default_factory=PartitionStats)
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Checked rows, ready to be written: parallel sequences of n entries, `vectors` (n, d) float32."""

    namespaces: Sequence[str]
    ids: Sequence[str]
    texts: Sequence[str]
    metadatas: Sequence[Mapping[str, JsonValue]]
    typed: Sequence[Mapping[str, object]]
    vectors: Vector

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Written:
    """What an upsert did: for each row whether its key was new, and the rows now in each touched partition.

    `tails`: how many of those wait in a tail.
    """

    inserted: Sequence[bool]
    rows: Mapping[int, int]
    tails: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """One vector search over named partitions. `vector` (d,) float32; `filter` binds declared fields.

    Where the server embeds, `vector` is empty and `text` is what is asked.
    """

    vector: Vector
    limit: int
    namespace: str
    filter: Node
    partitions: tuple[int, ...]
    exact: bool = False
    ef_search: int | None = None
    with_vectors: bool = False
    timeout_seconds: float | None = None
    estimates: Estimates | None = None
    """What is known of the filter in each partition; None where there is no filter."""
    alone: bool = False
    """Whether (nearly) all rows of these partitions are known to be of the namespace."""
    text: str | None = None


class Candidate(NamedTuple):
    """A row that a partition answered with; lower distance is closer."""

    namespace: str
    id: str
    text: str
    metadata: Mapping[str, JsonValue]
    version: int
    partition: int
    distance: float
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The closest rows of the searched partitions, best first, equal distances by namespace and id, each key once.

    `exact`: no index can have missed one. `waiting`: matching rows that could not be compared yet, since the
    server has not embedded them.
    """

    candidates: tuple[Candidate, ...]
    exact: bool
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class KeywordQuery:
    """A question by words over named partitions. Distances are told from `vector`, NaN where it is empty.

    `alone`: words alone decide, so that equal rows at the limit must be answered too.
    """

    text: str
    vector: Vector
    limit: int
    namespace: str
    filter: Node
    partitions: tuple[int, ...]
    with_vectors: bool = False
    timeout_seconds: float | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class KeywordPage:
    """The rows with the highest scores for the words, best first, equal ones by namespace and id.

    `waiting`: rows that hold one of the words, and that the index does not hold yet. `ready` is False while there is
    no index to ask. `wordless`: the text has no word that counts.
    """

    candidates: tuple[Candidate, ...] = ()
    scores: tuple[float, ...] = ()
    waiting: int = 0
    ready: bool = True
    wordless: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a namespace: by ids, by filter, or both at once. `partitions` None means all."""

    namespace: str
    filter: Node
    ids: Sequence[str] | None = None
    partitions: tuple[int, ...] | None = None


class StaleMap(Exception):
    """The partition map has a newer generation than the one the call was planned with."""


class Backend(Protocol):
    """An engine that stores and searches partitions. All methods may raise BackendError."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        """Raises CollectionExists."""
        ...

    async def load_collection(self, name: str) -> CollectionRef:
        """Raises CollectionNotFound."""
        ...

    async def list_collections(self) -> list[str]: ...

    async def drop_collection(self, name: str) -> None:
        """Raises CollectionNotFound."""
        ...

    async def load_map(self, ref: CollectionRef, known: MapState | None = None) -> MapState:
        """The newest map; `known` itself where its generation is the newest still.

        Raises CollectionNotFound when it was dropped meanwhile.
        """
        ...

    async def add_partitions(self, ref: CollectionRef, wanted: Sequence[NewPartition]) -> MapState:
        """Creates those that do not exist yet, all or none, and returns the newest map."""
        ...

    async def upsert(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> Written:
        """Writes all rows or none. A row's partition is `partitions[i]`; the key's former row, wherever
        it was, is gone in the same transaction. Raises StaleMap.
        """
        ...

    async def search(self, ref: CollectionRef, known: PartitionMap, query: Query) -> Page:
        """Raises StaleMap, DeadlineExceeded, PartitionFailed."""
        ...

    def shards(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """Groups of partitions that are best searched in one round trip each."""
        ...

    async def explain(self, ref: CollectionRef, known: PartitionMap, query: Query) -> str:
        """The engine's own plan for the search, as text."""
        ...

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
        """Ordered by id; those behind the id `after`."""
        ...

    async def delete(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int: ...

    async def count(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int: ...

    async def sample(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int], rows_each: int
    ) -> dict[int, Vector]:
        """Vectors of up to `rows_each` rows of each partition, by partition id."""
        ...

    async def sample_keys(self, ref: CollectionRef, known: PartitionMap, rows: int) -> list[tuple[str, str]]:
        """Namespace and id of up to `rows` documents, drawn at random."""
        ...

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        """Stores centroids, spread and the size at refresh as a new generation. Row counts are the backend's own."""
        ...

    async def recount(self, ref: CollectionRef, known: PartitionMap) -> None:
        """Sets each partition's row count to the truth."""
        ...

    async def measure_fields(self, ref: CollectionRef, known: PartitionMap) -> None:
        """Renews what is known of the values that filters ask for; seen with the next map that is loaded."""
        ...

    async def build_indexes(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        progress: Callable[[int, int], None] | None = None,
        *,
        build_from: int | None = None,
        fold_from: int = 0,
    ) -> int:
        """Builds the indexes that are not there of partitions of at least `build_from` rows (None: what the index
        spec says), and folds tails of at least `fold_from` rows; the number built and folded. New generations when
        that is not 0. `progress` is told the rows done and the rows to do.
        """
        ...

    async def recluster(
        self, ref: CollectionRef, known: PartitionMap, source: int, targets: Sequence[int], centroids: Vector
    ) -> None:
        """Moves the rows of `source` to the target whose centroid is closest, in one transaction that
        makes a new generation. Raises StaleMap.
        """
        ...


@runtime_checkable
class KeywordSearch(Protocol):
    """A backend that also ranks rows by the words of their texts."""

    async def keywords(self, ref: CollectionRef, known: PartitionMap, query: KeywordQuery) -> KeywordPage:
        """Raises StaleMap, DeadlineExceeded. Makes the index that it needs when it is first asked."""
        ...

    async def both(
        self, ref: CollectionRef, known: PartitionMap, near: Query, said: KeywordQuery
    ) -> tuple[Page, KeywordPage] | None:
        """`search` and `keywords` in one round trip; None where that cannot be done for these questions."""
        ...


@runtime_checkable
class ServerRegistry(Protocol):
    """A backend that can place partitions on further servers."""

    async def add_server(self, name: str, url: str) -> Server:
        """Raises ConfigError, ConnectionFailed, ExtensionMissing, PermissionDenied."""
        ...

    async def list_servers(self) -> list[Server]: ...

    async def remove_server(self, name: str, *, lost: bool) -> None:
        """Raises ServerNotFound; ConfigError when collections lie on it and it is not `lost`."""
        ...
