"""Leases, operations and the outbox in one schema of a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from svr_retrievers.control.postgres import Catalog
from svr_retrievers.control.postgres_work.leases import PostgresLeases
from svr_retrievers.control.postgres_work.operations import PostgresOperations
from svr_retrievers.control.postgres_work.outbox import PostgresOutbox
from svr_retrievers.control.postgres_work.tables import Connect, Connection, Tables

T = TypeVar("T")


class PostgresWork:
    """`connect` lends a connection in autocommit mode for the length of an `async with`, as a pool does, and turns
    what the driver raises inside into errors of this package.

    Calls with `within=` are part of the transaction that is open on the given connection; driver errors pass through
    them unchanged, to whoever opened it.
    """

    def __init__(self, connect: Connect, *, schema: str = "svr") -> None:
        self._connect = connect
        self._schema = schema
        tables = Tables(connect, schema)
        self.leases = PostgresLeases(tables)
        self.operations = PostgresOperations(tables, self.leases)
        self.outbox = PostgresOutbox(tables)

    async def prepare(self) -> None:
        """Raises SchemaTooNew when a newer release has migrated the schema."""
        async with self._connect() as conn:
            await Catalog(self._schema).migrate(conn)

    async def transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._connect() as conn, conn.transaction():
            return await work(conn)


__all__ = ["PostgresLeases", "PostgresOperations", "PostgresOutbox", "PostgresWork"]
