"""Everything a client does works through a pooler in transaction mode, and nothing is left behind in its sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from svr_retrievers import AsyncSVRClient, Collection, Document, SVRClient, by_field, errors, hnsw
from svr_retrievers.testing.data import topics

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
ROWS = topics(3_000, 16)
_CHANGED = (
    "select name, setting from pg_settings where source = 'session' and name not in"
    " ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'IntervalStyle', 'standard_conforming_strings')"
)


def stored(number: int, worker: int = 0) -> Document:
    metadata = {"k": f"k{number % 3}" if number < 600 else "k1", "n": number}
    return Document(f"{worker}-{number:04d}", f"text {number}", metadata, vector=ROWS[number])


@pytest.fixture(scope="module")
def client(pooled_url: str) -> Iterator[SVRClient]:
    with SVRClient(pooled_url) as client:
        yield client


@pytest.fixture(scope="module")
def collection(client: SVRClient) -> Collection:
    made = client.create_collection(
        "docs", dimensions=16, partition_by=by_field("k"), filter_fields={"n": int}, index=hnsw(min_rows=500)
    )
    made.add([stored(n) for n in range(3_000)])
    made.refresh()
    return made


def test_a_client_that_counts_on_its_session_breaks(pooled_url: str) -> None:
    """Else none of the tests here would prove a thing."""
    with contextlib.ExitStack() as stack:
        for _ in range(4):  # at once, so that the pooler opens all its sessions
            other = stack.enter_context(psycopg.connect(pooled_url))
            other.execute("select 1")
    with psycopg.connect(pooled_url, autocommit=True) as conn:
        seen = {conn.execute("select pg_backend_pid()", prepare=False).fetchone() for _ in range(8)}
        assert len(seen) > 1
        asked = (conn.execute("select 1 + %s", (1,), prepare=True) for _ in range(8))
        with pytest.raises(psycopg.Error, match="prepared statement"):
            list(asked)
        for _ in range(8):
            conn.execute("deallocate all", prepare=False)
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as conn:
        conn.execute("set lock_timeout = '77s'")
        shown = {conn.execute("show lock_timeout").fetchone() for _ in range(8)}
        assert shown != {("77s",)}
        for _ in range(8):
            conn.execute("reset lock_timeout")


def test_the_pooler_is_noticed(client: SVRClient, behind_url: tuple[str, str]) -> None:
    async def direct(made: AsyncSVRClient) -> bool:
        async with made._backend._pool.connection() as conn:
            return bool(conn.direct)

    assert not client._bridge.run(lambda: direct(client._async))
    with SVRClient(behind_url[1]) as other:
        assert other._bridge.run(lambda: direct(other._async))


def test_indexes_are_built(collection: Collection) -> None:
    assert [p.path for p in collection.partitions if p.stats.indexed] == ["k=k1"]
    plan = collection.explain(vector=ROWS[0], partitions=["k=k1"]).plan
    assert "_hnsw" in plan


@pytest.mark.parametrize(
    "options", [{}, {"nprobe": 1}, {"partitions": ["k=k1"]}, {"filter": {"n": {"$lt": 300}}}]
)
@pytest.mark.parametrize("exact", [False, True])
def test_searches_under_changing_settings(
    collection: Collection, options: dict[str, object], exact: bool
) -> None:
    truth = collection.search(vector=ROWS[7], exact=True, **options).ids
    for ef in (10, 200, 40, 200, 10, 1000):
        found = collection.search(vector=ROWS[7], ef_search=ef, exact=exact, timeout_seconds=20, **options)
        assert found.ids[0] == truth[0]
        assert len(found) == 10
        if exact:
            assert found.ids == truth


def test_ef_search_reaches_the_session_that_answers(collection: Collection) -> None:
    """A graph scan without a filter gives no more rows than ef_search, unless it is iterative."""
    plan = collection.explain(vector=ROWS[7], partitions=["k=k1"], limit=150, ef_search=10)
    assert "_hnsw" in plan.plan
    for _ in range(8):
        assert len(collection.search(vector=ROWS[7], partitions=["k=k1"], limit=150, ef_search=10)) == 150


async def test_awaited_searches_at_once(pooled_url: str, collection: Collection) -> None:
    truth = [collection.search(vector=row, exact=True).ids for row in ROWS[:40]]
    async with AsyncSVRClient(pooled_url) as client:
        docs = await client.collection("docs")
        found = await asyncio.gather(*(docs.search(vector=ROWS[n], ef_search=400 + n % 3) for n in range(40)))
    shared = [len(set(f.ids) & set(t)) for f, t in zip(found, truth, strict=True)]
    assert sum(shared) >= 0.97 * 400


def test_threads_write_read_and_delete_at_once(client: SVRClient, collection: Collection) -> None:
    made = client.create_collection(
        "busy", dimensions=16, partition_by=by_field("k"), filter_fields={"n": int}
    )

    def work(worker: int) -> int:
        for start in range(0, 60, 20):
            made.add([stored(n, worker) for n in range(start, start + 20)])
            made.add([stored(n, worker) for n in range(start, start + 20)])
            assert made.get([f"{worker}-{start:04d}"])[0].version == 2
            assert len(made.search(vector=ROWS[start], limit=5, filter={"n": start})) >= 1
            collection.search(vector=ROWS[start], ef_search=50 + worker)
        return made.delete([f"{worker}-{n:04d}" for n in range(30)])

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(work, range(12))) == 12 * 30
    assert made.count() == 12 * 30
    assert sum(p.stats.rows for p in made.refresh()) == 12 * 30
    client.drop_collection("busy")
    assert "busy" not in client.list_collections()


def test_fresh_rows_of_indexed_partitions_are_found_and_folded_in(client: SVRClient) -> None:
    made = client.create_collection(
        "tails", dimensions=16, partition_by=by_field("k"), index=hnsw(min_rows=50)
    )
    made.add([stored(n) for n in range(300)])
    made.refresh()
    made.add([stored(n, 1) for n in range(300)])
    assert any(p.stats.tail for p in made.partitions)
    assert made.search(vector=ROWS[5], limit=2, exact=True).ids == ("0-0005", "1-0005")
    assert {"0-0005", "1-0005"} <= set(made.search(vector=ROWS[5], limit=3).ids)
    made.refresh()
    assert made.search(vector=ROWS[5], limit=2, exact=True).ids == ("0-0005", "1-0005")
    assert made.count() == 600
    client.drop_collection("tails")


def test_two_clients_refresh_at_once_and_no_lock_stays(
    pooled_url: str, client: SVRClient, behind_url: tuple[str, str]
) -> None:
    here = client.create_collection(
        "twice", dimensions=16, partition_by=by_field("k"), index=hnsw(min_rows=10**6)
    )
    here.add([stored(n) for n in range(600)])
    with SVRClient(pooled_url) as other, ThreadPoolExecutor(2) as pool:
        there = other.collection("twice")
        list(pool.map(lambda c: c.refresh(), (here, there)))
    client.drop_collection("twice")
    with psycopg.connect(behind_url[1]) as conn:
        assert conn.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)
        assert conn.execute("select count(*) from pg_index where not indisvalid").fetchone() == (0,)


def test_opening_and_migrating(pooled_url: str) -> None:
    from svr_retrievers import Settings

    def work(number: int) -> list[str]:
        with SVRClient(pooled_url, settings=Settings(db_schema="raced")) as client:
            client.create_collection(f"c{number}", dimensions=2)
            return client.list_collections()

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(work, range(4)))
    assert set().union(*seen) == {f"c{n}" for n in range(4)}


def test_errors_leave_the_connection_usable(collection: Collection, client: SVRClient) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        collection.search(vector=ROWS[0], timeout_seconds=1e-6)
    with pytest.raises(errors.CollectionExists):
        client.create_collection("docs", dimensions=2)
    assert collection.search(vector=ROWS[3], exact=True).ids[0] == "0-0003"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_cancelling_a_search_stops_it_on_the_server(
    pooled_url: str, collection: Collection, behind_url: tuple[str, str]
) -> None:
    async with AsyncSVRClient(pooled_url) as client:
        docs = await client.collection("docs")
        table = sql.Identifier("svr", f"c{docs._ref.id}_space")
        admin = await psycopg.AsyncConnection.connect(behind_url[1], autocommit=True)
        watcher = await psycopg.AsyncConnection.connect(behind_url[1], autocommit=True)
        async with watcher, admin, admin.transaction():
            await admin.execute(sql.SQL("lock table {} in access exclusive mode").format(table))
            task = asyncio.create_task(docs.search(vector=ROWS[0]))
            await _until(watcher, "wait_event_type = 'Lock'", 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await _until(watcher, "wait_event_type = 'Lock'", 0)
        assert len(await docs.search(vector=ROWS[0])) == 10


async def _until(conn: psycopg.AsyncConnection[tuple[object, ...]], condition: str, wanted: int) -> None:
    """Waits until so many sessions are in this state."""
    question = sql.SQL(
        "select count(*) from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and "
    )
    async with asyncio.timeout(20):
        while True:
            found = await (await conn.execute(question + sql.SQL(condition))).fetchone()  # type: ignore[arg-type]
            if found == (wanted,):
                return


def test_nothing_is_left_in_the_sessions(pooled_url: str, collection: Collection) -> None:
    collection.search(vector=ROWS[0], ef_search=77, timeout_seconds=5)
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as conn:
        for _ in range(12):
            assert conn.execute(_CHANGED).fetchall() == []
            assert conn.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
            assert conn.execute("show search_path").fetchone() == ('"$user", public',)
