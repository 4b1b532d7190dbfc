"""Connections that are ready for vectors, and driver errors turned into ours."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import numpy as np
import psycopg
import tenacity
from psycopg import AsyncConnection, errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout

from svr_retrievers.backends.postgres.sessions import (
    LoopSession,
    Refusals,
    ThreadSession,
    configure,
    configure_blocking,
)
from svr_retrievers.errors import (
    AuthenticationFailed,
    BackendError,
    ClientClosed,
    CollectionNotFound,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    ExtensionMissing,
    PermissionDenied,
    SVRError,
)
from svr_retrievers.model import Vector
from svr_retrievers.settings import Settings

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[LoopSession]
ThreadPool = ConnectionPool[ThreadSession]


async def connect(url: str, settings: Settings) -> Connection:
    """One connection outside the pool, so that a failure says why. Raises ConnectionFailed and its kin.

    A server that refuses connections or is just starting is asked again for `connect_retry_seconds`.
    """
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=1.0),
        stop=tenacity.stop_after_delay(settings.connect_retry_seconds),
        reraise=True,
    )
    timeout = max(2, round(settings.connect_timeout_seconds))
    with translated():
        return await retrying(
            AsyncConnection.connect,
            url,
            autocommit=True,
            connect_timeout=timeout,
            prepare_threshold=None,
            client_encoding="utf8",
        )


def _may_pass(error: BaseException) -> bool:
    """Whether a failure to connect is one that a moment's patience may mend."""
    reasons = ("refused", "starting up", "shutting down", "not accepting", "too many c", "connection slots")
    return isinstance(error, psycopg.OperationalError) and any(r in str(error) for r in reasons)


async def ensure_extension(conn: Connection) -> None:
    """Pgvector in this database: used if it is there, created if it may be.

    Raises:
        ExtensionMissing: it is neither there nor creatable.
    """
    with translated():
        found = await conn.execute("select extversion from pg_extension where extname = 'vector'")
        if await found.fetchone() is not None:
            return
        try:
            await conn.execute("create extension if not exists vector")
        except errors.UniqueViolation:
            return  # another client created it at the same moment
        except errors.InsufficientPrivilege:
            raise ExtensionMissing(
                "pgvector is not installed in this database and this role may not install it.",
                hint="Ask an administrator to run: CREATE EXTENSION vector;",
            ) from None
        except psycopg.Error as error:
            raise ExtensionMissing(
                f"pgvector cannot be created in this database: {_first_line(error)}.",
                hint="Install pgvector on the server (package postgresql-NN-pgvector), then try again.",
            ) from None


def check_url(url: str) -> None:
    """Raises ConfigError when the driver cannot read the URL."""
    try:
        host = str(conninfo_to_dict(url).get("host") or "")
    except psycopg.Error:
        host = "?@?"
    if "@" in host[1:]:  # part of a password; the driver would repeat it as a host that it cannot find
        raise ConfigError(
            "The PostgreSQL URL cannot be read.",
            hint="It has the form postgresql://user:password@host:5432/database; "
            "percent-encode special characters in the password.",
        )


def make_pool(url: str, settings: Settings) -> Pool:
    """The connections of the event loop."""
    return AsyncConnectionPool(
        url,
        connection_class=LoopSession,
        min_size=settings.pool_min_connections,
        max_size=_most(settings),
        max_idle=_IDLE_SECONDS,
        timeout=settings.connect_timeout_seconds,
        # The pool waits ever longer between attempts; starting over keeps that wait below a caller's own.
        reconnect_timeout=settings.connect_timeout_seconds / 2,
        kwargs=_KEYWORDS | {"refusals": Refusals()},
        configure=configure,
        check=None,
        open=False,
    )


def make_thread_pool(url: str, settings: Settings) -> ThreadPool:
    """The connections of threads without an event loop; they are opened as threads ask for them."""
    return ConnectionPool(
        url,
        connection_class=ThreadSession,
        min_size=0,
        max_size=for_threads(settings),
        max_idle=_IDLE_SECONDS,
        timeout=settings.connect_timeout_seconds,
        reconnect_timeout=settings.connect_timeout_seconds / 2,
        kwargs=_KEYWORDS | {"refusals": Refusals()},
        configure=configure_blocking,
        num_workers=1,
        open=True,
    )


_KEYWORDS: dict[str, object] = {"autocommit": True, "application_name": "svr", "client_encoding": "utf8"}
_IDLE_SECONDS = 60.0
"""Each such time without need for it, a pool closes one connection, down to those kept open."""


def _most(settings: Settings) -> int:
    return max(settings.pool_max_connections, settings.pool_min_connections)


def for_threads(settings: Settings) -> int:
    """Half of a client's connections are for threads without an event loop, once there are such threads."""
    return max(1, _most(settings) // 2)


def for_loop(settings: Settings) -> int:
    """What threads leave to the event loop."""
    return max(1, _most(settings) - for_threads(settings))


async def make_room(pool: Pool, settings: Settings) -> None:
    """Leaves to the event loop what its threads do not have; connections beyond that close as they fall idle."""
    left = for_loop(settings)
    await pool.resize(min(settings.pool_min_connections, left), left)


def told_why(pool: Pool | ThreadPool, waited: PoolTimeout) -> psycopg.Error:
    """Why no connection came: the server's refusal while the caller waited, if there was one."""
    refusals = pool.kwargs.get("refusals") if isinstance(pool.kwargs, dict) else None
    last = refusals.since(time.monotonic() - pool.timeout) if isinstance(refusals, Refusals) else None
    return waited if last is None else last


def vector_of(value: object) -> Vector:
    """A vector column's value as the driver returns it: an array, or from some releases on a wrapper of one."""
    made = value.to_numpy() if hasattr(value, "to_numpy") else value
    return np.array(made, dtype=np.float32)


@contextlib.asynccontextmanager
async def borrowed(pool: Pool) -> AsyncIterator[LoopSession]:
    """A pooled connection without the settings of searches; driver errors inside become ours."""
    with translated():
        async with lent(pool) as conn:
            await _cleared(conn)
            yield conn


async def _cleared(conn: LoopSession) -> None:
    """Takes back what searches set, all of it or with it the session."""
    if conn.applied is None:
        return
    try:
        await conn.execute(_RESET, prepare=False)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await conn.close()
        raise
    conn.applied = None


_RESET = "; ".join(
    f"reset {name}" for name in ("statement_timeout", "plan_cache_mode", "enable_sort")
).encode()
"""Of what a search sets, that which would change other statements."""


async def unless_held(conn: Connection, statement: sql.Composed) -> None:
    """Runs upkeep that waits for no other client: one that builds an index of the table would be waited for while it
    waits for us. Who holds the table, or has just done the same, makes it needless now.
    """
    with contextlib.suppress(errors.LockNotAvailable, errors.UniqueViolation, errors.DuplicateTable):
        async with conn.transaction():
            await conn.execute("select set_config('lock_timeout', '200ms', true)")
            await conn.execute(statement)


@contextlib.asynccontextmanager
async def lent(pool: Pool) -> AsyncIterator[LoopSession]:
    """A pooled connection. When one was lost, the idle others are tested, as a restart breaks all at once."""
    try:
        conn = await pool.getconn()
    except PoolTimeout as waited:
        raise told_why(pool, waited) from None
    try:
        yield conn
    except BaseException as error:
        with anyio.CancelScope(shield=True):  # or a cancelled caller would keep the connection
            await _returned(pool, conn, gone=ends_session(error))
        raise
    await _returned(pool, conn)


async def _returned(pool: Pool, conn: LoopSession, *, gone: bool = False) -> None:
    broken = gone or conn.broken
    if gone:
        await conn.close()
    await pool.putconn(conn)
    if broken:
        with contextlib.suppress(psycopg.Error):
            await pool.check()


def ends_session(error: BaseException) -> bool:
    """Whether the server said that the session ends; the driver may not have seen it end yet."""
    return isinstance(error, psycopg.OperationalError) and lost(error)


def lost(error: psycopg.OperationalError) -> bool:
    """Whether the connection broke, rather than the statement."""
    return (error.sqlstate is None and not isinstance(error, PoolTimeout | PoolClosed)) or str(
        error.sqlstate
    ).startswith(("08", "57P"))


@contextlib.asynccontextmanager
async def pipelined(conn: Connection) -> AsyncIterator[None]:
    """One round trip, one transaction.

    When it fails, what was to be prepared after the failing statement is unknown to the server, but not
    to the driver, which forgets its prepared statements at a rollback.
    """
    try:
        async with conn.pipeline():
            yield
    except psycopg.Error:
        with contextlib.suppress(psycopg.Error):
            await conn.execute("rollback", prepare=False)
        raise


@contextlib.contextmanager
def translated(collection: str | None = None) -> Iterator[None]:
    """Driver errors inside become ours; a missing table means that `collection` was dropped."""
    try:
        yield
    except errors.UndefinedTable as error:
        if collection is None:
            raise as_ours(error) from error
        raise CollectionNotFound(
            f"The collection {collection!r} was dropped.", hint="Create it again."
        ) from error
    except psycopg.Error as error:
        raise as_ours(error) from error


@contextlib.asynccontextmanager
async def guarded(pool: Pool, collection: str, *, transaction: bool) -> AsyncIterator[Connection]:
    """A pooled connection for work on a collection, in one transaction if asked for."""
    with translated(collection):
        async with lent(pool) as conn:
            await _cleared(conn)
            if not transaction:
                yield conn
                return
            async with conn.transaction():
                yield conn


def as_ours(error: psycopg.Error) -> SVRError:
    """The error of ours that says what happened and what to do; no connection string is ever in it."""
    if isinstance(error, PoolTimeout):
        return ConnectionFailed(
            "No connection became free in time.",
            hint="Raise SVR_POOL_MAX_CONNECTIONS, or check that the server is up.",
        )
    if isinstance(error, PoolClosed):
        return ClientClosed("This client is closed.", hint="Make a new one.")
    if isinstance(error, errors.QueryCanceled):
        return DeadlineExceeded(
            "PostgreSQL cancelled the statement: it took too long.", hint="Raise timeout_seconds."
        )
    if isinstance(error, errors.OutOfMemory) and "shared" in str(error):
        return BackendError(
            "PostgreSQL ran out of room for locks.",
            hint="Raise max_locks_per_transaction on the server, or use fewer partitions.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return PermissionDenied(
            f"PostgreSQL refuses it: {_first_line(error)}.",
            hint="Grant the role the right, or use another role.",
        )
    if isinstance(error, errors.InvalidPassword | errors.InvalidAuthorizationSpecification):
        return _no_entry()
    if isinstance(error, errors.InvalidCatalogName):
        return ConnectionFailed(
            f"PostgreSQL answered: {_first_line(error)}.", hint="Create the database first."
        )
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return _unreachable(str(error))
    if error.sqlstate and error.sqlstate.startswith(("08", "57P")):
        return ConnectionFailed(f"The connection was lost: {_first_line(error)}.", hint="Try again.")
    return BackendError(
        f"PostgreSQL failed: {_first_line(error)} ({error.sqlstate or type(error).__name__})."
    )


def _no_entry() -> AuthenticationFailed:
    return AuthenticationFailed(
        "PostgreSQL refused the user or password.",
        hint="Check both in the URL, and pg_hba.conf on the server.",
    )


def _unreachable(text: str) -> ConnectionFailed:
    lowered = text.lower()
    if (
        "password authentication failed" in lowered
        or "no password supplied" in lowered
        or "pg_hba" in lowered
    ):
        return _no_entry()
    if "does not exist" in lowered and "database" in lowered:
        return ConnectionFailed("The database named in the URL does not exist.", hint="Create it first.")
    if any(reason in lowered for reason in ("too many clients", "too many connections", "connection slots")):
        return ConnectionFailed(
            "PostgreSQL has no connection left for this client.",
            hint="Lower SVR_POOL_MAX_CONNECTIONS, raise max_connections on the server, or put a pooler between.",
        )
    lines = [line.strip().removeprefix("connection failed: ") for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if "failed:" in line), lines[-1] if lines else "no reason given")
    return ConnectionFailed(
        f"PostgreSQL cannot be reached: {reason.rstrip('.?')}.",
        hint="Check host and port in the URL and that the server is up.",
    )


def _first_line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    return (
        primary or str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    ).rstrip(".")


async def settled(pool: Pool) -> None:
    """Closes the pool; a pool that is closing itself is left alone."""
    with contextlib.suppress(asyncio.CancelledError):
        await pool.close()
