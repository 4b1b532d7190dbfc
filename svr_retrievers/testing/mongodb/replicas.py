"""One version of an index: filled from a snapshot of its collection, then kept up in the order of the stream."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from bson import Timestamp
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from svr_retrievers.testing.mongodb.control import Control
from svr_retrievers.testing.mongodb.documents import CODEC, Document, key_of, section
from svr_retrievers.testing.mongodb.records import Record
from svr_retrievers.testing.mongodb.settings import Settings

_BATCH = 1000
_RETRY_SECONDS = 0.02


class Store(Protocol):
    """What a version keeps; `projection` is the part of a document it needs, None for all of it."""

    @property
    def projection(self) -> dict[str, int] | None: ...

    def __len__(self) -> int: ...

    def apply(self, gone: Sequence[object], documents: Sequence[Document]) -> None: ...


class Replica:
    """Changes are `offered` from the moment it is listed with its collection's follower, and taken later."""

    def __init__(
        self,
        record: Record,
        store: Store,
        client: AsyncMongoClient[Document],
        control: Control,
    ) -> None:
        self.record = record
        self.store = store
        self.frozen = False
        self._control = control
        self._database: AsyncDatabase[Document] = client.get_database(
            record.home.database, codec_options=CODEC
        )
        self._snapshot = Timestamp(0, 0)
        self._waiting: deque[Document] = deque()
        self._offered = asyncio.Event()
        self._applying = False

    @property
    def idle(self) -> bool:
        """Whether everything that was offered shows."""
        return not self._waiting and not self._applying

    def offer(self, change: Document) -> None:
        self._waiting.append(change)
        self._offered.set()

    async def fill(self) -> None:
        """Everything as of one moment; changes up to it are passed over later."""
        pong = await self._database.command("ping")
        self._snapshot = pong["operationTime"]
        async for batch in self._scan():
            await asyncio.to_thread(self.store.apply, [], batch)

    async def keep_up(self) -> None:
        """Applies what is offered, strictly in order, until it is cancelled."""
        while True:
            await self._offered.wait()
            self._applying = True
            await self._control.reach(self.record.home.database, self._held_back)
            try:
                await self._apply_waiting()
                self._applying = False
            except PyMongoError:  # an election, say: the same changes again
                await asyncio.sleep(_RETRY_SECONDS)

    def _held_back(self, now: Settings, passed: float) -> float:
        return math.inf if self.frozen or now.paused else now.refresh - passed

    async def _apply_waiting(self) -> None:
        changes = list(self._waiting)
        fresh = [change for change in changes if self._is_fresh(change)]
        for start in range(0, len(fresh), _BATCH):
            await self._apply(fresh[start : start + _BATCH])
        for _ in changes:
            self._waiting.popleft()
        if not self._waiting:
            self._offered.clear()

    def _is_fresh(self, change: Document) -> bool:
        at = change["clusterTime"]
        return isinstance(at, Timestamp) and at > self._snapshot

    async def _apply(self, changes: Sequence[Document]) -> None:
        latest = {
            key_of(ident := section(c, "documentKey")["_id"]): (ident, c.get("fullDocument")) for c in changes
        }
        idents = [ident for ident, _ in latest.values()]
        if self.record.home.is_view:
            documents = await self._seen_through_view(idents)
        else:
            documents = [document for _, document in latest.values() if isinstance(document, dict)]
        await asyncio.to_thread(self.store.apply, idents, documents)

    async def _seen_through_view(self, idents: Sequence[object]) -> list[Document]:
        found = self._database[self.record.home.name].find({"_id": {"$in": idents}}, self.store.projection)
        return await found.to_list()

    async def _scan(self) -> AsyncIterator[list[Document]]:
        projection = self.store.projection
        command: Document = {
            "aggregate": self.record.home.name,
            "pipeline": [{"$project": projection}] if projection is not None else [],
            "cursor": {"batchSize": _BATCH},
            "readConcern": {"level": "snapshot", "atClusterTime": self._snapshot},
        }
        cursor = await self._database.cursor_command(command)
        batch: list[Document] = []
        async for document in cursor:
            batch.append(document)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        yield batch
