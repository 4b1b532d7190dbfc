"""One collection, asynchronously: add, search, route, explain, get, find, delete, count."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy.typing as npt

from svr_retrievers import documents as checks
from svr_retrievers import placing, statistics
from svr_retrievers.backends.protocol import (
    Backend,
    Batch,
    CollectionRef,
    Selection,
    StaleMap,
)
from svr_retrievers.concurrency import off_loop
from svr_retrievers.embedding import AsyncEmbedder, Embedder, embed_documents, embed_query
from svr_retrievers.errors import InputError, WriteConflict
from svr_retrievers.filters import ALL, Node, describe, parse
from svr_retrievers.model import (
    DEFAULT_NAMESPACE,
    AddResult,
    Document,
    Explanation,
    Metric,
    OnFailure,
    Outcome,
    PartitionMap,
    Route,
    SearchResult,
    Vector,
    VectorLike,
)
from svr_retrievers.names import check_key, check_text
from svr_retrievers.routing.filter_map import matching
from svr_retrievers.routing.plan import Planned, Wish
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.search.execute import Engine, View, query_for, run
from svr_retrievers.search.request import Request
from svr_retrievers.settings import Settings

_MAP_RETRIES = 10
_T = TypeVar("_T")


class AsyncCollection:
    """A named set of documents, cut into partitions. Opened by a client; safe for many tasks at once.

    Every method may raise BackendError when the database fails, and InputError for arguments that
    cannot be used, always before anything is written.
    """

    def __init__(
        self,
        backend: Backend,
        ref: CollectionRef,
        view: View,
        settings: Settings,
        embedder: Embedder | AsyncEmbedder | None = None,
    ) -> None:
        self._backend = backend
        self._ref = ref
        self._view = view
        self._settings = settings
        self._engine = Engine(backend, ref, settings.fan_out_concurrency)
        self.embedder = embedder

    @property
    def name(self) -> str:
        return self._ref.config.name

    @property
    def dimensions(self) -> int:
        return self._ref.config.dimensions

    @property
    def metric(self) -> Metric:
        return self._ref.config.metric

    @property
    def partition_by(self) -> Scheme | None:
        return self._ref.config.scheme

    @property
    def filter_fields(self) -> dict[str, object]:
        """The declared filter fields and their Python types."""
        return {name: kind.python_type for name, kind in self._ref.config.fields.items()}

    @property
    def partitions(self) -> PartitionMap:
        """The partition map as last seen by this client."""
        return self._view.map

    def __repr__(self) -> str:
        scheme = f", partition_by={self.partition_by!r}" if self.partition_by else ""
        size = f"{len(self.partitions)} partitions, {self.partitions.rows} rows"
        what = f"{self.name!r}, dimensions={self.dimensions}, {self.metric.value}{scheme}"
        return f"{type(self).__name__}({what}, {size})"

    # Writing

    async def add(
        self,
        documents: Iterable[Document],
        *,
        vectors: npt.ArrayLike | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> AddResult:
        """Inserts or replaces documents by `(namespace, id)`, all of them or none.

        `vectors` of shape (documents, dimensions) stands for the documents' own. Documents without a vector are
        embedded from their text. A document whose partition key changed moves in the same transaction.

        Raises:
            BatchError: some documents cannot be stored; `problems` names each. Nothing was written.
            EmbeddingFailed: the embedder failed. Nothing was written.
        """
        check_key(namespace, "namespace")
        given = checks.as_documents(documents)
        embeds = self.embedder is not None
        draft, array, missing = await off_loop(
            len(given), checks.check_all, given, vectors, self._ref.config, namespace, embeds=embeds
        )
        if missing:
            array[missing] = await self._embedded([given[i].text for i in missing])
            checks.check_vectors(array, [d.id for d in given], self.metric, draft)
            draft.check()
        return await self._write(draft.batch(array)) if given else AddResult(())

    async def _embedded(self, texts: list[str]) -> Vector:
        assert self.embedder is not None
        made = await embed_documents(self.embedder, texts)
        checks.one_vector(made[0], self.dimensions, "the embedder's vector")
        return made

    async def _write(self, batch: Batch) -> AddResult:
        for _ in range(_MAP_RETRIES):
            try:
                view, places = await placing.ensure_places(self._backend, self._ref, self._view, batch)
                self._adopt(view)
                written = await self._backend.upsert(self._ref, view.map, batch, places)
            except StaleMap:
                await self._reload()
                continue
            outcomes = [
                Outcome(ns, doc_id, "inserted" if new else "updated", view.path(place))
                for ns, doc_id, new, place in zip(
                    batch.namespaces, batch.ids, written.inserted, places, strict=True
                )
            ]
            await self._after_write(view, written.rows)
            return AddResult(outcomes)
        raise self._conflict()

    async def _after_write(self, view: View, rows: Mapping[int, int]) -> None:
        """Counts, centroids and indexes follow the rows; a concurrent change of the map postpones them."""
        try:
            self._adopt(await statistics.after_write(self._backend, self._ref, view, rows))
        except StaleMap:
            await self._reload()

    async def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> int:
        """Deletes by ids, by filter, or what satisfies both; the number deleted. `ids=[]` deletes nothing.

        Raises:
            InputError: when neither is given: deleting everything is `clear()`.
        """
        if ids is None and filter is None:
            raise InputError(
                "delete() needs ids or a filter.", hint="clear() deletes every document of a namespace."
            )
        which = self._selection(filter, ids, namespace)
        if ids is not None and not which.ids:
            return 0
        return await self._on_current_map(
            lambda v: self._backend.delete(self._ref, v.map, self._narrowed(v, which))
        )

    async def clear(self, *, namespace: str = DEFAULT_NAMESPACE) -> int:
        """Deletes every document of the namespace; the number deleted."""
        which = self._selection(None, None, namespace)
        return await self._on_current_map(
            lambda v: self._backend.delete(self._ref, v.map, self._narrowed(v, which))
        )

    async def refresh(self) -> PartitionMap:
        """Counts rows, recomputes centroids and calibration, builds missing indexes; the new map."""
        for _ in range(_MAP_RETRIES):
            try:
                await self._reload()
                await self._backend.recount(self._ref, self._view.map)
                view = await statistics.refresh(self._backend, self._ref)
            except StaleMap:
                continue
            self._adopt(view)
            return view.map
        raise self._conflict()

    # Reading

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
    ) -> SearchResult:
        """The `limit` closest documents that match, best first, or fewer with the reason in `incomplete`.

        `partitions` restricts the search to partitions by path (a path above leaves means all below it).
        `exact` looks at every row that could match. `nprobe` or `recall_target` (default 0.95) say how
        many partitions to probe where a large collection is searched by closeness; `ef_search` widens
        the search within each HNSW index. `timeout_seconds` bounds the whole search; with
        `on_failure="partial"` what answered in time is returned, and `incomplete` names the rest.

        Raises:
            PartitionNotFound: an unknown path in `partitions`.
            PartitionFailed, DeadlineExceeded: under `on_failure="fail"`.
        """
        return await self._search(
            Request(
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
        )

    async def _search(self, request: Request) -> SearchResult:
        started = time.perf_counter()
        wish = self._wish(request.check())
        vector = await self._query_vector(request)
        embedded = (time.perf_counter() - started) * 1e3 if request.text is not None else 0.0
        seconds = request.timeout_seconds or self._settings.timeout_seconds
        result = await self._on_current_map(
            lambda view: run(self._engine, view, request, wish, vector, timeout_seconds=seconds)
        )
        total = (time.perf_counter() - started) * 1e3
        return result.with_timings(replace(result.timings, embed_ms=embedded, total_ms=total))

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
        asked = query_for(request, query, planned.filter, ids, None)
        return planned, await self._backend.explain(self._ref, view.map, asked)

    async def _measured(self, request: Request, query: Vector) -> tuple[SearchResult, float]:
        asked = {"limit": request.limit, "filter": request.filter, "namespace": request.namespace}
        result = await self.search(
            vector=query,
            partitions=request.partitions,
            exact=request.exact,
            nprobe=request.nprobe,
            recall_target=request.recall_target,
            ef_search=request.ef_search,
            **asked,  # type: ignore[arg-type]
        )
        truth = await self.search(vector=query, partitions=request.partitions, exact=True, **asked)  # type: ignore[arg-type]
        shared = len(set(result.ids) & set(truth.ids))
        return result, shared / len(truth) if len(truth) else 1.0

    def _notes(self, planned: Planned) -> tuple[str, ...]:
        notes = []
        if planned.filter == ALL and self._ref.config.scheme is not None and planned.route.step == "filter":
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
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise InputError(f"limit must be a whole number from 0 on, not {limit!r}.")
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

    # Shared steps

    def _node(self, filter: Mapping[str, object] | None) -> Node:
        return parse(filter, self._ref.config.fields) if filter is not None else ALL

    def _wish(self, request: Request) -> Wish:
        return Wish(
            filter=self._node(request.filter),
            namespace=request.namespace,
            partitions=request.partitions,
            nprobe=request.nprobe,
            recall_target=request.recall_target,
            exact=request.exact,
        )

    async def _query_vector(self, request: Request) -> Vector:
        if request.text is None:
            vector = checks.one_vector(request.vector, self.dimensions, "vector")
        elif self.embedder is None:
            raise InputError(
                "text needs an embedder, and the collection was opened without one.",
                hint="Open it with embedder=..., or search by vector.",
            )
        else:
            made = await embed_query(self.embedder, request.text)
            vector = checks.one_vector(made, self.dimensions, "the embedder's vector")
        fault = checks.vector_fault(vector, self.metric)
        if fault is not None:
            raise InputError(fault)
        return vector

    def _selection(
        self, filter: Mapping[str, object] | None, ids: Sequence[str] | None, namespace: str
    ) -> Selection:
        check_key(namespace, "namespace")
        if ids is None:
            return Selection(namespace, self._node(filter))
        if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
            raise InputError(
                f"ids must be a list of ids, not {type(ids).__name__}.", hint="Wrap a single id: [id]."
            )
        listed = list(ids)
        for doc_id in listed:
            if not isinstance(doc_id, str):
                raise InputError(
                    f"ids must hold text, not {type(doc_id).__name__}.", hint="Ids are text: str(id)."
                )
        storable = [i for i in dict.fromkeys(listed) if _storable(i)]
        return Selection(namespace, self._node(filter), storable)

    def _narrowed(self, view: View, which: Selection) -> Selection:
        """The selection restricted to the partitions that can hold a match."""
        found = matching(self._ref.config.scheme, view.map, which.filter, which.namespace)
        if found is None:
            return which
        return Selection(which.namespace, which.filter, which.ids, tuple(leaf.id for leaf, _ in found))

    async def _planned(self, wish: Wish, query: Vector | None) -> Planned:
        await self._reload()
        return await self._engine.route(self._view, wish, query)

    async def _reload(self) -> None:
        self._adopt(View(await self._backend.load_map(self._ref), self.metric))

    def _adopt(self, view: View) -> None:
        """Later calls start from this view, unless another task has meanwhile seen a newer map."""
        if view.map.generation >= self._view.map.generation:
            self._view = view

    async def _on_current_map(self, call: Callable[[View], Awaitable[_T]]) -> _T:
        """Runs `call` with the current map, again with a newer one each time the map has moved on."""
        for _ in range(_MAP_RETRIES):
            try:
                return await call(self._view)
            except StaleMap:
                await self._reload()
        raise self._conflict()

    @staticmethod
    def _conflict() -> WriteConflict:
        return WriteConflict(
            f"The partition map changed {_MAP_RETRIES} times under one call.",
            hint="Many partitions are being created at once; try again in a moment.",
        )


def _storable(doc_id: str) -> bool:
    """Whether such an id can have been stored; one that cannot is simply not found."""
    try:
        return bool(check_text(doc_id, "id"))
    except InputError:
        return False
