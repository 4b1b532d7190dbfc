"""Transactions of the memory store: what is written waits for the commit, and every check is made again then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from svr_retrievers.control.protocol import Operation
from svr_retrievers.control.refusals import no_transaction

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


def opened(within: Transaction | None) -> Transaction:
    """The caller's transaction, or a new one, which the caller of this commits."""
    if within is None:
        return Transaction()
    if within.ended:
        raise no_transaction()
    return within
