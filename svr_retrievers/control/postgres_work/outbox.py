"""The outbox in PostgreSQL: rows that get their position when they are first read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from svr_retrievers.control.arguments import MAX_ROWS, check_limit, check_number, check_seconds, json_text
from svr_retrievers.control.postgres_work.tables import Connection, Tables
from svr_retrievers.control.protocol import Event, RecordedEvent
from svr_retrievers.control.refusals import beyond, no_consumer, pruned_away
from svr_retrievers.names import check_key

_PLACED_AT_ONCE = 1_000


class PostgresOutbox:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def append(self, events: Sequence[Event], *, within: Connection | None = None) -> None:
        if not events:
            return
        check_number(len(events), "the number of events", 1, MAX_ROWS)
        columns = [e.id for e in events], [e.subject for e in events], [e.type for e in events]
        async with self._tables.connection(within) as conn:
            await conn.execute(
                self._tables.statement(
                    "insert into {outbox} (id, subject, type, data) select id, subject, type, data::json"
                    " from unnest(%s::text[], %s::text[], %s::text[], %s::text[])"
                    " with ordinality e(id, subject, type, data, nth) order by nth on conflict (id) do nothing"
                ),
                (*columns, [json_text(e.data, "data") for e in events]),
            )

    async def read(self, *, after: int, limit: int = 100) -> Sequence[RecordedEvent]:
        check_number(after, "after", 0)
        check_limit(limit)
        await self._place()
        async with self._tables.connection(None) as conn:
            found = await conn.execute(
                self._tables.statement(
                    "select s.given, s.pruned, o.* from {outbox_state} s left join lateral"
                    " (select position, id, subject, type, data, at from {outbox}"
                    " where position > %s order by position limit %s) o on true order by o.position"
                ),
                (after, limit),
            )
            rows = await found.fetchall()
        given, pruned = rows[0][:2]
        if after > given:
            raise beyond(after, given)
        if after < pruned:
            raise pruned_away(after, pruned)
        return [
            RecordedEvent(position, Event(subject, kind, data, event), at.astimezone(UTC))
            for _, _, position, event, subject, kind, data, at in rows
            if position is not None
        ]

    async def _place(self) -> None:
        """Gives positions to events that are committed and have none.

        Who places holds the row of the state until the end of the transaction, so positions become visible in their
        own order. The second statement begins after the lock was won, and sees what the one before has placed.
        """
        async with self._tables.connection(None) as conn:
            found = await conn.execute(
                self._tables.statement("select 1 from {outbox} where position is null limit 1")
            )
            if await found.fetchone() is None:
                return
        async with self._tables.transaction() as conn:
            await conn.execute(self._tables.statement("select 1 from {outbox_state} for update"))
            await conn.execute(
                self._tables.statement(
                    "with fresh as (select id, row_number() over (order by inserted) as n from"
                    " (select id, inserted from {outbox} where position is null order by inserted limit %s) o),"
                    " placed as (update {outbox} o set position = s.given + fresh.n from fresh, {outbox_state} s"
                    " where o.id = fresh.id returning 1)"
                    " update {outbox_state} set given = given + (select count(*) from placed)"
                ),
                (_PLACED_AT_ONCE,),
            )

    async def subscribe(self, consumer: str) -> int:
        check_key(consumer, "consumer")
        async with self._tables.transaction() as conn:
            await conn.execute(self._tables.statement("select 1 from {outbox_state} for update"))
            found = await conn.execute(
                self._tables.statement(
                    "insert into {outbox_consumers} as c (name, position) select %s, pruned from {outbox_state}"
                    " on conflict (name) do update set name = c.name returning position"
                ),
                (consumer,),
            )
            row = await found.fetchone()
            assert row is not None
            return int(row[0])

    async def acknowledge(self, consumer: str, position: int, *, within: Connection | None = None) -> None:
        check_key(consumer, "consumer")
        check_number(position, "position", 0)
        async with self._tables.connection(within) as conn:
            found = await conn.execute(
                self._tables.statement(
                    "with moved as (update {outbox_consumers} c set position = greatest(c.position, %s),"
                    " updated_at = clock_timestamp() from {outbox_state} s where c.name = %s and %s <= s.given"
                    " returning 1) select given, exists (select from moved) from {outbox_state}"
                ),
                (position, consumer, position),
            )
            row = await found.fetchone()
        assert row is not None
        if position > row[0]:
            raise beyond(position, row[0])
        if not row[1]:
            raise no_consumer(consumer)

    async def unsubscribe(self, consumer: str) -> None:
        async with self._tables.connection(None) as conn:
            done = await conn.execute(
                self._tables.statement("delete from {outbox_consumers} where name = %s"),
                (check_key(consumer, "consumer"),),
            )
        if not done.rowcount:
            raise no_consumer(consumer)

    async def prune(self, *, keep_seconds: float, limit: int = 1_000) -> int:
        check_seconds(keep_seconds, "keep_seconds", 0, 10**9)
        check_limit(limit)
        async with self._tables.transaction() as conn:
            await conn.execute(self._tables.statement("select 1 from {outbox_state} for update"))
            done = await conn.execute(
                self._tables.statement(
                    "with bound as (select least(s.pruned + %s, s.given,"
                    " (select min(position) from {outbox_consumers}),"
                    " (select o.position - 1 from {outbox} o where o.position > s.pruned and"
                    " o.position <= s.pruned + %s and o.at > clock_timestamp() - %s * interval '1 second'"
                    " order by o.position limit 1)) as position from {outbox_state} s),"
                    " gone as (delete from {outbox} o using bound where o.position <= bound.position)"
                    " update {outbox_state} s set pruned = bound.position from bound"
                    " where bound.position > s.pruned returning bound.position - ("
                    " select pruned from {outbox_state})"
                ),
                (limit, limit, keep_seconds),
            )
            row = await done.fetchone()
            return 0 if row is None else int(row[0])
