"""The search process: the indexes of a deployment, built, kept up with their collections, and kept over restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

from pymongo import AsyncMongoClient, WriteConcern
from pymongo.errors import OperationFailure, PyMongoError

from svr_retrievers.testing.mongodb.control import Control
from svr_retrievers.testing.mongodb.documents import CODEC, Document
from svr_retrievers.testing.mongodb.following import CollectionGone, Follower, HistoryLost
from svr_retrievers.testing.mongodb.hashing import Embed
from svr_retrievers.testing.mongodb.indexes import BUILDING, DELETING, FAILED, PENDING, READY, STALE, Index
from svr_retrievers.testing.mongodb.records import Record
from svr_retrievers.testing.mongodb.refusals import Refused
from svr_retrievers.testing.mongodb.replicas import Replica, Store
from svr_retrievers.testing.mongodb.store import VectorStore
from svr_retrievers.testing.mongodb.textstore import TextStore
from svr_retrievers.testing.mongodb.views import collections, namespace

_RETRY_SECONDS = 0.05
_NOT_SERVING_MS = 30_000
_Source = tuple[str, str, bytes]


class Mongot:
    """Talks to the server behind the fronts as a client of its own."""

    def __init__(self, upstream: str, control: Control, embed: Embed, catalogue: str) -> None:
        self.control = control
        self.search_millis = 0.0
        self.indexes: list[Index] = []
        self.client: AsyncMongoClient[Document] = AsyncMongoClient(
            upstream, serverSelectionTimeoutMS=_NOT_SERVING_MS, appname="mongot"
        )
        kept = self.client.get_database(
            catalogue, codec_options=CODEC, write_concern=WriteConcern("majority")
        )
        self._kept = kept["indexes"]
        self._embed = embed
        self._followers: dict[_Source, Follower] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._upkeep: dict[int, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Takes up the indexes it kept, and builds them without the delays of new ones."""
        async for kept in self._kept.find():
            record = Record.of(kept)
            known = await collections(self.client.get_database(record.home.database))
            try:
                home = namespace(known, record.home.database, record.home.name)
            except Refused:
                home = None
            if home is not None and (home.source, home.uuid) == (record.home.source, record.home.uuid):
                self._launch(Index(record.moved(home)), again=True)
            else:
                await self._kept.delete_one({"_id": record.ident})

    async def stop(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()

    async def create(self, record: Record) -> None:
        await self._kept.insert_one(record.document())
        self._launch(Index(record))

    async def update(self, index: Index, definition: Document) -> None:
        """The version that answers goes on answering until the new one is built."""
        index.changing()
        record = index.record.updated(definition)
        await self._kept.replace_one({"_id": record.ident}, record.document())
        index.record = record
        self._stage(index)

    async def drop(self, index: Index) -> None:
        """It is listed as DELETING for as long as the settings say, and answers nothing from now on."""
        index.changing()
        await self._kept.delete_one({"_id": index.record.ident})
        index.status = DELETING
        self._retire(index)
        if self.control.of(index.record.home.database).deleting:
            self._spawn(self._forget_later(index))
        else:
            self._forget(index)

    def go_stale(self, index: Index, why: str) -> None:
        """Old data goes on answering, and changes are not taken any more."""
        index.status, index.message = STALE, why
        if index.main is not None:
            index.main.frozen = True

    def told_stale(self, index: Index) -> None:
        self.go_stale(index, "replication has fallen off the oplog")

    async def reconcile(self, database: str) -> None:
        """After a change of collections or views: indexes go with what they were on, or follow what it has become."""
        concerned = [index for index in self.indexes if index.record.home.database == database]
        known = await collections(self.client.get_database(database)) if concerned else {}
        for index in concerned:
            record = index.record
            try:
                home = namespace(known, database, record.home.name)
            except Refused as refused:
                if refused.code == _GONE:
                    await self._lose(index)
                else:
                    self._fail(index, str(refused))
                continue
            if (home.source, home.uuid) != (record.home.source, record.home.uuid):
                await self._lose(index)
            elif home != record.home:
                index.record = record.moved(home)
                await self._kept.replace_one({"_id": record.ident}, index.record.document())
                self._stage(index)

    def _fail(self, index: Index, why: str) -> None:
        self._retire(index)
        index.status, index.message = FAILED, why

    def disconnect(self) -> None:
        for follower in self._followers.values():
            follower.connected.clear()

    def reconnect(self) -> None:
        for follower in self._followers.values():
            follower.connected.set()

    def rebuild(self, index: Index) -> None:
        self._stage(index, stale=index.status == STALE)

    async def settle(self, database: str | None) -> None:
        """Until every index that answers has taken all that was written before the call.

        One whose replication is halted is not waited for.
        """
        pong = await self.client.admin.command("ping")
        now = pong["operationTime"]
        while any(not self._has_reached(index, now) for index in self.indexes if _within(index, database)):  # noqa: ASYNC110 - states of many
            await asyncio.sleep(0.005)

    def _has_reached(self, index: Index, now: object) -> bool:
        follower = self._followers.get(_source(index))
        if index.main is None or index.main.frozen or follower is None or not follower.connected.is_set():
            return True
        if self.control.of(index.record.home.database).paused:
            return True
        return follower.position >= now and index.main.idle

    def _launch(self, index: Index, *, again: bool = False) -> None:
        self.indexes.append(index)
        source = _source(index)
        if source not in self._followers:
            follower = self._followers[source] = Follower(self.client, index.record.home)
            follower.task = self._spawn(self._follow(source, follower))
        self._stage(index, again=again)

    def _stage(self, index: Index, *, again: bool = False, stale: bool = False) -> None:
        """Begins a new version; one that was being built is given up."""
        if index.staged is not None:
            self._discard(index.staged)
        record = index.record
        vectors = record.kind == "vectorSearch"
        store: Store = (
            VectorStore(record.definition, self._embed) if vectors else TextStore(record.definition)
        )
        replica = Replica(record, store, self.client, self.control)
        index.staged = replica
        index.status = STALE if stale else BUILDING if again or index.main else PENDING
        self._followers[_source(index)].replicas.append(replica)
        self._upkeep[id(replica)] = self._spawn(self._build(index, replica, again=again or stale))

    async def _build(self, index: Index, replica: Replica, *, again: bool) -> None:
        database = replica.record.home.database
        if not again:
            await self.control.reach(database, lambda now, passed: now.pending - passed)
            index.status = BUILDING
        try:
            await self._fill(index, replica)
            if not again:
                await self.control.reach(database, lambda now, passed: now.build - passed)
                self._fail_if_told(database)
        except Exception as error:  # noqa: BLE001 - a build that fails is a state, whatever the cause
            index.status, index.message, index.staged = FAILED, str(error), None
            self._discard(replica)
            return
        if index.main is not None:
            self._discard(index.main)
        index.main, index.staged = replica, None
        index.status, index.message = READY, None
        await replica.keep_up()

    def _fail_if_told(self, database: str) -> None:
        failure = self.control.take_failure(database)
        if failure is not None:
            raise RuntimeError(failure)

    async def _fill(self, index: Index, replica: Replica) -> None:
        """Tried again while the server is electing; a definite answer of the server is final."""
        while True:
            await self._followers[_source(index)].opened.wait()
            try:
                await replica.fill()
            except OperationFailure as error:
                if not error.has_error_label("RetryableWriteError") and error.code not in _PASSING:
                    raise
            except PyMongoError:
                pass
            else:
                return
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, source: _Source, follower: Follower) -> None:
        while True:
            try:
                await follower.follow()
            except CollectionGone:
                break
            except HistoryLost as lost:
                follower.restart()
                for index in self._on(source):
                    self.go_stale(index, str(lost))
                    self.rebuild(index)
        self._followers.pop(source, None)
        for index in self._on(source):
            await self._lose(index)

    async def _lose(self, index: Index) -> None:
        with contextlib.suppress(PyMongoError):
            await self._kept.delete_one({"_id": index.record.ident})
        self._retire(index)
        self._forget(index)

    def _on(self, source: _Source) -> list[Index]:
        return [index for index in self.indexes if _source(index) == source]

    def _retire(self, index: Index) -> None:
        for replica in index.replicas():
            self._discard(replica)
        index.main = index.staged = None

    def _discard(self, replica: Replica) -> None:
        home = replica.record.home
        follower = self._followers.get((home.database, home.source, home.uuid))
        if follower is not None and replica in follower.replicas:
            follower.replicas.remove(replica)
        task = self._upkeep.pop(id(replica), None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _forget_later(self, index: Index) -> None:
        await self.control.reach(index.record.home.database, lambda now, passed: now.deleting - passed)
        self._forget(index)

    def _forget(self, index: Index) -> None:
        if index in self.indexes:
            self.indexes.remove(index)
        source = _source(index)
        if not self._on(source):
            self._unfollow(source)

    def _unfollow(self, source: _Source) -> None:
        """A collection without an index needs no stream, nor the connection that it holds."""
        follower = self._followers.pop(source, None)
        if follower is not None and follower.task is not None:
            follower.task.cancel()

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_GONE = 26
_PASSING = {10107, 11600, 11602, 189, 91, 13435, 239, 246, 133, 134, 9001, 6, 7, 89}
"""Answers that pass: elections, shutdown, a snapshot that grew too old."""


def _source(index: Index) -> _Source:
    home = index.record.home
    return home.database, home.source, home.uuid


def _within(index: Index, database: str | None) -> bool:
    return database is None or index.record.home.database == database
