"""Keeps long pure work off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")

_ROWS_ON_LOOP = 200
"""Checking a document takes some tens of microseconds: beyond this many the loop would be held for milliseconds."""


async def off_loop(rows: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The call's result; in a worker thread when it has many rows to go through."""
    if rows <= _ROWS_ON_LOOP:
        return call(*args, **kwargs)
    return await anyio.to_thread.run_sync(partial(call, *args, **kwargs))
