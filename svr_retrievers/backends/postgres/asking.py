"""Sends one reading statement to the server, awaited on the event loop or blocking a thread that has none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

import anyio.to_thread
import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres.queries import Planning
from svr_retrievers.backends.postgres.sessions import ThreadSession
from svr_retrievers.concurrency import on_loop
from svr_retrievers.errors import ClientClosed, DeadlineExceeded
from svr_retrievers.settings import Settings

SESSION_SETTINGS: LiteralString = (
    "select set_config('hnsw.ef_search', %s, false), set_config('hnsw.max_scan_tuples', %s, false),"
    " set_config('ivfflat.probes', %s, false), set_config('plan_cache_mode', %s, false),"
    " set_config('statement_timeout', %s, false), set_config('enable_sort', %s, false),"
    " set_config('hnsw.iterative_scan', %s, false),"
    " set_config('ivfflat.iterative_scan', 'relaxed_order', false), set_config('jit', 'off', false)"
)
LOCAL_SETTINGS: LiteralString = (
    SESSION_SETTINGS.replace("false", "true") + ", set_config('search_path', %s, true)"
)
"""Behind a pooler each transaction may meet another session, so nothing may be left in one."""


_LEAST_TIMEOUT_MS = 1_000
"""A shorter deadline is kept on this side alone: left in a session, it could cut off the next search's settings."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """The server settings that a search runs under, as texts."""

    ef_search: int
    max_scan_tuples: int
    probes: int
    planning: Planning
    seconds: float | None
    sorts: bool = True
    """Off where an index yields the order: in a wide search the server would sort all rows instead."""
    iterates: bool = True
    """Off where nearly every row that a graph leads to counts: remembering the others takes a twelfth of a search."""

    def texts(self) -> tuple[str, ...]:
        timeout = 0 if self.seconds is None else max(_LEAST_TIMEOUT_MS, int(self.seconds * 1000))
        return (
            str(self.ef_search),
            str(self.max_scan_tuples),
            str(self.probes),
            self.planning,
            str(timeout),
            "on" if self.sorts else "off",
            "relaxed_order" if self.iterates else "off",
        )


class Asker:
    """Two pools of the same server: one for the event loop, one, made when first needed, for other threads."""

    def __init__(self, url: str, pool: conns.Pool, settings: Settings) -> None:
        self._url = url
        self._pool = pool
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._threads: conns.ThreadPool | None = None
        self._lock = threading.Lock()
        self._closed = False

    async def close(self) -> None:
        with self._lock:
            pool, self._threads, self._closed = self._threads, None, True
        if pool is not None:
            await anyio.to_thread.run_sync(pool.close)

    async def rows(
        self, text: bytes, params: Sequence[object], settings: ReadSettings, collection: str
    ) -> list[TupleRow]:
        """The statement's rows. A connection found lost is replaced, and the statement sent once more.

        Raises DeadlineExceeded, CollectionNotFound when a table is missing, BackendError.
        """
        once = self._awaited if on_loop() else self._blocking
        with conns.translated(collection):
            try:
                return await once(text, params, settings)
            except psycopg.OperationalError as error:
                if not conns.lost(error):
                    raise
            return await once(text, params, settings)

    async def _awaited(self, text: bytes, params: Sequence[object], settings: ReadSettings) -> list[TupleRow]:
        async with conns.lent(self._pool) as conn:
            wanted = settings.texts()
            cursor = conn.cursor(binary=True)
            if not conn.direct:
                async with conns.pipelined(conn):
                    await conn.execute(LOCAL_SETTINGS, (*wanted, conn.path), prepare=False)
                    await cursor.execute(text, params, prepare=False)
            else:
                if conn.applied != wanted:
                    conn.applied = ()  # something, but not known what, until it has been sent
                    await conn.execute(SESSION_SETTINGS, wanted, prepare=True)
                    conn.applied = wanted
                await cursor.execute(text, params, prepare=True)
            return await cursor.fetchall()

    async def _blocking(
        self, text: bytes, params: Sequence[object], settings: ReadSettings
    ) -> list[TupleRow]:
        pool = self._thread_pool()
        seconds = settings.seconds
        try:
            conn = pool.getconn(timeout=pool.timeout if seconds is None else min(pool.timeout, seconds))
        except PoolTimeout as waited:
            if seconds is not None and seconds < pool.timeout:
                raise DeadlineExceeded(
                    f"No connection became free within {seconds:g} s.",
                    hint="Raise timeout_seconds, or SVR_POOL_MAX_CONNECTIONS.",
                ) from None
            raise conns.told_why(pool, waited) from None
        broken = False
        conn.deadline = None if settings.seconds is None else time.monotonic() + settings.seconds
        try:
            return _asked(conn, text, params, settings.texts())
        except (DeadlineExceeded, psycopg.OperationalError) as error:
            broken = conns.ends_session(error)
            if broken or isinstance(error, DeadlineExceeded):
                conn.close()
            raise
        finally:
            conn.deadline = None
            broken = broken or conn.broken
            pool.putconn(conn)
            if broken:
                with contextlib.suppress(psycopg.Error):
                    pool.check()

    def _thread_pool(self) -> conns.ThreadPool:
        with self._lock:
            if self._closed:
                raise ClientClosed("This client is closed.", hint="Make a new one.")
            if self._threads is None:
                self._threads = conns.make_thread_pool(self._url, self._settings)
                asyncio.run_coroutine_threadsafe(conns.make_room(self._pool, self._settings), self._loop)
            return self._threads


def _asked(
    conn: ThreadSession, text: bytes, params: Sequence[object], wanted: tuple[str, ...]
) -> list[TupleRow]:
    cursor = conn.cursor(binary=True)
    if not conn.direct:
        with conn.pipeline():
            conn.execute(LOCAL_SETTINGS, (*wanted, conn.path), prepare=False)
            cursor.execute(text, params, prepare=False)
        return cursor.fetchall()
    if conn.applied != wanted:
        conn.applied = ()
        conn.execute(SESSION_SETTINGS, wanted, prepare=True)
        conn.applied = wanted
    return cursor.execute(text, params, prepare=True).fetchall()
