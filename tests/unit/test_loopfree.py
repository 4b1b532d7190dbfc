"""Calls from other event loops and from threads, cancellation, and what embedders may do wrong."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import anyio
import numpy as np
import pytest

from svr_retrievers import AsyncSVRClient, Document, SVRClient, by_field
from svr_retrievers.embedding.protocol import AsyncEmbedder, Embedder, embed_documents, embed_query
from svr_retrievers.errors import CalledFromLoop, ConfigError, EmbeddingFailed, ForkedClient, InputError
from svr_retrievers.loopfree import Bridge, LoopFreeClient, LoopFreeCollection
from svr_retrievers.model import Metric

DOCUMENTS = [Document(str(i), metadata={"cat": "ab"[i % 2]}, vector=[1.0, float(i)]) for i in range(6)]


class Lengths:
    """A blocking embedder that remembers the threads it ran in."""

    def __init__(self):
        self.threads = set()

    def embed_documents(self, texts):
        self.threads.add(threading.get_ident())
        return [[1.0, float(len(t))] for t in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class AsyncLengths(Lengths):
    """Has both faces; the awaitable one must be used."""

    async def aembed_documents(self, texts):
        await anyio.lowlevel.checkpoint()
        return np.array([[1.0, float(len(t))] for t in texts])

    async def aembed_query(self, text):
        return (await self.aembed_documents([text]))[0]


@dataclass
class Returning:
    """Returns whatever it is told to, or raises it."""

    value: object

    def embed_documents(self, texts):
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    def embed_query(self, text):
        return self.embed_documents([text])


@pytest.fixture
def client():
    with SVRClient("memory://") as made:
        yield made


async def test_every_call_may_be_awaited_from_another_loop(client):
    made = await client.aio.create_collection("c", dimensions=2, partition_by=by_field("cat"))
    assert isinstance(made, LoopFreeCollection)
    assert isinstance(client.aio, LoopFreeClient)
    assert (await made.add(DOCUMENTS)).inserted == 6
    assert await made.count() == 6
    assert len(await made.search(vector=[1, 0], limit=3)) == 3
    assert (await made.route(filter={"cat": "a"})).paths == ("cat=a",)
    explained = await made.explain(vector=[1, 0], limit=2, analyze=True)
    assert explained.recall == 1.0
    assert [d.id for d in await made.get(["3", "1"])] == ["3", "1"]
    assert [d.id for d in await made.find({"cat": "b"})] == ["1", "3", "5"]
    assert await made.delete(["1"]) == 1
    assert await made.delete(filter={"cat": "b"}) == 2
    assert (await made.refresh()).rows == 3
    again = await client.aio.collection("c")
    assert isinstance(again, LoopFreeCollection)
    assert await again.clear() == 3
    assert await client.aio.list_collections() == ["c"]
    await client.aio.drop_collection("c")
    assert client.list_collections() == []


def test_the_same_object_serves_many_loops_and_threads_at_once(client):
    collection = client.create_collection("c", dimensions=2, partition_by=by_field("cat"))
    collection.add(DOCUMENTS)
    found, start = [], threading.Barrier(6)

    async def ask():
        answers = await asyncio.gather(*(collection.aio.search(vector=[1, i], limit=2) for i in range(5)))
        found.extend(a.ids for a in answers)

    def work(number):
        start.wait(10)
        if number % 2:
            asyncio.run(ask())
        else:
            found.extend(collection.search(vector=[1, i], limit=2).ids for i in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 30
    assert len(set(found)) == len({tuple(collection.search(vector=[1, i], limit=2).ids) for i in range(5)})


async def test_views_share_their_state(client):
    collection = client.create_collection(
        "c", dimensions=2, partition_by=by_field("cat"), filter_fields={"year": int}
    )
    one, other = collection.aio, collection.aio
    await one.add(DOCUMENTS)
    for seen in (one, other, collection):
        assert seen.name == "c"
        assert seen.dimensions == 2
        assert seen.metric is Metric.COSINE
        assert seen.filter_fields == {"year": int}
        assert seen.partition_by == by_field("cat")
        assert seen.partitions.rows == 6
        assert seen.embedder is None
    assert "6 rows" in repr(collection)
    assert repr(collection).startswith("Collection('c'")
    assert client.aio.url == client.url == "memory://"
    assert client.aio.backend == client.backend == "memory"


async def test_cancelling_the_caller_cancels_the_call_on_its_own_loop(client):
    began, ended = threading.Event(), threading.Event()

    class Hanging(AsyncLengths):
        async def aembed_documents(self, texts):
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

    collection = client.create_collection("c", dimensions=2, embedder=Hanging())
    task = asyncio.create_task(collection.aio.add([Document("a", "text")]))
    assert await asyncio.to_thread(began.wait, 20)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 20)
    assert await collection.aio.count() == 0


async def test_the_home_loop_itself_may_await_but_not_block(client):
    collection = client.create_collection("c", dimensions=2)
    collection.add(DOCUMENTS)
    bridge = collection._bridge

    async def on_home_loop():
        with pytest.raises(CalledFromLoop, match="aio"):
            collection.count()
        return await collection.aio.count()

    assert await bridge.hop(on_home_loop) == 6


async def test_a_client_from_before_a_fork_is_refused(client):
    @dataclass
    class Elsewhere:
        pid: int = -1
        thread: int = 0
        portal: object = None

    bridge = Bridge(Elsewhere())
    with pytest.raises(ForkedClient, match="child"):
        bridge.run(lambda: None)
    with pytest.raises(ForkedClient):
        await bridge.hop(lambda: None)


async def test_errors_cross_loops_unchanged(client):
    collection = client.create_collection("c", dimensions=2)
    with pytest.raises(InputError, match="limit"):
        await collection.aio.search(vector=[1, 0], limit=0)
    with pytest.raises(ConfigError):
        SVRClient("mysql://x")


async def test_the_awaitable_client_opens_and_closes_from_any_loop():
    async with AsyncSVRClient("memory://") as own:
        assert await own.list_collections() == []
    blocking = SVRClient("memory://")
    async with blocking.aio as same:
        assert await same.list_collections() == []
    with pytest.raises(RuntimeError, match="closed"):
        blocking.list_collections()


@pytest.mark.parametrize("make", [Lengths, AsyncLengths])
async def test_blocking_embedders_leave_the_loop_and_awaitable_ones_are_awaited(make):
    embedder = make()
    array = await embed_documents(embedder, ["a", "bcd"])
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 1], [1, 3]]
    assert (await embed_query(embedder, "xy")).tolist() == [1, 2]
    assert isinstance(embedder, Embedder)
    assert isinstance(embedder, AsyncEmbedder) is (make is AsyncLengths)
    assert threading.get_ident() not in embedder.threads
    assert bool(embedder.threads) is (make is Lengths)


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[1.0, 2.0]],
        [[1.0, 2.0]] * 3,
        [[1.0, 2.0], [3.0]],
        [1.0, 2.0],
        "text",
        None,
        [["a", "b"], ["c", "d"]],
        [[10**400, 1], [1, 1]],
        np.zeros((2, 2, 2)),
    ],
)
async def test_an_embedder_that_returns_something_else_has_failed(value):
    with pytest.raises(EmbeddingFailed):
        await embed_documents(Returning(value), ["a", "b"])


@pytest.mark.parametrize("value", [[[1.0, 2.0]], "text", None, 1.0, ["a"], [[1.0], [2.0, 3.0]], [10**400]])
async def test_an_embedder_that_returns_no_query_vector_has_failed(value):
    with pytest.raises(EmbeddingFailed):
        await embed_query(Returning(value), "a")


async def test_a_failing_embedder_is_named_with_its_cause_and_without_its_words():
    cause = RuntimeError("key sk-secret is invalid")
    with pytest.raises(EmbeddingFailed, match="Returning failed: RuntimeError") as caught:
        await embed_query(Returning(cause), "a")
    assert caught.value.__cause__ is cause
    assert "secret" not in str(caught.value)
    own = InputError("too long")
    with pytest.raises(InputError) as passed:
        await embed_documents(Returning(own), ["a"])
    assert passed.value is own


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (RuntimeError("down"), EmbeddingFailed),
        ([[1.0, 2.0, 3.0]], InputError),
        ([[float("nan"), 1.0]], InputError),
        ([[0.0, 0.0]], InputError),
        ([[1e300, 0.0]], InputError),
        ([], EmbeddingFailed),
    ],
)
def test_nothing_is_written_when_the_embedder_fails(client, value, error):
    collection = client.create_collection("c", dimensions=2, embedder=Returning(value))
    with pytest.raises(error):
        collection.add([Document("a", "text"), Document("b", vector=[1.0, 0.0])])
    assert collection.count() == 0


def test_an_embedder_is_asked_for_its_dimensions_and_serves_both_ways(client):
    for name, embedder in (("sync", Lengths()), ("async", AsyncLengths())):
        collection = client.create_collection(name, embedder=embedder)
        assert collection.dimensions == 2
        collection.add([Document("a", "x"), Document("b", "xxxxxx")])
        assert collection.search(text="y", limit=1).ids == ("a",)
        assert collection.search(text="y", limit=1).timings.embed_ms > 0
