"""Searching by words, and by meaning and words at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from svr_retrievers.backends.protocol import KeywordSearch
from svr_retrievers.collection.reading import CollectionReads
from svr_retrievers.errors import ConfigError, InputError
from svr_retrievers.model import DEFAULT_NAMESPACE, SearchResult, VectorLike
from svr_retrievers.reranking.protocol import AsyncReranker, Reranker
from svr_retrievers.search.hybrid import Fusion, check_fusion, check_weights
from svr_retrievers.search.legs import Asked, Fusing, run_hybrid, run_keywords
from svr_retrievers.search.request import Request
from svr_retrievers.search.rerank import reranking


class CollectionHybrid(CollectionReads):
    """The calls that rank by keywords, alone or with vectors."""

    async def keywords(
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
        """The `limit` documents whose texts hold words of the text, best first, or fewer with the reason.

        One word is enough; rare words, and short texts, count for more (BM25). A hit's score is the engine's own,
        comparable within one answer only, its relevance the share of the best one; `distance` is NaN. No vector is
        made. The first search by words of a collection makes its index of words.

        Raises:
            ConfigError: the backend does not search by words.
            MissingExtra: in memory, `bm25s` is not installed.
            PermissionDenied: the index of words is missing, and this role may not make it.
            PartitionNotFound, DeadlineExceeded.
        """
        backend = self._keyword_backend()
        request = Request(
            text=_worded("keywords", text),
            limit=limit,
            filter=filter,
            namespace=namespace,
            partitions=partitions,
            timeout_seconds=timeout_seconds,
            with_vectors=with_vectors,
        ).check()
        if with_vectors:
            self._check_has_vectors("with_vectors")
        wish = self._wish(request)
        seconds = timeout_seconds or self._settings.timeout_seconds
        nothing = np.empty(0, dtype=np.float32)
        return await self._on_current_map(
            lambda view: run_keywords(Asked(self._engine, backend, view, request, wish, nothing, seconds))
        )

    async def hybrid(
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
        """The `limit` best documents by two rankings: closeness to the text, and its words in theirs.

        With `fusion="rrf"` a hit's score is `sum of weight / (60 + rank)` over both rankings (reciprocal rank
        fusion); `"distribution"` and `"convex"` sum scores that are brought to 0 to 1 within each ranking, by its mean
        and deviation or by its extremes. `weights` are those of vectors and of words; a ranking of weight 0 brings
        no hits in. `legs` are the ranks and scores in either. `vector` stands for the text's own, which the embedder
        makes otherwise. What one ranking lacks is told in `incomplete`: its failure, or rows it does not hold yet. A
        `reranker` works as in `search`.

        Raises:
            ConfigError: the backend does not search by words.
            IndexLimitReached: the deployment has no room for the index of words, which the first call makes.
            PartitionNotFound: an unknown path in `partitions`.
            DeadlineExceeded: neither ranking ended in time.
        """
        fusing = Fusing(check_fusion(fusion), check_weights(weights))
        request = self._hybrid_request(
            _worded("hybrid", text),
            vector,
            limit,
            filter,
            namespace,
            partitions,
            timeout_seconds,
            with_vectors,
        )
        if reranker is None and fetch_k is None and rerank_query is None and rerank_timeout_seconds is None:
            return await self._hybrid(text, request, fusing)
        query = text if rerank_query is None else rerank_query
        asked = reranking(reranker, query, limit, fetch_k, rerank_timeout_seconds)
        deeper = replace(request, limit=asked.candidates)
        return await self._reranked(self._hybrid(text, deeper, fusing), asked, timeout_seconds)

    async def _hybrid(self, text: str, request: Request, fusing: Fusing) -> SearchResult:
        backend = self._keyword_backend()
        wish = self._wish(request)
        started = time.perf_counter()
        query = await self._query_vector(request)
        embed_ms = (time.perf_counter() - started) * 1e3 if request.vector is None else 0.0
        asked = request.with_text(text)
        seconds = request.timeout_seconds or self._settings.timeout_seconds
        return await self._on_current_map(
            lambda view: run_hybrid(
                Asked(self._engine, backend, view, asked, wish, query, seconds),
                request.limit,
                fusing,
                embed_ms=embed_ms,
            )
        )

    def _keyword_backend(self) -> KeywordSearch:
        backend = self._backend
        if not isinstance(backend, KeywordSearch):
            raise ConfigError(
                f"The {backend.name} backend does not search by words.",
                hint="PostgreSQL, MongoDB and memory do.",
            )
        return backend

    def _hybrid_request(
        self,
        text: str,
        vector: VectorLike | None,
        limit: int,
        filter: Mapping[str, object] | None,
        namespace: str,
        partitions: Sequence[str] | None,
        timeout_seconds: float | None,
        with_vectors: bool,
    ) -> Request:
        """The checked request of the ranking by vectors, which is asked by vector where one is given."""
        request = Request(
            vector=vector,
            text=None if vector is not None else text,
            limit=limit,
            filter=filter,
            namespace=namespace,
            partitions=partitions,
            timeout_seconds=timeout_seconds,
            with_vectors=with_vectors,
        )
        Request(text=text).check()
        if vector is None and self.embedder is None and self._ref.config.embedding is None:
            raise InputError(
                "hybrid() needs the text's vector, and the collection was opened without an embedder.",
                hint="Open it with embedder=..., pass vector=..., or ask keywords(text=...) for words alone.",
            )
        return request.check()


def _worded(call: str, text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f"{call}() needs a text that is not empty.", hint="Use search(vector=...) without one."
        )
    return text
