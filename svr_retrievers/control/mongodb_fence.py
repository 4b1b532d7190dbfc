"""The fence of a partition map in MongoDB: writers hold a slot of it each, a change of the map holds all.

A transaction that only read the generation would not notice that it changed: snapshots do not conflict with
writes. So each collection has a few slot documents that carry its generation. A write transaction counts one of
them up (`enter`); a change of the map closes all of them, which waits for the writers that are under way, and
opens them with the next generation in the transaction that makes the change (`changing`).

The count of a slot is also a clock: transactions that hold the same slot conflict, so the numbers of one slot
become visible in their own order. `Stamp` is slot and number in one integer.

Each slot also carries what its writers have done: the rows that they added to each partition, in all (`rows`), and
the last of them (`note`). Written in the transaction itself, both are exact, and one small event tells a change
stream of a whole write.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio
from bson import Int64
from pymongo import ReturnDocument, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from svr_retrievers.backends.protocol import CollectionRef, StaleMap
from svr_retrievers.changes import RowCounts
from svr_retrievers.control import mongodb_notes as notes
from svr_retrievers.errors import CollectionNotFound, WriteConflict

Doc = dict[str, object]
Session = AsyncClientSession
T = TypeVar("T")
_log = logging.getLogger(__name__)

SLOTS = 8
"""More would let more clients write without meeting, but every search names each slot."""
SLOT_BITS = 44
"""A stamp is `slot << SLOT_BITS | number`: below 2**53, so that every number type holds it exactly."""
_CLOSED_SECONDS = 10
"""After so long a change that never began its transaction is taken for dead, and its slots count as open."""
_PATIENCE_SECONDS = 3 * _CLOSED_SECONDS
_PAUSE_SECONDS = 0.05
_MAJORITY = ReadConcern("majority")


class Closed(Exception):
    """The slot is closed by a change of the map; try again in a moment."""


def stamp(slot: int, number: int) -> int:
    return (slot << SLOT_BITS) | number


def slot_of(written: int) -> tuple[int, int]:
    """Slot and number of a stamp."""
    return written >> SLOT_BITS, written & ((1 << SLOT_BITS) - 1)


class Fence:
    """The slot documents of all collections:

    {_id: "<collection>/<slot>", generation, number, rows: {<partition>: n}, note, closed, until}
    """

    def __init__(self, slots: AsyncCollection[Doc]) -> None:
        self._slots = slots
        self._held: dict[int, int] = {}
        """The slots that this client's own transactions hold, by session: they need not meet each other."""

    @property
    def name(self) -> str:
        """The collection in which the slots stand."""
        return self._slots.name

    async def create(self, collection: int, session: Session) -> None:
        made: list[Doc] = [
            {"_id": _name(collection, slot), "generation": Int64(1), "number": Int64(0), "rows": {}}
            for slot in range(SLOTS)
        ]
        await self._slots.insert_many(made, session=session)

    async def drop(self, collection: int) -> None:
        await self._slots.delete_many({"_id": {"$in": names(collection)}})

    async def enter(
        self,
        ref: CollectionRef,
        generation: int,
        session: Session,
        slot: int,
        done: Mapping[int, RowCounts],
        rows: int = 1,
    ) -> range:
        """Holds the map still until the transaction ends; stamps for the rows it writes, in the order of writing.

        `done` is what the transaction does to each partition: noted here, for those who follow the changes.

        Raises StaleMap, CollectionNotFound, or Closed while the map is being changed.
        """
        name = _name(ref.id, slot)
        found = await self._slots.find_one_and_update(
            {"_id": name, "generation": generation, **_OPEN},
            notes.written(done, rows),
            projection={"number": 1},
            session=session,
            return_document=ReturnDocument.AFTER,
        )
        if found is not None:
            return _stamps(slot, found, rows)
        there = await self._slots.find_one({"_id": name}, session=session)
        if there is None:
            raise dropped(ref)
        if there["generation"] != generation:
            raise StaleMap
        raise Closed

    def hold(self, session: Session) -> int:
        """The slot for a transaction that begins: one that no other of this client holds, if there is one."""
        self.release(session)
        held = set(self._held.values())
        free = [slot for slot in range(SLOTS) if slot not in held] or list(range(SLOTS))
        self._held[id(session)] = slot = random.choice(free)  # noqa: S311 - spreads writers, keeps no secret
        return slot

    def release(self, session: Session) -> None:
        """After the transaction."""
        self._held.pop(id(session), None)

    async def close(self, ref: CollectionRef) -> str:
        """Closes all slots for one change and waits until no writer holds one; the token that opens them.

        The first slot decides between several changes; only who closed it closes the others.
        """
        token = uuid.uuid4().hex
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            try:  # a caller that is cancelled while the server closes a slot opens it again
                first = await self._slots.find_one_and_update(
                    {"_id": _name(ref.id, 0), **_OPEN},
                    [_closing(token)],
                    return_document=ReturnDocument.AFTER,
                )
                if first is not None:
                    await self._each(ref, {}, [_closing(token)])
                    return token
            except BaseException:
                await self.reopen(ref, token)
                raise
            if await self._slots.find_one({"_id": _name(ref.id, 0)}) is None:
                raise dropped(ref)
            await anyio.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311
        raise WriteConflict("The partition map is being changed by others all the time.", hint="Try again.")

    async def reopen(self, ref: CollectionRef, token: str) -> None:
        """Gives the slots free after a change that came to nothing. Where that fails too, they open by themselves."""
        try:
            with anyio.CancelScope(shield=True):
                await self._each(ref, {"closed": token}, {"$unset": {"closed": 1, "until": 1}})
        except PyMongoError as error:
            _log.info("slots of collection %d stay closed for %d s: %s", ref.id, _CLOSED_SECONDS, error)

    async def _each(self, ref: CollectionRef, where: Doc, change: Doc | list[Doc]) -> None:
        """Slot by slot in one command: unlike an update of many, the driver repeats it after an election."""
        await self._slots.bulk_write([UpdateOne({"_id": n, **where}, change) for n in names(ref.id)])

    async def advance(self, ref: CollectionRef, token: str, generation: int, session: Session) -> None:
        """Opens the slots with the next generation, in the change's transaction.

        Raises Closed when the slots are no longer this change's.
        """
        done = await self._slots.update_many(
            {"_id": {"$in": names(ref.id)}, "closed": token},
            {
                "$set": {"generation": Int64(generation)},
                "$unset": {"closed": 1, "until": 1},
            },
            session=session,
        )
        if done.modified_count != SLOTS:
            raise Closed

    async def stamps(
        self, ref: CollectionRef, done: Mapping[int, RowCounts], rows: int, session: Session
    ) -> range:
        """Stamps for rows that a change of the map itself writes, with what it does to them."""
        found = await self._slots.find_one_and_update(
            {"_id": _name(ref.id, 0)},
            notes.written(done, rows),
            projection={"number": 1},
            session=session,
            return_document=ReturnDocument.AFTER,
        )
        assert found is not None
        return _stamps(0, found, rows)

    async def rows(self, ref: CollectionRef, session: Session | None = None) -> notes.Rows:
        """The exact rows of each partition, and from which state of each slot they are."""
        slots = self._slots.with_options(read_concern=_MAJORITY) if session is None else self._slots
        found = slots.find(
            {"_id": {"$in": names(ref.id)}}, {"number": 1, "rows": 1, "corrected": 1}, session=session
        )
        return notes.Rows([each async for each in found])

    async def correct(self, ref: CollectionRef, before: notes.Rows, missing: Mapping[int, int]) -> bool:
        """Adds rows that no write has noted, unless there was another such correction since `before`."""
        name = _name(ref.id, 0)
        done = await self._slots.update_one(
            {"_id": name, "corrected": before.corrected},
            notes.corrected(missing),
        )
        return done.modified_count == 1


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The call's result, tried again while the map is closed. Raises WriteConflict when that does not end."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        try:
            return await call()
        except Closed:
            await anyio.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311
    raise WriteConflict("The partition map stays closed by a change that does not end.", hint="Try again.")


def dropped(ref: CollectionRef) -> CollectionNotFound:
    return CollectionNotFound(f"The collection {ref.config.name!r} was dropped.", hint="Create it again.")


def _stamps(slot: int, counted: Doc, rows: int) -> range:
    last = stamp(slot, int(str(counted["number"])))
    return range(last - rows + 1, last + 1)


_OPEN: Doc = {"$or": [{"closed": {"$exists": False}}, {"$expr": {"$lt": ["$until", "$$NOW"]}}]}


def _closing(token: str) -> Doc:
    until = {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": _CLOSED_SECONDS}}
    return {"$set": {"closed": token, "until": until}}


def _name(collection: int, slot: int) -> str:
    return f"{collection}/{slot}"


def names(collection: int) -> list[str]:
    """The slots of a collection; the first decides between several changes of the map."""
    return [_name(collection, slot) for slot in range(SLOTS)]
