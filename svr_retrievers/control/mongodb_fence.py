"""The fence of a partition map in MongoDB: writers hold a slot of it each, a change of the map holds all.

A transaction that only read the generation would not notice that it changed: snapshots do not conflict with
writes. So each collection has a few slot documents that carry its generation. A write transaction counts one of
them up (`enter`); a change of the map closes all of them, which waits for the writers that are under way, and
opens them with the next generation in the transaction that makes the change (`changing`).

The count of a slot is also a clock: transactions that hold the same slot conflict, so the numbers of one slot
become visible in their own order. `Stamp` is slot and number in one integer.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from bson import Int64
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection

from svr_retrievers.backends.protocol import CollectionRef, StaleMap
from svr_retrievers.errors import CollectionNotFound, WriteConflict

Doc = dict[str, object]
Session = AsyncClientSession
T = TypeVar("T")

SLOTS = 16
SLOT_BITS = 44
"""A stamp is `slot << SLOT_BITS | number`: below 2**53, so that every number type holds it exactly."""
_CLOSED_SECONDS = 60
"""After so long a change that never ended is taken for dead, and its slots count as open."""
_ATTEMPTS = 400
_PAUSE_SECONDS = 0.05


class Closed(Exception):
    """The slot is closed by a change of the map; try again in a moment."""


def stamp(slot: int, number: int) -> int:
    return (slot << SLOT_BITS) | number


def slot_of(written: int) -> tuple[int, int]:
    """Slot and number of a stamp."""
    return written >> SLOT_BITS, written & ((1 << SLOT_BITS) - 1)


class Fence:
    """The slot documents of all collections: `{_id: "<collection>/<slot>", generation, number, closed, until}`."""

    def __init__(self, slots: AsyncCollection[Doc]) -> None:
        self._slots = slots

    async def create(self, collection: int, session: Session) -> None:
        made: list[Doc] = [
            {"_id": _name(collection, slot), "generation": Int64(1), "number": Int64(0)}
            for slot in range(SLOTS)
        ]
        await self._slots.insert_many(made, session=session)

    async def drop(self, collection: int) -> None:
        await self._slots.delete_many({"_id": {"$in": _names(collection)}})

    async def enter(self, ref: CollectionRef, generation: int, session: Session, rows: int = 1) -> range:
        """Holds the map still until the transaction ends; stamps for the rows it writes, in the order of writing.

        Raises StaleMap, CollectionNotFound, or Closed while the map is being changed.
        """
        slot = random.randrange(SLOTS)  # noqa: S311 - spreads writers, keeps no secret
        name = _name(ref.id, slot)
        found = await self._slots.find_one_and_update(
            {"_id": name, "generation": generation, **_OPEN},
            {"$inc": {"number": Int64(rows)}},
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

    async def close(self, ref: CollectionRef) -> str:
        """Closes all slots for one change and waits until no writer holds one; the token that opens them.

        The first slot decides between several changes; only who closed it closes the others.
        """
        token = uuid.uuid4().hex
        for _ in range(_ATTEMPTS):
            first = await self._slots.find_one_and_update(
                {"_id": _name(ref.id, 0), **_OPEN}, [_closing(token)], return_document=ReturnDocument.AFTER
            )
            if first is not None:
                await self._slots.update_many({"_id": {"$in": _names(ref.id)}}, [_closing(token)])
                return token
            if await self._slots.find_one({"_id": _name(ref.id, 0)}) is None:
                raise dropped(ref)
            await anyio.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311
        raise WriteConflict("The partition map is being changed by others all the time.", hint="Try again.")

    async def reopen(self, ref: CollectionRef, token: str) -> None:
        """Gives the slots free after a change that came to nothing."""
        await self._slots.update_many(
            {"_id": {"$in": _names(ref.id)}, "closed": token}, {"$unset": {"closed": 1, "until": 1}}
        )

    async def advance(self, ref: CollectionRef, token: str, generation: int, session: Session) -> None:
        """Opens the slots with the next generation, in the change's transaction.

        Raises Closed when the slots are no longer this change's.
        """
        done = await self._slots.update_many(
            {"_id": {"$in": _names(ref.id)}, "closed": token},
            {
                "$set": {"generation": Int64(generation)},
                "$unset": {"closed": 1, "until": 1},
            },
            session=session,
        )
        if done.modified_count != SLOTS:
            raise Closed

    async def stamps(self, ref: CollectionRef, rows: int, session: Session) -> range:
        """Stamps for rows that a change of the map itself writes."""
        found = await self._slots.find_one_and_update(
            {"_id": _name(ref.id, 0)},
            {"$inc": {"number": Int64(rows)}},
            session=session,
            return_document=ReturnDocument.AFTER,
        )
        assert found is not None
        return _stamps(0, found, rows)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The call's result, tried again while the map is closed. Raises WriteConflict when that does not end."""
    for _ in range(_ATTEMPTS):
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


def _names(collection: int) -> list[str]:
    return [_name(collection, slot) for slot in range(SLOTS)]
