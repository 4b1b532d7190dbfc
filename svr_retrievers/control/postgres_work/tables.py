"""The work tables of one schema, and the connections that statements on them run on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import LiteralString

from psycopg import AsyncConnection, pq, sql
from psycopg.rows import TupleRow

from svr_retrievers.control.refusals import no_transaction

Connection = AsyncConnection[TupleRow]
Connect = Callable[[], AbstractAsyncContextManager[Connection]]
"""Lends a connection in autocommit mode; what the driver raises inside leaves it as one of our errors."""

_TABLES = ("leases", "operations", "operation_history", "outbox", "outbox_state", "outbox_consumers")
_PATIENCE = "10s"
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
        """The caller's connection, or one that is lent for a single statement."""
        if within is not None:
            yield self.open(within)
            return
        async with self._connect() as conn:
            yield conn

    @asynccontextmanager
    async def transaction(self, within: Connection | None = None) -> AsyncIterator[Connection]:
        """The caller's transaction, of which this is a part; or one of our own, which nobody waits for in vain."""
        if within is not None:
            yield self.open(within)
            return
        async with self._connect() as conn, self.bounded(conn):
            yield conn

    @staticmethod
    @asynccontextmanager
    async def bounded(conn: Connection, patience: str = _PATIENCE) -> AsyncIterator[None]:
        """A transaction that waits no longer than `patience` for each lock."""
        async with conn.transaction():
            await conn.execute(
                "select set_config('lock_timeout', %s, true),"
                " set_config('idle_in_transaction_session_timeout', %s, true)",
                (patience, _PATIENCE),
            )
            yield

    @staticmethod
    def open(conn: Connection) -> Connection:
        """The connection, which must be in a transaction. Raises UsageError."""
        if conn.info.transaction_status == pq.TransactionStatus.IDLE:
            raise no_transaction()
        return conn
