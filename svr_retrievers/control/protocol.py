"""What background work rests on: leases with fencing tokens, numbered operations, and an outbox of events.

Three stores keep these promises, and one suite checks them (`svr_retrievers.testing.control`). Every time is the
store's own: no answer depends on a clock of this machine.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from svr_retrievers.control.arguments import copied_json
from svr_retrievers.errors import InputError
from svr_retrievers.names import check_key
from svr_retrievers.values import JsonValue

T = TypeVar("T")
Tx = TypeVar("Tx")
Tx_contra = TypeVar("Tx_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do one thing alone, until `expires_at`. `token` is larger than that of every earlier lease of it."""

    name: str
    holder: str
    token: int
    ttl_seconds: float
    expires_at: datetime


class State(StrEnum):
    """How far an operation is. The last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"

    @property
    def final(self) -> bool:
        return self in {State.DONE, State.FAILED, State.UNDONE}

    @classmethod
    def _missing_(cls, value: object) -> State:
        known = ", ".join(repr(state.value) for state in cls)
        raise InputError(f"There is no state {value!r} of an operation.", hint=f"It is one of {known}.")


@dataclass(frozen=True, slots=True)
class Operation:
    """One version of a piece of background work; each change makes the next version and keeps this one.

    `token` is that of the lease under which this version was written, if there was one.
    """

    number: int
    kind: str
    collection: str
    cause: str
    state: State
    step: str
    details: Mapping[str, JsonValue]
    version: int
    token: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to `subject`. Its `id` is how consumers tell a second delivery of it."""

    subject: str
    type: str
    data: Mapping[str, JsonValue] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        for name in ("subject", "type", "id"):
            check_key(getattr(self, name), name)
        object.__setattr__(self, "data", copied_json(self.data, "data"))


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event in its place: positions are 1, 2, 3 and so on, without a gap."""

    position: int
    event: Event
    at: datetime


class Leases(Protocol[Tx_contra]):
    """Who may do what alone. A lease spares double work; safety comes from `fence` in the work's own transaction."""

    async def claim(self, name: str, holder: str, ttl_seconds: float) -> Lease | None:
        """The lease, or None while another is running, be it by the same holder.

        The name is remembered for ever, with its last token: name leases after things that stay.
        """
        ...

    async def renew(self, lease: Lease) -> Lease:
        """The same lease with its full time again. Raises LeaseLost, also when it ran out and nobody took it."""
        ...

    async def release(self, lease: Lease) -> bool:
        """Ends the lease before its time; whether it was running still."""
        ...

    async def held(self, name: str) -> Lease | None:
        """The lease that is running. It may end before the caller has looked at the answer."""
        ...

    async def fence(self, lease: Lease, *, within: Tx_contra) -> None:
        """Ties a transaction to the lease: nobody else can claim it before the transaction has ended.

        Raises LeaseLost when it is not running; then the transaction must not be committed.
        """
        ...


class Operations(Protocol[Tx_contra]):
    """Numbered pieces of work. With `within`, a call is part of the caller's transaction."""

    async def create(
        self,
        kind: str,
        *,
        collection: str,
        cause: str,
        step: str = "",
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Tx_contra | None = None,
    ) -> Operation:
        """A pending operation. Raises OperationPending while one for the same collection and cause is unfinished."""
        ...

    async def advance(
        self,
        operation: Operation,
        *,
        step: str | None = None,
        state: State | None = None,
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Tx_contra | None = None,
    ) -> Operation:
        """The operation's next version; what is None stays.

        Raises:
            Conflict: it has changed since it was read, or is finished.
            LeaseLost: `fence` is not running; checked in the transaction of the write.
        """
        ...

    async def get(self, number: int) -> Operation:
        """The newest version. Raises OperationNotFound."""
        ...

    async def find(
        self,
        *,
        collection: str | None = None,
        states: Collection[State] = (),
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[Operation]:
        """Operations by number, of one collection and of these states (all where none is named)."""
        ...

    async def history(self, number: int) -> Sequence[Operation]:
        """Every version, from the first to the newest. Raises OperationNotFound."""
        ...


class Outbox(Protocol[Tx_contra]):
    """Events that are written with the change they tell of, and read in the order in which they were committed.

    An event gets its position when it is read for the first time, never before its transaction is committed. So a
    reader that has passed a position has seen everything before it, and a long transaction holds up nobody. An event
    that was appended after another one of the same subject was committed comes after it.
    """

    async def append(self, events: Sequence[Event], *, within: Tx_contra | None = None) -> None:
        """Adds all or none. An id that is there already is the same event, and is left as it is."""
        ...

    async def read(self, *, after: int, limit: int = 100) -> Sequence[RecordedEvent]:
        """The events that follow the position, at most `limit`.

        Raises:
            EventsPruned: some of them are deleted.
            InputError: no event has had that position, as after a restore of the store from a backup.
        """
        ...

    async def subscribe(self, consumer: str) -> int:
        """The position up to which the consumer is done; a new one begins at the oldest event there is.

        From now on events are kept until it has acknowledged them.
        """
        ...

    async def acknowledge(self, consumer: str, position: int, *, within: Tx_contra | None = None) -> None:
        """Everything up to the position is dealt with. Never moves back. Raises ConsumerNotFound."""
        ...

    async def unsubscribe(self, consumer: str) -> None:
        """Forgets the consumer, so that no event is kept for it. Raises ConsumerNotFound."""
        ...

    async def prune(self, *, keep_seconds: float, limit: int = 1_000) -> int:
        """Deletes the oldest events that are older and that every consumer has acknowledged; how many.

        It stops at `limit`: call it again while it returns that many.
        """
        ...


class Work(Protocol[Tx]):
    """The three of one store, and transactions over them."""

    @property
    def leases(self) -> Leases[Tx]: ...

    @property
    def operations(self) -> Operations[Tx]: ...

    @property
    def outbox(self) -> Outbox[Tx]: ...

    async def prepare(self) -> None:
        """Makes the tables or collections that are missing."""
        ...

    async def transact(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs `work` in a transaction and commits it: all of it or nothing.

        A store that cannot wait for another writer (MongoDB) begins `work` anew, so it must do nothing but write.
        """
        ...
