"""Opening, sharing and closing: lazily, once, from any thread and any event loop, without telling secrets."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd, dumps
from langchain_svr import SVRRetriever, SVRVectorStore

from svr_retrievers import SVRClient, by_field, by_hash
from svr_retrievers.errors import ClientClosed, CollectionMismatch, InputError, SVRError

SECRET = "s3cr3t-pa55"
URL = f"postgresql://someone:{SECRET}@127.0.0.1:1/nowhere?connect_timeout=2"
URLS = [
    pytest.param(URL, id="postgres", marks=pytest.mark.postgres),
    pytest.param(f"mongodb://someone:{SECRET}@127.0.0.1:1/nowhere", id="mongodb", marks=pytest.mark.mongodb),
    pytest.param(
        f"mongodb+srv://someone:{SECRET}@cluster0.invalid/nowhere", id="atlas", marks=pytest.mark.mongodb
    ),
]


@pytest.mark.parametrize("url", URLS)
def test_the_constructor_opens_nothing(url: str, embedding: Any) -> None:
    before = threading.active_count()
    store = SVRVectorStore(embedding, url=url)
    assert threading.active_count() == before
    assert embedding.calls == []
    store.close()


def test_a_given_client_stays_open(client: Any, embedding: Any) -> None:
    with SVRVectorStore(embedding, client=client, collection="shared") as store:
        store.add_texts(["x"])
    assert client.collection("shared").count() == 1
    client.drop_collection("shared")


def test_an_own_client_is_closed_once_and_for_all(embedding: Any) -> None:
    with SVRVectorStore(embedding, url="memory://") as store:
        store.add_texts(["x"])
        own = store.client
    with pytest.raises(ClientClosed):
        own.list_collections()
    with pytest.raises(ClientClosed):
        store.similarity_search("x")
    with pytest.raises(ClientClosed):
        store.add_texts(["x"])
    store.close()


async def test_an_own_client_is_closed_in_the_other_style_too(embedding: Any) -> None:
    async with SVRVectorStore(embedding, url="memory://") as store:
        await store.aadd_texts(["x"])
    with pytest.raises(ClientClosed):
        await store.asimilarity_search("x")
    with pytest.raises(ClientClosed):
        await store.aadd_texts(["x"])
    await store.aclose()


@pytest.mark.postgres
async def test_a_store_opens_its_own_client_on_postgresql(postgres_url: str, embedding: Any) -> None:
    async with SVRVectorStore(embedding, url=postgres_url, collection="own") as store:
        assert await store.asimilarity_search("x") == []
        await store.aadd_texts(["x"], ids=["1"])
    with SVRVectorStore(embedding, url=postgres_url, collection="own") as again:
        assert [d.id for d in again.similarity_search("x")] == ["1"]
        assert again.client.backend == "postgres"
        again.delete_collection()


def test_client_and_url_exclude_each_other(client: Any, embedding: Any) -> None:
    with pytest.raises(InputError, match="client"):
        SVRVectorStore(embedding, client=client, url="memory://")


def test_other_settings_than_the_collections_are_refused_even_when_reading(make_store: Any) -> None:
    make_store(metric="l2", partition_by=by_hash(2)).add_texts(["x"])
    with pytest.raises(CollectionMismatch):
        make_store(metric="cosine").similarity_search("x")
    with pytest.raises(CollectionMismatch):
        make_store(metric="l2", partition_by=by_field("y")).similarity_search("x")
    assert len(make_store(metric="l2").similarity_search("x")) == 1


def test_settings_reach_the_collection(make_store: Any) -> None:
    store = make_store(partition_by=by_field("kind"), filter_fields={"year": int}, metric="inner_product")
    store.add_texts(["x"], [{"kind": "a", "year": 1}])
    assert store.collection.partition_by == by_field("kind")
    assert store.collection.filter_fields == store.filter_fields == {"year": int}
    assert store.collection.metric == "inner_product"
    assert store.collection.dimensions == 48
    with pytest.raises(InputError, match="index"):
        make_store(collection="other", index="no index").add_texts(["x"])


def test_what_one_store_writes_another_reads(make_store: Any) -> None:
    writer, reader = make_store(), make_store()
    assert reader.similarity_search("x") == []
    writer.add_texts(["x"], ids=["1"])
    assert [d.id for d in reader.similarity_search("x")] == ["1"]


async def test_blocking_and_awaitable_use_may_be_mixed(make_store: Any) -> None:
    store = make_store()
    await store.aadd_texts(["one"], ids=["1"])
    await asyncio.to_thread(store.add_texts, ["two"], ids=["2"])
    assert len(store.similarity_search("one")) == len(await store.asimilarity_search("one")) == 2


def test_one_store_serves_several_event_loops(make_store: Any) -> None:
    store = make_store()
    found: list[int] = []

    async def work(i: int) -> None:
        await store.aadd_texts([f"text {i}"], ids=[str(i)])
        found.append(len(await store.asimilarity_search("text", k=1)))

    for i in range(3):
        asyncio.run(work(i))
    threads = [threading.Thread(target=asyncio.run, args=(work(i),)) for i in range(3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1] * 7
    assert len(store.get_by_ids([str(i) for i in range(7)])) == 7


async def test_many_tasks_may_make_the_first_write_together(make_store: Any) -> None:
    store = make_store(partition_by=by_hash(3))
    ids = await asyncio.gather(*(store.aadd_texts([f"text {i}"]) for i in range(12)))
    assert len(await store.aget_by_ids([id_ for [id_] in ids])) == 12


def test_many_threads_may_make_the_first_write_together(make_store: Any) -> None:
    store = make_store(partition_by=by_hash(3))
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda i: store.add_texts([f"text {i}"])[0], range(12)))
    assert len(store.get_by_ids(ids)) == 12


def test_many_threads_make_one_client(monkeypatch: pytest.MonkeyPatch, embedding: Any) -> None:
    made: list[SVRClient] = []
    barrier = threading.Barrier(6)

    def make(url: str | None) -> SVRClient:
        made.append(SVRClient(url))
        return made[-1]

    monkeypatch.setattr("langchain_svr.connection.SVRClient", make)

    def first(store: SVRVectorStore) -> list[str]:
        barrier.wait(30)
        return store.add_texts(["x"])

    with SVRVectorStore(embedding, url="memory://") as store:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(first, [store] * 6))
        assert len(made) == 1
        assert len(store.similarity_search("x", k=10)) == 6


async def test_waiting_for_the_database_leaves_the_loop_free(make_store: Any) -> None:
    """A callback that is ready while a search runs is served before the search returns."""
    store = make_store()
    await store.aadd_texts(["x"])
    order: list[str] = []
    asyncio.get_running_loop().call_soon(order.append, "loop")
    await store.asimilarity_search("x")
    order.append("search")
    assert order == ["loop", "search"]


async def test_a_slow_start_of_the_client_leaves_the_loop_free(
    monkeypatch: pytest.MonkeyPatch, embedding: Any
) -> None:
    started, free = threading.Event(), threading.Event()

    def slow(url: str | None) -> SVRClient:
        started.set()
        assert free.wait(30), "the event loop was blocked"
        return SVRClient(url)

    monkeypatch.setattr("langchain_svr.connection.SVRClient", slow)
    async with SVRVectorStore(embedding, url="memory://") as store:
        search = asyncio.create_task(store.asimilarity_search("x"))
        assert await asyncio.to_thread(started.wait, 30)
        free.set()
        assert await search == []


def test_from_texts_and_its_kin(client: Any, embedding: Any) -> None:
    options = {"client": client, "collection": "made", "partition_by": by_hash(2)}
    documents = [Document("doc", id="d", metadata={"n": 1}), Document("other")]
    try:
        made = SVRVectorStore.from_texts(iter(["text"]), embedding, [{"a": 1}], ids=["t"], **options)
        SVRVectorStore.from_documents(iter(documents), embedding, **options)
        SVRVectorStore.from_embeddings([("vec", [1.0] * 48)], embedding, ids=["v"], batch_size=1, **options)
        assert made.get_by_ids(["t", "d", "v"]) == [
            Document("text", id="t", metadata={"a": 1}), documents[0], Document("vec", id="v"),
        ]  # fmt: skip
        assert made.collection is not None
        assert made.collection.count() == 4
        assert made.collection.partition_by == by_hash(2)
    finally:
        client.drop_collection("made", missing_ok=True)


async def test_afrom_texts_and_its_kin(client: Any, embedding: Any) -> None:
    options = {"client": client, "collection": "amade", "namespace": "n"}
    try:
        made = await SVRVectorStore.afrom_texts(["text"], embedding, ids=["t"], batch_size=1, **options)
        await SVRVectorStore.afrom_documents([Document("doc", id="d")], embedding, **options)
        await SVRVectorStore.afrom_embeddings([("vec", [1.0] * 48)], embedding, ids=["v"], **options)
        assert [d.id for d in await made.aget_by_ids(["v", "d", "t"])] == ["v", "d", "t"]
        assert made.namespace == "n"
        assert set(embedding.calls) == {"aembed_documents"}
    finally:
        client.drop_collection("amade", missing_ok=True)


def test_a_misspelt_setting_is_refused(embedding: Any) -> None:
    with pytest.raises(TypeError, match="partition_bi"):
        SVRVectorStore.from_texts(["x"], embedding, url="memory://", partition_bi=by_hash(2))
    with pytest.raises(ValueError, match="cosinus"):
        SVRVectorStore(embedding, url="memory://", metric="cosinus")


def test_a_failed_from_texts_closes_the_client_it_made(
    monkeypatch: pytest.MonkeyPatch, embedding: Any
) -> None:
    made: list[SVRClient] = []

    def make(url: str | None) -> SVRClient:
        made.append(SVRClient(url))
        return made[-1]

    monkeypatch.setattr("langchain_svr.connection.SVRClient", make)
    with pytest.raises(SVRError):
        SVRVectorStore.from_texts(["x"], embedding, [{"bad": object()}], url="memory://")
    with pytest.raises(ClientClosed):
        made[0].list_collections()


@pytest.mark.parametrize("url", URLS)
def test_the_password_is_in_no_repr_and_no_dump(url: str, embedding: Any) -> None:
    store = SVRVectorStore(embedding, url=url, collection="docs")
    retriever = SVRRetriever(vectorstore=store)
    chain = retriever | (lambda documents: documents)
    tool = store.as_tool(name="t", description="d")
    for thing in (store, retriever, store.as_retriever(), chain, tool, store._connection, vars(store)):
        for shown in (repr(thing), str(thing), dumps(thing), str(dumpd(thing))):
            assert SECRET not in shown
    assert SECRET not in str(retriever.to_json()) + str(vars(store._connection))
    assert "docs" in repr(store)


@pytest.mark.usefixtures("abandoned_sockets")
@pytest.mark.parametrize("url", URLS)
async def test_the_password_is_in_no_error(url: str, embedding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVR_CONNECT_TIMEOUT_SECONDS", "2")
    store = SVRVectorStore(embedding, url=url)
    errors: list[SVRError] = []
    start = time.monotonic()
    with pytest.raises(SVRError) as caught:
        store.similarity_search("x", timeout_seconds=5)
    errors.append(caught.value)
    with pytest.raises(SVRError) as caught:
        await store.aadd_texts(["x"])
    errors.append(caught.value)
    assert time.monotonic() - start < 120
    for error in errors:
        assert SECRET not in "".join(traceback.format_exception(error)) + repr(error)
    store.close()
