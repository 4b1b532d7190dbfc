"""The half of the store that reads: similarity, scores, relevance, diversity, ids; blocking and awaitable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

import svr_retrievers as svr
from langchain_svr import convert
from langchain_svr.connection import Connection
from langchain_svr.convert import VectorLike, document_of
from langchain_svr.embedding import Embedding, aembed_query
from langchain_svr.options import RERANK_OPTIONS, SEARCH_OPTIONS, Ask, positive
from svr_retrievers import Hit, Metric, SearchResult, maximal_marginal_relevance

_NONE: list[svr.Document] = []
TEXT_OPTIONS = SEARCH_OPTIONS | RERANK_OPTIONS
_log = logging.getLogger("langchain_svr")


class SearchingStore(VectorStore):
    """Every search takes `filter` and the routing options as keywords; an unknown one is a TypeError.

    `filter`: a condition on the metadata, e.g. `{"year": {"$gte": 2020}, "lang": "en"}`.
    `partitions`: paths of the partitions to look into. `recall_target`: share of the true neighbours
    that the chosen partitions should hold; `nprobe`: a fixed number of partitions instead; `exact`:
    no approximate index. `ef_search`: effort within an index. `timeout_seconds`: the deadline.
    `on_failure`: "fail", or "partial" for the hits of the partitions that answered. `namespace`:
    instead of the store's own. `with_details`: add `svr_score`, `svr_relevance`, `svr_distance` and
    `svr_partition` to the metadata of the documents returned; nothing is added otherwise.

    Searches by text, but for maximal marginal relevance, also take a `reranker`: an object with
    `rerank(query, texts)` or `arerank(query, texts)`, which sees the `fetch_k` closest documents and has
    `rerank_timeout_seconds`. The best by its scores are returned; where it fails or is late, the closest
    are, and the log says so. Scores and relevance stay those of the vectors.
    """

    _embedding: Embedding
    _connection: Connection
    _namespace: str
    _metric: Metric

    def similarity_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        """The `k` documents closest to the query, closest first."""
        ask = self._ask("similarity_search", k, filter, kwargs, TEXT_OPTIONS)
        return documents(self._hits(ask, query), ask)

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        ask = self._ask("asimilarity_search", k, filter, kwargs, TEXT_OPTIONS)
        return documents(await self._ahits(ask, query), ask)

    def similarity_search_by_vector(
        self, embedding: VectorLike, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        ask = self._ask("similarity_search_by_vector", k, filter, kwargs)
        return documents(self._hits(ask, embedding), ask)

    async def asimilarity_search_by_vector(
        self, embedding: VectorLike, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        ask = self._ask("asimilarity_search_by_vector", k, filter, kwargs)
        return documents(await self._ahits(ask, embedding), ask)

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Documents with their score, which is **higher for closer** and not a distance.

        Cosine: the similarity, -1 to 1. L2: minus the distance. Inner product: the product.
        """
        ask = self._ask("similarity_search_with_score", k, filter, kwargs, TEXT_OPTIONS)
        return scored(self._hits(ask, query), ask)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        ask = self._ask("asimilarity_search_with_score", k, filter, kwargs, TEXT_OPTIONS)
        return scored(await self._ahits(ask, query), ask)

    def similarity_search_with_score_by_vector(
        self, embedding: VectorLike, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        ask = self._ask("similarity_search_with_score_by_vector", k, filter, kwargs)
        return scored(self._hits(ask, embedding), ask)

    async def asimilarity_search_with_score_by_vector(
        self, embedding: VectorLike, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        ask = self._ask("asimilarity_search_with_score_by_vector", k, filter, kwargs)
        return scored(await self._ahits(ask, embedding), ask)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """`k` documents that are close to the query and unlike each other, in the order of choice.

        They are chosen among the `fetch_k` closest, never fewer than `k`. `lambda_mult` 1 weighs
        closeness only, 0 difference only.
        """
        ask = self._ask("max_marginal_relevance_search", _pool(k, fetch_k), filter, kwargs)
        vector = self._embedding.embed_query(query)
        return _diverse(self._hits(ask, vector, with_vectors=True), ask, vector, k, lambda_mult)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        ask = self._ask("amax_marginal_relevance_search", _pool(k, fetch_k), filter, kwargs)
        vector = await aembed_query(self._embedding, query)
        return _diverse(await self._ahits(ask, vector, with_vectors=True), ask, vector, k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: VectorLike,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        ask = self._ask("max_marginal_relevance_search_by_vector", _pool(k, fetch_k), filter, kwargs)
        return _diverse(self._hits(ask, embedding, with_vectors=True), ask, embedding, k, lambda_mult)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: VectorLike,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        ask = self._ask("amax_marginal_relevance_search_by_vector", _pool(k, fetch_k), filter, kwargs)
        return _diverse(await self._ahits(ask, embedding, with_vectors=True), ask, embedding, k, lambda_mult)

    def get_by_ids(self, ids: Sequence[str], /, *, namespace: str | None = None) -> list[Document]:
        """The documents that exist, in the order of `ids`."""
        wanted = convert.wanted_ids(ids)
        where = self._in(namespace)
        if not wanted:
            return []
        found = self._connection.read(lambda c: c.get(wanted, namespace=where), _NONE)
        return [document_of(document) for document in found]

    async def aget_by_ids(self, ids: Sequence[str], /, *, namespace: str | None = None) -> list[Document]:
        wanted = convert.wanted_ids(ids)
        where = self._in(namespace)
        if not wanted:
            return []
        found = await self._connection.aread(lambda c: c.get(wanted, namespace=where), _NONE)
        return [document_of(document) for document in found]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        ask = self._ask("similarity_search_with_relevance_scores", k, None, kwargs, TEXT_OPTIONS)
        return [(document_of(h, with_details=ask.with_details), h.relevance) for h in self._hits(ask, query)]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        ask = self._ask("asimilarity_search_with_relevance_scores", k, None, kwargs, TEXT_OPTIONS)
        hits = await self._ahits(ask, query)
        return [(document_of(h, with_details=ask.with_details), h.relevance) for h in hits]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """From the score of `similarity_search_with_score` to a number in [0, 1], 1 for best."""
        metric = self._metric
        if metric is Metric.COSINE:
            return lambda score: metric.relevance(1.0 - score)
        return lambda score: metric.relevance(-score)

    def _in(self, namespace: str | None) -> str:
        return self._namespace if namespace is None else namespace

    def _ask(
        self,
        method: str,
        k: int,
        filter: Mapping[str, Any] | None,
        given: dict[str, Any],
        known: frozenset[str] = SEARCH_OPTIONS,
    ) -> Ask:
        options = given if filter is None else {**given, "filter": filter}
        return Ask.checked(method, k, options, namespace=self._namespace, known=known)

    def _hits(self, ask: Ask, query: str | VectorLike, *, with_vectors: bool = False) -> Sequence[Hit]:
        if self._connection.existing() is None:
            return ()
        vector = self._embedding.embed_query(query) if isinstance(query, str) else query
        options = _arguments(ask, query, vector, with_vectors)
        return noted(self._connection.read(lambda c: c.search(**options), None))

    async def _ahits(self, ask: Ask, query: str | VectorLike, *, with_vectors: bool = False) -> Sequence[Hit]:
        if await self._connection.aexisting() is None:
            return ()
        vector = await aembed_query(self._embedding, query) if isinstance(query, str) else query
        options = _arguments(ask, query, vector, with_vectors)
        return noted(await self._connection.aread(lambda c: c.search(**options), None))


def _arguments(ask: Ask, query: object, vector: VectorLike, with_vectors: bool) -> dict[str, Any]:
    options = ask.options | {"vector": packed(vector), "limit": ask.limit, "with_vectors": with_vectors}
    return options | ({"rerank_query": query} if "reranker" in options else {})


def packed(vector: VectorLike) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(vector, dtype=np.float32)


def _pool(k: int, fetch_k: int) -> int:
    return max(positive("k", k), positive("fetch_k", fetch_k))


def noted(result: SearchResult | None) -> Sequence[Hit]:
    """LangChain's lists have no room for what is to be said of an answer, so it goes to the log."""
    if result is None:
        return ()
    if result.incomplete is not None:
        level = logging.DEBUG if result.incomplete.code == "few_matches" else logging.WARNING
        _log.log(level, "%d of %d documents: %s", len(result), result.limit, result.incomplete.message)
    for note in result.notes:
        _log.warning("%s", note)
    return result.hits


def documents(hits: Iterable[Hit], ask: Ask) -> list[Document]:
    return [document_of(hit, with_details=ask.with_details) for hit in hits]


def scored(hits: Iterable[Hit], ask: Ask) -> list[tuple[Document, float]]:
    return [(document_of(hit, with_details=ask.with_details), hit.score) for hit in hits]


def _diverse(hits: Sequence[Hit], ask: Ask, query: VectorLike, k: int, lambda_mult: float) -> list[Document]:
    vectors = [hit.vector for hit in hits if hit.vector is not None]
    chosen = maximal_marginal_relevance(packed(query), np.array(vectors), k=k, lambda_mult=lambda_mult)
    return documents((hits[i] for i in chosen), ask)
