"""Opens the client and the collection behind a store: lazily, once, from any thread or event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import SecretStr

from svr_retrievers import AsyncCollection, Collection, Scheme, SVRClient
from svr_retrievers.errors import ClientClosed, CollectionNotFound, InputError

T = TypeVar("T")
_TRIES = 2
"""A collection that was dropped and made again is found by the second."""


class Connection:
    """A collection that is opened when it is first needed.

    Writing creates it; reading one that does not exist yet finds None. Settings are compared with
    those of an existing collection before its first use (`CollectionMismatch`). Opening the same
    collection twice is harmless, so nothing waits for an opener on another loop.

    A given client is shared and stays open; one made here is closed by `close`.
    """

    def __init__(
        self, name: str, settings: dict[str, Any], *, url: str | None, client: SVRClient | None
    ) -> None:
        if client is not None and url is not None:
            raise InputError("Both `client` and `url` were given.", hint="Pass one of them.")
        self.name = name
        self._settings = settings
        self._url = None if url is None else SecretStr(url)
        self._client = client
        self._shared = client is not None
        self._closed = False
        self._lock = threading.Lock()
        self._blocking: Collection | None = None
        self._awaitable: AsyncCollection | None = None

    @property
    def opened_scheme(self) -> Scheme | None:
        """How the collection is partitioned, if it is partitioned and has been opened."""
        opened = self._blocking or self._awaitable
        return None if opened is None else opened.partition_by

    def client(self) -> SVRClient:
        with self._lock:
            if self._closed:
                raise ClientClosed("This vector store is closed.", hint="Make a new one.")
            if self._client is None:
                self._client = SVRClient(self._url.get_secret_value() if self._url else None)
            return self._client

    async def aclient(self) -> SVRClient:
        """The same client; starting one may take a while, so that happens beside the event loop."""
        if self._client is None:
            return await asyncio.to_thread(self.client)
        return self.client()

    def existing(self) -> Collection | None:
        if self._closed or self._blocking is None:
            client = self.client()
            try:
                dimensions = client.collection(self.name).dimensions
            except CollectionNotFound:
                return None
            return self.writable(dimensions)
        return self._blocking

    async def aexisting(self) -> AsyncCollection | None:
        if self._closed or self._awaitable is None:
            client = await self.aclient()
            try:
                dimensions = (await client.aio.collection(self.name)).dimensions
            except CollectionNotFound:
                return None
            return await self.awritable(dimensions)
        return self._awaitable

    def writable(self, dimensions: int) -> Collection:
        if self._closed or self._blocking is None:
            self._blocking = self.client().create_collection(
                self.name, dimensions=dimensions, if_exists="open", **self._settings
            )
        return self._blocking

    async def awritable(self, dimensions: int) -> AsyncCollection:
        if self._closed or self._awaitable is None:
            client = await self.aclient()
            self._awaitable = await client.aio.create_collection(
                self.name, dimensions=dimensions, if_exists="open", **self._settings
            )
        return self._awaitable

    def read(self, call: Callable[[Collection], T], missing: T) -> T:
        """What `call` finds in the collection, or `missing` if there is none (any more)."""
        for _ in range(_TRIES):
            collection = self.existing()
            if collection is None:
                break
            try:
                return call(collection)
            except CollectionNotFound:
                self._forget()
        return missing

    async def aread(self, call: Callable[[AsyncCollection], Awaitable[T]], missing: T) -> T:
        for _ in range(_TRIES):
            collection = await self.aexisting()
            if collection is None:
                break
            try:
                return await call(collection)
            except CollectionNotFound:
                self._forget()
        return missing

    def write(self, dimensions: int, call: Callable[[Collection], T]) -> T:
        """What `call` returns; the collection is made if it is missing, or was dropped by someone else."""
        try:
            return call(self.writable(dimensions))
        except CollectionNotFound:
            self._forget()
            return call(self.writable(dimensions))

    async def awrite(self, dimensions: int, call: Callable[[AsyncCollection], Awaitable[T]]) -> T:
        try:
            return await call(await self.awritable(dimensions))
        except CollectionNotFound:
            self._forget()
            return await call(await self.awritable(dimensions))

    def _forget(self) -> None:
        self._blocking = self._awaitable = None

    def drop(self) -> None:
        self.client().drop_collection(self.name, missing_ok=True)
        self._forget()

    async def adrop(self) -> None:
        await (await self.aclient()).aio.drop_collection(self.name, missing_ok=True)
        self._forget()

    def close(self) -> None:
        """Close the client if it was made here. Closing again does nothing."""
        with self._lock:
            mine = None if self._shared else self._client
            self._client = self._blocking = self._awaitable = None
            self._closed = True
        if mine is not None:
            mine.close()
