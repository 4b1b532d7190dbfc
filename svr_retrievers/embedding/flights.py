"""Work that is under way: done once for all who wait for it, and only so much at a time, across loops and threads."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress

from svr_retrievers.model import Vector
from svr_retrievers.providers.forking import begins_anew

Flight = Future[Vector | None]
"""Ends with the vector, with the error, or with None: given up, so whoever waits must do it himself."""


async def landed(flight: Future[Vector | None]) -> Vector | None:
    """The flight's result, awaited from any loop. Cancelling this wait leaves the flight as it is."""
    await _done(flight)
    return flight.result()


async def _done(future: Future[Vector | None] | Future[None]) -> None:
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def tell() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake(_: object) -> None:
        with suppress(RuntimeError):  # the loop of someone who no longer waits may be closed
            loop.call_soon_threadsafe(tell)

    future.add_done_callback(wake)
    await waiter


class Flights:
    """The texts that are being embedded, by cache key."""

    def __init__(self) -> None:
        self.begin_anew()
        begins_anew(self)

    def begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._aloft: dict[bytes, Flight] = {}

    def board(self, keys: Iterable[bytes]) -> tuple[list[bytes], dict[bytes, Flight]]:
        """The keys that the caller must see to, and the flights of others for the rest."""
        mine: list[bytes] = []
        theirs: dict[bytes, Flight] = {}
        with self._lock:
            for key in keys:
                if key in self._aloft:
                    theirs[key] = self._aloft[key]
                else:
                    self._aloft[key] = Future()
                    mine.append(key)
        return mine, theirs

    def land(self, key: bytes, vector: Vector) -> None:
        self._take(key).set_result(vector)

    def fail(self, keys: Sequence[bytes], error: Exception) -> None:
        for key in keys:
            self._take(key).set_exception(error)

    def give_up(self, keys: Iterable[bytes]) -> None:
        """Ends those that are still under way, without result."""
        with self._lock:
            ended = [self._aloft.pop(key) for key in keys if key in self._aloft]
        for flight in ended:
            flight.set_result(None)

    def _take(self, key: bytes) -> Flight:
        with self._lock:
            return self._aloft.pop(key)


class Slots:
    """At most `count` holders at a time, in the order they came, whichever loops they are on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.begin_anew()
        begins_anew(self)

    def begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._free = self._count
        self._line: deque[Future[None]] = deque()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        await self._acquire()
        try:
            yield
        finally:
            self._release()

    async def _acquire(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            place: Future[None] = Future()
            self._line.append(place)
        try:
            await _done(place)
        except BaseException:
            with self._lock:
                waiting = place in self._line
                if waiting:
                    self._line.remove(place)
            if not waiting:
                self._release()
            raise

    def _release(self) -> None:
        with self._lock:
            if not self._line:
                self._free += 1
                return
            place = self._line.popleft()
        place.set_result(None)
