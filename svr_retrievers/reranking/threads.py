"""A few threads for blocking rerankers: a late one holds up no search, and no interpreter that wants to end."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final

Answer = tuple[object, Exception | None]
"""What a call returned, or its error: a future cannot carry each kind of error."""

MOST: Final = 16
"""Blocking rerankers that run at once, late ones that nobody waits for included: further calls wait."""


class Threads:
    """Up to `MOST` daemon threads, started as they are needed. A call that is cancelled before its turn never runs."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Answer], Callable[[], Answer]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._free = 0
        self._queued = 0

    def submit(self, call: Callable[[], object]) -> Future[Answer]:
        """The answer to come. The call sees the caller's context variables."""
        context = contextvars.copy_context()
        future: Future[Answer] = Future()
        self._calls.put((future, lambda: context.run(_answer, call)))
        with self._lock:
            if self._free:
                self._free -= 1
            elif self._started < MOST:
                self._started += 1
                threading.Thread(target=self._work, name=f"svr-rerank-{self._started}", daemon=True).start()
            else:
                self._queued += 1
        return future

    def _work(self) -> None:
        while True:
            self._next()
            with self._lock:
                if self._queued:
                    self._queued -= 1
                else:
                    self._free += 1

    def _next(self) -> None:
        """In a method of its own, so that an idle thread holds on to nothing of the last call."""
        future, call = self._calls.get()
        if future.set_running_or_notify_cancel():
            future.set_result(call())


def _answer(call: Callable[[], object]) -> Answer:
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - handed over whole
        return None, error
    except BaseException as error:  # noqa: BLE001 - what ends a program must not end whoever awaits this thread
        return None, RuntimeError(type(error).__name__)


_threads: list[Threads] = []
_lock = threading.Lock()


def threads() -> Threads:
    """Those of this process. A forked child gets its own."""
    with _lock:
        if not _threads:
            _threads.append(Threads())
        return _threads[0]


def _after_fork() -> None:
    """A child has no such threads, and the lock may have been held by one that it lacks."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
