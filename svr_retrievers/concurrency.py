"""Where work runs: on the event loop, beside it in a thread, or on a thread that has none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

import anyio.to_thread

from svr_retrievers.model import Vector

P = ParamSpec("P")
T = TypeVar("T")

_ROWS_ON_LOOP = 200
"""Checking a document takes some tens of microseconds: beyond this many the loop would be held for milliseconds."""


class NeedsLoop(Exception):
    """A coroutine that was driven without an event loop came to a point where it must wait.

    `vector` is the query's, where it was made already, so that beginning again need not embed the text again.
    """

    vector: Vector | None = None


def on_loop() -> bool:
    """Whether this thread runs an event loop; if not, blocking here holds up nobody else."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def drive(coroutine: Coroutine[object, object, T]) -> T:
    """The result of a coroutine that never waits, on this thread and without an event loop.

    Raises NeedsLoop when it has to wait after all; it was then closed, and must be safe to begin again.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise NeedsLoop


async def beside(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The call's result, from a worker thread where an event loop would be held up by it."""
    if not on_loop():
        return call(*args, **kwargs)
    return await anyio.to_thread.run_sync(partial(call, *args, **kwargs))


async def off_loop(rows: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The call's result; in a worker thread when it has many rows to go through."""
    if rows <= _ROWS_ON_LOOP:
        return call(*args, **kwargs)
    return await beside(call, *args, **kwargs)


async def foreign(answer: Awaitable[T]) -> T:
    """What somebody else's code gives. Raises RuntimeError where that code would end the program, or gave up a task of
    its own: to an event loop these are orders to stop, and who waits for it would wait for ever, or lose an error.
    """
    try:
        return await answer
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("CancelledError") from error
    except (SystemExit, KeyboardInterrupt) as error:
        if not on_loop():
            raise
        raise RuntimeError(type(error).__name__) from error


@contextmanager
def first_error() -> Iterator[None]:
    """Of the errors that a task group raises together, the first alone: callers know what to do with one."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
