"""Searching by meaning and by words at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from svr_retrievers.backends.protocol import KeywordSearch
from svr_retrievers.collection.reading import CollectionReads
from svr_retrievers.errors import ConfigError, InputError
from svr_retrievers.model import DEFAULT_NAMESPACE, SearchResult, VectorLike
from svr_retrievers.search.hybrid import check_weights
from svr_retrievers.search.legs import Asked, run_hybrid
from svr_retrievers.search.request import Request


class CollectionHybrid(CollectionReads):
    """The call that ranks by vectors and by keywords."""

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
        timeout_seconds: float | None = None,
        with_vectors: bool = False,
    ) -> SearchResult:
        """The `limit` best documents by two rankings: closeness to the text, and its words in theirs.

        A hit's score is `sum of weight / (60 + rank)` over both rankings (reciprocal rank fusion) and `legs` its
        ranks; `weights` are those of vectors and of words. `vector` stands for the text's own, which the embedder
        makes otherwise. What one ranking lacks is told in `incomplete`: its failure, or rows it does not hold yet.

        Raises:
            ConfigError: the backend does not search by words.
            IndexLimitReached: the deployment has no room for the index of words, which the first call makes.
            PartitionNotFound: an unknown path in `partitions`.
            DeadlineExceeded: neither ranking ended in time.
        """
        backend = self._backend
        if not isinstance(backend, KeywordSearch):
            raise ConfigError(
                f"The {backend.name} backend does not search by words yet; MongoDB does.",
                hint="Use search(), or SVRClient('mongodb+srv://...').",
            )
        checked = check_weights(weights)
        request = self._hybrid_request(
            text, vector, limit, filter, namespace, partitions, timeout_seconds, with_vectors
        )
        wish = self._wish(request)
        started = time.perf_counter()
        query = await self._query_vector(request)
        embed_ms = (time.perf_counter() - started) * 1e3 if vector is None else 0.0
        asked = request.with_text(text)
        seconds = timeout_seconds or self._settings.timeout_seconds
        return await self._on_current_map(
            lambda view: run_hybrid(
                Asked(self._engine, backend, view, asked, wish, query, seconds),
                limit,
                checked,
                embed_ms=embed_ms,
            )
        )

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
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                "hybrid() needs a text that is not empty.", hint="Use search(vector=...) without one."
            )
        Request(text=text).check()
        return request.check()
