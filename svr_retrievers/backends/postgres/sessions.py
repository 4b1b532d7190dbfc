"""Connections with what this side knows of their sessions, awaited or blocking."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar, cast

from pgvector.psycopg import register_vector, register_vector_async
from psycopg import AsyncConnection, AsyncTransaction, Connection, OperationalError, sql
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads

from svr_retrievers.backends.postgres.jsonb import loads
from svr_retrievers.errors import ConfigError, DeadlineExceeded, ExtensionMissing

T = TypeVar("T")

_WHERE = (
    "select n.nspname, pg_backend_pid(), n.nspname = any(current_schemas(true))"
    " from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector'"
)
STATEMENTS_KEPT = 300
"""Prepared statements of a session, one for each partition in use; each takes some 60 kB of the server."""
_SEARCH_PATH = "select set_config('search_path', %s, %s)"
_LOAD = "select '[1]'::vector <-> '[1]'::vector"


class _Known:
    """`direct`: no pooler stands between, so that settings of the session stay with it. `applied`: the settings
    that searches left in it, None where there are none. `path`: where pgvector is found.
    """

    direct: bool = False
    applied: tuple[str, ...] | None = None
    path: str = ""


class Refusals:
    """The last reason for which a pool got no connection: the pool itself only says that there was none in time."""

    def __init__(self) -> None:
        self._last: tuple[float, OperationalError] | None = None

    def note(self, error: OperationalError) -> None:
        self._last = time.monotonic(), error

    def since(self, moment: float) -> OperationalError | None:
        return self._last[1] if self._last is not None and self._last[0] >= moment else None


class LoopSession(AsyncConnection[TupleRow], _Known):
    """A connection that is awaited."""

    again: Callable[[], Awaitable[LoopSession]]

    @classmethod
    async def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, refusals: Refusals | None = None, **options: object
    ) -> LoopSession:
        try:
            made = await super().connect(conninfo, **options)  # type: ignore[arg-type]
        except OperationalError as error:
            if refusals is not None:
                refusals.note(error)
            raise
        made.again = partial(cls.connect, conninfo, refusals=None, **options)
        return made

    async def twin(self) -> LoopSession:
        """One more connection to the same database, outside the pool, for work that holds it long."""
        return await self.again()

    @asynccontextmanager
    async def transaction(self, *given: object, **options: object) -> AsyncIterator[AsyncTransaction]:
        """Behind a pooler each transaction is told where pgvector is, as the session may have been another's."""
        async with super().transaction(*given, **options) as begun:  # type: ignore[arg-type]
            if self.path and not self.direct:
                await self.execute(_SEARCH_PATH, (self.path, True))
            yield begun


class ThreadSession(Connection[TupleRow], _Known):
    """A connection that blocks its thread, but not beyond `deadline` on the monotonic clock."""

    deadline: float | None = None

    @classmethod
    def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, refusals: Refusals | None = None, **options: object
    ) -> ThreadSession:
        try:
            return super().connect(conninfo, **options)  # type: ignore[arg-type]
        except OperationalError as error:
            if refusals is not None:
                refusals.note(error)
            raise

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
    async with conn.transaction():
        _learn(conn, await (await conn.execute(_WHERE)).fetchone())
        await conn.execute(_SEARCH_PATH, (conn.path, not conn.direct))
        await conn.execute(_LOAD)
        await register_vector_async(conn)
    set_json_loads(loads, conn)


def configure_blocking(conn: ThreadSession) -> None:
    """The same for a blocking connection."""
    with conn.transaction():
        _learn(conn, conn.execute(_WHERE).fetchone())
        conn.execute(_SEARCH_PATH, (conn.path, not conn.direct))
        conn.execute(_LOAD)
        register_vector(conn)
    set_json_loads(loads, conn)


def _learn(conn: LoopSession | ThreadSession, row: tuple[object, ...] | None) -> None:
    """A transaction pooler makes up the process number that it announces: the server's own tells it apart.

    What is prepared in a session would then be looked for in another.
    """
    if row is None:
        raise ExtensionMissing("pgvector is not installed in this database.", hint="CREATE EXTENSION vector;")
    schema, number, visible = row
    path = sql.SQL(", ").join([sql.Identifier(str(schema)), sql.Identifier("pg_catalog")])
    conn.path, conn.direct = path.as_string(None), number == conn.pgconn.backend_pid
    if conn.direct:
        conn.prepared_max = STATEMENTS_KEPT
        return
    conn.prepare_threshold = None
    if not visible:
        raise ConfigError(
            f"Behind a connection pooler, pgvector must be on the search_path; it is in the schema {schema!r}.",
            hint="Name the schema in ALTER ROLE ... SET search_path, or connect without the pooler.",
        )
