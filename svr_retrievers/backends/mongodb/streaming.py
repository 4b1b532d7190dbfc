"""The change stream of one collection: a whole write an event, resumed through elections, never silently incomplete."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.connection import told, translated
from svr_retrievers.backends.mongodb.database import Database
from svr_retrievers.backends.mongodb.layout import Doc
from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.backends.streams import StreamEvent
from svr_retrievers.changes import RowCounts
from svr_retrievers.control import mongodb_notes as notes
from svr_retrievers.control.mongodb import Catalog
from svr_retrievers.control.mongodb_fence import names
from svr_retrievers.errors import InputError

QUIET_SECONDS: Final = 30.0
"""After so long without a change the reader gets a newer token, before the server forgets what the old one needs."""
_AWAIT_MS: Final = 1_000
_WAITING: Final = 1_000
"""Events that wait for a slow reader; further ones wait on the server."""
_PATIENCE_SECONDS: Final = 60.0
"""For so long a stream is opened again while there is no primary."""
_RETRY_SECONDS: Final = 0.1
_HISTORY_LOST: Final = {280, 286}
_NOT_THE_TOKEN: Final = {13, 18, 8000}
"""Refusals that a token has no part in: of the login, of the right."""
_TOKEN: Final = re.compile(r"(\d+)\.([0-9A-F]{2,})\Z")
_CURSOR_LOST: Final = {43, 136, 237}
"""The cursor is gone, and another one may take its place; whether history is too, the server says then."""
_GONE: Final = ("drop", "rename", "dropDatabase", "invalidate")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the server told, with the position behind it. None: nothing but the position."""

    event: Mapping[str, object] | None
    position: str
    lost: bool = False


_Item: TypeAlias = "_Seen | BaseException | None"


class MongoStream:
    """Reads ahead in a task of its own, so that what came while the reader was busy is told in one event."""

    def __init__(self, catalog: Catalog, ref: CollectionRef, documents: str, after: str | None) -> None:
        self._catalog = catalog
        self._ref = ref
        self._documents = documents
        self._after = after
        self._position = None if after is None else _position(ref, after)
        self._items: asyncio.Queue[_Item] = asyncio.Queue(_WAITING)
        self._kept: _Item = None
        self._rows = notes.Rows([])
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def rows(self) -> Mapping[int, int]:
        return self._rows.sums

    async def open(self) -> None:
        if self._pump is not None or self._closed:
            return
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pump = asyncio.create_task(self._run(opened))
        try:
            await opened
            await self.recount()
        except BaseException:
            await self.close()
            raise

    async def recount(self) -> None:
        with translated(self._ref.config.name):
            self._rows = await self._catalog.fence.rows(self._ref)

    async def close(self) -> None:
        self._closed = True
        while not self._items.empty():
            self._items.get_nowait()
        self._items.put_nowait(None)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])

    # Telling

    async def next(self) -> StreamEvent | None:
        first = await self._take()
        if not isinstance(first, _Seen):
            self._closed = True
            if first is not None:
                raise first
            return None
        event = self._told(first)
        while event.kind == "rows" and (more := self._waiting()) is not None:
            following = self._told(more)
            if following.kind != "rows":
                self._kept = more
                break
            event = StreamEvent("rows", following.token, _added(event.counts, following.counts))
        return event

    async def _take(self) -> _Item:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        return None if self._closed and self._items.empty() else await self._items.get()

    def _waiting(self) -> _Seen | None:
        """What waits already, an error or the end aside, which come next."""
        if self._items.empty():
            return None
        item = self._items.get_nowait()
        if isinstance(item, _Seen):
            return item
        self._kept = item
        return None

    def _told(self, seen: _Seen) -> StreamEvent:
        token = f"{self._ref.id}.{seen.position}"
        if seen.lost:
            return StreamEvent("history_lost", token)
        if seen.event is None:
            return StreamEvent("rows", token)
        if seen.event["operationType"] != "update":
            return StreamEvent("dropped", token)
        fields = _mapping(_mapping(seen.event["updateDescription"])["updatedFields"])
        if "note" not in fields:
            return StreamEvent("map", token, generation=lay.number(fields["generation"]))
        self._rows.follow(str(_mapping(seen.event["documentKey"])["_id"]), fields)
        return StreamEvent("rows", token, notes.read(fields["note"]))

    # Reading

    async def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            await self._follow(opened)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - handed to the reader
            ours = told(error, self._ref.config.name) if isinstance(error, PyMongoError) else error
            if opened.done():
                await self._items.put(ours)
            else:
                opened.set_exception(ours)

    async def _follow(self, opened: asyncio.Future[None]) -> None:
        """Until the collection is dropped. A stream that broke is opened again behind what was read of it."""
        lost, patient_until = False, time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                async with await self._open() as stream:
                    if lost:
                        await self._items.put(_Seen(None, _resume(stream), lost=True))
                        lost = False
                    if not opened.done():
                        opened.set_result(None)
                    patient_until = time.monotonic() + _PATIENCE_SECONDS
                    await self._read(stream)
                    return
            except OperationFailure as error:
                if error.code in _HISTORY_LOST:
                    lost, self._position = True, None
                    continue
                if (
                    not _again(error)
                    and not opened.done()
                    and self._after
                    and error.code not in _NOT_THE_TOKEN
                ):
                    raise _no_token(self._after) from None
                if not _again(error) or time.monotonic() > patient_until:
                    raise
            except ConnectionFailure:
                if time.monotonic() > patient_until:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def _open(self) -> AsyncChangeStream[Doc]:
        return await self._catalog.majority.watch(
            _stages(self._catalog, self._ref, self._documents),
            max_await_time_ms=_AWAIT_MS,
            start_after=None if self._position is None else {"_data": self._position},
        )

    async def _read(self, stream: AsyncChangeStream[Doc]) -> None:
        told_at = time.monotonic()
        while stream.alive:
            event = await stream.try_next()
            self._position = _resume(stream)
            if event is not None or time.monotonic() - told_at >= QUIET_SECONDS:
                await self._items.put(_Seen(event, self._position if event is None else _data(event["_id"])))
                told_at = time.monotonic()
            if event is not None and event["operationType"] != "update":
                return


class Streams(Database):
    """The part of the backend that tells of changes."""

    def changes(self, ref: CollectionRef, after: str | None) -> MongoStream:
        return MongoStream(self._catalog, ref, self.documents_name(ref), after)


def _stages(catalog: Catalog, ref: CollectionRef, documents: str) -> list[Doc]:
    """Of all that happens in the database: each write's note, each new generation once, and each way of the end."""
    slots = names(ref.id)
    note = "updateDescription.updatedFields.note"
    generation = "updateDescription.updatedFields.generation"
    fences, heads = catalog.fence.name, catalog.collections.name
    return [
        {
            "$match": {
                "$or": [
                    {"ns.coll": fences, "documentKey._id": {"$in": slots}, note: {"$exists": True}},
                    {"ns.coll": fences, "documentKey._id": slots[0], generation: {"$exists": True}},
                    {"ns.coll": fences, "documentKey._id": slots[0], "operationType": "delete"},
                    {"ns.coll": heads, "documentKey._id": ref.config.name, "operationType": "delete"},
                    {"ns.coll": {"$in": [fences, heads, documents]}, "operationType": {"$in": list(_GONE)}},
                    {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
                ]
            }
        },
        {"$project": {"operationType": 1, "documentKey": 1, "updateDescription.updatedFields": 1}},
    ]


def _again(error: OperationFailure) -> bool:
    labelled = any(
        error.has_error_label(f"{kind}Error") for kind in ("ResumableChangeStream", "RetryableWrite")
    )
    return labelled or error.code in _CURSOR_LOST


def _resume(stream: AsyncChangeStream[Doc]) -> str:
    return _data(stream.resume_token)


def _data(token: object) -> str:
    return str(_mapping(token)["_data"])


def _position(ref: CollectionRef, token: str) -> str:
    """Raises InputError for what is no token of this collection."""
    found = _TOKEN.match(token) if isinstance(token, str) else None
    if found is None:
        raise _no_token(token)
    if int(found[1]) != ref.id:
        raise InputError(
            f"This token is of another collection than {ref.config.name!r} as it is now.",
            hint="Tokens end with their collection, also when one of the same name follows; start without one.",
        )
    return found[2]


def _no_token(token: object) -> InputError:
    return InputError(
        f"{str(token)[:60]!r} is no token of a change stream.",
        hint="Pass the `token` of the last change that was dealt with, or leave `after` out.",
    )


def _added(some: Mapping[int, RowCounts], more: Mapping[int, RowCounts]) -> dict[int, RowCounts]:
    return {p: some.get(p, RowCounts()) + more.get(p, RowCounts()) for p in sorted({*some, *more})}


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value)
