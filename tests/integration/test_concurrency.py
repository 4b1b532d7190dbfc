"""Threads, loops, forks, processes and cancellation: every way a client may be used at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from svr_retrievers import (
    AsyncSVRClient,
    Document,
    Settings,
    SVRClient,
    by_cluster,
    by_field,
    by_namespace,
    errors,
    hnsw,
)
from svr_retrievers.testing.data import document, documents, topics, vector

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def _script(body: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    head = "import sys\nfrom svr_retrievers import *\nfrom svr_retrievers.testing.data import *\n"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + body, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _rows_in_space(url: str, collection: int) -> list[tuple[str, int]]:
    with psycopg.connect(url) as conn:
        table = sql.Identifier("svr", f"c{collection}_space")
        return conn.execute(sql.SQL("select id, part from {} order by id, part").format(table)).fetchall()


def test_sixteen_threads_share_a_client(svr_client: SVRClient) -> None:
    collection = svr_client.create_collection("threads", dimensions=4, partition_by=by_field("worker"))

    def work(worker: int) -> int:
        for step in range(6):
            stored = [
                Document(f"{worker}-{step}-{n}", metadata={"worker": worker}, vector=vector(n))
                for n in range(3)
            ]
            collection.add(stored)
            found = collection.search(vector=vector(1), filter={"worker": worker}, limit=100)
            assert len(found) == 3 * (step + 1)
        return collection.delete(filter={"worker": worker, "missing": None}) if worker % 2 else 0

    with ThreadPoolExecutor(16) as pool:
        gone = sum(pool.map(work, range(16)))
    assert gone == 8 * 18
    assert collection.count() == 8 * 18
    assert sum(p.stats.rows for p in collection.refresh()) == 8 * 18


def test_more_calls_than_connections_wait_their_turn(postgres_url: str) -> None:
    with SVRClient(postgres_url, settings=Settings(pool_max_connections=1)) as client:
        collection = client.create_collection("queue", dimensions=4)
        collection.add(documents(10))
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda n: len(collection.search(vector=vector(n))), range(48)))
        assert found == [10] * 48
        client.drop_collection("queue")


def test_upserts_that_move_the_same_documents_leave_each_once(
    svr_client: SVRClient, postgres_url: str
) -> None:
    collection = svr_client.create_collection("moving", dimensions=4, partition_by=by_field("k"))
    others = [SVRClient(postgres_url) for _ in range(2)]
    held = [collection, *(other.collection("moving") for other in others)]

    def work(worker: int) -> None:
        for step in range(8):
            where = {"k": (worker + step) % 5}
            held[worker % 3].add(
                [Document(f"same-{n}", metadata=where, vector=vector(step)) for n in range(6)][
                    :: 1 - 2 * (worker % 2)
                ]
            )

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    for other in others:
        other.close()
    rows = _rows_in_space(postgres_url, collection._async._ref.id)
    assert [doc_id for doc_id, _ in rows] == [f"same-{n}" for n in range(6)]
    places = {h.id: h.partition for h in collection.search(vector=vector(1), limit=50)}
    assert places == {d.id: f"k={d.metadata['k']}" for d in collection.find()}
    assert {d.version for d in collection.find()} == {48}


def test_clients_that_create_partitions_in_turn_follow_each_other(
    svr_client: SVRClient, postgres_url: str
) -> None:
    here = svr_client.create_collection("turns", dimensions=4, partition_by=by_field("n"))
    with SVRClient(postgres_url) as other:
        there = other.collection("turns")
        for number in range(16):
            writer, reader = (here, there) if number % 2 else (there, here)
            writer.add([Document(f"{number:02d}", metadata={"n": number}, vector=vector(number))])
            assert reader.search(vector=vector(1), filter={"n": number}).ids == (f"{number:02d}",)
            assert reader.delete(filter={"n": number - 8}) == (number >= 8)
        assert here.count() == there.count() == 8
        assert {p.path for p in here.refresh()} == {p.path for p in there.refresh()}


def test_clusters_found_by_two_clients_at_once_are_found_once(
    svr_client: SVRClient, postgres_url: str
) -> None:
    here = svr_client.create_collection("clusters", dimensions=8, partition_by=by_cluster(4))
    rows = topics(400, 8, count=4)
    stored = [Document(f"{n:03d}", vector=row) for n, row in enumerate(rows)]
    with SVRClient(postgres_url) as other, ThreadPoolExecutor(2) as pool:
        there = other.collection("clusters")
        list(pool.map(lambda c, part: c.add(part), (here, there), (stored[:200], stored[200:])))
    assert here.count() == 400
    assert {p.path for p in here.refresh() if p.stats.rows} == {f"cluster-{n}" for n in range(4)}
    assert len(here.search(vector=rows[0], limit=500)) == 400
    assert len(_rows_in_space(postgres_url, here._async._ref.id)) == 400


def test_indexes_are_built_while_others_write(svr_client: SVRClient, postgres_url: str) -> None:
    here = svr_client.create_collection(
        "building", dimensions=16, partition_by=by_namespace(), index=hnsw(min_rows=50)
    )
    rows = topics(200, 16)

    def work(worker: int) -> None:
        with SVRClient(postgres_url) as client:
            mine = client.collection("building")
            for start in range(0, 200, 40):
                mine.add(
                    [Document(f"{worker}-{n}", vector=rows[n]) for n in range(start, start + 40)],
                    namespace=f"s{worker % 2}",
                )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert all(p.stats.indexed and p.stats.rows == 400 for p in here.refresh())
    with psycopg.connect(postgres_url) as conn:
        invalid = conn.execute("select count(*) from pg_index where not indisvalid").fetchone()
        locks = conn.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
    assert invalid == (0,)
    assert locks == (0,)


async def test_cancelled_searches_leave_the_pool_usable(postgres_url: str) -> None:
    async with AsyncSVRClient(postgres_url, settings=Settings(pool_max_connections=2)) as client:
        collection = await client.create_collection(
            "cancelled", dimensions=4, partition_by=by_field("category")
        )
        await collection.add(documents(30))
        cancelled = 0
        for turn in range(30):
            task = asyncio.create_task(collection.search(vector=vector(1), limit=30))
            for _ in range(turn % 15):
                await asyncio.sleep(0)
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            cancelled += isinstance(ended, asyncio.CancelledError)
            assert isinstance(ended, asyncio.CancelledError) or len(ended) == 30
        assert cancelled >= 2
        for _ in range(4):
            assert len(await collection.search(vector=vector(1), limit=50)) == 30
        await client.drop_collection("cancelled")


async def test_cancelled_writes_are_whole_or_not_there(postgres_url: str) -> None:
    async with AsyncSVRClient(postgres_url, settings=Settings(pool_max_connections=2)) as client:
        collection = await client.create_collection("halves", dimensions=4, partition_by=by_field("category"))
        for turn in range(20):
            batch = [document(n) for n in range(12)]
            task = asyncio.create_task(collection.add(batch, namespace=f"n{turn}"))
            for _ in range(turn * 3):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            stored = await collection.count(namespace=f"n{turn}")
            assert stored in (0, 12)
            assert len(await collection.search(vector=vector(1), limit=50, namespace=f"n{turn}")) == stored
        await client.drop_collection("halves")


def test_cancelling_the_awaitable_face_cancels_the_call(svr_client: SVRClient) -> None:
    collection = svr_client.create_collection("hopping", dimensions=4)
    collection.add(documents(10))

    async def main() -> int:
        for turn in range(10):
            task = asyncio.create_task(collection.aio.search(vector=vector(1)))
            for _ in range(turn):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return len(await collection.aio.search(vector=vector(1)))

    assert asyncio.run(main()) == 10
    assert len(collection.search(vector=vector(1))) == 10


def test_blocking_calls_work_under_a_running_loop(svr_client: SVRClient) -> None:
    async def notebook() -> int:
        collection = svr_client.create_collection("notebook", dimensions=4)
        collection.add(documents(5))
        return len(collection.search(vector=vector(1))) + len(await collection.aio.search(vector=vector(1)))

    assert asyncio.run(notebook()) == 10


def test_calling_the_blocking_client_from_its_own_loop_is_refused(svr_client: SVRClient) -> None:
    class Recursive:
        def __init__(self) -> None:
            self.seen: list[BaseException] = []

        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            return [await self.aembed_query(text) for text in texts]

        async def aembed_query(self, text: str) -> list[float]:
            try:
                svr_client.list_collections()
            except errors.CalledFromLoop as error:
                self.seen.append(error)
            return vector(len(text))

    embedder = Recursive()
    collection = svr_client.create_collection("recursive", dimensions=4, embedder=embedder)
    collection.add([Document("a", "text")])
    assert collection.search(text="text").ids == ("a",)
    assert len(embedder.seen) == 2
    assert "aio" in str(embedder.seen[0])


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_a_closed_client_says_so(kind: str, postgres_url: str) -> None:
    client = SVRClient("memory://" if kind == "memory" else postgres_url)
    collection = client.create_collection(f"closing {kind}", dimensions=4)
    collection.add(documents(3))
    client.close()
    client.close()
    calls = (
        client.list_collections,
        lambda: client.create_collection("x", dimensions=2),
        lambda: client.collection("x"),
        lambda: collection.search(vector=vector(1)),
        lambda: collection.add(documents(1)),
        collection.count,
        lambda: collection.get(["d001"]),
        collection.clear,
    )
    for call in calls:
        with pytest.raises(errors.ClientClosed):
            call()
    if kind == "postgres":
        with SVRClient(postgres_url) as again:
            assert again.collection(f"closing {kind}").count() == 3
            again.drop_collection(f"closing {kind}")


def test_a_forked_child_is_told_and_may_make_its_own_client(postgres_url: str) -> None:
    body = """
import os
client = SVRClient(sys.argv[1])
docs = client.create_collection("forked", dimensions=4, if_exists="open")
docs.add(documents(3))
child = os.fork()
if child == 0:
    try:
        docs.count()
        os._exit(1)
    except errors.ForkedClient:
        pass
    with SVRClient(sys.argv[1]) as mine:
        os._exit(0 if mine.collection("forked").count() == 3 else 2)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert docs.count() == 3
client.drop_collection("forked")
print("done")
"""
    done = _script(body, postgres_url)
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("url", ["memory://", "postgres"])
def test_the_interpreter_ends_promptly_with_an_open_client(url: str, postgres_url: str) -> None:
    body = """
client = SVRClient(sys.argv[1])
docs = client.create_collection("unclosed", dimensions=4, if_exists="open")
docs.add(documents(3))
print(len(docs.search(vector=vector(1))))
"""
    done = _script(body, postgres_url if url == "postgres" else url, timeout=20)
    assert (done.stdout.strip(), done.returncode, done.stderr) == ("3", 0, "")


def test_processes_that_create_the_same_things_at_once_agree(postgres_url: str) -> None:
    body = """
client = SVRClient(sys.argv[1])
docs = client.create_collection("together", dimensions=4, partition_by=by_field("category"), if_exists="open")
worker = int(sys.argv[2])
for step in range(6):
    docs.add([Document(f"{worker}-{step}", metadata={"category": f"c{step}"}, vector=vector(step))])
print(docs.count({"category": "c3"}) >= 1)
"""
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda n: _script(body, postgres_url, str(n)), range(3)))
    assert [d.stdout.strip() for d in done] == ["True"] * 3, [d.stderr for d in done]
    with SVRClient(postgres_url) as client:
        docs = client.collection("together")
        assert sorted(p.path for p in docs.refresh()) == [f"category=c{n}" for n in range(6)]
        assert docs.count() == 18
        assert len(docs.search(vector=vector(1), limit=50)) == 18
        client.drop_collection("together")


def test_clients_that_migrate_an_empty_database_at_once_agree(postgres_url: str) -> None:
    def work(number: int) -> list[str]:
        with SVRClient(postgres_url, settings=Settings(db_schema="raced")) as client:
            client.create_collection(f"c{number}", dimensions=2)
            return client.list_collections()

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(work, range(6)))
    assert set().union(*seen) == {f"c{n}" for n in range(6)}
