"""The blocking collection: one line a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy.typing as npt

from svr_retrievers.blocking.changes import Changes
from svr_retrievers.collection import AsyncCollection
from svr_retrievers.collection.checking import RecallCheck
from svr_retrievers.collection.scanning import Scan
from svr_retrievers.embedding import AsyncEmbedder, AtlasEmbedding, Embedder
from svr_retrievers.filters.advice import Analysis
from svr_retrievers.loopfree import Bridge, loop_free
from svr_retrievers.model import (
    DEFAULT_NAMESPACE,
    AddResult,
    Adopted,
    Document,
    Explanation,
    Metric,
    OnFailure,
    PartitionMap,
    Route,
    SearchResult,
    VectorLike,
)
from svr_retrievers.reranking.protocol import AsyncReranker, Reranker
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.search.hybrid import Fusion
from svr_retrievers.spaces import VectorSpace


class Collection:
    """The blocking face of AsyncCollection: same arguments, same errors. Safe for many threads."""

    def __init__(self, inner: AsyncCollection, bridge: Bridge) -> None:
        self._async = inner
        self._bridge = bridge

    @property
    def aio(self) -> AsyncCollection:
        """The same collection for `await`, from any event loop."""
        return loop_free(self._async, self._bridge)

    @property
    def name(self) -> str:
        return self._async.name

    @property
    def dimensions(self) -> int:
        return self._async.dimensions

    @property
    def metric(self) -> Metric:
        return self._async.metric

    @property
    def space(self) -> VectorSpace | None:
        return self._async.space

    @property
    def partition_by(self) -> Scheme | None:
        return self._async.partition_by

    @property
    def filter_fields(self) -> dict[str, object]:
        return self._async.filter_fields

    @property
    def partitions(self) -> PartitionMap:
        return self._async.partitions

    @property
    def adopted(self) -> Adopted | None:
        return self._async.adopted

    @property
    def embedder(self) -> Embedder | AsyncEmbedder | AtlasEmbedding | None:
        return self._async.embedder

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncCollection", "Collection", 1)

    def add(
        self,
        documents: Iterable[Document],
        *,
        vectors: npt.ArrayLike | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> AddResult:
        return self._bridge.run(partial(self._async.add, documents, vectors=vectors, namespace=namespace))

    def search(
        self,
        *,
        vector: VectorLike | None = None,
        text: str | None = None,
        limit: int = 10,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        exact: bool = False,
        nprobe: int | None = None,
        recall_target: float | None = None,
        ef_search: int | None = None,
        timeout_seconds: float | None = None,
        on_failure: OnFailure = "fail",
        with_vectors: bool = False,
        reranker: Reranker | AsyncReranker | None = None,
        fetch_k: int | None = None,
        rerank_query: str | None = None,
        rerank_timeout_seconds: float | None = None,
    ) -> SearchResult:
        ask = partial(
            self._async.search,
            limit=limit,
            filter=filter,
            namespace=namespace,
            partitions=partitions,
            exact=exact,
            nprobe=nprobe,
            recall_target=recall_target,
            ef_search=ef_search,
            timeout_seconds=timeout_seconds,
            on_failure=on_failure,
            with_vectors=with_vectors,
            reranker=reranker,
            fetch_k=fetch_k,
            rerank_query=rerank_query,
            rerank_timeout_seconds=rerank_timeout_seconds,
        )
        return self._bridge.run_here(partial(ask, vector=vector, text=text), lambda made: ask(vector=made))

    def keywords(
        self,
        *,
        text: str,
        limit: int = 10,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        timeout_seconds: float | None = None,
        with_vectors: bool = False,
    ) -> SearchResult:
        return self._bridge.run(
            partial(
                self._async.keywords,
                text=text,
                limit=limit,
                filter=filter,
                namespace=namespace,
                partitions=partitions,
                timeout_seconds=timeout_seconds,
                with_vectors=with_vectors,
            )
        )

    def hybrid(
        self,
        *,
        text: str,
        vector: VectorLike | None = None,
        limit: int = 10,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        weights: tuple[float, float] = (1.0, 1.0),
        fusion: Fusion = "rrf",
        timeout_seconds: float | None = None,
        with_vectors: bool = False,
        reranker: Reranker | AsyncReranker | None = None,
        fetch_k: int | None = None,
        rerank_query: str | None = None,
        rerank_timeout_seconds: float | None = None,
    ) -> SearchResult:
        return self._bridge.run(
            partial(
                self._async.hybrid,
                text=text,
                vector=vector,
                limit=limit,
                filter=filter,
                namespace=namespace,
                partitions=partitions,
                weights=weights,
                fusion=fusion,
                timeout_seconds=timeout_seconds,
                with_vectors=with_vectors,
                reranker=reranker,
                fetch_k=fetch_k,
                rerank_query=rerank_query,
                rerank_timeout_seconds=rerank_timeout_seconds,
            )
        )

    def route(
        self,
        *,
        vector: VectorLike | None = None,
        text: str | None = None,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        exact: bool = False,
        nprobe: int | None = None,
        recall_target: float | None = None,
    ) -> Route:
        return self._bridge.run(
            partial(
                self._async.route,
                vector=vector,
                text=text,
                filter=filter,
                namespace=namespace,
                partitions=partitions,
                exact=exact,
                nprobe=nprobe,
                recall_target=recall_target,
            )
        )

    def explain(
        self,
        *,
        vector: VectorLike | None = None,
        text: str | None = None,
        limit: int = 10,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        exact: bool = False,
        nprobe: int | None = None,
        recall_target: float | None = None,
        ef_search: int | None = None,
        analyze: bool = False,
    ) -> Explanation:
        return self._bridge.run(
            partial(
                self._async.explain,
                vector=vector,
                text=text,
                limit=limit,
                filter=filter,
                namespace=namespace,
                partitions=partitions,
                exact=exact,
                nprobe=nprobe,
                recall_target=recall_target,
                ef_search=ef_search,
                analyze=analyze,
            )
        )

    def get(
        self, ids: Sequence[str], *, namespace: str = DEFAULT_NAMESPACE, with_vectors: bool = False
    ) -> list[Document]:
        return self._bridge.run(partial(self._async.get, ids, namespace=namespace, with_vectors=with_vectors))

    def find(
        self,
        filter: Mapping[str, object] | None = None,
        *,
        ids: Sequence[str] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        limit: int | None = None,
        with_vectors: bool = False,
    ) -> list[Document]:
        return self._bridge.run(
            partial(
                self._async.find, filter, ids=ids, namespace=namespace, limit=limit, with_vectors=with_vectors
            )
        )

    def scan(
        self,
        filter: Mapping[str, object] | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        batch_size: int = 1_000,
        with_vectors: bool = False,
    ) -> Iterator[Document]:
        asked = self._async._scan(filter, namespace, batch_size, with_vectors)  # noqa: SLF001 - one unit, two faces
        return self._scanned(asked)

    def _scanned(self, asked: Scan) -> Iterator[Document]:
        last: str | None = None
        while True:
            page = self._bridge.run(partial(self._async._page, asked, last))  # noqa: SLF001 - as above
            yield from page
            if len(page) < asked.batch_size:
                return
            last = page[-1].id

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> int:
        return self._bridge.run(partial(self._async.delete, ids, filter=filter, namespace=namespace))

    def clear(self, *, namespace: str = DEFAULT_NAMESPACE) -> int:
        return self._bridge.run(partial(self._async.clear, namespace=namespace))

    def count(self, filter: Mapping[str, object] | None = None, *, namespace: str = DEFAULT_NAMESPACE) -> int:
        return self._bridge.run(partial(self._async.count, filter, namespace=namespace))

    def analyze(self) -> Analysis:
        return self._bridge.run(self._async.analyze)

    def check_recall(
        self, *, samples: int = 100, targets: Sequence[float] = (0.9, 0.95, 0.99)
    ) -> tuple[RecallCheck, ...]:
        return self._bridge.run(partial(self._async.check_recall, samples=samples, targets=targets))

    def watch(self, *, after: str | None = None) -> Changes:
        return Changes(self._async.watch(after=after), self._bridge)

    def refresh(self, *, progress: Callable[[int, int], None] | None = None) -> PartitionMap:
        return self._bridge.run(partial(self._async.refresh, progress=progress))

    def build_indexes(self, *, progress: Callable[[int, int], None] | None = None) -> int:
        return self._bridge.run(partial(self._async.build_indexes, progress=progress))
