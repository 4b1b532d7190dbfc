"""Adding, replacing and deleting documents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy.typing as npt

from svr_retrievers import documents as checks
from svr_retrievers import placing, statistics
from svr_retrievers.backends.protocol import (
    Batch,
    StaleMap,
    Written,
)
from svr_retrievers.collection.state import MAP_RETRIES, CollectionState
from svr_retrievers.concurrency import off_loop
from svr_retrievers.embedding import AtlasEmbedding, embed_documents
from svr_retrievers.errors import InputError
from svr_retrievers.model import (
    DEFAULT_NAMESPACE,
    AddResult,
    Document,
    PartitionMap,
    Vector,
)
from svr_retrievers.search.view import View

_log = logging.getLogger(__name__)


class CollectionWrites(CollectionState):
    """The calls that change a collection: each all or nothing, whatever the map does meanwhile."""

    async def add(
        self,
        documents: Iterable[Document],
        *,
        vectors: npt.ArrayLike | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> AddResult:
        """Inserts or replaces documents by `(namespace, id)`, all of them or none.

        `vectors` of shape (documents, dimensions) stands for the documents' own. Documents without a vector are
        embedded from their text; where the server embeds, none may have one. A document whose partition key changed
        moves in the same transaction.

        Raises:
            BatchError: some documents cannot be stored; `problems` names each. Nothing was written.
            EmbeddingFailed: the embedder failed. Nothing was written.
        """
        self._check_namespace(namespace)
        given = checks.as_documents(documents)
        if self._ref.config.embedding is not None:
            texts = await off_loop(
                len(given), checks.check_texts, given, vectors, self._ref.config, namespace
            )
            return await self._write(texts) if given else AddResult(())
        embeds = self.embedder is not None
        draft, array, missing = await off_loop(
            len(given), checks.check_all, given, vectors, self._ref.config, namespace, embeds=embeds
        )
        if missing:
            array[missing] = await self._embedded([given[i].text for i in missing])
            checks.check_vectors(array, [d.id for d in given], self._ref.config, draft)
            draft.check()
        return await self._write(draft.batch(array)) if given else AddResult(())

    async def _embedded(self, texts: list[str]) -> Vector:
        assert self.embedder is not None
        assert not isinstance(self.embedder, AtlasEmbedding)
        made = await embed_documents(self.embedder, texts)
        checks.one_vector(made[0], self.dimensions, "the embedder's vector")
        return made

    async def _write(self, batch: Batch) -> AddResult:
        for attempt in range(MAP_RETRIES):
            try:
                view, places = await placing.ensure_places(self._backend, self._ref, self._view, batch)
                self._adopt(view)
                written = await self._backend.upsert(self._ref, view.map, batch, places)
            except StaleMap:
                await self._catch_up(attempt)
                continue
            paths = {place: view.path(place) for place in set(places)}
            await self._after_write(view, written, batch.vectors)
            return AddResult.of(batch.namespaces, batch.ids, written.inserted, [paths[p] for p in places])
        raise self._conflict()

    async def _after_write(self, view: View, written: Written, fresh: Vector) -> None:
        """Counts, centroids and indexes follow the rows; a concurrent change of the map postpones them.

        So does a failure, such as a role that may write rows but not build indexes: the rows are stored
        already, and an error would say that they are not. `refresh()` does it again and raises.
        """
        try:
            try:
                self._adopt(await statistics.after_write(self._backend, self._ref, view, written, fresh))
            except StaleMap:
                await self._reload()
        except Exception as error:  # noqa: BLE001 - the rows are stored, whatever upkeep comes to
            _log.warning("upkeep after a write to collection %r is put off: %s", self.name, error)

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

    async def refresh(self, *, progress: Callable[[int, int], None] | None = None) -> PartitionMap:
        """Counts rows, builds missing indexes, folds fresh rows into theirs, renews statistics; the new map.

        `progress` is called with the rows indexed so far and the rows to index, while indexes are built.
        Writers and readers go on meanwhile.
        """
        for attempt in range(MAP_RETRIES):
            try:
                await self._catch_up(attempt)
                await self._backend.recount(self._ref, self._view.map)
                view = await statistics.refresh(self._backend, self._ref, progress)
            except StaleMap:
                continue
            self._adopt(view)
            return view.map
        raise self._conflict()

    async def build_indexes(self, *, progress: Callable[[int, int], None] | None = None) -> int:
        """Builds the indexes that are missing and folds fresh rows into those that are there; how many were.

        The part of `refresh()` that a bulk load needs first. `progress` as there.
        """
        await self._reload()
        built = await self._backend.build_indexes(self._ref, self._view.map, progress)
        if built:
            await self._reload()
        return built
