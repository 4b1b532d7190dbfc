"""Listing, counting and sampling documents, and what refreshes learn from them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import numpy as np
from pymongo import IndexModel

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb import ranking
from svr_retrievers.backends.mongodb.connection import Doc, translated
from svr_retrievers.backends.mongodb.filters import compile_match
from svr_retrievers.backends.mongodb.layout import Layout
from svr_retrievers.backends.mongodb.layouts import layout_of
from svr_retrievers.backends.mongodb.pipelines import Rows
from svr_retrievers.backends.mongodb.searching import Searches
from svr_retrievers.backends.protocol import CollectionRef, Selection, StaleMap
from svr_retrievers.filters.statistics import FilterStatistics, of_metadata
from svr_retrievers.model import Document, PartitionMap, Vector

_BATCH: Final = 1_000
_SAMPLED_ROWS: Final = 1_000
_KEYS_AT_ONCE: Final = 2_000
_FIELD_INDEXES_FROM_ROWS: Final = 5_000
_MOST_FIELD_INDEXES: Final = 20
"""A MongoDB collection may have 64 indexes, and each costs every write."""


class Reads(Searches):
    """The calls that read documents without comparing vectors."""

    async def check_generation(self, ref: CollectionRef, known: PartitionMap) -> None:
        """Raises StaleMap, and CollectionNotFound when it was dropped."""
        if await self._catalog.generation(ref) != known.generation:
            raise StaleMap

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
        found: list[Document] = []
        if limit == 0:
            return found
        layout = self._layout(ref)
        fields = layout.reads(layout.whole_vector if with_vectors else None)
        with translated(ref.config.name):
            async for each in self._selected(ref, which, fields, after):
                found.append(layout.document_of(each, with_vector=with_vectors))
                if limit is not None and len(found) == limit:
                    break
            await self.check_generation(ref, known)
        return found

    async def count(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int:
        rows = self._rows(ref, which)
        with translated(ref.config.name):
            await self.check_generation(ref, known)
            if not rows.exact:
                return len(await self.keys(ref, which))
            total = 0
            for condition in _conditions(rows, which.ids):
                total += await self.documents(ref).count_documents(condition)
            return total

    async def keys(self, ref: CollectionRef, which: Selection) -> list[object]:
        """The `_id` of every selected document, in order."""
        exact = self._rows(ref, which).exact
        layout = self._layout(ref)
        fields = layout.reads_keys if exact else layout.reads()
        return [each["_id"] async for each in self._selected(ref, which, fields)]

    def _rows(self, ref: CollectionRef, which: Selection) -> Rows:
        layout = self._layout(ref)
        match = compile_match(which.filter, layout.paths)
        return Rows(which.namespace, which.partitions, match.match, match.exact, layout)

    def _layout(self, ref: CollectionRef) -> Layout:
        physical = self._physical.get(ref.id)
        return layout_of(ref.config, physical.mode if physical is not None else "source")

    async def _selected(
        self, ref: CollectionRef, which: Selection, fields: Doc, after: str | None = None
    ) -> AsyncIterator[ranking.Found]:
        rows = self._rows(ref, which)
        for condition in _conditions(rows, which.ids):
            asked = condition
            if after is not None:
                asked = {"$and": [condition, rows.layout.behind(which.namespace, after)]}
            cursor = self.documents(ref).find(asked, fields, batch_size=_BATCH).sort(rows.layout.order, 1)
            part: list[ranking.Found] = []
            async for each in cursor:
                part.append(each)
                if len(part) == _BATCH:
                    for kept in self._kept(ref, rows, which, part):
                        yield kept
                    part = []
            for kept in self._kept(ref, rows, which, part):
                yield kept

    @staticmethod
    def _kept(
        ref: CollectionRef, rows: Rows, which: Selection, part: list[ranking.Found]
    ) -> list[ranking.Found]:
        return part if rows.exact else ranking.matching(part, which.filter, ref.config, rows.layout)

    async def sample(
        self, ref: CollectionRef, known: PartitionMap, partitions: Sequence[int], rows_each: int
    ) -> dict[int, Vector]:
        layout = self.layout(ref, await self.physical(ref))
        taken: dict[int, Vector] = {}
        if layout.embedded:
            return taken
        with translated(ref.config.name):
            await self.check_generation(ref, known)
            for partition in partitions:
                stages: list[Doc] = [
                    {"$match": {lay.PARTITION: partition}},
                    {"$project": {layout.vector_path(partition): 1}},
                    {"$sample": {"size": rows_each}},
                ]
                cursor = await self.documents(ref).aggregate(stages, batchSize=_BATCH, allowDiskUse=True)
                rows = [vector for _, vector in layout.with_vectors([each async for each in cursor])]
                if rows:
                    taken[partition] = np.stack(rows)
        return taken

    async def sample_keys(self, ref: CollectionRef, known: PartitionMap, rows: int) -> list[tuple[str, str]]:
        with translated(ref.config.name):
            await self.check_generation(ref, known)
            layout = self._layout(ref)
            stages: list[Doc] = [
                *self.ours(ref),
                {"$project": layout.reads_keys},
                {"$sample": {"size": rows}},
            ]
            cursor = await self.documents(ref).aggregate(stages)
            return [layout.key_of(each) async for each in cursor]

    async def measure_fields(self, ref: CollectionRef, known: PartitionMap) -> None:
        with translated(ref.config.name):
            await self.check_generation(ref, known)
            await self._index_fields(ref, known)
            layout = self._layout(ref)
            stages: list[Doc] = [
                *self.ours(ref),
                {"$sample": {"size": _SAMPLED_ROWS}},
                {"$project": layout.reads()},
            ]
            sample = [layout.metadata_of(each) async for each in await self.documents(ref).aggregate(stages)]
            spaces = await self._namespaces(ref)
            rows = sum(spaces.values())
            shares = {space: count / rows for space, count in spaces.items()} if rows else {}
            found = FilterStatistics(of_metadata(sample, rows), rows=rows, namespaces=shares)
            await self._catalog.save_field_statistics(ref, found)

    async def _index_fields(self, ref: CollectionRef, known: PartitionMap) -> None:
        """Ordinary indexes for listing, counting and deleting by declared fields, once there are many rows."""
        if known.rows < _FIELD_INDEXES_FROM_ROWS:
            return
        layout = self.layout(ref, await self.physical(ref))
        paths = list(layout.paths.typed.values())[:_MOST_FIELD_INDEXES]
        if paths:
            made = [IndexModel([(path, 1)], sparse=True) for path in paths]
            await self.documents(ref).create_indexes(made)

    async def _namespaces(self, ref: CollectionRef) -> dict[str, int]:
        stages: list[Doc] = [*self.ours(ref), {"$group": {"_id": f"${lay.NAMESPACE}", "rows": {"$sum": 1}}}]
        cursor = await self.documents(ref).aggregate(stages)
        return {str(each["_id"]): lay.number(each["rows"]) async for each in cursor}


def _conditions(rows: Rows, ids: Sequence[str] | None) -> list[Doc]:
    """The query, or several where more ids are asked for than one can hold; together in the order of ids."""
    if ids is None:
        return [rows.condition()]
    asked = sorted(set(ids))
    parts = [asked[at : at + _KEYS_AT_ONCE] for at in range(0, len(asked), _KEYS_AT_ONCE)]
    return [{"$and": [rows.condition(), rows.layout.chosen(rows.namespace, part)]} for part in parts]
