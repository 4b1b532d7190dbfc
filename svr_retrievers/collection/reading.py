"""Searching, explaining, listing and counting documents."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace

from svr_retrievers.collection.state import CollectionState
from svr_retrievers.concurrency import NeedsLoop, on_loop
from svr_retrievers.errors import InputError
from svr_retrievers.filters import ALL, describe
from svr_retrievers.model import (
    DEFAULT_NAMESPACE,
    Document,
    Explanation,
    OnFailure,
    Route,
    SearchResult,
    Vector,
    VectorLike,
)
from svr_retrievers.reranking.protocol import AsyncReranker, Reranker
from svr_retrievers.routing.plan import Planned, Wish
from svr_retrievers.search.execute import query_for, run
from svr_retrievers.search.request import Request
from svr_retrievers.search.rerank import Reranking, rerank, reranking
from svr_retrievers.search.view import View


class CollectionReads(CollectionState):
    """The calls that read a collection, each on one map from beginning to end."""

    async def search(
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
        """The `limit` closest documents that match, best first, or fewer with the reason in `incomplete`.

        `partitions` restricts the search to partitions by path (a path above leaves means all below it).
        `exact` looks at every row that could match. Where a large collection is searched by closeness,
        `recall_target` (default: the collection's, 0.95) or `nprobe` says how many partitions to probe; beside
        a filter on fields without statistics only `nprobe` leaves any out. `ef_search` widens the search
        within each HNSW index; without it the recall target does. `timeout_seconds` bounds the whole search;
        with `on_failure="partial"` what answered in time is returned, and `incomplete` names the rest.

        A `reranker` reads the text, or `rerank_query` in its stead, beside the `fetch_k` closest documents
        (default: 4 times `limit`, at least 50), and the best by its scores are answered. It has
        `rerank_timeout_seconds` (default 10) within `timeout_seconds`; where it fails or is late, the closest are
        answered as ever, and `notes` says why.

        Raises:
            PartitionNotFound: an unknown path in `partitions`.
            PartitionFailed, DeadlineExceeded: under `on_failure="fail"`.
        """
        request = Request(
            vector,
            text,
            limit,
            filter,
            namespace,
            partitions,
            exact,
            nprobe,
            recall_target,
            ef_search,
            timeout_seconds,
            on_failure,
            with_vectors,
        )
        if reranker is None and fetch_k is None and rerank_query is None and rerank_timeout_seconds is None:
            return await self._search(request)
        request.check()
        query = text if rerank_query is None else rerank_query
        asked = reranking(reranker, query, limit, fetch_k, rerank_timeout_seconds)
        return await self._reranked(
            self._search(replace(request, limit=asked.candidates)), asked, timeout_seconds
        )

    async def _reranked(
        self, search: Coroutine[object, object, SearchResult], asked: Reranking, timeout_seconds: float | None
    ) -> SearchResult:
        """The search's answer, reranked in what is left of its time. Embedding the query is not counted."""
        if not on_loop():
            search.close()
            raise NeedsLoop
        started = time.perf_counter()
        found = await search
        spent = time.perf_counter() - started - found.timings.embed_ms / 1e3
        return await rerank(found, asked, (timeout_seconds or self._settings.timeout_seconds) - spent)

    async def _search(self, request: Request) -> SearchResult:
        if not (self._backend.capabilities.reads_without_loop or on_loop()):
            raise NeedsLoop
        wish = self._wish(request.check())
        started = time.perf_counter()
        vector = await self._query_vector(request)
        embed_ms = (time.perf_counter() - started) * 1e3 if request.text is not None else 0.0
        seconds = request.timeout_seconds or self._settings.timeout_seconds
        try:
            return await self._on_current_map(
                lambda view: run(
                    self._engine, view, request, wish, vector, timeout_seconds=seconds, embed_ms=embed_ms
                )
            )
        except NeedsLoop as stop:
            stop.vector = vector
            raise

    async def route(
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
        """Where a search with these arguments would look, without looking. A vector or text is optional."""
        request = Request(
            vector=vector,
            text=text,
            filter=filter,
            namespace=namespace,
            partitions=partitions,
            exact=exact,
            nprobe=nprobe,
            recall_target=recall_target,
        )
        if vector is None and text is None:
            Request(
                text="-",
                namespace=namespace,
                partitions=partitions,
                nprobe=nprobe,
                recall_target=recall_target,
            ).check()
            if self._ref.config.embedding is not None:
                request.check_asks_text()
            query = None
        else:
            query = await self._query_vector(request.check())
        return (await self._planned(self._wish(request), query)).route

    async def explain(
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
        """The route with its reasons and the database's plan; with `analyze` also the result and its true recall.

        The recall is measured by asking the same question once more with `exact=True`.
        """
        request = Request(
            vector, text, limit, filter, namespace, partitions, exact, nprobe, recall_target, ef_search
        ).check()
        wish, query = self._wish(request), await self._query_vector(request)
        planned, plan = await self._on_current_map(lambda view: self._explained(view, request, wish, query))
        result, recall = await self._measured(request, query) if analyze else (None, None)
        return Explanation(
            route=planned.route,
            backend=self._backend.name,
            plan=plan,
            filter_text=describe(wish.filter) if filter else "",
            recall=recall,
            result=result,
            notes=self._notes(planned),
        )

    async def _explained(
        self, view: View, request: Request, wish: Wish, query: Vector
    ) -> tuple[Planned, str]:
        planned = await self._engine.route(view, wish, query)
        ids = tuple(p.id for p in planned.route.partitions)
        if not ids:
            return planned, ""
        asked = query_for(view, request, query, planned, ids, None)
        return planned, await self._backend.explain(self._ref, view.map, asked)

    async def _measured(self, request: Request, query: Vector) -> tuple[SearchResult, float]:
        what = {"vector": query} if query.size else {"text": request.text}
        asked = {"limit": request.limit, "filter": request.filter, "namespace": request.namespace, **what}
        result = await self.search(
            partitions=request.partitions,
            exact=request.exact,
            nprobe=request.nprobe,
            recall_target=request.recall_target,
            ef_search=request.ef_search,
            **asked,  # type: ignore[arg-type]
        )
        truth = await self.search(partitions=request.partitions, exact=True, **asked)  # type: ignore[arg-type]
        shared = len(set(result.ids) & set(truth.ids))
        return result, shared / len(truth) if len(truth) else 1.0

    def _notes(self, planned: Planned) -> tuple[str, ...]:
        notes = []
        if planned.filter == ALL and planned.route.step == "filter" and planned.route.considered:
            notes.append("note: the partition key answers the whole filter; no row is filtered")
        if len(self.partitions) > 1 and self.partitions.rows < 10_000 and planned.route.step == "fan_out":
            notes.append(
                "note: at this size one unpartitioned index would answer unfiltered questions as well"
            )
        return tuple(notes)

    async def get(
        self, ids: Sequence[str], *, namespace: str = DEFAULT_NAMESPACE, with_vectors: bool = False
    ) -> list[Document]:
        """The documents with these ids, in the order of `ids`; missing ones are skipped."""
        if ids is None:
            raise InputError("get() needs ids.", hint="find() lists documents by filter.")
        if isinstance(ids, Iterable) and not isinstance(ids, str | bytes):
            ids = list(ids)
        found = await self.find(ids=ids, namespace=namespace, with_vectors=with_vectors)
        by_id = {document.id: document for document in found}
        return [by_id[doc_id] for doc_id in ids if doc_id in by_id]

    async def find(
        self,
        filter: Mapping[str, object] | None = None,
        *,
        ids: Sequence[str] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        limit: int | None = None,
        with_vectors: bool = False,
    ) -> list[Document]:
        """Documents by filter, by ids, or by both, ordered by id; all that match, or the first `limit`."""
        if limit is not None and (
            not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit < 2**31
        ):
            raise InputError(f"limit must be a whole number from 0 on, not {limit!r}.")
        if with_vectors:
            self._check_has_vectors("with_vectors")
        which = self._selection(filter, ids, namespace)
        if (ids is not None and not which.ids) or limit == 0:
            return []
        return await self._on_current_map(
            lambda v: self._backend.find(
                self._ref, v.map, self._narrowed(v, which), limit=limit, with_vectors=with_vectors
            )
        )

    async def count(
        self, filter: Mapping[str, object] | None = None, *, namespace: str = DEFAULT_NAMESPACE
    ) -> int:
        """How many documents of the namespace match."""
        which = self._selection(filter, None, namespace)
        return await self._on_current_map(
            lambda v: self._backend.count(self._ref, v.map, self._narrowed(v, which))
        )
