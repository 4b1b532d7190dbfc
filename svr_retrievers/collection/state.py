"""What every call on a collection needs: its settings, its newest map, its checked arguments."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import anyio
import numpy as np

from svr_retrievers import documents as checks
from svr_retrievers.backends.protocol import (
    Backend,
    CollectionRef,
    Selection,
    StaleMap,
)
from svr_retrievers.concurrency import NeedsLoop, on_loop
from svr_retrievers.embedding import AsyncEmbedder, AtlasEmbedding, Embedder, embed_query
from svr_retrievers.errors import InputError, WriteConflict
from svr_retrievers.filters import ALL, Node, parse
from svr_retrievers.filters.selectivity import fields_of
from svr_retrievers.model import (
    Metric,
    PartitionMap,
    Vector,
)
from svr_retrievers.names import check_key, check_text
from svr_retrievers.routing.filter_map import matching
from svr_retrievers.routing.plan import Planned, Wish
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.search.execute import Engine
from svr_retrievers.search.request import Request
from svr_retrievers.search.view import View
from svr_retrievers.settings import Settings
from svr_retrievers.spaces import VectorSpace

MAP_RETRIES = 100
"""A call holds nothing while it waits, so it outlasts a burst of new partitions: about 12 seconds of pauses."""
_FIELDS_COUNTED = 1_000
_T = TypeVar("_T")


class CollectionState:
    """A collection with the view of its partitions that this client has last seen."""

    def __init__(
        self,
        backend: Backend,
        ref: CollectionRef,
        view: View,
        settings: Settings,
        embedder: Embedder | AsyncEmbedder | AtlasEmbedding | None = None,
    ) -> None:
        self._backend = backend
        self._ref = ref
        self._view = view
        self._settings = settings
        self._engine = Engine(backend, ref, settings.fan_out_concurrency)
        self.embedder = embedder
        self._asked: Counter[str] = Counter()
        self._filtered_searches = 0

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
    def space(self) -> VectorSpace | None:
        """The embedding space of its vectors; None where the embedder it was made with declared none."""
        return self._ref.config.space

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

    def _node(self, filter: Mapping[str, object] | None) -> Node:
        return parse(filter, self._ref.config.fields) if filter is not None else ALL

    def _count_fields(self, node: Node) -> None:
        """Remembers what searches filter on, for `analyze`; no more names than anyone would look at."""
        self._filtered_searches += 1
        if len(self._asked) < _FIELDS_COUNTED:
            self._asked.update(fields_of(node))

    def _check_namespace(self, namespace: str) -> None:
        """Raises InputError for what no namespace of this collection can be."""
        check_key(namespace, "namespace")
        if self._ref.config.source is not None:
            self._ref.config.source.check_namespace(namespace)

    def _wish(self, request: Request) -> Wish:
        self._check_namespace(request.namespace)
        node = self._node(request.filter)
        if node is not ALL:
            self._count_fields(node)
        return Wish(
            filter=node,
            namespace=request.namespace,
            partitions=request.partitions,
            nprobe=request.nprobe,
            recall_target=request.recall_target,
            exact=request.exact,
            ef_search=request.ef_search,
        )

    async def _query_vector(self, request: Request) -> Vector:
        """The vector to search for; an empty one where the server embeds the text."""
        if self._ref.config.embedding is not None:
            request.check_asks_text()
            return np.empty(0, dtype=np.float32)
        if request.text is None:
            vector = checks.one_vector(request.vector, self.dimensions, "vector")
        elif self.embedder is None or isinstance(self.embedder, AtlasEmbedding):
            raise InputError(
                "text needs an embedder, and the collection was opened without one.",
                hint="Open it with embedder=..., or search by vector.",
            )
        else:
            made = await embed_query(self.embedder, request.text)
            vector = checks.one_vector(made, self.dimensions, "the embedder's vector")
        fault = checks.vector_fault(vector, self._ref.config)
        if fault is not None:
            raise InputError(fault)
        return vector

    def _check_has_vectors(self, what: str) -> None:
        """Raises InputError where only the server has the vectors."""
        if self._ref.config.embedding is not None:
            raise InputError(
                f"{what} needs the vectors of {self.name!r}, which the server makes and keeps to itself.",
                hint="Use a collection with an embedder of your own.",
            )

    def _selection(
        self, filter: Mapping[str, object] | None, ids: Sequence[str] | None, namespace: str
    ) -> Selection:
        self._check_namespace(namespace)
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
        """The route on the newest map, which is not loaded again where it is the one held."""
        newest = await self._backend.load_map(self._ref, self._view.state)
        if newest is not self._view.state:
            self._adopt(View(newest, self.metric))
        return await self._engine.route(self._view, wish, query)

    async def _reload(self) -> None:
        self._adopt(View(await self._backend.load_map(self._ref), self.metric))

    def _adopt(self, view: View) -> None:
        """Later calls start from this view, unless another task has meanwhile seen a newer map."""
        if view.map.generation >= self._view.map.generation:
            view.follow(self._view)
            self._view = view

    async def _on_current_map(self, call: Callable[[View], Awaitable[_T]]) -> _T:
        """Runs `call` with the current map, again with a newer one each time the map has moved on.

        An empty map is always read anew: no search would go out that could find it stale.
        """
        if not self._view.map.leaves:
            if not on_loop():
                raise NeedsLoop
            await self._reload()
        for attempt in range(MAP_RETRIES):
            try:
                return await call(self._view)
            except StaleMap:
                if not on_loop():
                    raise NeedsLoop from None
                await self._catch_up(attempt)
        raise self._conflict()

    async def _catch_up(self, attempt: int) -> None:
        """Loads the newest map, after a pause that grows with each attempt that came too late."""
        await anyio.sleep(random.uniform(0, 0.005 * attempt))  # noqa: S311 - spreads callers, keeps no secret
        await self._reload()

    @staticmethod
    def _conflict() -> WriteConflict:
        return WriteConflict(
            "The partition map kept changing under one call.",
            hint="Many partitions are being created at once; try again in a moment.",
        )


def _storable(doc_id: str) -> bool:
    """Whether such an id can have been stored; one that cannot is simply not found."""
    try:
        return bool(check_text(doc_id, "id"))
    except InputError:
        return False
