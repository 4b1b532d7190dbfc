"""What several clients, and searches beside writers, may do to each other on MongoDB."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from bson.binary import Binary, BinaryVectorDtype
from pymongo import AsyncMongoClient, MongoClient

from svr_retrievers import AsyncSVRClient, Document, SVRClient, by_field, hnsw
from svr_retrievers.backends.mongodb.indexing import SearchIndexes
from svr_retrievers.backends.mongodb.targets import Physical, Target
from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.errors import CollectionMismatch, ConfigError, MissingExtra
from svr_retrievers.testing.data import nearest, topics
from svr_retrievers.testing.mongodb import AtlasStandIn, Mongod, Settings
from svr_retrievers.testing.mongodb.server import binary
from svr_retrievers.testing.mongodb.waiting import until

VECTOR = Binary.from_vector([1.0] * 8, BinaryVectorDtype.FLOAT32)


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    """Indexes take half a second to build, and writes a fifth to reach them."""
    try:
        binary()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    with Mongod() as server, AtlasStandIn(server.uri, Settings(build=0.5, refresh=0.2)) as atlas:
        yield atlas.uri


pytestmark = pytest.mark.mongodb


def test_two_clients_that_refresh_at_once_leave_one_index_a_partition(slow: str) -> None:
    rows = topics(90, 8, seed=1)
    stored = [Document(f"{n:03d}", metadata={"k": n % 3}, vector=v) for n, v in enumerate(rows)]
    with SVRClient(slow) as one, SVRClient(slow) as two:
        made = one.create_collection(
            "raced", dimensions=8, partition_by=by_field("k"), index=hnsw(min_rows=1, mode="views")
        )
        made.add(stored)
        held = two.collection("raced")
        threads = [threading.Thread(target=each.refresh) for each in (made, held, made, held)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made.refresh()
        with MongoClient(slow) as raw:
            [body] = list(raw["svr"]["svr_metadata.collections"].find({"_id": "raced"}))
            physical = Physical.of_json(body["physical"])
            views = [n for n in raw["svr"].list_collection_names() if n.startswith("svr.view.")]
        assert sorted(t.partition or 0 for t in physical.targets) == [0, 1, 2, 3]
        assert sorted(views) == sorted(t.view for t in physical.targets if t.view)
        assert "building" not in body
        for client in (one, two):
            found = client.collection("raced").search(vector=rows[0], limit=90)
            assert list(found.ids) == nearest(rows[0], stored, made.metric, 90)


def test_a_view_that_came_too_late_is_not_taken() -> None:
    rest, own = Target("r"), Target("a", "va", 1)
    both = Physical("source", (rest, own))
    assert both.taking(Target("b", "vb", 1)) is None
    assert both.taking(Target("s", "vs", excluded=())) is None
    newer = both.taking(Target("s", "vs", excluded=(1,)))
    assert newer is not None
    assert [t.name for t in newer.targets] == ["a", "s"]


def test_a_row_that_is_replaced_under_the_probe_proves_nothing(
    slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index names it by its old entry, the server answers with its new stamp, below which rows are not indexed."""
    [near, far] = topics(2, 8, seed=2)
    rows = topics(40, 8, seed=3)
    seen, written, finished = SearchIndexes.waiting, threading.Event(), threading.Event()

    async def waiting(self: SearchIndexes, ref: CollectionRef, target: Target) -> list[int]:
        found = await seen(self, ref, target)
        if found and not written.is_set():
            written.set()
            async with AsyncSVRClient(slow) as other:
                again = await other.collection("marked")
                await _settled(slow, found)
                await _pause(slow, paused=True)
                for number, row in enumerate(rows):
                    await again.add([Document(f"n{number}", vector=row)])
                await again.add([Document("x", "replaced", vector=far)])
            finished.set()
        return found

    with SVRClient(slow) as client:
        made = client.create_collection("marked", dimensions=8, index=hnsw(min_rows=0))
        made.refresh()
        monkeypatch.setattr(SearchIndexes, "waiting", waiting)
        made.add([Document("x", "first", vector=near)])
        try:
            until(lambda: made.search(vector=far, limit=1) and finished.is_set())
            for number, row in enumerate(rows):
                assert made.search(vector=row, limit=1).ids == (f"n{number}",)
        finally:
            asyncio.run(_pause(slow, paused=False))


async def _pause(url: str, *, paused: bool) -> None:
    async with AsyncMongoClient(url) as raw:
        await raw.admin.command({"standIn": 1, "paused": paused})


async def _settled(url: str, stamps: list[int]) -> None:
    """Until the index holds the rows with these stamps."""
    async with AsyncMongoClient(url) as raw:
        database = raw["svr"]
        [body] = await database["svr_metadata.collections"].find({"_id": "marked"}).to_list()
        documents = database[f"svr.documents.{body['id']}"]
        stage = {"index": f"svr_{body['id']}_0", "path": "embedding", "queryVector": VECTOR, "exact": True}
        stage |= {"limit": 10, "filter": {"svr.w": {"$in": stamps}}}
        while not await (await documents.aggregate([{"$vectorSearch": stage}])).to_list():  # noqa: ASYNC110 - polls
            await asyncio.sleep(0.02)


def test_exact_is_exact_where_scores_of_32_bits_are_all_alike(mongodb_url: str) -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(size=16)
    rows = np.asarray(base + rng.normal(size=(400, 16)) * 1e-5, dtype=np.float32)
    stored = [Document(f"{n:03d}", vector=row) for n, row in enumerate(rows)]
    with SVRClient(mongodb_url) as client, SVRClient("memory://") as memory:
        for metric in ("cosine", "l2"):
            options = {"dimensions": 16, "metric": metric, "index": hnsw(min_rows=0)}
            here = client.create_collection(metric, **options)
            there = memory.create_collection(metric, **options)
            here.add(stored)
            there.add(stored)
            here.refresh()
            for query in rows[:5]:
                asked = {"vector": query, "limit": 10, "exact": True}
                assert here.search(**asked).ids == there.search(**asked).ids


def test_a_scan_beside_deletes_is_never_short(slow: str) -> None:
    rows = topics(600, 8, seed=7)
    with SVRClient(slow) as client, SVRClient(slow) as other, MongoClient(slow) as raw:
        raw.admin.command({"standIn": 1, "build": 60})
        try:
            made = client.create_collection("scanned", dimensions=8)
            made.add([Document(f"{n}", vector=row) for n, row in enumerate(rows)])
            doomed = [str(n) for n in np.argsort(-(rows @ rows[0]))[:300]]
            held = other.collection("scanned")
            worker = threading.Thread(target=lambda: [held.delete([each]) for each in doomed])
            worker.start()
            while worker.is_alive():
                found = made.search(vector=rows[0], limit=50)
                assert len(found) == 50
                assert found.incomplete is None
            worker.join()
        finally:
            raw.admin.command({"standIn": 1, "build": 0.5})


def test_a_cancelled_add_does_not_hold_up_the_next(mongodb_url: str) -> None:
    async def both() -> float:
        async with AsyncSVRClient(mongodb_url) as client:
            made = await client.create_collection("cut", dimensions=2, partition_by=by_field("k"))
            loop = asyncio.get_running_loop()
            longest = 0.0
            for number in range(12):
                task = asyncio.create_task(
                    made.add([Document(f"a{number}", metadata={"k": number}, vector=[1, 0])])
                )
                await asyncio.sleep(0.002 * number)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                started = loop.time()
                await made.add([Document(f"b{number}", metadata={"k": -number}, vector=[1, 0])])
                longest = max(longest, loop.time() - started)
            return longest

    assert asyncio.run(both()) < 8  # a slot that stayed closed would open by itself after ten seconds


@pytest.mark.parametrize("kind", ["int8", "bit"])
def test_small_numbers_can_be_refreshed_and_checked(mongodb_url: str, kind: str) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(-128, 128, (600, 16)) if kind == "int8" else rng.integers(0, 2, (600, 64))
    with SVRClient(mongodb_url) as client:
        made = client.create_collection(
            kind,
            dimensions=rows.shape[1],
            metric="cosine" if kind == "int8" else "l2",
            partition_by=by_field("k"),
            index=hnsw(vectors=kind, min_rows=0),
        )
        made.add([Document(str(n), metadata={"k": n % 3}) for n in range(600)], vectors=rows.astype(float))
        made.refresh()
        assert all(check.measured > 0.5 for check in made.check_recall(samples=20, targets=(0.95,)))


def test_views_are_refused_at_once_where_the_server_has_none(slow: str) -> None:
    with MongoClient(slow) as raw:
        raw.admin.command({"standIn": 1, "serverVersion": "8.0.4"})
        try:
            with SVRClient(slow) as client:
                with pytest.raises(ConfigError, match=r"8\.1"):
                    client.create_collection("v", dimensions=2, index=hnsw(mode="views"))
                assert "v" not in client.list_collections()
        finally:
            raw.admin.command({"standIn": 1, "serverVersion": "8.1.0"})


def test_opening_with_another_index_is_named(mongodb_url: str) -> None:
    with SVRClient(mongodb_url) as client:
        client.create_collection("a", dimensions=8, index=hnsw(vectors="int8"))
        with pytest.raises(CollectionMismatch, match="index"):
            client.create_collection("a", dimensions=8, index=hnsw(), if_exists="open")
        assert client.create_collection("a", dimensions=8, if_exists="open").count() == 0
