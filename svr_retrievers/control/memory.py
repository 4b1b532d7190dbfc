"""Leases, operations and the outbox in this process: for trying things out, and the measure of the real stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from svr_retrievers.control.arguments import check_limit, check_number, check_ttl, copied_json
from svr_retrievers.control.memory_outbox import MemoryOutbox
from svr_retrievers.control.memory_transaction import Clock, Transaction, opened, steady_clock
from svr_retrievers.control.protocol import Lease, Operation, State
from svr_retrievers.control.refusals import changed, lease_lost, no_operation, pending
from svr_retrievers.names import check_key, check_text
from svr_retrievers.values import JsonValue

T = TypeVar("T")


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
        opened(within).check(lambda: self.check(lease))

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
        transaction = opened(within)
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
        transaction = opened(within)
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


__all__ = ["MemoryLeases", "MemoryOperations", "MemoryOutbox", "MemoryWork", "Transaction"]
