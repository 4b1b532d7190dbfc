"""The outbox of the memory store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import takewhile

from svr_retrievers.control.arguments import MAX_ROWS, check_limit, check_number, check_seconds
from svr_retrievers.control.memory_transaction import Clock, Transaction, opened
from svr_retrievers.control.protocol import Event, RecordedEvent
from svr_retrievers.control.refusals import beyond, no_consumer, pruned_away
from svr_retrievers.names import check_key


class MemoryOutbox:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[Event, datetime]] = []
        self._events: list[RecordedEvent] = []
        self._ids: set[str] = set()
        self._consumers: dict[str, int] = {}
        self._pruned = 0

    @property
    def _given(self) -> int:
        return self._pruned + len(self._events)

    async def append(self, events: Sequence[Event], *, within: Transaction | None = None) -> None:
        if not events:
            return
        check_number(len(events), "the number of events", 1, MAX_ROWS)
        transaction, now = opened(within), self._clock()
        transaction.writes.append(lambda: self._record(events, now))
        if within is None:
            transaction.commit()

    def _record(self, events: Sequence[Event], at: datetime) -> None:
        for event in events:
            if event.id not in self._ids:
                self._ids.add(event.id)
                self._waiting.append((event, at))

    async def read(self, *, after: int, limit: int = 100) -> Sequence[RecordedEvent]:
        check_number(after, "after", 0)
        check_limit(limit)
        self._events += [
            RecordedEvent(self._given + n, event, at) for n, (event, at) in enumerate(self._waiting, start=1)
        ]
        self._waiting = []
        if after > self._given:
            raise beyond(after, self._given)
        if after < self._pruned:
            raise pruned_away(after, self._pruned)
        start = after - self._pruned
        return [replace(each, event=replace(each.event)) for each in self._events[start : start + limit]]

    async def subscribe(self, consumer: str) -> int:
        return self._consumers.setdefault(check_key(consumer, "consumer"), self._pruned)

    async def acknowledge(self, consumer: str, position: int, *, within: Transaction | None = None) -> None:
        check_key(consumer, "consumer")
        check_number(position, "position", 0)
        transaction = opened(within)
        transaction.check(lambda: self._check_consumer(consumer, position))
        transaction.writes.append(lambda: self._move(consumer, position))
        if within is None:
            transaction.commit()

    def _check_consumer(self, consumer: str, position: int) -> None:
        if position > self._given:
            raise beyond(position, self._given)
        if consumer not in self._consumers:
            raise no_consumer(consumer)

    def _move(self, consumer: str, position: int) -> None:
        self._consumers[consumer] = max(self._consumers[consumer], position)

    async def unsubscribe(self, consumer: str) -> None:
        if self._consumers.pop(check_key(consumer, "consumer"), None) is None:
            raise no_consumer(consumer)

    async def prune(self, *, keep_seconds: float, limit: int = 1_000) -> int:
        check_limit(limit)
        newest = self._clock() - timedelta(seconds=check_seconds(keep_seconds, "keep_seconds", 0, 10**9))
        bound = min([self._pruned + limit, *self._consumers.values()])
        due = (e.position <= bound and e.at <= newest for e in self._events)
        gone = sum(1 for _ in takewhile(bool, due))
        self._ids.difference_update(e.event.id for e in self._events[:gone])
        self._events = self._events[gone:]
        self._pruned += gone
        return gone
