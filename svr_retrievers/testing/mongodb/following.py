"""The change stream of one collection: opened before its indexes are built, resumed through elections."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bson import Timestamp
from pymongo import AsyncMongoClient
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.errors import OperationFailure, PyMongoError

from svr_retrievers.testing.mongodb.documents import CODEC, Document
from svr_retrievers.testing.mongodb.replicas import Replica
from svr_retrievers.testing.mongodb.views import Namespace

_AWAIT_MS = 100
_RETRY_SECONDS = 0.05
_HISTORY_LOST = {260, 280, 286}
_ENDING = {"drop", "rename", "dropDatabase", "invalidate"}
_TIME_TYPE = 0x82  # how a resume token begins: the type of what follows, seconds and a counter


class HistoryLost(Exception):
    """The changes since the last one seen are not to be had any more."""


class CollectionGone(Exception):
    """The collection was dropped or renamed."""


class Follower:
    """Hands every change to each replica it lists, in the order of the stream."""

    def __init__(self, client: AsyncMongoClient[Document], home: Namespace) -> None:
        self.replicas: list[Replica] = []
        self.opened = asyncio.Event()
        self.connected = asyncio.Event()
        self.connected.set()
        self.position = Timestamp(0, 0)
        self.task: asyncio.Task[None] | None = None
        self._collection = client.get_database(home.database, codec_options=CODEC)[home.source]
        self._token: Document | None = None

    async def follow(self) -> None:
        """Runs until it raises HistoryLost or CollectionGone; other failures are tried again from where it was."""
        while True:
            await self.connected.wait()
            try:
                await self._stream()
            except OperationFailure as error:
                if error.code in _HISTORY_LOST:
                    raise HistoryLost(str(error)) from error
            except PyMongoError:
                pass
            await asyncio.sleep(_RETRY_SECONDS)

    def restart(self) -> None:
        """From now on, after history was lost."""
        self._token = None
        self.opened.clear()

    async def _stream(self) -> None:
        async with await self._collection.watch(
            full_document="updateLookup", max_await_time_ms=_AWAIT_MS, resume_after=self._token
        ) as stream:
            self._reached(stream)
            self.opened.set()
            while stream.alive:
                change = await stream.try_next()
                if not self.connected.is_set():
                    return
                if change is not None:
                    self._take(dict(change))
                self._reached(stream)
        raise CollectionGone

    def _take(self, change: Document) -> None:
        if change["operationType"] in _ENDING:
            raise CollectionGone
        if "documentKey" in change:
            for replica in self.replicas:
                replica.offer(change)

    def _reached(self, stream: AsyncChangeStream[Document]) -> None:
        token: Mapping[str, object] | None = stream.resume_token
        if token is not None:
            self._token = dict(token)
            self.position = max(self.position, token_time(str(token["_data"])))


def token_time(token: str) -> Timestamp:
    """The moment a resume token stands for."""
    raw = bytes.fromhex(token[:18])
    if len(raw) < 9 or raw[0] != _TIME_TYPE:
        return Timestamp(0, 0)
    return Timestamp(int.from_bytes(raw[1:5], "big"), int.from_bytes(raw[5:9], "big"))
