"""Operations in MongoDB: a document each, and each of its versions in the history."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from bson import Int64
from pymongo import ReturnDocument

from svr_retrievers.control.arguments import check_limit, check_number, json_text, loaded_json
from svr_retrievers.control.mongodb_work.leases import MongoLeases
from svr_retrievers.control.mongodb_work.store import Doc, Session, Store, whole
from svr_retrievers.control.protocol import Lease, Operation, State
from svr_retrievers.control.refusals import changed, no_operation, not_prepared, pending
from svr_retrievers.names import check_key, check_text
from svr_retrievers.values import JsonValue


class MongoOperations:
    """A second operation for a cause meets the unique index as a conflict, so its transaction begins anew and finds the
    first. `details` are JSON text: BSON would not give back every number and every key as it was.
    """

    def __init__(self, store: Store, leases: MongoLeases) -> None:
        self._store = store
        self._leases = leases

    async def create(
        self,
        kind: str,
        *,
        collection: str,
        cause: str,
        step: str = "",
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Session | None = None,
    ) -> Operation:
        values: Doc = {
            "kind": check_key(kind, "kind"),
            "collection": check_key(collection, "collection"),
            "cause": check_key(cause, "cause"),
            "open": True,
            "state": State.PENDING.value,
            "step": check_text(step, "step"),
            "details": json_text({} if details is None else details, "details"),
            "version": Int64(1),
            "token": None if fence is None else Int64(fence.token),
        }

        async def insert(session: Session) -> Operation:
            if fence is not None:
                await self._leases.fence(fence, within=session)
            same: Doc = {"collection": collection, "cause": cause, "open": True}
            other = await self._store.operations.find_one(same, session=session)
            if other is not None:
                raise pending(collection, cause, whole(other["_id"]))
            return await self._insert(values, session)

        with self._store.outside(within):
            return await self._store.transact(insert, within)

    async def _insert(self, values: Doc, session: Session) -> Operation:
        count = await self._store.counters.find_one_and_update(
            {"_id": "operations"},
            {"$inc": {"value": Int64(1)}},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if count is None:
            raise not_prepared()
        stamped: Doc = {"$literal": values}
        made = await self._store.operations.find_one_and_update(
            {"_id": count["value"]},
            [
                {
                    "$replaceWith": {
                        "$mergeObjects": [
                            stamped,
                            {"_id": "$_id", "created_at": "$$NOW", "updated_at": "$$NOW"},
                        ]
                    }
                }
            ],
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        return await self._recorded(made, session)

    async def _recorded(self, made: Mapping[str, object] | None, session: Session) -> Operation:
        """Keeps this version in the history."""
        assert made is not None
        operation = _operation(made)
        version = {**made, "_id": f"{operation.number}/{operation.version}", "number": made["_id"]}
        await self._store.history.insert_one(version, session=session)
        return operation

    async def advance(
        self,
        operation: Operation,
        *,
        step: str | None = None,
        state: State | None = None,
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Session | None = None,
    ) -> Operation:
        change: Doc = {"version": Int64(operation.version + 1), "token": fence and Int64(fence.token)}
        if step is not None:
            change["step"] = check_text(step, "step")
        if state is not None:
            change |= {"state": State(state).value, "open": not State(state).final}
        if details is not None:
            change["details"] = json_text(details, "details")

        async def write(session: Session) -> Operation:
            if fence is not None:
                await self._leases.fence(fence, within=session)
            made = await self._store.operations.find_one_and_update(
                {"_id": operation.number, "version": operation.version, "open": True},
                [
                    {
                        "$replaceWith": {
                            "$mergeObjects": ["$$ROOT", {"$literal": change}, {"updated_at": "$$NOW"}]
                        }
                    }
                ],
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            if made is None:
                raise changed(operation, await self._read(operation.number, session))
            return await self._recorded(made, session)

        with self._store.outside(within):
            return await self._store.transact(write, within)

    async def get(self, number: int) -> Operation:
        with self._store.translated():
            return await self._read(check_number(number, "number", 1), None)

    async def _read(self, number: int, session: Session | None) -> Operation:
        found = await self._store.operations.find_one({"_id": number}, session=session)
        if found is None:
            raise no_operation(number)
        return _operation(found)

    async def find(
        self,
        *,
        collection: str | None = None,
        states: Collection[State] = (),
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[Operation]:
        wanted: Doc = {"_id": {"$gt": check_number(after, "after", 0)}}
        if states:
            wanted["state"] = {"$in": [State(state).value for state in states]}
        if collection is not None:
            wanted["collection"] = check_key(collection, "collection")
        with self._store.translated():
            found = self._store.operations.find(wanted).sort("_id").limit(check_limit(limit))
            return [_operation(each) async for each in found]

    async def history(self, number: int) -> Sequence[Operation]:
        check_number(number, "number", 1)
        with self._store.translated():
            found = self._store.history.find({"number": number}).sort("version")
            versions = [_operation({**each, "_id": number}) async for each in found]
        if not versions:
            raise no_operation(number)
        return versions


def _operation(found: Mapping[str, object]) -> Operation:
    created, updated, token = found["created_at"], found["updated_at"], found["token"]
    assert isinstance(created, datetime)
    assert isinstance(updated, datetime)
    return Operation(
        number=whole(found["_id"]),
        kind=str(found["kind"]),
        collection=str(found["collection"]),
        cause=str(found["cause"]),
        state=State(str(found["state"])),
        step=str(found["step"]),
        details=loaded_json(str(found["details"])),
        version=whole(found["version"]),
        token=None if token is None else whole(token),
        created_at=created,
        updated_at=updated,
    )
