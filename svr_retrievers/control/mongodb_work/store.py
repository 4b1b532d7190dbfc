"""The work collections of one MongoDB database, and the transactions over them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC
from typing import TypeVar

from bson.codec_options import CodecOptions
from pymongo import ReadPreference, timeout
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from svr_retrievers.control.refusals import no_transaction

T = TypeVar("T")
Doc = dict[str, object]
Session = AsyncClientSession
Translated = Callable[[], AbstractContextManager[None]]
"""Within it, what the driver raises becomes one of our errors."""

_SNAPSHOT, _MAJORITY = ReadConcern("snapshot"), WriteConcern("majority")
_CODEC: CodecOptions[Doc] = CodecOptions(dict, tz_aware=True, tzinfo=UTC)


class Store:
    """Reads and writes go to the primary and count once a majority has them: what was told is never taken back."""

    def __init__(
        self, database: AsyncDatabase[Doc], translated: Translated, prefix: str, seconds: float
    ) -> None:
        self._seconds = seconds
        self._database = database
        self._prefix = prefix
        self.translated = translated
        self.leases = self._collection("leases")
        self.operations = self._collection("operations")
        self.history = self._collection("operation_history")
        self.outbox = self._collection("outbox")
        self.consumers = self._collection("outbox_consumers")
        self.counters = self._collection("counters")

    def _collection(self, name: str) -> AsyncCollection[Doc]:
        base = f"svr_metadata.{name}"
        return self._database.get_collection(
            base if self._prefix == "svr" else f"{self._prefix}.{base}",
            codec_options=_CODEC,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_MAJORITY,
            read_concern=ReadConcern("majority"),
        )

    async def prepare(self) -> None:
        await self.operations.create_index(
            ["collection", "cause"], unique=True, partialFilterExpression={"open": True}, name="one_open"
        )
        await self.operations.create_index(["collection", "_id"], name="collection")
        await self.operations.create_index(["state", "_id"], name="state")
        await self.history.create_index(["number", "version"], unique=True, name="version")
        await self.outbox.create_index(["position", "inserted"], name="position")
        await self.consumers.create_index("position", name="position")
        await self.leases.create_index("_id")
        for counter in ({"_id": "operations", "value": 0}, {"_id": "outbox", "given": 0, "pruned": 0}):
            await self.counters.update_one({"_id": counter["_id"]}, {"$setOnInsert": counter}, upsert=True)

    async def transact(self, body: Callable[[Session], Awaitable[T]], within: Session | None = None) -> T:
        """The body in the caller's transaction; or in one of its own, begun anew where it met another writer."""
        if within is not None:
            return await body(self.open(within))
        with timeout(self._seconds):
            return await self._transact(body)

    async def _transact(self, body: Callable[[Session], Awaitable[T]]) -> T:
        async with self._database.client.start_session() as session:
            return await session.with_transaction(
                body, read_concern=_SNAPSHOT, write_concern=_MAJORITY, read_preference=ReadPreference.PRIMARY
            )

    def outside(self, within: Session | None) -> AbstractContextManager[None]:
        """Translates errors, except in the caller's transaction: the driver must see its own to begin it anew."""
        return self.translated() if within is None else nullcontext()

    @staticmethod
    def open(session: Session) -> Session:
        """The session, which must be in a transaction. Raises UsageError."""
        if not session.in_transaction:
            raise no_transaction()
        return session


def whole(value: object) -> int:
    """A number as the server returns it: 32 or 64 bits wide, or a double after arithmetic."""
    assert isinstance(value, int | float)
    return int(value)
