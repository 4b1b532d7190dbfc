"""How far each search index has come: which rows it was seen to hold, and which are still on their way.

An index follows the writes in their order, some time behind. The numbers of one fence slot become visible in
order too, so an index that answers with a row of a slot holds every row of that slot with a lower number: that
is the slot's mark. Rows above the marks are read from the documents themselves by every search.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from svr_retrievers.control.mongodb_fence import SLOTS, slot_of
from svr_retrievers.errors import SVRError

_log = logging.getLogger(__name__)
_LOOK_AGAIN_SECONDS = 0.2
"""Searches that meet fresh rows make the marks be looked at again, no more often than this."""
_CLOSING_SECONDS = 1.0
_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
MOST_LOOKED_AT = _STEPS[-1] + 1


@dataclass(slots=True)
class Progress:
    """What this client knows of one index."""

    marks: dict[int, int] = field(default_factory=dict)
    ready: bool = False
    looked_at: float = 0.0
    looking: asyncio.Task[None] | None = None

    def raised(self, found: Mapping[int, int]) -> dict[int, int]:
        """Takes over marks that are higher than those known; what was taken."""
        higher = {slot: n for slot, n in found.items() if n > self.marks.get(slot, 0)}
        self.marks |= higher
        return higher


class Freshness:
    """The progress of every index that this client has asked, and the tasks that look after it."""

    def __init__(self) -> None:
        self._known: dict[str, Progress] = {}
        self._closed = False

    def of(self, index: str) -> Progress:
        return self._known.setdefault(index, Progress())

    def forget(self, index: str) -> None:
        self._known.pop(index, None)

    def nudge(
        self, index: str, look: Callable[[], Awaitable[object]], every_seconds: float = _LOOK_AGAIN_SECONDS
    ) -> None:
        """Looks at the marks anew, beside the caller, unless that is being done or was done a moment ago."""
        progress = self.of(index)
        recent = time.monotonic() - progress.looked_at < every_seconds
        if self._closed or recent or (progress.looking is not None and not progress.looking.done()):
            return
        progress.looked_at = time.monotonic()
        progress.looking = asyncio.get_running_loop().create_task(_quietly(look))

    async def looked(self, index: str) -> None:
        """Once the look that is under way has ended, if there is one."""
        looking = self.of(index).looking
        if looking is not None:
            await asyncio.shield(looking)

    async def close(self) -> None:
        self._closed = True
        tasks = [p.looking for p in self._known.values() if p.looking is not None and not p.looking.done()]
        if tasks:  # the driver leaves a socket behind where a task is cancelled while it connects
            await asyncio.wait(tasks, timeout=_CLOSING_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _quietly(look: Callable[[], Awaitable[object]]) -> None:
    """What fails here is tried again by the next search; searches are right without it, only slower."""
    try:
        await look()
    except SVRError as error:
        _log.info("how far a search index has come could not be read: %s", error)


def probes(waiting: list[int]) -> list[int]:
    """Of the stamps of waiting rows those to ask an index for: the newest of each slot, and fewer and fewer before."""
    by_slot: dict[int, list[int]] = {}
    for stamp in sorted(waiting, reverse=True):
        by_slot.setdefault(slot_of(stamp)[0], []).append(stamp)
    return [held[at] for held in by_slot.values() for at in _STEPS if at < len(held)]


def marks_of(found: list[int]) -> dict[int, int]:
    """The highest number of each slot."""
    marks: dict[int, int] = {}
    for stamp in found:
        slot, number = slot_of(stamp)
        if slot < SLOTS:
            marks[slot] = max(number, marks.get(slot, 0))
    return marks


def is_below(stamp: int, marks: Mapping[int, int]) -> bool:
    slot, number = slot_of(stamp)
    return number <= marks.get(slot, 0)
