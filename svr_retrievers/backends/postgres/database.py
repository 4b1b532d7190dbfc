"""An open database: its pools, the control tables, and the physical tables of its collections."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres.asking import Asker
from svr_retrievers.backends.postgres.connection import Connection, Pool
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.errors import ClientClosed, ConnectionFailed
from svr_retrievers.settings import Settings


class Database:
    """One PostgreSQL database, or the embedded server when there is no URL."""

    def __init__(self, url: str | None, path: Path | None, settings: Settings) -> None:
        self._url = url
        self._path = path
        self._address = ""
        self._settings = settings
        self._catalog = Catalog(settings.db_schema)
        self._opened: Pool | None = None
        self._reads: Asker | None = None
        self._tables: dict[int, Tables] = {}

    @property
    def _pool(self) -> Pool:
        if self._opened is None:
            raise ClientClosed("This client is closed.", hint="Make a new one.")
        return self._opened

    @property
    def _asker(self) -> Asker:
        if self._reads is None:
            raise ClientClosed("This client is closed.", hint="Make a new one.")
        return self._reads

    async def open(self) -> None:
        self._address = url = self._url if self._url is not None else await _embedded_url(self._path)
        conns.check_url(url)
        seconds = self._settings.connect_timeout_seconds
        try:
            with anyio.fail_after(seconds + self._settings.connect_retry_seconds):
                await self._prepare(url)
        except TimeoutError:
            raise ConnectionFailed(
                f"Opening took longer than {seconds:g} s: the server does not answer, or another client is migrating.",
                hint="Try again, or raise SVR_CONNECT_TIMEOUT_SECONDS.",
            ) from None
        pool = conns.make_pool(url, self._settings)
        with conns.translated():
            await pool.open()
        self._opened = pool
        self._reads = Asker(url, pool, self._settings)

    async def _prepare(self, url: str) -> None:
        conn = await conns.connect(url, self._settings)
        async with conn:
            await conns.ensure_extension(conn)
            with conns.translated():
                await self._catalog.migrate(conn)
                await self._catalog.admit(conn)

    async def close(self) -> None:
        if self._opened is not None:
            pool, self._opened = self._opened, None
            await self._asker.close()
            await conns.settled(pool)

    def tables(self, ref: CollectionRef) -> Tables:
        if ref.id not in self._tables:
            self._tables[ref.id] = Tables(self._settings.db_schema, ref)
        return self._tables[ref.id]

    def _reading(self, ref: CollectionRef) -> AbstractAsyncContextManager[Connection]:
        return conns.guarded(self._pool, ref.config.name, transaction=False)

    def _transaction(self, ref: CollectionRef) -> AbstractAsyncContextManager[Connection]:
        return conns.guarded(self._pool, ref.config.name, transaction=True)


async def _embedded_url(path: Path | None) -> str:
    from svr_retrievers.embedded import start

    return await start(path)
