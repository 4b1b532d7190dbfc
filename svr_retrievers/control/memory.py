"""Leases, operations and the outbox in this process: for trying things out, and the measure of the real stores."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TypeVar

from svr_retrievers.control.arguments import (
    MAX_ROWS,
    check_limit,
    check_number,
    check_seconds,
    check_ttl,
    copied_json,
)
from svr_retrievers.control.protocol import Event, Lease, Operation, RecordedEvent, State
from svr_retrievers.control.refusals import (
    beyond,
    changed,
    lease_lost,
    no_consumer,
    no_operation,
    no_transaction,
    pending,
    pruned_away,
)
from svr_retrievers.names import check_key, check_text
from svr_retrievers.values import JsonValue

T = TypeVar("T")
Clock = Callable[[], datetime]


def steady_clock() -> Clock:
    """A clock that begins with the time of day and never jumps, as a database server's should not."""
    begun, base = time.monotonic(), datetime.now(UTC)
    return lambda: base + timedelta(seconds=time.monotonic() - begun)


@dataclass
class Transaction:
    """What is to be written when it commits. Every check that was made on the way is made again then."""

    operations: dict[int, Operation] = field(default_factory=dict)
    checks: list[Callable[[], None]] = field(default_factory=list)
    writes: list[Callable[[], None]] = field(default_factory=list)
    ended: bool = False

    def check(self, check: Callable[[], None]) -> None:
        check()
        self.checks.append(check)

    def commit(self) -> None:
        for check in self.checks:
            check()
        for write in self.writes:
            write()


class MemoryWork:
    """`clock` is the store's, which alone decides about times; a test may give one that it moves."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or steady_clock()
        self.leases = MemoryLeases(self._clock)
        self.operations = MemoryOperations(self._clock, self.leases)
        self.outbox = MemoryOutbox(self._clock)

    async def prepare(self) -> None:
        """Everything is there from the beginning."""

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        transaction = Transaction()
        try:
            made = await work(transaction)
            transaction.commit()
        finally:
            transaction.ended = True
        return made


def _open(within: Transaction | None) -> Transaction:
    """The caller's transaction, or a new one, which the caller of this commits."""
    if within is None:
        return Transaction()
    if within.ended:
        raise no_transaction()
    return within


class MemoryLeases:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest: dict[str, Lease] = {}

    async def claim(self, name: str, holder: str, ttl_seconds: float) -> Lease | None:
        check_key(holder, "holder")
        ends = self._clock() + timedelta(seconds=check_ttl(ttl_seconds))
        if await self.held(name) is not None:
            return None
        last = self._latest.get(name)
        token = 1 if last is None else last.token + 1
        self._latest[name] = Lease(name, holder, token, float(ttl_seconds), ends)
        return self._latest[name]

    async def renew(self, lease: Lease) -> Lease:
        self.check(lease)
        ends = self._clock() + timedelta(seconds=lease.ttl_seconds)
        self._latest[lease.name] = replace(self._latest[lease.name], expires_at=ends)
        return self._latest[lease.name]

    async def release(self, lease: Lease) -> bool:
        if not self._runs(lease):
            return False
        self._latest[lease.name] = replace(self._latest[lease.name], expires_at=self._clock())
        return True

    async def held(self, name: str) -> Lease | None:
        last = self._latest.get(check_key(name, "name"))
        return last if last is not None and last.expires_at > self._clock() else None

    async def fence(self, lease: Lease, *, within: Transaction) -> None:
        _open(within).check(lambda: self.check(lease))

    def check(self, lease: Lease) -> None:
        if not self._runs(lease):
            raise lease_lost(lease)

    def _runs(self, lease: Lease) -> bool:
        last = self._latest.get(lease.name)
        return last is not None and last.token == lease.token and last.expires_at > self._clock()


class MemoryOperations:
    def __init__(self, clock: Clock, leases: MemoryLeases) -> None:
        self._clock = clock
        self._leases = leases
        self._versions: dict[int, list[Operation]] = {}
        self._numbers = 0

    async def create(
        self,
        kind: str,
        *,
        collection: str,
        cause: str,
        step: str = "",
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Transaction | None = None,
    ) -> Operation:
        now = self._clock()
        made = Operation(
            number=self._numbers + 1,
            kind=check_key(kind, "kind"),
            collection=check_key(collection, "collection"),
            cause=check_key(cause, "cause"),
            state=State.PENDING,
            step=check_text(step, "step"),
            details=copied_json({} if details is None else details, "details"),
            version=1,
            token=None if fence is None else fence.token,
            created_at=now,
            updated_at=now,
        )
        transaction = _open(within)
        self._fenced(transaction, fence)
        for staged in transaction.operations.values():
            _refuse_second(staged, made)
        transaction.check(lambda: self._check_cause(made, transaction))
        self._numbers += 1
        return self._stage(made, transaction, within)

    def _check_cause(self, made: Operation, transaction: Transaction) -> None:
        for number, versions in self._versions.items():
            if number not in transaction.operations:
                _refuse_second(versions[-1], made)

    def _fenced(self, transaction: Transaction, fence: Lease | None) -> None:
        if fence is not None:
            transaction.check(lambda: self._leases.check(fence))

    def _stage(self, made: Operation, transaction: Transaction, within: Transaction | None) -> Operation:
        kept = _copy(made)
        transaction.operations[made.number] = made
        transaction.writes.append(lambda: self._versions.setdefault(made.number, []).append(kept))
        if within is None:
            transaction.commit()
        return made

    async def advance(
        self,
        operation: Operation,
        *,
        step: str | None = None,
        state: State | None = None,
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Transaction | None = None,
    ) -> Operation:
        made = replace(
            operation,
            step=operation.step if step is None else check_text(step, "step"),
            state=operation.state if state is None else State(state),
            details=operation.details if details is None else copied_json(details, "details"),
            version=operation.version + 1,
            token=None if fence is None else fence.token,
            updated_at=self._clock(),
        )
        transaction = _open(within)
        self._fenced(transaction, fence)
        staged = transaction.operations.get(operation.number)
        if staged is None:
            transaction.check(lambda: _refuse_stale(operation, self._newest(operation.number)))
        else:
            _refuse_stale(operation, staged)
        return self._stage(made, transaction, within)

    async def get(self, number: int) -> Operation:
        return self._newest(check_number(number, "number", 1))

    def _newest(self, number: int) -> Operation:
        if number not in self._versions:
            raise no_operation(number)
        return _copy(self._versions[number][-1])

    async def find(
        self,
        *,
        collection: str | None = None,
        states: Collection[State] = (),
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[Operation]:
        wanted = {State(state) for state in states} or set(State)
        check_number(after, "after", 0)
        if collection is not None:
            check_key(collection, "collection")
        found = [
            _copy(versions[-1])
            for number, versions in sorted(self._versions.items())
            if number > after
            and versions[-1].state in wanted
            and collection in {None, versions[-1].collection}
        ]
        return found[: check_limit(limit)]

    async def history(self, number: int) -> Sequence[Operation]:
        self._newest(check_number(number, "number", 1))
        return [_copy(version) for version in self._versions[number]]


def _copy(operation: Operation) -> Operation:
    """What callers do to the details of theirs does not reach ours."""
    return replace(operation, details=copied_json(operation.details, "details"))


def _refuse_second(there: Operation, made: Operation) -> None:
    same = (there.collection, there.cause) == (made.collection, made.cause)
    if same and not there.state.final:
        raise pending(made.collection, made.cause, there.number)


def _refuse_stale(known: Operation, newest: Operation) -> None:
    if newest.version != known.version or newest.state.final:
        raise changed(known, newest)


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
        transaction, now = _open(within), self._clock()
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
        transaction = _open(within)
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
