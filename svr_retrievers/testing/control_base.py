"""What every part of the control suite starts from: a store of its own, and leases that end soon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

import anyio
import pytest

from svr_retrievers.control.protocol import Event, Lease, RecordedEvent, Work

Tx = TypeVar("Tx")
LONG, SHORT = 60.0, 0.05
"""Seconds: a lease that outlives every test, and one that a test waits for."""
BAD_TEXTS: tuple[object, ...] = ("", "a\x00b", "\ud800", 7, None, "x" * 1301)
_PATIENCE_SECONDS = 20.0


class ControlSuite(Generic[Tx]):
    """`work` must be overridden with a fixture that gives an empty store, made ready by `prepare()`."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def work(self) -> Work[Tx]:
        pytest.fail("The control suite needs a store: override the fixture work.")


async def claimed(work: Work[Tx], name: str, holder: str = "a", seconds: float = LONG) -> Lease:
    """The lease, as soon as the store's clock lets go of the one before."""
    with anyio.fail_after(_PATIENCE_SECONDS):
        while (lease := await work.leases.claim(name, holder, seconds)) is None:
            await anyio.lowlevel.checkpoint()
    return lease


async def expired(work: Work[Tx], name: str, seconds: float = SHORT) -> Lease:
    """A lease that has run out and that nobody has claimed since."""
    lease = await claimed(work, name, "old", seconds)
    with anyio.fail_after(_PATIENCE_SECONDS):
        while await work.leases.held(name) is not None:
            await anyio.lowlevel.checkpoint()
    return lease


async def everything(work: Work[Tx], after: int = 0) -> list[RecordedEvent]:
    """All events there are, read a few at a time."""
    found: list[RecordedEvent] = []
    while batch := await work.outbox.read(after=found[-1].position if found else after, limit=7):
        found += batch
    return found


def ids(events: list[RecordedEvent]) -> list[str]:
    return [each.event.id for each in events]


@contextlib.asynccontextmanager
async def open_transaction(
    work: Work[Tx], write: Callable[[Tx], Awaitable[object]]
) -> AsyncIterator[asyncio.Task[None]]:
    """A transaction that has written and is not committed before the block ends; the task is its outcome."""
    written, leave = asyncio.Event(), asyncio.Event()

    async def run(transaction: Tx) -> None:
        await write(transaction)
        written.set()
        await leave.wait()

    task = asyncio.create_task(work.transact(run))
    waiting = asyncio.create_task(written.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield task
    finally:
        leave.set()
        await asyncio.wait({task})


def event(subject: str = "s", number: int = 0) -> Event:
    return Event(subject, "test.happened", {"number": number})
