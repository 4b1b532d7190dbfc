"""Makes the words of a collection that has documents already, while others read and write them.

The column is added empty, filled some rows at a time, indexed without blocking, and named last of all. What is done
stays done: whoever is interrupted leaves it to the next one.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
from psycopg import errors, sql

from svr_retrievers.backends.postgres import words
from svr_retrievers.backends.postgres.connection import Connection
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.errors import BackendError, PermissionDenied

_ROWS: Final = 500
"""Rows filled in one transaction, a tenth of a second: writers of the same rows wait for no more."""
_LOCK_CLASS: Final = 0x535653
_ATTEMPTS: Final = 60


async def column(conn: Connection, tables: Tables) -> str | None:
    """`words` where they are complete, `words_new` where they are being made, None where nobody has asked yet."""
    cursor = await conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(%s) and not attisdropped"
        " and attname in ('words', 'words_new')",
        (tables.documents.as_string(None),),
    )
    row = await cursor.fetchone()
    return str(row[0]) if row is not None else None


async def build(conn: Connection, keeper: Connection, tables: Tables) -> bool:
    """Whether the words are complete now; if not, another client is making them.

    `keeper` holds the lock that lets in one client at a time, in a transaction that does nothing else.

    Raises PermissionDenied where the role does not own the table.
    """
    try:
        async with _alone(keeper, tables) as alone:
            if not alone:
                return await column(conn, tables) == "words"
            await _build(conn, tables)
            return True
    except errors.InsufficientPrivilege as error:
        raise PermissionDenied(
            f"The first search by words of {tables.ref.config.name!r} adds a column and an index, which this role may"
            " not do.",
            hint="Let the role that owns the tables run keywords() or refresh() once.",
        ) from error


async def _build(conn: Connection, tables: Tables) -> None:
    there = await column(conn, tables)
    if there == "words":
        return
    if there is None or not await _triggered(conn, tables):
        await _at_once(conn, words.begin(tables))
    await _fill(conn, tables)
    if not await _indexed(conn, tables):
        # each row was written anew
        await conn.execute(sql.SQL("vacuum (analyze) {}").format(tables.documents))
        await conn.execute(words.drop_index(tables))
        await conn.execute(words.index(tables))
    await _at_once(conn, words.finish(tables))


async def _fill(conn: Connection, tables: Tables) -> None:
    """From the first key to the last, until none is left. Rows that come meanwhile are filled by the trigger."""
    statement = words.fill(tables)
    while await _true(conn, words.unfilled(tables)):
        last: Sequence[object] | None = ("", "")
        while last is not None:
            cursor = await conn.execute(statement, (*last, _ROWS))
            last = await cursor.fetchone()
        await anyio.sleep(random.uniform(0, 0.05))  # noqa: S311 - as below


async def _at_once(conn: Connection, statements: Sequence[sql.Composed]) -> None:
    """All in one transaction under a lock that excludes readers for an instant, and is never long waited for: others
    would queue behind it.
    """
    for attempt in range(_ATTEMPTS):
        try:
            async with conn.transaction():
                await conn.execute("select set_config('lock_timeout', '100ms', true)")
                for statement in statements:
                    await conn.execute(statement)
        except errors.LockNotAvailable:
            if attempt == _ATTEMPTS - 1:
                raise BackendError(
                    "The index of words could not be made: other transactions hold the documents' table all the time.",
                    hint="End transactions that stay open, and search again.",
                ) from None
            await anyio.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - spreads attempts, keeps no secret
        else:
            return


async def _triggered(conn: Connection, tables: Tables) -> bool:
    cursor = await conn.execute(
        "select 1 from pg_trigger where tgrelid = to_regclass(%s) and tgname = 'svr_words'",
        (tables.documents.as_string(None),),
    )
    return await cursor.fetchone() is not None


async def _indexed(conn: Connection, tables: Tables) -> bool:
    """An interrupted concurrent build leaves an index that cannot be used."""
    name = sql.Identifier(tables.schema, tables.words_index).as_string(None)
    return await _true(
        conn,
        sql.SQL("select i.indisvalid from pg_index i where i.indexrelid = to_regclass({})").format(
            sql.Literal(name)
        ),
    )


async def _true(conn: Connection, question: sql.Composed) -> bool:
    row = await (await conn.execute(question)).fetchone()
    return bool(row and row[0])


@asynccontextmanager
async def _alone(keeper: Connection, tables: Tables) -> AsyncIterator[bool]:
    """Without parameters: their portal would hold a snapshot, and the index wait for its end."""
    async with keeper.transaction():
        await keeper.execute("select set_config('idle_in_transaction_session_timeout', '0', true)")
        lock = sql.SQL("select pg_try_advisory_xact_lock({}, {})")
        yield await _true(keeper, lock.format(sql.Literal(_LOCK_CLASS), sql.Literal(tables.ref.id % 2**31)))
