"""Time that passes only when everybody waits for it: what takes minutes is tested in milliseconds."""

from __future__ import annotations

import asyncio
import threading

from svr_retrievers.providers.timing import Timing

_QUIET_ROUNDS = 3
"""Turns of the loop without a newcomer before the clock moves: tasks just woken get to their next wait first."""


class FakeTime:
    """A clock that stands still until all tasks wait for it, and then moves to the moment the first waits for.

    `slept` holds every wait that was asked for, in seconds. Safe from several threads and event loops; where the
    tasks do real input and output, time passes for the others meanwhile. `draw` stands for the random numbers.
    """

    def __init__(self, *, start: float = 1_000.0, wall: float = 1_767_225_600.0, draw: float = 1.0) -> None:
        self.now = start
        self.slept: list[float] = []
        self._offset = wall - start
        self._draw = draw
        self._lock = threading.Lock()
        self._waiting: dict[object, float] = {}
        self._changes = 0

    @property
    def timing(self) -> Timing:
        """What to pass as `timing=`."""
        return Timing(clock=self.clock, wall=self.wall, sleep=self.sleep, draw=lambda: self._draw)

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self._offset

    async def sleep(self, seconds: float) -> None:
        me, until = object(), self.now + max(seconds, 0.0)
        with self._lock:
            self.slept.append(seconds)
            self._waiting[me] = until
            self._changes += 1
        try:
            seen, quiet = -1, 0
            while self.now < until:
                await asyncio.sleep(0)
                quiet = quiet + 1 if seen == self._changes else 0
                seen = self._changes
                if quiet >= _QUIET_ROUNDS:
                    self._move()
        finally:
            with self._lock:
                del self._waiting[me]
                self._changes += 1

    def _move(self) -> None:
        with self._lock:
            self.now = max(self.now, min(self._waiting.values()))
