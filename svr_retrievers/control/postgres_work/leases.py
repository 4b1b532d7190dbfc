"""Leases in PostgreSQL: one row a name, which claims and fences lock."""

from __future__ import annotations

from datetime import UTC
from typing import LiteralString

from psycopg import errors
from psycopg.rows import TupleRow

from svr_retrievers.control.arguments import check_ttl
from svr_retrievers.control.postgres_work.tables import Connection, Tables, bounded
from svr_retrievers.control.protocol import Lease
from svr_retrievers.control.refusals import lease_lost
from svr_retrievers.names import check_key

_CLAIM_PATIENCE: LiteralString = "'2s'"
"""A row that stays locked so long is held by a fenced transaction, so the lease is in use."""


class PostgresLeases:
    """`clock_timestamp()` is read after a lock was waited for, where `now()` would be the time before."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim(self, name: str, holder: str, ttl_seconds: float) -> Lease | None:
        values = (check_key(name, "name"), check_key(holder, "holder"), check_ttl(ttl_seconds))
        if await self.held(name) is not None:
            return None
        async with self._tables.connection(None) as conn:
            try:
                async with bounded(conn, _CLAIM_PATIENCE):
                    return await self._take(conn, *values) or await self._begin(conn, *values)
            except errors.LockNotAvailable:
                return None

    async def _take(self, conn: Connection, name: str, holder: str, ttl_seconds: float) -> Lease | None:
        """The lease of a name that was claimed before and is not running."""
        found = await conn.execute(
            self._tables.statement(
                "update {leases} set holder = %s, token = token + 1, ttl_seconds = %s,"
                " expires_at = clock_timestamp() + %s * interval '1 second'"
                " where name = %s and expires_at <= clock_timestamp()"
                " returning name, holder, token, ttl_seconds, expires_at"
            ),
            (holder, ttl_seconds, ttl_seconds, name),
        )
        return _lease(await found.fetchone())

    async def _begin(self, conn: Connection, name: str, holder: str, ttl_seconds: float) -> Lease | None:
        """The first lease of a name. Which index meets a rival first is open, so none is named."""
        found = await conn.execute(
            self._tables.statement(
                "insert into {leases} (name, holder, token, ttl_seconds, expires_at)"
                " values (%s, %s, 1, %s, clock_timestamp() + %s * interval '1 second') on conflict do nothing"
                " returning name, holder, token, ttl_seconds, expires_at"
            ),
            (name, holder, ttl_seconds, ttl_seconds),
        )
        return _lease(await found.fetchone())

    async def renew(self, lease: Lease) -> Lease:
        async with self._tables.connection(None) as conn:
            found = await conn.execute(
                self._tables.statement(
                    "update {leases} set expires_at = clock_timestamp() + ttl_seconds * interval '1 second'"
                    " where name = %s and token = %s and expires_at > clock_timestamp()"
                    " returning name, holder, token, ttl_seconds, expires_at"
                ),
                (lease.name, lease.token),
            )
            renewed = _lease(await found.fetchone())
        if renewed is None:
            raise lease_lost(lease)
        return renewed

    async def release(self, lease: Lease) -> bool:
        async with self._tables.connection(None) as conn:
            done = await conn.execute(
                self._tables.statement(
                    "update {leases} set expires_at = clock_timestamp()"
                    " where name = %s and token = %s and expires_at > clock_timestamp()"
                ),
                (lease.name, lease.token),
            )
            return done.rowcount == 1

    async def held(self, name: str) -> Lease | None:
        async with self._tables.connection(None) as conn:
            found = await conn.execute(
                self._tables.statement(
                    "select name, holder, token, ttl_seconds, expires_at from {leases}"
                    " where name = %s and expires_at > clock_timestamp()"
                ),
                (check_key(name, "name"),),
            )
            return _lease(await found.fetchone())

    async def fence(self, lease: Lease, *, within: Connection) -> None:
        """`for key share` holds off claims but not renewals. A stopped holder's session is ended after its time."""
        async with self._tables.connection(within) as conn:
            found = await conn.execute(
                self._tables.statement(
                    "select set_config('idle_in_transaction_session_timeout', ceil(1000 * extract(epoch from least("
                    "nullif(current_setting('idle_in_transaction_session_timeout')::interval, '0'),"
                    " ttl_seconds * interval '1 second')))::text, true)"
                    " from {leases} where name = %s and token = %s and expires_at > clock_timestamp()"
                    " for key share"
                ),
                (lease.name, lease.token),
            )
        if await found.fetchone() is None:
            raise lease_lost(lease)


def _lease(row: TupleRow | None) -> Lease | None:
    if row is None:
        return None
    name, holder, token, ttl, expires = row
    return Lease(name, holder, token, ttl, expires.astimezone(UTC))
