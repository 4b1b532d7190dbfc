"""A search from the caller's thread or an event loop: its deadline, lost connections, falling back, what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from svr_retrievers import AsyncSVRClient, Document, Settings, SVRClient, by_field, errors, hnsw
from svr_retrievers.testing.data import documents, topics, vector

if TYPE_CHECKING:
    from conftest import OwnServer

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
ROWS = topics(100, 8)


class Proxy:
    """Carries bytes between clients and a server until it is told to stand still."""

    def __init__(self, port: int) -> None:
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        self._target = port
        self.moving = threading.Event()
        self.moving.set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._door.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self._open += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.moving.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.moving.set()
        for one in (self._door, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def proxy(own_server: OwnServer) -> Iterator[Proxy]:
    made = Proxy(own_server.port)
    yield made
    made.close()


def _terminated(url: str) -> int:
    """Ends all sessions of our clients in this database; how many there were."""
    with psycopg.connect(url, autocommit=True) as conn:
        found = conn.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where application_name = 'svr' and datname = current_database()"
        ).fetchall()
    return len(found)


class Counting:
    """An embedder that counts what it is asked."""

    def __init__(self) -> None:
        self.queries = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector(len(text)) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.queries += 1
        return vector(len(text))


def test_a_frozen_server_ends_a_blocking_search_at_its_deadline(own_server: OwnServer, proxy: Proxy) -> None:
    url = own_server.url().replace(f":{own_server.port}/", f":{proxy.port}/")
    with SVRClient(url) as client:
        docs = client.create_collection("frozen", dimensions=4, if_exists="open")
        docs.add(documents(5))
        assert len(docs.search(vector=vector(1))) == 5
        proxy.moving.clear()
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            docs.search(vector=vector(1), timeout_seconds=0.5)
        assert 0.5 <= time.monotonic() - started < 5
        proxy.moving.set()
        assert len(docs.search(vector=vector(1))) == 5


def test_lost_connections_are_replaced_within_a_search(postgres_url: str) -> None:
    with SVRClient(postgres_url) as client:
        docs = client.create_collection("lost", dimensions=4)
        docs.add(documents(5))
        for _ in range(3):
            with ThreadPoolExecutor(4) as pool:
                assert set(pool.map(lambda n: len(docs.search(vector=vector(n))), range(8))) == {5}
            assert _terminated(postgres_url) >= 1
            assert len(docs.search(vector=vector(1))) == 5


async def test_lost_connections_are_replaced_within_an_awaited_search(postgres_url: str) -> None:
    async with AsyncSVRClient(postgres_url) as client:
        docs = await client.create_collection("lost awaited", dimensions=4)
        await docs.add(documents(5))
        for _ in range(3):
            await asyncio.gather(*(docs.search(vector=vector(n)) for n in range(8)))
            assert await asyncio.to_thread(_terminated, postgres_url) >= 1
            assert len(await docs.search(vector=vector(1))) == 5


async def test_a_cancelled_search_stops_on_the_server_and_gives_its_connection_back(
    postgres_url: str,
) -> None:
    waiting = (
        "select count(*) from pg_stat_activity where application_name = 'svr' and state = 'active'"
        " and wait_event_type = 'Lock' and datname = current_database()"
    )
    async with AsyncSVRClient(postgres_url, settings=Settings(pool_max_connections=1)) as client:
        docs = await client.create_collection("cancelled", dimensions=4)
        await docs.add(documents(5))
        holder = await psycopg.AsyncConnection.connect(postgres_url)
        watcher = await psycopg.AsyncConnection.connect(postgres_url, autocommit=True)

        async def until(wanted: int) -> None:
            async with asyncio.timeout(20):
                while await (await watcher.execute(waiting)).fetchone() != (wanted,):
                    pass

        async with holder, watcher:
            table = sql.Identifier("svr", f"c{docs._ref.id}_space")
            await holder.execute(sql.SQL("lock table {} in access exclusive mode").format(table))
            for _ in range(3):
                task = asyncio.create_task(docs.search(vector=vector(1)))
                await until(1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(0)
            await holder.rollback()
        assert len(await docs.search(vector=vector(1))) == 5
        await client.drop_collection("cancelled")


def test_an_interrupted_blocking_search_leaves_the_client_usable(postgres_url: str) -> None:
    with SVRClient(postgres_url, settings=Settings(pool_max_connections=2)) as client:
        docs = client.create_collection("interrupted", dimensions=4)
        docs.add(documents(5))
        table = sql.Identifier("svr", f"c{docs._async._ref.id}_space")
        assert len(docs.search(vector=vector(1))) == 5
        with psycopg.connect(postgres_url) as holder:
            holder.execute(sql.SQL("lock table {} in access exclusive mode").format(table))
            timer = threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                docs.search(vector=vector(1), timeout_seconds=20)
            timer.join()
            holder.rollback()
        for _ in range(3):
            assert len(docs.search(vector=vector(1))) == 5
        client.drop_collection("interrupted")


def test_a_stale_map_is_followed_and_the_text_embedded_once(postgres_url: str) -> None:
    embedder = Counting()
    with SVRClient(postgres_url) as client, SVRClient(postgres_url) as other:
        docs = client.create_collection("stale", dimensions=4, partition_by=by_field("k"), embedder=embedder)
        docs.add([Document("a", "text", {"k": 0})])
        there = other.collection("stale")
        for turn in range(1, 6):
            there.add([Document(f"{turn}", metadata={"k": turn}, vector=vector(turn))])
            asked = embedder.queries
            assert len(docs.search(text="question", limit=50)) == turn + 1
            assert embedder.queries == asked + 1
        client.drop_collection("stale")


def test_threads_that_share_a_client_get_their_own_answers(postgres_url: str) -> None:
    with SVRClient(postgres_url, settings=Settings(pool_max_connections=4)) as client:
        docs = client.create_collection("own", dimensions=8)
        docs.add([Document(f"{n}", vector=row) for n, row in enumerate(ROWS)])
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda n: docs.search(vector=ROWS[n % 100], limit=1).ids, range(600)))
        assert found == [(f"{n % 100}",) for n in range(600)]
        client.drop_collection("own")


def test_settings_of_a_search_do_not_reach_what_follows(postgres_url: str) -> None:
    """One connection for the loop: a write that waits longer than the search's deadline is not cut off."""

    async def slow(client: AsyncSVRClient) -> tuple[object, ...] | None:
        from svr_retrievers.backends.postgres.connection import borrowed

        async with borrowed(client._backend._pool) as conn:
            cursor = await conn.execute(
                "select current_setting('statement_timeout'), current_setting('plan_cache_mode'),"
                " current_setting('enable_sort'), pg_sleep(0.6)"
            )
            return await cursor.fetchone()

    async def main() -> None:
        async with AsyncSVRClient(postgres_url, settings=Settings(pool_max_connections=1)) as client:
            docs = await client.create_collection("leaks", dimensions=4, index=hnsw(min_rows=3))
            await docs.add(documents(5))
            await docs.refresh()
            await docs.search(vector=vector(1), limit=2, timeout_seconds=0.3, ef_search=99)
            assert (await slow(client))[:3] == ("0", "auto", "on")  # type: ignore[index]
            await client.drop_collection("leaks")

    asyncio.run(main())


async def test_each_search_runs_under_its_own_settings(postgres_url: str) -> None:
    async with AsyncSVRClient(postgres_url, settings=Settings(pool_max_connections=1)) as client:
        docs = await client.create_collection("each", dimensions=4)
        await docs.add(documents(5))
        for ef, seconds in ((99, 5), (None, 7), (300, 5), (99, 5)):
            await docs.search(vector=vector(1), ef_search=ef, timeout_seconds=seconds)
            async with client._backend._pool.connection() as conn:
                cursor = await conn.execute(
                    "select current_setting('hnsw.ef_search'), current_setting('statement_timeout')"
                )
                default = str(docs._ref.config.index.ef_search)
                assert await cursor.fetchone() == (str(ef or default), f"{seconds}s")
        await client.drop_collection("each")
