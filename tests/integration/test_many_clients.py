"""Many callers at once, in threads and on event loops, share few connections; a server that is full says so."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from svr_retrievers import AsyncSVRClient, Document, Settings, SVRClient, by_field, errors
from svr_retrievers.testing.data import topics

if TYPE_CHECKING:
    from conftest import OwnServer

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
ROWS = topics(200, 8)


def _docs(worker: int, numbers: range) -> list[Document]:
    return [Document(f"{worker}-{n}", metadata={"worker": worker}, vector=ROWS[n]) for n in numbers]


def _connections(url: str) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute(
            "select count(*) from pg_stat_activity where application_name = 'svr' and datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_sixty_four_callers_write_search_delete_and_count(postgres_url: str) -> None:
    """Half of them threads with one blocking client, half tasks with an asynchronous one."""
    settings = Settings(pool_max_connections=10)
    with SVRClient(postgres_url, settings=settings) as blocking:
        shared = blocking.create_collection("many", dimensions=8, partition_by=by_field("worker"))

        def thread(worker: int) -> int:
            for step in range(3):
                shared.add(_docs(worker, range(4 * step, 4 * step + 4)))
                found = shared.search(vector=ROWS[1], filter={"worker": worker}, limit=50)
                assert set(found.ids) == {f"{worker}-{n}" for n in range(4 * step + 4)}
            assert shared.delete([f"{worker}-0"]) == 1
            return shared.count({"worker": worker})

        async with AsyncSVRClient(postgres_url, settings=settings) as client:
            docs = await client.collection("many")

            async def task(worker: int) -> int:
                for step in range(3):
                    await docs.add(_docs(worker, range(4 * step, 4 * step + 4)))
                    found = await docs.search(vector=ROWS[1], filter={"worker": worker}, limit=50)
                    assert set(found.ids) == {f"{worker}-{n}" for n in range(4 * step + 4)}
                assert await docs.delete([f"{worker}-0"]) == 1
                return await docs.count({"worker": worker})

            with ThreadPoolExecutor(32) as pool:
                loop = asyncio.get_running_loop()
                threads = [loop.run_in_executor(pool, thread, n) for n in range(32)]
                left = await asyncio.gather(*threads, *(task(n) for n in range(32, 64)))
            assert left == [11] * 64
            # Ten each, and five that the blocking client's loop opened before its threads searched.
            assert _connections(postgres_url) <= 25
            assert await docs.count() == 64 * 11


def test_threads_and_the_loop_share_the_connections_of_a_client(postgres_url: str) -> None:
    with SVRClient(postgres_url, settings=Settings(pool_max_connections=4)) as client:
        docs = client.create_collection("shared", dimensions=8)
        docs.add(_docs(0, range(50)))

        def work(number: int) -> tuple[int, int]:
            found = docs.search(vector=ROWS[number % 50], limit=1)
            assert found.ids == (f"0-{number % 50}",)
            return docs.count(), _connections(postgres_url)

        with ThreadPoolExecutor(16) as pool:
            seen = list(pool.map(work, range(96)))
    assert {rows for rows, _ in seen} == {50}
    assert max(open_ for _, open_ in seen) <= 4


def test_a_full_server_is_told_and_forgotten(own_server: OwnServer) -> None:
    settings = Settings(connect_timeout_seconds=2, connect_retry_seconds=0.5)
    with SVRClient(own_server.url(), settings=settings) as client:
        docs = client.create_collection("full", dimensions=8)
        docs.add(_docs(0, range(10)))
        with ExitStack() as stack:
            others = (stack.enter_context(psycopg.connect(own_server.url())) for _ in range(200))
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                list(others)
            with pytest.raises(errors.ConnectionFailed, match="no connection left") as caught:
                docs.search(vector=ROWS[1])
            assert "max_connections" in caught.value.hint
            with pytest.raises(errors.ConnectionFailed, match="no connection left"):
                SVRClient(own_server.url(), settings=settings)
            assert docs.count() == 10
        assert len(docs.search(vector=ROWS[1])) == 10
