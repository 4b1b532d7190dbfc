"""The outbox in MongoDB: documents that get their position when they are first read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC

from bson import Int64, Timestamp
from pymongo import ReturnDocument, UpdateOne

from svr_retrievers.control.arguments import (
    MAX_ROWS,
    check_limit,
    check_number,
    check_seconds,
    json_text,
    loaded_json,
)
from svr_retrievers.control.mongodb_work.store import Doc, Session, Store, whole
from svr_retrievers.control.protocol import Event, RecordedEvent
from svr_retrievers.control.refusals import beyond, no_consumer, not_prepared, pruned_away
from svr_retrievers.names import check_key

_PLACED_AT_ONCE = 1_000


class MongoOutbox:
    """`inserted` is the server's logical clock, which it puts where a zero timestamp is inserted: never the same
    twice, and larger than in everything that was committed before. Dates of the server would tie within a millisecond.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, events: Sequence[Event], *, within: Session | None = None) -> None:
        if not events:
            return
        rows = {e.id: _row(e) for e in reversed(events)}

        async def insert(session: Session) -> None:
            known = self._store.outbox.find({"_id": {"$in": list(rows)}}, {"_id": 1}, session=session)
            there = {each["_id"] async for each in known}
            fresh = [rows[e] for e in dict.fromkeys(event.id for event in events) if e not in there]
            if fresh:
                await self._store.outbox.insert_many([dict(row) for row in fresh], session=session)

        check_number(len(events), "the number of events", 1, MAX_ROWS)
        with self._store.outside(within):
            await self._store.transact(insert, within)

    async def read(self, *, after: int, limit: int = 100) -> Sequence[RecordedEvent]:
        wanted = {"position": {"$gt": check_number(after, "after", 0)}}
        check_limit(limit)
        with self._store.translated():
            if await self._store.outbox.find_one({"position": None}, {"_id": 1}) is not None:
                await self._store.transact(self._place)
            found = self._store.outbox.find(wanted).sort("position").limit(limit)
            events = [_recorded(each) async for each in found]
            state = await self._state(None)
        if after > state["given"]:
            raise beyond(after, state["given"])
        if after < state["pruned"]:
            raise pruned_away(after, state["pruned"])
        return events

    async def _place(self, session: Session) -> None:
        """Gives positions to events that are committed and have none.

        Who places writes the state, so of two at once one begins anew, and positions become visible in their order.
        """
        waiting = self._store.outbox.find({"position": None}, {"_id": 1}, session=session)
        ids = [each["_id"] async for each in waiting.sort("inserted").limit(_PLACED_AT_ONCE)]
        if not ids:
            return
        state = await self._store.counters.find_one_and_update(
            {"_id": "outbox"},
            {"$inc": {"given": Int64(len(ids))}},
            return_document=ReturnDocument.BEFORE,
            session=session,
        )
        if state is None:
            raise not_prepared()
        first = whole(state["given"]) + 1
        await self._store.outbox.bulk_write(
            [UpdateOne({"_id": e}, {"$set": {"position": Int64(first + n)}}) for n, e in enumerate(ids)],
            session=session,
        )

    async def _state(self, session: Session | None) -> dict[str, int]:
        found = await self._store.counters.find_one({"_id": "outbox"}, session=session)
        if found is None:
            raise not_prepared()
        return {name: whole(found[name]) for name in ("given", "pruned")}

    async def subscribe(self, consumer: str) -> int:
        check_key(consumer, "consumer")

        async def enter(session: Session) -> int:
            known = await self._store.consumers.find_one({"_id": consumer}, session=session)
            if known is not None:
                return whole(known["position"])
            state = await self._store.counters.find_one_and_update(  # a prune at the same time begins anew
                {"_id": "outbox"}, {"$inc": {"subscribed": Int64(1)}}, session=session
            )
            if state is None:
                raise not_prepared()
            pruned = whole(state["pruned"])
            await self._store.consumers.insert_one(
                {"_id": consumer, "position": Int64(pruned)}, session=session
            )
            return pruned

        with self._store.translated():
            return await self._store.transact(enter)

    async def acknowledge(self, consumer: str, position: int, *, within: Session | None = None) -> None:
        check_key(consumer, "consumer")
        check_number(position, "position", 0)
        session = None if within is None else self._store.open(within)
        with self._store.outside(within):
            given = (await self._state(session))["given"]
            if position > given:
                raise beyond(position, given)
            done = await self._store.consumers.update_one(
                {"_id": consumer}, {"$max": {"position": Int64(position)}}, session=session
            )
        if not done.matched_count:
            raise no_consumer(consumer)

    async def unsubscribe(self, consumer: str) -> None:
        with self._store.translated():
            done = await self._store.consumers.delete_one({"_id": check_key(consumer, "consumer")})
        if not done.deleted_count:
            raise no_consumer(consumer)

    async def prune(self, *, keep_seconds: float, limit: int = 1_000) -> int:
        check_seconds(keep_seconds, "keep_seconds", 0, 10**9)
        check_limit(limit)

        async def delete(session: Session) -> int:
            pruned, bound = await self._bound(keep_seconds, limit, session)
            if bound <= pruned:
                return 0
            await self._store.counters.update_one(
                {"_id": "outbox"}, {"$set": {"pruned": Int64(bound)}}, session=session
            )
            gone = {"position": {"$gt": pruned, "$lte": bound}}
            return (await self._store.outbox.delete_many(gone, session=session)).deleted_count

        with self._store.translated():
            return await self._store.transact(delete)

    async def _bound(self, keep_seconds: float, limit: int, session: Session) -> tuple[int, int]:
        """Up to where events are deleted, and up to where they may be."""
        state = await self._state(session)
        pruned = state["pruned"]
        bound = min(pruned + limit, state["given"])
        behind = await self._store.consumers.find_one(sort=[("position", 1)], session=session)
        if behind is not None:
            bound = min(bound, whole(behind["position"]))
        oldest: Doc = {"$subtract": ["$$NOW", int(keep_seconds * 1000)]}
        kept = await self._store.outbox.find_one(
            {
                "position": {"$gt": pruned, "$lte": bound},
                "$expr": {"$gt": [{"$toDate": "$inserted"}, oldest]},
            },
            sort=[("position", 1)],
            session=session,
        )
        return pruned, bound if kept is None else whole(kept["position"]) - 1


def _row(event: Event) -> Doc:
    data = json_text(event.data, "data")
    return {
        "_id": event.id, "inserted": Timestamp(0, 0), "subject": event.subject, "type": event.type, "data": data,
    }  # fmt: skip


def _recorded(found: Mapping[str, object]) -> RecordedEvent:
    inserted = found["inserted"]
    assert isinstance(inserted, Timestamp)
    event = Event(
        str(found["subject"]), str(found["type"]), loaded_json(str(found["data"])), str(found["_id"])
    )
    return RecordedEvent(whole(found["position"]), event, inserted.as_datetime().astimezone(UTC))
