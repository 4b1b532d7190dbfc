"""The asynchronous client and collection as seen from any event loop: every call hops to their own."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, wraps
from typing import Protocol, TypeVar, cast

from anyio.from_thread import BlockingPortal

from svr_retrievers.client import AsyncSVRClient
from svr_retrievers.collection import AsyncChanges, AsyncCollection
from svr_retrievers.collection.scanning import Scan
from svr_retrievers.concurrency import NeedsLoop, drive, on_loop
from svr_retrievers.errors import CalledFromLoop, ForkedClient
from svr_retrievers.model import Document, Vector

T = TypeVar("T")


class _Method(Protocol):
    """Any public coroutine method of a client or collection."""

    def __call__(self, *args: object, **kwargs: object) -> Coroutine[object, object, object]: ...


class Home(Protocol):
    """The event loop that clients live on: its process, its thread, and the way onto it."""

    pid: int
    thread: int
    portal: BlockingPortal


class Bridge:
    """Carries calls onto the home loop: `run` from a thread, `hop` from another event loop."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def _check(self) -> None:
        if self.home.pid != os.getpid():
            raise ForkedClient(
                "This client was made before the process forked, and its thread stayed in the parent.",
                hint="Make a new SVRClient in the child process.",
            )

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Waits for the call's result. Raises CalledFromLoop on the home loop, which would wait for itself."""
        self._check()
        if threading.get_ident() == self.home.thread:
            raise CalledFromLoop(
                "The blocking client was called from its own event loop, where it would wait for itself.",
                hint="Await the asynchronous twin instead: client.aio, collection.aio.",
            )
        return self.home.portal.call(call)

    def run_here(
        self,
        call: Callable[[], Coroutine[object, object, T]],
        with_vector: Callable[[Vector], Coroutine[object, object, T]],
    ) -> T:
        """The result of a reading call: on this thread if it needs no event loop, else on the home loop.

        `with_vector` begins it anew once the query's vector is known.
        """
        self._check()
        if on_loop():
            return self.run(call)
        try:
            return drive(call())
        except NeedsLoop as stop:
            vector = stop.vector
        return self.run(call if vector is None else partial(with_vector, vector))

    async def hop(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's result, without blocking the caller's loop; cancelling the caller cancels the call."""
        self._check()
        if threading.get_ident() == self.home.thread:
            return await call()
        return await asyncio.wrap_future(self.home.portal.start_task_soon(call))


class _Hopping:
    """An asynchronous object seen through a bridge: shares its state, hops for every coroutine method."""

    _bridge: Bridge

    def __init__(self, inner: object, bridge: Bridge) -> None:
        object.__setattr__(self, "__dict__", inner.__dict__)
        inner.__dict__["_bridge"] = bridge


class LoopFreeChanges(_Hopping, AsyncChanges):
    """AsyncChanges that may be iterated over from any event loop."""


class LoopFreeCollection(_Hopping, AsyncCollection):
    """An AsyncCollection whose methods may be awaited from any event loop."""

    async def _page(self, asked: Scan, after: str | None) -> list[Document]:
        return await self._bridge.hop(partial(super()._page, asked, after))

    def watch(self, *, after: str | None = None) -> AsyncChanges:
        return cast("AsyncChanges", LoopFreeChanges(super().watch(after=after), self._bridge))


class LoopFreeClient(_Hopping, AsyncSVRClient):
    """An AsyncSVRClient whose methods may be awaited from any event loop."""


def loop_free(inner: AsyncCollection, bridge: Bridge) -> AsyncCollection:
    return cast("AsyncCollection", LoopFreeCollection(inner, bridge))


def loop_free_client(inner: AsyncSVRClient, bridge: Bridge) -> AsyncSVRClient:
    return cast("AsyncSVRClient", LoopFreeClient(inner, bridge))


def _hopping(method: _Method) -> object:
    @wraps(method)
    async def hop(self: _Hopping, *args: object, **kwargs: object) -> object:
        made = await self._bridge.hop(partial(method, self, *args, **kwargs))
        return loop_free(made, self._bridge) if isinstance(made, AsyncCollection) else made

    return hop


def _public_coroutines(cls: type) -> list[str]:
    names = [n for n, m in inspect.getmembers(cls, inspect.iscoroutinefunction) if not n.startswith("_")]
    return [*names, *(n for n in ("__aenter__", "__aexit__", "__anext__") if hasattr(cls, n))]


for _cls, _base in (
    (LoopFreeCollection, AsyncCollection),
    (LoopFreeClient, AsyncSVRClient),
    (LoopFreeChanges, AsyncChanges),
):
    for _name in _public_coroutines(_base):
        setattr(_cls, _name, _hopping(getattr(_base, _name)))
