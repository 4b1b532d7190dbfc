"""Opening, sharing, copying and closing: lazily, once, from any thread and event loop, without telling secrets."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.vector_stores.svr import SVRVectorStore

from svr_retrievers import SVRClient, by_cluster, by_field, by_hash, by_time, flat, hnsw
from svr_retrievers.errors import ClientClosed, CollectionMismatch, InputError, SVRError, UsageError

SECRET = "s3cr3t-pa55"
URL = f"postgresql://someone:{SECRET}@127.0.0.1:1/nowhere?connect_timeout=2"
URLS = [
    pytest.param(URL, id="postgres", marks=pytest.mark.postgres),
    pytest.param(f"mongodb://someone:{SECRET}@127.0.0.1:1/nowhere", id="mongodb", marks=pytest.mark.mongodb),
    pytest.param(
        f"mongodb+srv://someone:{SECRET}@cluster0.invalid/nowhere", id="atlas", marks=pytest.mark.mongodb
    ),
]
OPENED = "llama_index.vector_stores.svr.connection.SVRClient"
QUERY = VectorStoreQuery(query_embedding=[1.0] * 48, similarity_top_k=99)


@pytest.mark.parametrize("url", URLS)
def test_the_constructor_opens_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPENED, lambda _url: pytest.fail("opened"))
    store = SVRVectorStore(dimensions=3, url=url)
    store.close()


def test_a_given_client_stays_open(client: SVRClient, make_node: Any) -> None:
    with SVRVectorStore(client=client, dimensions=48, collection="shared") as store:
        store.add([make_node("1")])
        assert store.client is client
    with pytest.raises(ClientClosed):
        store.get_nodes()
    assert client.collection("shared").count() == 1
    client.drop_collection("shared")


async def test_an_own_client_is_closed_for_both_styles(make_node: Any) -> None:
    with SVRVectorStore(url="memory://", dimensions=48) as store:
        store.add([make_node("1")])
        own = store.client
        assert await store.aclient.list_collections() == ["default"]
    with pytest.raises(ClientClosed):
        own.list_collections()
    with pytest.raises(ClientClosed):
        store.query(QUERY)
    with pytest.raises(ClientClosed):
        await store.aquery(QUERY)
    store.close()


@pytest.mark.postgres
async def test_a_store_opens_its_own_client_on_postgresql(postgres_url: str, make_node: Any) -> None:
    with SVRVectorStore(url=postgres_url, dimensions=48, collection="own") as store:
        await store.async_add([make_node("1")])
        assert store.client.backend == "postgres"
    with SVRVectorStore(url=postgres_url, dimensions=48, collection="own") as again:
        assert again.query(QUERY).ids == ["1"]
        again.client.drop_collection("own")


def test_client_and_url_exclude_each_other(client: SVRClient) -> None:
    with pytest.raises(InputError, match="client"):
        SVRVectorStore(client=client, url="memory://", dimensions=3)


def test_settings_reach_the_collection(make_store: Any) -> None:
    store = make_store(partition_by=by_field("kind"), filter_fields={"year": int}, metric="l2", index=flat())
    found = store.open()
    assert (found.partition_by, found.metric, found.dimensions) == (by_field("kind"), "l2", 48)
    assert found.filter_fields == {"ref_doc_id": str, "year": int}


def test_a_collection_with_other_settings_is_refused(make_store: Any) -> None:
    make_store(partition_by=by_field("kind"), filter_fields={"year": int}).open()
    for other in (
        {"dimensions": 3},
        {"metric": "l2"},
        {"partition_by": by_hash(2)},
        {"filter_fields": {"x": int}},
    ):
        with pytest.raises(CollectionMismatch, match=next(iter(other))):
            make_store(**other).open()


def test_a_store_without_fields_of_its_own_takes_the_collection_as_it_is(
    make_store: Any, make_node: Any
) -> None:
    make_store(partition_by=by_field("kind"), filter_fields={"year": int}).add([make_node("1", year=3)])
    plain = make_store()
    assert plain.open().filter_fields == {"ref_doc_id": str, "year": int}
    assert [n.node_id for n in plain.get_nodes()] == ["1"]


@pytest.mark.parametrize(
    "wrong",
    [{"metric": "cosinus"}, {"partition_by": "kind"}, {"filter_fields": {"a": dict}}, {"index": "hnsw"}],
    ids=str,
)
def test_a_setting_that_cannot_be_used_is_refused(make_store: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"cosinus|partition_by|a'|index"):
        make_store(**wrong).open()


SETTINGS: dict[str, Any] = {
    "collection": "docs",
    "dimensions": 48,
    "namespace": "n",
    "metric": "l2",
    "partition_by": by_field("kind", values=["a", 1]).then(by_cluster(3)),
    "filter_fields": {"year": int, "tags": list[str]},
    "index": hnsw(m=8),
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"partition_by": by_time("at")},
        {"filter_fields": None, "index": None},
        {"index": hnsw(quantization="scalar", mode="views")},
        {"index": hnsw(vectors="int8", mode="fields")},
    ],
    ids=str,
)
def test_a_dump_holds_every_setting_and_makes_the_same_store(changes: Any) -> None:
    store = SVRVectorStore(url="memory://", **(SETTINGS | changes))
    for again in (
        SVRVectorStore.from_json(store.to_json(), url="memory://"),
        SVRVectorStore.from_dict(json.loads(json.dumps(store.to_dict())), url="memory://"),
        pickle.loads(pickle.dumps(store)),
    ):
        for name in SETTINGS:
            assert getattr(again, name) == getattr(store, name), name
    assert store.to_dict()["class_name"] == SVRVectorStore.class_name() == "SVRVectorStore"


def test_a_subclass_keeps_the_stable_class_name() -> None:
    class Mine(SVRVectorStore):
        pass

    assert Mine(dimensions=3, url="memory://").to_dict()["class_name"] == "SVRVectorStore"


@pytest.mark.parametrize("url", URLS)
def test_to_json_to_dict_repr_and_pickle_hold_no_password(url: str, embed_model: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    store = SVRVectorStore(url=url, **SETTINGS)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    pipeline = IngestionPipeline(transformations=[], vector_store=store)
    tool = store.as_tool(embed_model=embed_model, name="t", description="d")
    shown = [store.to_json(), store.json(), str(store.to_dict()), store.model_dump_json(), str(store.dict())]
    shown += [f(each) for f in (repr, str) for each in (store, index, pipeline, tool, store._connection)]
    shown += [str(vars(store._connection)), str(store.__pydantic_private__), str(vars(store))]
    shown += [pickle.dumps(store).decode("latin-1"), str(pipeline.model_dump()), caplog.text]
    shown += [repr(copy.copy(store)), repr(copy.deepcopy(store)), str(SVRVectorStore.model_json_schema())]
    assert not [text for text in shown if any(each in text for each in (SECRET, "127.0.0.1", "cluster0"))]


@pytest.mark.usefixtures("abandoned_sockets")
@pytest.mark.parametrize("url", URLS)
async def test_no_error_holds_the_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import traceback

    monkeypatch.setenv("SVR_CONNECT_TIMEOUT_SECONDS", "2")
    store = SVRVectorStore(url=url, dimensions=48)
    for call in (lambda: store.query(QUERY), lambda: asyncio.run(store.aquery(QUERY))):
        with pytest.raises(SVRError) as caught:
            await asyncio.to_thread(call)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_copy_without_its_connection_says_so_until_it_is_connected(
    client: SVRClient, make_store: Any
) -> None:
    store = make_store()
    store.open()
    for again in (pickle.loads(pickle.dumps(store)), SVRVectorStore.from_json(store.to_json())):
        with pytest.raises(UsageError, match=r"connect\(url=...\)"):
            again.get_nodes()
        assert pickle.loads(pickle.dumps(again)).to_dict()["connection"] == "given"
        assert again.connect(client=client).get_nodes() == []
    assert SVRVectorStore.from_json(store.to_json(), client=client).get_nodes() == []


def test_a_copy_of_a_store_on_the_default_connection_uses_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str | None] = []

    def make(url: str | None) -> SVRClient:
        opened.append(url)
        return SVRClient("memory://")

    monkeypatch.setattr(OPENED, make)
    again = pickle.loads(pickle.dumps(SVRVectorStore(dimensions=48)))
    assert again.get_nodes() == []
    assert opened == [None]
    again.close()


def test_a_deep_copy_shares_the_connection(store: Any, make_node: Any) -> None:
    store.add([make_node("1")])
    for again in (copy.deepcopy(store), copy.copy(store), store.model_copy(deep=True)):
        assert [n.node_id for n in again.get_nodes()] == ["1"]


def test_a_closed_store_can_be_connected_again(make_store: Any, client: SVRClient) -> None:
    store = make_store()
    store.close()
    assert store.connect(client=client).get_nodes() == []


def test_settings_cannot_be_changed_behind_the_collection(store: Any) -> None:
    with pytest.raises(ValueError, match="frozen"):
        store.collection = "other"


def test_one_store_serves_several_event_loops(store: Any, make_node: Any) -> None:
    counts: list[int] = []

    async def work(i: int) -> None:
        await store.async_add([make_node(str(i))])
        counts.append(len((await store.aquery(QUERY)).ids))

    for i in range(3):
        asyncio.run(work(i))
    assert counts == [1, 2, 3]
    threads = [threading.Thread(target=asyncio.run, args=(work(i),)) for i in range(3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(counts) == len(store.get_nodes()) == 7


async def test_blocking_and_awaitable_use_may_be_mixed(store: Any, make_node: Any) -> None:
    await store.async_add([make_node("1")])
    await asyncio.to_thread(store.add, [make_node("2")])
    assert len(store.get_nodes()) == len(await store.aget_nodes()) == 2


async def test_many_tasks_may_make_the_first_write_together(make_store: Any, make_node: Any) -> None:
    store = make_store(partition_by=by_hash(3))
    await asyncio.gather(*(store.async_add([make_node(str(i))]) for i in range(12)))
    assert len(await store.aget_nodes()) == 12


def test_many_threads_make_one_client(monkeypatch: pytest.MonkeyPatch, make_node: Any) -> None:
    made: list[SVRClient] = []
    barrier = threading.Barrier(6)

    def make(url: str | None) -> SVRClient:
        made.append(SVRClient(url))
        return made[-1]

    monkeypatch.setattr(OPENED, make)

    def first(i: int) -> list[str]:
        barrier.wait(30)
        return store.add([make_node(str(i))])

    with SVRVectorStore(dimensions=48, url="memory://") as store, ThreadPoolExecutor(6) as pool:
        list(pool.map(first, range(6)))
        assert (len(made), len(store.get_nodes())) == (1, 6)


async def test_every_awaitable_method_leaves_the_loop_free(store: Any, make_node: Any) -> None:
    """A callback that is ready while a method waits is served before the method returns."""
    calls = [
        lambda: store.async_add([make_node("1", source="d")]),
        lambda: store.aquery(QUERY),
        store.aget_nodes,
        lambda: store.adelete_nodes(["1"]),
        lambda: store.adelete("d"),
        store.aclear,
    ]
    for call in calls:
        order: list[str] = []
        asyncio.get_running_loop().call_soon(order.append, "loop")
        await call()
        order.append("method")
        assert order == ["loop", "method"]


async def test_a_slow_start_of_the_client_leaves_the_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    started, free = threading.Event(), threading.Event()

    def slow(url: str | None) -> SVRClient:
        started.set()
        assert free.wait(30), "the event loop was blocked"
        return SVRClient(url)

    monkeypatch.setattr(OPENED, slow)
    with SVRVectorStore(dimensions=48, url="memory://") as store:
        search = asyncio.create_task(store.aquery(QUERY))
        assert await asyncio.to_thread(started.wait, 30)
        free.set()
        assert (await search).ids == []


async def test_a_failed_opening_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = iter(["bad://x", "memory://"])
    monkeypatch.setattr(OPENED, lambda _url: SVRClient(next(urls)))
    with SVRVectorStore(dimensions=48, url="memory://") as store:
        with pytest.raises(SVRError, match="bad"):
            await store.aget_nodes()
        assert await store.aget_nodes() == []
