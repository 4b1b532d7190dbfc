"""The MongoDB backend: collections, partitions, writes, reads and upkeep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import anyio
from pymongo.errors import PyMongoError

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb import targets, writing
from svr_retrievers.backends.mongodb.adopting import Adoptions
from svr_retrievers.backends.mongodb.connection import Doc, translated
from svr_retrievers.backends.mongodb.embedded_texts import EmbeddedTexts
from svr_retrievers.backends.mongodb.fusion import Fusion
from svr_retrievers.backends.mongodb.reading import Reads
from svr_retrievers.backends.mongodb.streaming import Streams
from svr_retrievers.backends.mongodb.targets import Physical, Target, index_name
from svr_retrievers.backends.mongodb.views import Views
from svr_retrievers.backends.protocol import (
    Batch,
    Capabilities,
    CollectionConfig,
    CollectionRef,
    MapState,
    NewPartition,
    Selection,
    Written,
)
from svr_retrievers.control.mongodb_fence import Session
from svr_retrievers.control.mongodb_notes import Rows
from svr_retrievers.model import PartitionMap, PartitionStats, Vector
from svr_retrievers.routing.place import unused_path
from svr_retrievers.routing.probe import Calibration

_DELETED_AT_ONCE: Final = 10_000
_UNDO_SECONDS: Final = 5.0


class MongoBackend(Fusion, EmbeddedTexts, Reads, Views, Streams, Adoptions):
    """Documents, partition labels and search indexes in one database of a MongoDB deployment."""

    name = "mongodb"
    capabilities = Capabilities(
        persistent=True,
        approximate_indexes=("hnsw",),
        max_dimensions=8_192,
        max_indexed_dimensions=8_192,
        shared_between_processes=True,
        explains=True,
        index_kinds=("hnsw", "flat"),
        quantizations=("none", "scalar", "binary"),
        stored_vectors=("float32", "int8", "bit"),
        index_modes=("auto", "source", "views", "fields"),
        embeds=True,
    )

    # Collections

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        """What was made for a collection that comes to nothing is taken away again, and nothing else."""
        targets.check(config)
        self.check_mode(config)
        with translated(config.name):
            await self._catalog.check_free(config.name)
            number = await self._catalog.number()
            mode = "fields" if config.index.mode == "fields" else "source"
            physical = Physical(mode, (Target(index_name(number, 0)),))  # type: ignore[arg-type]
            ref = CollectionRef(number, config)
            try:
                await self._make_documents(ref)
                if mode != "fields":  # an index needs a vector field, which comes with the first partition
                    await self.create_index(ref, physical, physical.rest)
                return await self._catalog.insert_collection(number, config, physical.to_json())
            except BaseException:
                await self._undo_creation(ref, physical)
                raise

    async def _undo_creation(self, ref: CollectionRef, physical: Physical) -> None:
        """Each part on its own, also for a caller that was cancelled: one that stays must not keep the other."""
        with anyio.move_on_after(_UNDO_SECONDS, shield=True):
            with suppress(PyMongoError):
                await self.drop_indexes(ref, physical)
            with suppress(PyMongoError):
                await self._catalog.majority.drop_collection(self.documents_name(ref))

    async def _make_documents(self, ref: CollectionRef) -> None:
        documents = self.documents(ref)
        await documents.database.create_collection(documents.name)
        await documents.create_index(lay.STAMP)
        await documents.create_index(lay.PARTITION)

    async def load_collection(self, name: str) -> CollectionRef:
        with translated(name):
            return await self._catalog.load_collection(name)

    async def list_collections(self) -> list[str]:
        with translated():
            return await self._catalog.list_collections()

    async def drop_collection(self, name: str) -> None:
        """Nobody finds it any more before anything of it goes; what an interrupted drop leaves is in nobody's way."""
        with translated(name):
            ref = await self._catalog.load_collection(name)
            _, physical = await self._catalog.load_map(ref)
            if ref.config.source is not None:
                await self.give_back(ref, Physical.of_json(physical))
            else:
                await self._catalog.delete_collection(ref)
                await self._drop_physical(ref, Physical.of_json(physical))
        self._physical.pop(ref.id, None)

    async def _drop_physical(self, ref: CollectionRef, physical: Physical) -> None:
        await self.drop_indexes(ref, physical)
        database = self._catalog.majority
        for target in physical.targets:
            if target.view is not None:
                await database.drop_collection(target.view)
        await database.drop_collection(self.documents_name(ref))

    # Maps

    async def load_map(self, ref: CollectionRef, known: MapState | None = None) -> MapState:
        with translated(ref.config.name):
            if known is not None and await self._catalog.generation(ref) == known.map.generation:
                return known
            return await self.load(ref)

    async def add_partitions(self, ref: CollectionRef, wanted: Sequence[NewPartition]) -> MapState:
        async def add(session: Session, state: MapState) -> bool:
            taken = {p.path for p in state.map.partitions}
            new = [
                NewPartition(w.parent, w.key, unused_path(w.path, taken), w.leaf, w.stats)
                for w in wanted
                if state.map.child(w.parent, w.key) is None
            ]
            if new:
                numbers = await self._catalog.insert_partitions(ref, new, session)
                physical = Physical.of_json(await self._catalog.physical(ref, session))
                if physical.mode == "fields":
                    leaves = [number for number, each in zip(numbers, new, strict=True) if each.leaf]
                    await self._catalog.save_physical(ref, physical.with_fields(leaves).to_json(), session)
            return bool(new)

        with translated(ref.config.name):
            state = self.adopt(ref, *await self._catalog.changing(ref, add))
            if self._physical[ref.id].mode == "fields":
                await self.make_fields(ref)
        return state

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        with translated(ref.config.name):
            await self._catalog.save_statistics(ref, stats, calibration)

    # Writing

    async def upsert(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> Written:
        layout = self.layout(ref, await self.physical(ref))
        made = lay.documents(batch, ref.config, layout, partitions)

        async def write(session: Session) -> writing.Upserted:
            return await writing.upsert(
                self.documents(ref), layout, made, self._enter(ref, known, session), session
            )

        with translated(ref.config.name):
            done = await self._catalog.transaction(write)
            rows = await self._counted(ref, done.changes)
        return Written(done.inserted, rows)

    async def delete(self, ref: CollectionRef, known: PartitionMap, which: Selection) -> int:
        """Rows go in groups, each in a transaction."""
        gone = 0
        with translated(ref.config.name):
            keys = await self.keys(ref, which)
            for start in range(0, len(keys), _DELETED_AT_ONCE):
                gone += await self._deleted(ref, known, keys[start : start + _DELETED_AT_ONCE])
            if not keys:
                await self.check_generation(ref, known)
        return gone

    async def _deleted(self, ref: CollectionRef, known: PartitionMap, keys: Sequence[object]) -> int:
        async def delete(session: Session) -> dict[int, int]:
            return await writing.delete(self.documents(ref), keys, self._enter(ref, known, session), session)

        done = await self._catalog.transaction(delete)
        await self._counted(ref, {partition: -rows for partition, rows in done.items()})
        return sum(done.values())

    async def recluster(
        self, ref: CollectionRef, known: PartitionMap, source: int, targets: Sequence[int], centroids: Vector
    ) -> None:
        layout = self.layout(ref, await self.physical(ref))
        counts: dict[int, int] = {}

        async def move(session: Session, state: MapState) -> bool:  # noqa: ARG001
            counts.clear()
            counts.update(
                await writing.recluster(
                    self.documents(ref), self._catalog.fence, ref, layout, source, targets, centroids, session
                )
            )
            return True

        with translated(ref.config.name):
            self.adopt(ref, *await self._catalog.changing(ref, move, known))
            await self._counted(ref, {**counts, source: -sum(counts.values())})

    async def recount(self, ref: CollectionRef, known: PartitionMap) -> None:
        with translated(ref.config.name):
            await self.check_generation(ref, known)
            before = await self._catalog.fence.rows(ref)
            stages: list[Doc] = [
                *self.ours(ref),
                {"$group": {"_id": f"${lay.PARTITION}", "rows": {"$sum": 1}}},
            ]
            cursor = await self.documents(ref).aggregate(stages)
            found = {lay.number(each["_id"]): lay.number(each["rows"]) async for each in cursor}
            await self._catalog.set_rows(ref, {p.id: found.get(p.id, 0) for p in known.partitions})
            await self._correct(ref, before, found)

    async def _correct(self, ref: CollectionRef, before: Rows, found: Mapping[int, int]) -> None:
        """Brings the sums of the writes to the truth, where others than this library have added or deleted rows.

        Only for partitions that nobody wrote to while they were counted; one that is busy waits for the next time.
        """
        noted, after = before.sums, (await self._catalog.fence.rows(ref)).sums
        missing = {
            p: found.get(p, 0) - noted.get(p, 0)
            for p in {*found, *noted}
            if noted.get(p, 0) == after.get(p, 0) != found.get(p, 0)
        }
        if missing:
            await self._catalog.fence.correct(ref, before, missing)

    async def build_indexes(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        progress: Callable[[int, int], None] | None = None,
        *,
        build_from: int | None = None,
        fold_from: int = 0,  # noqa: ARG002 - the server itself takes fresh rows into its indexes
    ) -> int:
        """A write asks how far the index is and does not wait; `refresh()` waits until it holds every row."""
        with translated(ref.config.name):
            if build_from is not None:
                return await self._newly_ready(ref)
            await self.complete_words(ref)
            return await self.complete_indexes(ref, known, progress)
