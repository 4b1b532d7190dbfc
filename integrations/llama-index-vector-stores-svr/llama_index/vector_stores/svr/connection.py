"""Opens the client and the collection behind a store: lazily, once, from any thread or event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, TypeVar

from llama_index.vector_stores.svr.nodes import SOURCE_KEY
from pydantic import SecretStr

from svr_retrievers import AsyncCollection, Collection, SVRClient
from svr_retrievers.errors import ClientClosed, CollectionNotFound, InputError, UsageError

T = TypeVar("T")


class Connection:
    """A collection that is opened, and made if it is missing, when it is first needed.

    A given client is shared and stays open; one made here is closed by `close`. A collection that
    someone dropped in the meantime is made again.
    """

    def __init__(
        self, name: str, settings: Mapping[str, Any], *, url: str | None, client: SVRClient | None
    ) -> None:
        self._name = name
        self._settings = dict(settings)
        self._lock = threading.RLock()
        self._client: SVRClient | None = None
        self._collection: Collection | None = None
        self._closed = False
        self._lost = False
        self.use(url=url, client=client)

    def use(self, *, url: str | None, client: SVRClient | None) -> None:
        if client is not None and url is not None:
            raise InputError("Both `client` and `url` were given.", hint="Pass one of them.")
        with self._lock:
            self._url = None if url is None else SecretStr(url)
            self._client = client
            self._shared = client is not None
            self._collection = None
            self._closed = self._lost = False

    def lose(self) -> None:
        """What a copy is left with when it was read from a form that holds no connection."""
        self._lost = True

    @property
    def given(self) -> bool:
        """Whether the caller said where the data is, so that the default would be somewhere else."""
        return self._shared or self._url is not None or self._lost

    def client(self) -> SVRClient:
        with self._lock:
            if self._closed:
                raise ClientClosed("This vector store is closed.", hint="Make a new one, or call connect().")
            if self._lost:
                raise UsageError(
                    "This vector store was copied without its connection, which no dump or pickle holds.",
                    hint="Call store.connect(url=...) or pass url= or client= to from_dict() or from_json().",
                )
            if self._client is None:
                self._client = SVRClient(self._url.get_secret_value() if self._url else None)
            return self._client

    def collection(self) -> Collection:
        with self._lock:
            if self._collection is None or self._closed:
                self._collection = self._opened(self.client())
            return self._collection

    def _opened(self, client: SVRClient) -> Collection:
        """Without fields of the caller's own an existing collection is taken with those it has."""
        settings = dict(self._settings)
        given = settings["filter_fields"]
        if given is not None or not _exists(client, self._name):
            settings["filter_fields"] = {SOURCE_KEY: str} | (given or {})
        return client.create_collection(self._name, if_exists="open", **settings)

    def run(self, call: Callable[[Collection], T]) -> T:
        try:
            return call(self.collection())
        except CollectionNotFound:
            self._collection = None
            return call(self.collection())

    async def arun(self, call: Callable[[Collection, AsyncCollection], Awaitable[T]]) -> T:
        """Opening may wait for the database, so the first call does it beside the event loop."""
        try:
            found = await self._acollection()
            return await call(found, found.aio)
        except CollectionNotFound:
            self._collection = None
            found = await self._acollection()
            return await call(found, found.aio)

    async def _acollection(self) -> Collection:
        found = self._collection
        return await asyncio.to_thread(self.collection) if found is None or self._closed else found

    def close(self) -> None:
        """Close the client if it was made here. Closing again does nothing."""
        with self._lock:
            mine = None if self._shared else self._client
            self._client = self._collection = None
            self._closed = True
        if mine is not None:
            mine.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _exists(client: SVRClient, name: str) -> bool:
    try:
        client.collection(name)
    except CollectionNotFound:
        return False
    return True
