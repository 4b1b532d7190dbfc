"""Leases, operations and the outbox in one MongoDB database, as `svr_metadata.*`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pymongo.asynchronous.database import AsyncDatabase

from svr_retrievers.control.mongodb_work.leases import MongoLeases
from svr_retrievers.control.mongodb_work.operations import MongoOperations
from svr_retrievers.control.mongodb_work.outbox import MongoOutbox
from svr_retrievers.control.mongodb_work.store import Doc, Session, Store, Translated

T = TypeVar("T")


class MongoWork:
    """On a replica set, whose transactions it needs. `translated` turns what the driver raises inside a `with` into
    errors of this package; `prefix` keeps several installations in one database apart. A transaction is begun anew,
    after conflicts as after elections, for at most `timeout_seconds`; the driver's own limit is two minutes.

    Calls with `within=` are part of the transaction that is open in the given session. Driver errors pass through
    them unchanged, since the driver begins a transaction anew where it sees its own.
    """

    def __init__(
        self,
        database: AsyncDatabase[Doc],
        translated: Translated,
        *,
        prefix: str = "svr",
        timeout_seconds: float = 30.0,
    ) -> None:
        self._store = Store(database, translated, prefix, timeout_seconds)
        self.leases = MongoLeases(self._store)
        self.operations = MongoOperations(self._store, self.leases)
        self.outbox = MongoOutbox(self._store)

    async def prepare(self) -> None:
        with self._store.translated():
            await self._store.prepare()

    async def transact(self, work: Callable[[Session], Awaitable[T]]) -> T:
        with self._store.translated():
            return await self._store.transact(work)


__all__ = ["MongoLeases", "MongoOperations", "MongoOutbox", "MongoWork"]
