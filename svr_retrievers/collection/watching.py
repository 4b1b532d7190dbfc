"""Following a collection: every committed change in its order, with the view of the partitions kept up to date."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from svr_retrievers.backends.protocol import StaleMap
from svr_retrievers.backends.streams import ChangeStream, ChangeStreamCapable, StreamEvent
from svr_retrievers.changes import Change, PartitionChange
from svr_retrievers.collection.state import MAP_RETRIES, CollectionState
from svr_retrievers.errors import CollectionNotFound, ConfigError
from svr_retrievers.search.view import View


class CollectionWatch(CollectionState):
    """The call that tells of what others do to a collection."""

    def watch(self, *, after: str | None = None) -> AsyncChanges:
        """The changes of the collection, of whatever client, from now on or behind the token `after`.

        It begins when it is entered (`async with`) or asked for its first change. Each `Change` is one committed
        write or several whole ones, a new map, or an end; nothing is left out in silence. Meanwhile `partitions`
        follows: maps as they change, row counts without asking the database. Keep the `token` of a change once it is
        dealt with, and a later `watch(after=token)` goes on behind it, after a crash too: at least once.

        Raises:
            ConfigError: the backend cannot tell of changes.
            InputError: `after` is no token of this collection.
        """
        if not isinstance(self._backend, ChangeStreamCapable):
            raise ConfigError(
                f"The {self._backend.name} backend does not tell of changes.",
                hint="watch() needs MongoDB: SVRClient('mongodb+srv://...').",
            )
        return AsyncChanges(self, self._backend.changes(self._ref, after))

    async def _follow(self, stream: ChangeStream, event: StreamEvent) -> Change | None:
        """Brings the view up to the event; None where the event is of a collection that is gone by now."""
        try:
            if event.kind == "history_lost":
                await self._verify(stream)
            elif event.kind == "map" and (event.generation or 0) > self._view.map.generation:
                await self._reload()
        except CollectionNotFound:
            return None  # the event that says so follows
        if event.kind != "dropped":
            self._count(stream.rows)
        view = self._view
        told = [PartitionChange(p, view.path(p), counts) for p, counts in event.counts.items()]
        return Change(event.kind, event.token, tuple(told), event.generation)

    async def _verify(self, stream: ChangeStream) -> None:
        for attempt in range(MAP_RETRIES):
            await self._catch_up(attempt)
            try:
                await self._backend.recount(self._ref, self._view.map)
            except StaleMap:
                continue
            await self._reload()
            await stream.recount()
            return
        raise self._conflict()

    def _count(self, rows: Mapping[int, int]) -> None:
        """Takes over counts that differ; a map without any change stays the same object."""
        known = self._view
        new = {p.id: rows.get(p.id, 0) for p in known.map.partitions if p.stats.rows != rows.get(p.id, 0)}
        if new:
            state = replace(known.state, map=known.map.with_rows(new))
            self._adopt(View(state, known.metric))


class AsyncChanges(AsyncIterator[Change]):
    """The changes of one collection, for one reader. `async with` opens it at once and closes it at the end."""

    def __init__(self, collection: CollectionWatch, stream: ChangeStream) -> None:
        self._collection = collection
        self._stream = stream
        self._opened = self._over = False

    async def open(self) -> Self:
        """From here on no change is missed. Further calls do nothing."""
        if not self._opened and not self._over:
            await self._stream.open()
            self._opened = True
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Change:
        found = await self.following()
        if found is None:
            raise StopAsyncIteration
        return found

    async def following(self) -> Change | None:
        """Waits for the next change; None when the stream is at its end or closed."""
        await self.open()
        while not self._over:
            event = await self._stream.next()
            if event is None or event.kind == "dropped":
                await self.aclose()
            if event is None:
                return None
            told = await self._collection._follow(self._stream, event)  # noqa: SLF001 - one unit in two classes
            if told is not None:
                return told
        return None

    async def aclose(self) -> None:
        """Ends the stream, and whoever waits for its next change."""
        self._over = True
        await self._stream.close()
