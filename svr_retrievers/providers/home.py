"""One event loop in one daemon thread, where the SDKs' clients live, whoever calls them and from whichever loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from svr_retrievers.errors import CalledFromLoop

T = TypeVar("T")

_LAST_SECONDS = 1.0
"""How long the end of the process waits for connections to close."""


class Home:
    """A loop that runs as long as the process. Connections of a pool belong to it, so none outlives its loop."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.ended = False
        self.loop = asyncio.new_event_loop()
        self._closers: list[Callable[[], Coroutine[object, object, None]]] = []
        self._thread = threading.Thread(target=self._run, name="svr-providers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def keep(self, closer: Callable[[], Coroutine[object, object, None]]) -> None:
        """Something to be awaited before the loop ends."""
        self._closers.append(closer)

    def forget(self, closer: Callable[[], Coroutine[object, object, None]]) -> None:
        if closer in self._closers:
            self._closers.remove(closer)

    def end(self) -> None:
        """Closes what is kept, waiting at most a second, and stops the loop."""
        if self.pid != os.getpid():
            return
        self.ended = True
        with suppress(Exception):
            self.submit(self._close_all()).result(_LAST_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_LAST_SECONDS)

    async def _close_all(self) -> None:
        for closer in tuple(self._closers):
            with suppress(Exception):
                await closer()

    @property
    def here(self) -> bool:
        """Whether the calling thread is the one that runs this loop."""
        return threading.get_ident() == self._thread.ident

    def submit(self, coroutine: Coroutine[object, object, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)


_lock = threading.Lock()
_homes: list[Home] = []


def home() -> Home:
    """This process's loop, started by the first call. A forked child gets one of its own."""
    with _lock:
        if not _homes or _homes[0].pid != os.getpid():
            _homes[:] = [Home()]
            atexit.register(_homes[0].end)
        return _homes[0]


def is_here() -> bool:
    """Whether the calling thread runs the common loop."""
    return bool(_homes) and _homes[0].pid == os.getpid() and _homes[0].here


async def at_home(coroutine: Coroutine[object, object, T]) -> T:
    """Awaits the coroutine on the common loop, from any other; cancelling the caller cancels it there."""
    place = home()
    if place.here:
        return await coroutine
    return await asyncio.wrap_future(place.submit(coroutine))


def waited(coroutine: Coroutine[object, object, T]) -> T:
    """The coroutine's result, blocking this thread until the common loop has it.

    Raises:
        CalledFromLoop: on the common loop's own thread, which would wait for itself.
    """
    place = home()
    if place.here:
        coroutine.close()
        raise CalledFromLoop(
            "A blocking call was made on the event loop that has to answer it.",
            hint="Await the method of the same name with an `a` in front.",
        )
    future = place.submit(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _after_fork() -> None:
    """A child has no such thread, and the lock may have been held by one that it lacks."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _homes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
