"""The refusals that every store of leases, operations and events words alike."""

from __future__ import annotations

from svr_retrievers.control.protocol import Lease, Operation
from svr_retrievers.errors import (
    Conflict,
    ConsumerNotFound,
    EventsPruned,
    InputError,
    LeaseLost,
    OperationNotFound,
    OperationPending,
    UsageError,
)


def lease_lost(lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"{lease.holder!r} does not hold the lease {lease.name!r} any more (token {lease.token}).",
        hint="Stop this work; another holder may have it. Claim the lease again to go on.",
    )


def no_operation(number: int) -> OperationNotFound:
    return OperationNotFound(f"There is no operation {number}.", hint="find() lists those there are.")


def pending(collection: str, cause: str, number: int) -> OperationPending:
    return OperationPending(
        f"Operation {number} of {collection!r} for the cause {cause!r} is not finished.",
        number=number,
        hint="Go on with that one.",
    )


def finished_meanwhile(cause: str) -> Conflict:
    return Conflict(f"The operation for the cause {cause!r} was finished just now.", hint="Create it again.")


def changed(known: Operation, newest: Operation) -> Conflict:
    if newest.state.final:
        return Conflict(
            f"Operation {known.number} is finished: {newest.state}.",
            hint="Create another one for further work.",
        )
    return Conflict(
        f"Operation {known.number} is at version {newest.version}, not {known.version}: somebody else went on with it.",
        hint="Read it anew with get(), and look at its step before going on.",
    )


def no_consumer(consumer: str) -> ConsumerNotFound:
    return ConsumerNotFound(f"Nobody is subscribed as {consumer!r}.", hint="Call subscribe() first.")


def beyond(position: int, given: int) -> InputError:
    return InputError(
        f"No event has had the position {position}; the newest is {given}.",
        hint="After a restore of the store from a backup, let the consumer start anew.",
    )


def pruned_away(after: int, pruned: int) -> EventsPruned:
    return EventsPruned(
        f"The events after {after} are deleted, up to {pruned}.",
        pruned=pruned,
        hint="Check anew whatever follows from them, then read on from `error.pruned`.",
    )


def no_transaction() -> UsageError:
    return UsageError(
        "`within` is in no transaction, so nothing would be held together.",
        hint="Begin one first, or let transact() do so.",
    )


def not_prepared() -> UsageError:
    return UsageError("The work tables are not there.", hint="Call prepare() once, when the store is opened.")
