"""Connections with what this side knows of their sessions, awaited or blocking."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar, cast

from pgvector.psycopg import register_vector, register_vector_async
from psycopg import AsyncConnection, Connection, sql
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads

from svr_retrievers.backends.postgres.jsonb import loads
from svr_retrievers.errors import DeadlineExceeded, ExtensionMissing

T = TypeVar("T")

_WHERE = (
    "select n.nspname, pg_backend_pid() from pg_extension e join pg_namespace n on n.oid = e.extnamespace"
    " where e.extname = 'vector'"
)
_LOAD = "select '[1]'::vector <-> '[1]'::vector"
_CHECK_SECONDS = 0.1


class _Known:
    """`direct`: no pooler stands between, so that settings of the session stay with it. `applied`: the settings
    that searches left in it, None where there are none. `path`: where pgvector is found.
    """

    direct: bool = False
    applied: tuple[str, ...] | None = None
    path: str = ""


class LoopSession(AsyncConnection[TupleRow], _Known):
    """A connection that is awaited."""


class ThreadSession(Connection[TupleRow], _Known):
    """A connection that blocks its thread, but not beyond `deadline` on the monotonic clock."""

    deadline: float | None = None

    def wait(self, gen: PQGen[T], *args: object, **kwargs: object) -> T:
        guarded = gen if self.deadline is None else _until(gen, self.deadline)
        return super().wait(guarded, *args, **kwargs)  # type: ignore[arg-type]


def _until(gen: PQGen[T], deadline: float) -> PQGen[T]:
    """The same exchange with the server; the driver looks in at least every tenth of a second.

    Raises DeadlineExceeded. The session is then in the middle of an answer and of no further use.
    """
    inner = cast("Generator[object, object, T]", gen)
    try:
        wanted = next(inner)
        while True:
            ready = yield wanted  # type: ignore[misc]
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    "PostgreSQL did not answer in time.", hint="Raise timeout_seconds, or check the server."
                )
            wanted = inner.send(ready)
    except StopIteration as done:
        return cast("T", done.value)


async def configure(conn: LoopSession) -> None:
    """Loads pgvector's library and types, so that its settings and operators are there from the first query."""
    conn.path, conn.direct = _found(await (await conn.execute(_WHERE)).fetchone(), conn.pgconn.backend_pid)
    await conn.execute(_search_path(conn))
    await conn.execute(_LOAD)
    await register_vector_async(conn)
    set_json_loads(loads, conn)


def configure_blocking(conn: ThreadSession) -> None:
    """The same for a blocking connection."""
    conn.path, conn.direct = _found(conn.execute(_WHERE).fetchone(), conn.pgconn.backend_pid)
    conn.execute(_search_path(conn))
    conn.execute(_LOAD)
    register_vector(conn)
    set_json_loads(loads, conn)


def _found(row: tuple[object, ...] | None, announced: int) -> tuple[str, bool]:
    """A transaction pooler makes up the process number that it announces: the server's own tells it apart."""
    if row is None:
        raise ExtensionMissing("pgvector is not installed in this database.", hint="CREATE EXTENSION vector;")
    path = sql.SQL(", ").join([sql.Identifier(str(row[0])), sql.Identifier("pg_catalog")])
    return path.as_string(None), row[1] == announced


def _search_path(conn: LoopSession | ThreadSession) -> sql.Composed:
    return sql.SQL("select set_config('search_path', {}, false)").format(sql.Literal(conn.path))
