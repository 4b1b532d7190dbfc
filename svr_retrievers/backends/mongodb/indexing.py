"""The life of search indexes: made, waited for, watched, and never trusted before they were seen ready."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

import anyio
import numpy as np
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb import pipelines, targets
from svr_retrievers.backends.mongodb.connection import Doc, translated
from svr_retrievers.backends.mongodb.database import Database
from svr_retrievers.backends.mongodb.freshness import MOST_LOOKED_AT, marks_of, probes
from svr_retrievers.backends.mongodb.layout import Layout
from svr_retrievers.backends.mongodb.targets import Physical, Target
from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.control.mongodb_fence import SLOT_BITS
from svr_retrievers.errors import IndexFailed

_POLL_SECONDS: Final = 0.05
_SLOWEST_POLL_SECONDS: Final = 2.0
_STANDSTILL_SECONDS: Final = 120.0
"""An index that does not move for so long will not by waiting for it."""
_BAD_VALUE: Final = 2


class SearchIndexes(Database):
    """The calls that make, check and follow the search indexes of a collection."""

    async def is_ready(self, ref: CollectionRef, target: Target) -> bool:
        """Whether the index may be asked. Looked up once, and again by `recheck`."""
        progress = self._freshness.of(target.name)
        if progress.ready:
            return True
        if time.monotonic() - progress.looked_at > _SLOWEST_POLL_SECONDS / 4:
            progress.looked_at = time.monotonic()
            return await self.advance(ref, target)
        return False

    async def recheck(self, ref: CollectionRef, target: Target) -> bool:
        """Whether the index is there, ready and as wanted, by the server's own word."""
        physical = await self.physical(ref)
        found = await self._listed(ref, target)
        ready = found is not None and self._answers(found) and self._is_wanted(found, ref, physical)
        self._freshness.of(target.name).ready = ready
        return ready

    def _is_wanted(self, found: Mapping[str, object], ref: CollectionRef, physical: Physical) -> bool:
        definition = found.get("latestDefinition")
        wanted = targets.definition(ref.config, self.layout(ref, physical), physical.fields)
        return isinstance(definition, Mapping) and targets.is_defined(definition, wanted)

    @staticmethod
    def _answers(found: Mapping[str, object]) -> bool:
        return found.get("status") == "READY" and bool(found.get("queryable"))

    async def _listed(self, ref: CollectionRef, target: Target) -> Mapping[str, object] | None:
        with translated(ref.config.name):
            cursor = await self.named(target, ref).list_search_indexes(target.name)
            return next(iter(await cursor.to_list()), None)

    # How far it has come

    def follow(self, ref: CollectionRef, target: Target) -> None:
        """Looks at the index's progress beside the caller."""
        self._freshness.nudge(target.name, lambda: self.advance(ref, target))

    async def advance(self, ref: CollectionRef, target: Target) -> bool:
        """Learns how far the index has come, from it and from other clients; whether it may be asked."""
        progress = self._freshness.of(target.name)
        if not progress.ready and not await self.recheck(ref, target):
            return False
        with translated(ref.config.name):
            kept = await self._catalog.marks(ref)
            progress.raised(kept.get(target.name, {}))
            raised = progress.raised(await self._seen(ref, target))
            if raised:
                await self._catalog.save_marks(ref, target.name, raised)
            if not target.ready:
                await self._mark_ready(ref, target)
        return True

    async def waiting(self, ref: CollectionRef, target: Target) -> list[int]:
        """Stamps of the newest rows that the index was not seen to hold."""
        cursor = self.documents(ref).find(self._unseen(ref, target), {lay.STAMP: 1})
        cursor = cursor.sort(lay.STAMP, -1).limit(MOST_LOOKED_AT)
        stamps: dict[str, list[int]] = {}
        async for found in cursor:
            stamps.setdefault(repr(found["_id"]), []).append(lay.number(lay.own(found)["w"]))
        # A row that is replaced under the scan may be read with both stamps: of those neither proves anything.
        return [held[0] for held in stamps.values() if len(held) == 1]

    async def _seen(self, ref: CollectionRef, target: Target) -> dict[int, int]:
        asked = probes(await self.waiting(ref, target))
        if not asked:
            return {}
        physical = await self.physical(ref)
        layout = self.layout(ref, physical)
        found: list[int] = []
        for path in self._vector_paths(ref, physical):
            stages = pipelines.probe(target.name, path, _anything(ref, layout), asked)
            cursor = await self.named(target, ref).aggregate(stages)
            found += [lay.number(each["w"]) async for each in cursor]
        # The server looks documents up after the index named them: one that was replaced since has a stamp that
        # nobody asked for and the index need not hold.
        return marks_of([stamp for stamp in found if stamp in set(asked)])

    def _vector_paths(self, ref: CollectionRef, physical: Physical) -> list[str]:
        layout = self.layout(ref, physical)
        if physical.mode == "fields":
            return [layout.vector_path(p) for p in physical.fields]
        return [layout.vector_path(None)]

    async def _mark_ready(self, ref: CollectionRef, target: Target) -> None:
        """Told to everyone with the next map; answers do not depend on it, so it makes no generation."""
        await self._catalog.save_target(ref, replace(target, ready=True).to_json())
        known = self._physical.get(ref.id)
        if known is not None and any(each.name == target.name for each in known.targets):
            self._physical[ref.id] = known.with_target(replace(target, ready=True))

    # Making and waiting

    async def create_index(self, ref: CollectionRef, physical: Physical, target: Target) -> None:
        """Asks for the index; it is built in the server's own time. Raises IndexLimitReached."""
        wanted = targets.definition(ref.config, self.layout(ref, physical), physical.fields)
        source = self.named(target, ref)

        async def create(definition: Doc) -> None:
            await source.create_search_index(SearchIndexModel(definition, target.name, "vectorSearch"))

        await self._as_offered(ref, wanted, create)

    async def update_index(self, ref: CollectionRef, physical: Physical, target: Target) -> None:
        wanted = targets.definition(ref.config, self.layout(ref, physical), physical.fields)
        source = self.named(target, ref)

        async def update(definition: Doc) -> None:
            await source.update_search_index(target.name, definition)

        if target.shared:
            await self._update_shared(ref, target, lambda theirs: targets.extended(theirs, wanted))
            return

        await self._as_offered(ref, wanted, update)

    async def _as_offered(
        self, ref: CollectionRef, wanted: Doc, send: Callable[[Doc], Awaitable[None]]
    ) -> None:
        """Sends the definition, without flat indexes and settings of the graph where the server knows none."""
        with translated(ref.config.name):
            try:
                await send(wanted)
            except OperationFailure as error:
                simple = targets.plain(wanted)
                if error.code != _BAD_VALUE or simple == wanted:
                    raise
                await send(simple)

    async def wait_ready(
        self, ref: CollectionRef, target: Target, told: Callable[[float], None] | None = None
    ) -> None:
        """Until the index is ready, queryable and as wanted. Raises IndexFailed with the server's reason."""
        pause, stale_since = _POLL_SECONDS, time.monotonic()
        while not await self.recheck(ref, target):
            found = await self._listed(ref, target)
            if found is None or found.get("status") != "STALE":
                stale_since = time.monotonic()
            elif time.monotonic() - stale_since > _STANDSTILL_SECONDS:
                raise IndexFailed(
                    f"The search index {target.name!r} of {ref.config.name!r} stays stale: {_reason(found)}",
                    hint="Searches compare every row meanwhile. Drop the index and call refresh() to build it anew.",
                )
            if found is None:
                await self.create_index(ref, await self.physical(ref), target)
            elif found.get("status") == "FAILED":
                raise IndexFailed(
                    f"The search index {target.name!r} of {ref.config.name!r} failed: {_reason(found)}",
                    hint="Drop it, mend the cause, and call refresh().",
                )
            elif self._answers(found) and not self._is_wanted(found, ref, await self.physical(ref)):
                await self.update_index(ref, await self.physical(ref), target)
            if told is not None:
                told(0.0)
            await anyio.sleep(pause)
            pause = min(_SLOWEST_POLL_SECONDS, pause * 1.5)

    async def wait_caught_up(self, ref: CollectionRef, target: Target) -> None:
        """Until the index holds every row that was written before this call."""
        newest = await self._newest(ref, target)
        pause, moved = _POLL_SECONDS, time.monotonic()
        while True:
            before = dict(self._freshness.of(target.name).marks)
            await self.advance(ref, target)
            marks = self._freshness.of(target.name).marks
            behind = {slot for slot, number in newest.items() if marks.get(slot, 0) < number}
            if not behind or not behind & (await self._newest(ref, target)).keys():
                return
            moved = time.monotonic() if marks != before else moved
            if not await self.recheck(ref, target):
                await self.wait_ready(ref, target)
                moved = time.monotonic()
            elif time.monotonic() - moved > _STANDSTILL_SECONDS:
                raise IndexFailed(
                    f"The search index {target.name!r} of {ref.config.name!r} has taken no row for "
                    f"{_STANDSTILL_SECONDS:g} s.",
                    hint="Searches stay right, and read what it lacks from the documents. Look at the search nodes.",
                )
            await anyio.sleep(pause)
            pause = min(_SLOWEST_POLL_SECONDS, pause * 1.5)

    async def _newest(self, ref: CollectionRef, target: Target) -> dict[int, int]:
        """The highest number of each slot among the rows that wait."""
        slot = {"$floor": {"$divide": [f"${lay.STAMP}", 1 << SLOT_BITS]}}
        stages: list[Doc] = [
            {"$match": self._unseen(ref, target)},
            {"$group": {"_id": slot, "w": {"$max": f"${lay.STAMP}"}}},
        ]
        cursor = await self.documents(ref).aggregate(stages)
        return marks_of([lay.number(each["w"]) async for each in cursor])

    def _unseen(self, ref: CollectionRef, target: Target) -> Doc:
        where: Doc = {"$or": pipelines.fresher(self._freshness.of(target.name).marks)}
        if ref.config.embedding is not None:
            return {"$and": [where, lay.HAS_TEXT]}
        if target.partition is not None:
            return {"$and": [where, {lay.PARTITION: target.partition}]}
        if target.excluded:
            return {"$and": [where, {lay.PARTITION: {"$nin": list(target.excluded)}}]}
        return where

    async def drop_indexes(self, ref: CollectionRef, physical: Physical) -> None:
        for target in physical.targets:
            if target.shared:
                await self._update_shared(ref, target, targets.restored)
            else:
                await self._drop_index(self.named(target, ref), target.name)
            self._freshness.forget(target.name)

    async def _update_shared(
        self, ref: CollectionRef, target: Target, change: Callable[[Mapping[str, object]], Doc]
    ) -> None:
        """Changes an index of others, if it is there."""
        found = await self._listed(ref, target)
        theirs = found.get("latestDefinition") if found is not None else None
        if isinstance(theirs, Mapping) and (wanted := change(theirs)) != theirs:
            await self.documents(ref).update_search_index(target.name, wanted)

    @staticmethod
    async def _drop_index(source: AsyncCollection[Doc], name: str) -> None:
        try:
            await source.drop_search_index(name)
        except OperationFailure as error:
            if error.code not in (26, 27):  # neither the namespace nor the index is there any more
                raise


def _anything(ref: CollectionRef, layout: Layout) -> Doc:
    """Some vector or text to ask for, where any would do."""
    if ref.config.embedding is not None:
        return {"query": "anything"}
    vector = np.zeros(ref.config.dimensions, dtype=np.float32)
    vector[0] = 1.0
    return {"queryVector": layout.bound_vector(vector)}


def _reason(found: Mapping[str, object]) -> str:
    details = found.get("statusDetail")
    for detail in details if isinstance(details, list) else []:
        for part in ("stagedIndex", "mainIndex"):
            there = detail.get(part) if isinstance(detail, Mapping) else None
            if isinstance(there, Mapping) and there.get("message"):
                return str(there["message"])
    return str(found.get("message") or "no reason given")
