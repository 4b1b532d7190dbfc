"""The work tables of one schema, and the connections that statements on them run on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import LiteralString

from psycopg import AsyncConnection, errors, pq, sql
from psycopg.rows import TupleRow

from svr_retrievers.control.refusals import no_transaction, not_prepared

Connection = AsyncConnection[TupleRow]
Connect = Callable[[], AbstractAsyncContextManager[Connection]]
"""Lends a connection in autocommit mode; what the driver raises inside leaves it as one of our errors."""

_TABLES = ("leases", "operations", "operation_history", "outbox", "outbox_state", "outbox_consumers")
_BOUNDS: LiteralString = (
    "set transaction isolation level read committed;"  # each statement must see what it has waited for
    " set local idle_in_transaction_session_timeout = '10s';"
    " set local lock_timeout = "
)
_PATIENCE: LiteralString = "'10s'"
"""The longest that a transaction of ours waits for a lock, or idles while others wait for its own: it is made of a
few short statements, so one that takes longer belongs to a process that was stopped."""


class Tables:
    """Statements with the tables' names filled in, and transactions to run them in."""

    def __init__(self, connect: Connect, schema: str) -> None:
        self._connect = connect
        self._names = {name: sql.Identifier(schema, name) for name in _TABLES}

    def statement(self, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**(self._names | parts))

    @asynccontextmanager
    async def connection(self, within: Connection | None) -> AsyncIterator[Connection]:
        """The caller's connection, which is in a transaction, or one that is lent for a single statement."""
        if within is not None:
            with _prepared():
                yield self.open(within)
            return
        async with self._connect() as conn:
            with _prepared():
                yield conn

    @asynccontextmanager
    async def transaction(self, within: Connection | None = None) -> AsyncIterator[Connection]:
        """The caller's transaction, of which this is a part; or one of our own, which nobody waits for in vain."""
        async with self.connection(within) as conn:
            if within is not None:
                yield conn
                return
            async with bounded(conn):
                yield conn

    @staticmethod
    def open(conn: Connection) -> Connection:
        """The connection, which must be in a transaction. Raises UsageError."""
        if conn.info.transaction_status == pq.TransactionStatus.IDLE:
            raise no_transaction()
        return conn


@asynccontextmanager
async def bounded(conn: Connection, patience: LiteralString = _PATIENCE) -> AsyncIterator[None]:
    """A transaction that waits no longer than `patience` for each lock."""
    async with conn.transaction():
        await conn.execute(_BOUNDS + patience, prepare=False)
        yield


@contextmanager
def _prepared() -> Iterator[None]:
    try:
        yield
    except errors.UndefinedTable:
        raise not_prepared() from None
