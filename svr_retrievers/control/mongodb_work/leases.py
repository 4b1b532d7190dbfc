"""Leases in MongoDB: one document a name, which claims and fences write."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime

from bson import Int64
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, ExecutionTimeout

from svr_retrievers.control.arguments import check_ttl
from svr_retrievers.control.mongodb_work.store import Doc, Session, Store, whole
from svr_retrievers.control.protocol import Lease
from svr_retrievers.control.refusals import lease_lost
from svr_retrievers.names import check_key

_CLAIM_MILLISECONDS = 2_000
"""A document that stays locked so long is held by a fenced transaction, so the lease is in use."""
_ATTEMPTS = 5
"""Of several that claim a name for the first time, each round lets one insert it."""
_RUNNING: Doc = {"$expr": {"$gt": ["$expires_at", "$$NOW"]}}


class MongoLeases:
    """`$$NOW` is the primary's clock, read anew for every statement, also within a transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def claim(self, name: str, holder: str, ttl_seconds: float) -> Lease | None:
        change = _Claim(check_key(holder, "holder"), check_ttl(ttl_seconds), uuid.uuid4().hex)
        if await self.held(name) is not None:
            return None
        with self._store.translated():
            for _ in range(_ATTEMPTS):
                try:
                    found = await self._store.leases.find_one_and_update(
                        {"_id": name},
                        [{"$replaceWith": change.pipeline}],
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                        maxTimeMS=_CLAIM_MILLISECONDS,
                    )
                except DuplicateKeyError:
                    continue
                except ExecutionTimeout:
                    return None
                assert found is not None
                return _lease(found) if found["claim"] == change.id else None
        return None

    async def renew(self, lease: Lease) -> Lease:
        with self._store.translated():
            found = await self._store.leases.find_one_and_update(
                _exactly(lease),
                [{"$set": {"expires_at": _from_now("$ttl_seconds")}}],
                return_document=ReturnDocument.AFTER,
            )
        if found is None:
            raise lease_lost(lease)
        return _lease(found)

    async def release(self, lease: Lease) -> bool:
        with self._store.translated():
            done = await self._store.leases.update_one(_exactly(lease), [{"$set": {"expires_at": "$$NOW"}}])
        return done.modified_count == 1

    async def held(self, name: str) -> Lease | None:
        with self._store.translated():
            found = await self._store.leases.find_one({"_id": check_key(name, "name"), **_RUNNING})
        return None if found is None else _lease(found)

    async def fence(self, lease: Lease, *, within: Session) -> None:
        """Writes the document, so that a claim waits for the transaction, or makes it begin anew and fail here."""
        found = await self._store.leases.find_one_and_update(
            _exactly(lease), {"$inc": {"fences": Int64(1)}}, session=self._store.open(within)
        )
        if found is None:
            raise lease_lost(lease)


class _Claim:
    """Takes the lease if it is free, else leaves the document as it is; `id` tells which of the two happened.

    As an expression, not as a filter: the server refuses `$expr` in the filter of an upsert.
    """

    def __init__(self, holder: str, ttl_seconds: float, claim: str) -> None:
        self.id = claim
        self.pipeline: Doc = {
            "$cond": [
                {"$gt": ["$expires_at", "$$NOW"]},
                "$$ROOT",
                {
                    "_id": "$_id",
                    "holder": {"$literal": holder},
                    "token": {"$add": [{"$ifNull": ["$token", Int64(0)]}, Int64(1)]},
                    "ttl_seconds": {"$literal": ttl_seconds},
                    "expires_at": _from_now({"$literal": ttl_seconds}),
                    "claim": {"$literal": claim},
                    "fences": {"$ifNull": ["$fences", Int64(0)]},
                },
            ]
        }


def _from_now(seconds: object) -> Doc:
    return {"$add": ["$$NOW", {"$multiply": [seconds, 1000]}]}


def _exactly(lease: Lease) -> Doc:
    """The document of this lease, while it runs."""
    return {"_id": lease.name, "token": lease.token, **_RUNNING}


def _lease(found: Mapping[str, object]) -> Lease:
    ttl, expires = found["ttl_seconds"], found["expires_at"]
    assert isinstance(ttl, float)
    assert isinstance(expires, datetime)
    return Lease(str(found["_id"]), str(found["holder"]), whole(found["token"]), ttl, expires)
