"""An SDK's asynchronous client on the common loop: built by the first call, closed with its owner or the process."""

from __future__ import annotations

import asyncio
import importlib
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from svr_retrievers.errors import MissingExtra
from svr_retrievers.providers.home import Home, at_home, home

C = TypeVar("C")
T = TypeVar("T")


def need_sdk(package: str, extra: str, provider: str) -> None:
    """Raises MissingExtra where a provider's SDK is not installed."""
    try:
        importlib.import_module(package)
    except ImportError as missing:
        raise MissingExtra(
            f"The models of {provider} need the package `{package}`, which is not installed.",
            hint=f'Run: pip install "svr-retrievers[{extra}]"',
        ) from missing


class Sdk(Generic[C]):
    """`build` makes the client and `close` closes its connections; both run on the common loop."""

    def __init__(self, build: Callable[[], C], close: Callable[[C], Awaitable[None]]) -> None:
        self._build = build
        self._kept: list[_Kept[C]] = []
        self._close = close
        weakref.finalize(self, _let_go, self._kept).atexit = False  # the loop's own end closes what is left

    async def use(self, attempt: Callable[[C], Awaitable[T]], timeout_seconds: float) -> T:
        """One call with the client, from any loop. Raises TimeoutError, or what the SDK raises."""
        return await at_home(self._use(attempt, timeout_seconds))

    async def _use(self, attempt: Callable[[C], Awaitable[T]], timeout_seconds: float) -> T:
        client = self._client()
        async with asyncio.timeout(timeout_seconds):
            return await attempt(client)

    def _client(self) -> C:
        place = home()
        if not self._kept or self._kept[0].place is not place:
            self._kept[:] = [_Kept(place, self._build(), self._close)]
            place.keep(self._kept[0].aclose)
        return self._kept[0].client

    async def aclose(self) -> None:
        if self._kept:
            kept = self._kept.pop()
            if kept.place is home():
                await at_home(kept.aclose())


class _Kept(Generic[C]):
    """A client and the loop that its connections belong to."""

    def __init__(self, place: Home, client: C, close: Callable[[C], Awaitable[None]]) -> None:
        self.place = place
        self.client = client
        self._close = close

    async def aclose(self) -> None:
        self.place.forget(self.aclose)
        await self._close(self.client)


def _let_go(kept: list[_Kept[C]]) -> None:
    """Called by the garbage collector, on any thread: asks for the closing and waits for nothing."""
    for one in kept:
        if not one.place.ended and one.place.pid == os.getpid():
            one.place.submit(one.aclose())
