"""On MongoDB, over indexes that are ready and over late ones: what stores there are known to get wrong."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode
from llama_index.vector_stores.svr import SVRVectorStore

from svr_retrievers import SVRClient, by_field, hnsw

pytestmark = pytest.mark.mongodb
GRAPH = hnsw(min_rows=0)
"""An index that is asked however few the rows are; small partitions are compared exactly otherwise."""
ALL = ["cat", "cow", "dog", "hen"]


@pytest.fixture(params=["ready", "late"])
def client(request: pytest.FixtureRequest) -> SVRClient:
    name = "mongodb_client" if request.param == "ready" else "late_client"
    found: SVRClient = request.getfixturevalue(name)
    return found


@pytest.fixture
def store(make_store: Any) -> Any:
    return make_store(index=GRAPH, filter_fields={"legs": int})


def condition(key: str, value: Any, operator: str = "==") -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


def where(*conditions: MetadataFilter | MetadataFilters, how: str = "and") -> MetadataFilters:
    return MetadataFilters(filters=list(conditions), condition=FilterCondition(how))


def ask(store: Any, vector: Any = None, top_k: int = 99, filters: Any = None, **options: Any) -> list[str]:
    query = VectorStoreQuery(query_embedding=vector or [1.0] * 48, similarity_top_k=top_k, filters=filters)
    found: list[str] = store.query(query, **options).ids
    return found


def test_these_tests_really_ask_the_index(animals: Any) -> None:
    animals.open().refresh()
    plan = animals.open().explain(vector=[1.0] * 48, filter={"legs": 4}).plan
    assert "(ready)" in plan
    assert "numCandidates" in plan
    assert '"exact"' not in plan


async def test_nodes_are_found_at_once_and_not_when_the_index_has_them(
    animals: Any, make_node: Any, embed: Any
) -> None:
    assert sorted(ask(animals)) == ALL
    await animals.async_add([make_node("fox", "the fox runs", "wild")])
    assert ask(animals, embed("the fox runs"), 1) == ["fox"]
    animals.delete("wild")
    await animals.adelete_nodes(["cat"])
    assert sorted(ask(animals)) == ["cow", "dog", "hen"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (where(condition("kind", "pet"), how="not"), ["cow", "hen"]),
        (where(condition("legs", 2), how="not"), ["cat", "cow", "dog"]),
        (where(condition("kind", "pet"), condition("legs", 2), how="not"), ["cow"]),
        (where(condition("kind", "pet"), condition("kind", "farm"), how="not"), []),
    ],
    ids=["one", "one declared", "two", "all"],
)
async def test_not_is_neither_dropped_nor_turned_into_its_opposite(
    animals: Any, filters: MetadataFilters, found: list[str]
) -> None:
    assert sorted(ask(animals, filters=filters)) == found
    assert [node.node_id for node in await animals.aget_nodes(filters=filters)] == found


def test_filters_within_filters_are_understood(animals: Any) -> None:
    farm_or_two = where(condition("kind", "farm"), condition("legs", 2), how="or")
    not_two = where(condition("legs", 2), how="not")
    assert ask(animals, filters=where(farm_or_two, not_two)) == ["cow"]
    assert sorted(ask(animals, filters=where(where(farm_or_two, not_two), how="not"))) == [
        "cat",
        "dog",
        "hen",
    ]


@pytest.mark.parametrize(
    ("key", "operator", "value", "found"),
    [
        ("kind", "==", "pet", ["cat", "dog"]),
        ("kind", "!=", "pet", ["cow", "hen"]),
        ("legs", ">", 2, ["cat", "cow", "dog"]),
        ("legs", "<", 4, ["hen"]),
        ("legs", ">=", 4, ["cat", "cow", "dog"]),
        ("legs", "<=", 2, ["hen"]),
        ("legs", "in", [2, 3], ["hen"]),
        ("legs", "in", [], []),
        ("legs", "nin", [2, 3], ["cat", "cow", "dog"]),
        ("legs", "nin", [], ALL),
        ("kind", "any", ["pet", "ar"], ALL),
        ("kind", "all", ["f", "m"], ["cow", "hen"]),
        ("kind", "text_match", "ar", ["cow", "hen"]),
        ("kind", "text_match_insensitive", "PE", ["cat", "dog"]),
        ("kind", "contains", "et", ["cat", "dog"]),
        ("kind", "is_empty", None, []),
        ("colour", "is_empty", None, ALL),
        ("colour", "!=", "red", ALL),
    ],
    ids=str,
)
def test_every_operator_searches_on_indexed_fields_and_on_others(
    animals: Any, key: str, operator: str, value: Any, found: list[str]
) -> None:
    filters = where(condition(key, value, operator))
    assert sorted(ask(animals, filters=filters)) == found
    assert ask(animals, top_k=1, filters=filters) == ask(animals, filters=filters)[:1]


def test_a_weight_of_zero_is_not_taken_for_unset(animals: Any, embed: Any) -> None:
    """An `alpha` of 0 finds the words alone, however many nodes lie near; the weight of mode mmr may be 0 too."""
    hybrid = VectorStoreQuery(
        query_str="cat", query_embedding=embed("cow"), mode=Mode.HYBRID, alpha=0.0, similarity_top_k=2
    )
    animals.query(hybrid)
    animals.open().refresh()
    assert animals.query(hybrid).ids == ["cat"]
    varied = VectorStoreQuery(query_embedding=embed("the cow milk"), mode=Mode.MMR, similarity_top_k=4)
    chosen = [animals.query(varied, mmr_threshold=weight).ids for weight in (0, 0.5, 1)]
    assert chosen[2] == ask(animals, embed("the cow milk"))
    assert chosen[0][0] == chosen[1][0] == "cow"
    assert chosen[0] != chosen[2]


async def test_adding_known_nodes_again_replaces_them_instead_of_failing(
    animals: Any, make_node: Any, embed: Any
) -> None:
    again = [make_node("cat", "the cat purrs", "pets", kind="pet"), make_node("emu", "the emu", "farm")]
    assert animals.add(again) == ["cat", "emu"]
    assert await animals.async_add(again) == ["cat", "emu"]
    assert sorted(ask(animals)) == ["cat", "cow", "dog", "emu", "hen"]
    assert [n.get_content() for n in animals.get_nodes(["cat"])] == ["the cat purrs"]
    assert ask(animals, embed("the cat purrs"), 1) == ["cat"]


async def test_nodes_can_be_read_deleted_and_cleared(animals: Any) -> None:
    pets = where(condition("kind", "pet"))
    assert [n.node_id for n in await animals.aget_nodes(["hen", "no", "cat"], pets)] == ["cat"]
    animals.delete_nodes(["cat", "hen"], pets)
    assert sorted(ask(animals)) == ["cow", "dog", "hen"]
    await animals.adelete_nodes([], pets)
    await animals.adelete_nodes()
    assert sorted(ask(animals)) == ["cow", "dog", "hen"]
    await animals.aclear()
    assert ask(animals) == []


@pytest.mark.parametrize("key", ["rare", "declared"])
def test_top_k_nodes_come_back_however_few_match(make_store: Any, key: str) -> None:
    store = make_store(index=GRAPH, filter_fields={"declared": int})
    vectors = np.random.default_rng(1).normal(size=(400, 48)).tolist()
    store.add([
        TextNode(id_=str(i), text=str(i), metadata={key: i % 40}, embedding=v) for i, v in enumerate(vectors)
    ])  # fmt: skip
    store.open().refresh()
    found = ask(store, vectors[7], 10, where(condition(key, 7)))
    assert found[0] == "7"
    assert sorted(found, key=int) == [str(i) for i in range(7, 400, 40)]


async def test_nothing_awaited_is_done_in_a_thread_of_the_executor(animals: Any, make_node: Any) -> None:
    class Refusing(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError(f"{fn} was given to a thread")

    asyncio.get_running_loop().set_default_executor(Refusing())
    query = VectorStoreQuery(query_embedding=make_node("q", "the owl sees").embedding, similarity_top_k=1)
    assert await animals.async_add([make_node("owl", "the owl sees", "wild")]) == ["owl"]
    assert (await animals.aquery(query)).ids == ["owl"]
    words = VectorStoreQuery(query_str="owl", mode=Mode.TEXT_SEARCH, similarity_top_k=9)
    assert (await animals.aquery(words)).ids in ([], ["owl"])
    assert len(await animals.aget_nodes()) == 5
    await animals.adelete("wild")
    await animals.adelete_nodes(["cat"])
    assert len(await animals.aget_nodes()) == 3
    await animals.aclear()


def test_no_log_prints_texts_or_embeddings_of_a_batch(
    store: Any, make_node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "svr_retrievers"), caplog.at_level(logging.DEBUG, "llama_index"):
        store.add([make_node(str(i), f"secretword {i}") for i in range(50)])
        ask(store)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("svr_", "llama_"))]
    assert not [line for line in ours if "secretword" in line or "1.01" in line or len(line) > 500]


def test_a_partitioned_collection_answers_from_the_partitions_asked_for(
    make_store: Any, make_node: Any
) -> None:
    store = make_store(index=GRAPH, partition_by=by_field("topic"))
    store.add([make_node(f"{t}{i}", f"about {t}", t, topic=t) for t in "abc" for i in range(3)])
    assert {i[0] for i in ask(store, partitions=["topic=b"])} == {"b"}
    assert {i[0] for i in ask(store, filters=where(condition("topic", "c")))} == {"c"}
    assert len(ask(store)) == 9


async def test_a_changed_document_replaces_its_nodes(store: Any, embed_model: Any) -> None:
    """What an ingestion pipeline does: delete by source document, then add."""
    pipeline = IngestionPipeline(
        transformations=[TokenTextSplitter(chunk_size=8, chunk_overlap=0), embed_model],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )
    await pipeline.arun(documents=[Document(id_="a", text="the cat sleeps on the old red sofa all day long")])
    await pipeline.arun(documents=[Document(id_="a", text="the hen lays an egg")])
    retriever = VectorStoreIndex.from_vector_store(store, embed_model=embed_model).as_retriever(
        similarity_top_k=9
    )
    assert [each.get_content() for each in retriever.retrieve("the cat")] == ["the hen lays an egg"]
    assert [each.get_content() for each in await retriever.aretrieve("the cat")] == ["the hen lays an egg"]


async def test_a_store_opens_its_own_client_by_a_mongodb_url(mongodb_url: str, make_node: Any) -> None:
    with SVRVectorStore(url=mongodb_url, dimensions=48, collection="own") as store:
        await store.async_add([make_node("1")])
        assert store.client.backend == "mongodb"
    with SVRVectorStore(url=mongodb_url, dimensions=48, collection="own") as again:
        assert ask(again) == ["1"]
        again.client.drop_collection("own")
