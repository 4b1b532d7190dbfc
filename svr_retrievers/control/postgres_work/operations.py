"""Operations in PostgreSQL: a row each, and each of its versions in the history."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC
from typing import LiteralString

from psycopg import sql
from psycopg.rows import TupleRow

from svr_retrievers.control.arguments import check_limit, check_number, json_text
from svr_retrievers.control.postgres_work.leases import PostgresLeases
from svr_retrievers.control.postgres_work.tables import Connection, Tables
from svr_retrievers.control.protocol import Lease, Operation, State
from svr_retrievers.control.refusals import changed, finished_meanwhile, no_operation, pending
from svr_retrievers.errors import Conflict
from svr_retrievers.names import check_key, check_text
from svr_retrievers.values import JsonValue

_COLUMNS = sql.SQL(
    "number, kind, collection, cause, state, step, details, version, token, created_at, updated_at"
)
_OPEN = sql.SQL("('pending', 'running', 'paused')")


class PostgresOperations:
    def __init__(self, tables: Tables, leases: PostgresLeases) -> None:
        self._tables = tables
        self._leases = leases
        self._recorded = tables.statement(
            "kept as (insert into {operation_history} ({columns}) select {columns} from changed)"
            " select {columns} from changed",
            columns=_COLUMNS,
        )

    def _statement(self, text: LiteralString) -> sql.Composed:
        """`{recorded}` keeps the rows of `changed` in the history and returns them."""
        return self._tables.statement(text, columns=_COLUMNS, open=_OPEN, recorded=self._recorded)

    async def create(
        self,
        kind: str,
        *,
        collection: str,
        cause: str,
        step: str = "",
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Connection | None = None,
    ) -> Operation:
        values = (
            check_key(kind, "kind"),
            check_key(collection, "collection"),
            check_key(cause, "cause"),
            check_text(step, "step"),
            json_text({} if details is None else details, "details"),
            None if fence is None else fence.token,
        )
        async with self._tables.transaction(within) as conn:
            if fence is not None:
                await self._leases.fence(fence, within=conn)
            found = await conn.execute(
                self._statement(
                    "with changed as (insert into {operations} (kind, collection, cause, state, step, details, token)"
                    " values (%s, %s, %s, 'pending', %s, %s::json, %s)"
                    " on conflict (collection, cause) where state in {open} do nothing returning *), {recorded}"
                ),
                values,
            )
            row = await found.fetchone()
            if row is None:
                raise await self._refusal(conn, collection, cause)
            return _operation(row)

    async def _refusal(self, conn: Connection, collection: str, cause: str) -> Conflict:
        found = await conn.execute(
            self._statement(
                "select number from {operations} where collection = %s and cause = %s and state in {open}"
            ),
            (collection, cause),
        )
        row = await found.fetchone()
        return finished_meanwhile(cause) if row is None else pending(collection, cause, int(row[0]))

    async def advance(
        self,
        operation: Operation,
        *,
        step: str | None = None,
        state: State | None = None,
        details: Mapping[str, JsonValue] | None = None,
        fence: Lease | None = None,
        within: Connection | None = None,
    ) -> Operation:
        values = (
            None if step is None else check_text(step, "step"),
            None if state is None else State(state).value,
            None if details is None else json_text(details, "details"),
            None if fence is None else fence.token,
            operation.number,
            operation.version,
        )
        async with self._tables.transaction(within) as conn:
            if fence is not None:
                await self._leases.fence(fence, within=conn)
            found = await conn.execute(
                self._statement(
                    "with changed as (update {operations} set step = coalesce(%s, step), state = coalesce(%s, state),"
                    " details = coalesce(%s::json, details), token = %s, version = version + 1,"
                    " updated_at = clock_timestamp() where number = %s and version = %s and state in {open}"
                    " returning *), {recorded}"
                ),
                values,
            )
            row = await found.fetchone()
            if row is None:
                raise changed(operation, await self._read(conn, operation.number))
            return _operation(row)

    async def get(self, number: int) -> Operation:
        async with self._tables.connection(None) as conn:
            return await self._read(conn, check_number(number, "number", 1))

    async def _read(self, conn: Connection, number: int) -> Operation:
        found = await conn.execute(
            self._statement("select {columns} from {operations} where number = %s"), (number,)
        )
        row = await found.fetchone()
        if row is None:
            raise no_operation(number)
        return _operation(row)

    async def find(
        self,
        *,
        collection: str | None = None,
        states: Collection[State] = (),
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[Operation]:
        wanted = [State(state).value for state in states] or [state.value for state in State]
        values = (check_number(after, "after", 0), wanted, collection, collection, check_limit(limit))
        async with self._tables.connection(None) as conn:
            found = await conn.execute(
                self._statement(
                    "select {columns} from {operations} where number > %s and state = any(%s)"
                    " and (%s::text is null or collection = %s) order by number limit %s"
                ),
                values,
            )
            return [_operation(row) for row in await found.fetchall()]

    async def history(self, number: int) -> Sequence[Operation]:
        async with self._tables.connection(None) as conn:
            found = await conn.execute(
                self._statement(
                    "select {columns} from {operation_history} where number = %s order by version"
                ),
                (check_number(number, "number", 1),),
            )
            rows = await found.fetchall()
        if not rows:
            raise no_operation(number)
        return [_operation(row) for row in rows]


def _operation(row: TupleRow) -> Operation:
    number, kind, collection, cause, state, step, details, version, token, created, updated = row
    times = (created.astimezone(UTC), updated.astimezone(UTC))
    return Operation(number, kind, collection, cause, State(state), step, details, version, token, *times)
