"""On MongoDB, over indexes that are ready and over late ones: what stores there are known to get wrong."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from langchain_svr import SVRRetriever, SVRVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from svr_retrievers import SVRClient, by_field, flat, hnsw
from svr_retrievers.errors import InputError

pytestmark = pytest.mark.mongodb
GRAPH = hnsw(min_rows=0)
"""An index that is asked however few the rows are; small partitions are compared exactly otherwise."""


@pytest.fixture(params=["ready", "late"])
def client(request: pytest.FixtureRequest) -> SVRClient:
    name = "mongodb_client" if request.param == "ready" else "late_client"
    found: SVRClient = request.getfixturevalue(name)
    return found


@pytest.fixture
def store(make_store: Any) -> Any:
    return make_store(index=GRAPH, filter_fields={"legs": int})


def ids(documents: list[Document]) -> list[str | None]:
    return [d.id for d in documents]


def names(store: Any) -> set[str | None]:
    return {d.id for d in store.similarity_search("the", k=99)}


class TestStandardStoreOverTheIndex(VectorStoreIntegrationTests):
    """LangChain's suite as it is, without waiting for the index after each write."""

    @pytest.fixture
    def vectorstore(self, make_store: Any) -> VectorStore:
        return make_store(embedding=self.get_embeddings(), index=GRAPH)


class TestStandardStoreWithAFieldForEachPartition(VectorStoreIntegrationTests):
    @pytest.fixture
    def client(self, late_client: SVRClient) -> SVRClient:
        return late_client

    @pytest.fixture
    def vectorstore(self, make_store: Any) -> VectorStore:
        return make_store(embedding=self.get_embeddings(), index=hnsw(min_rows=0, mode="fields"))


class TestStandardRetrieverOverTheIndex(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _filled(self, store: Any) -> None:
        self.store = store
        self.store.add_documents([Document(f"text number {i}") for i in range(5)])

    @property
    def retriever_constructor(self) -> type[SVRRetriever]:
        return SVRRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "number 3"


def test_these_tests_really_ask_the_index(animals: Any) -> None:
    animals.collection.refresh()
    plan = animals.collection.explain(vector=[1.0] * 48, filter={"legs": 4}).plan
    assert "(ready)" in plan
    assert "numCandidates" in plan
    assert '"exact"' not in plan


def test_documents_are_found_at_once_and_not_when_the_index_has_them(animals: Any) -> None:
    assert names(animals) == {"cat", "dog", "hen", "cow"}
    animals.add_texts(["the fox runs"], ids=["fox"])
    assert ids(animals.similarity_search("the fox runs", k=1)) == ["fox"]


async def test_a_deleted_or_replaced_document_is_not_found_in_the_index_that_still_holds_it(
    animals: Any,
) -> None:
    animals.collection.refresh()
    animals.add_texts(["the whale swims"], [{"legs": 0}], ids=["cow"])
    animals.delete(["cat"])
    assert names(animals) == {"dog", "hen", "cow"}
    assert [d.page_content for d in animals.similarity_search("x", filter={"legs": 0})] == ["the whale swims"]
    assert await animals.asimilarity_search("the cat sleeps", filter={"kind": "pet", "legs": 2}) == []


async def test_delete_of_an_empty_list_does_not_empty_the_collection(animals: Any) -> None:
    assert animals.delete([]) is await animals.adelete([]) is True
    assert names(animals) == {"cat", "dog", "hen", "cow"}


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"legs": 2}, ["hen"]),
        ({"kind": "farm"}, ["cow", "hen"]),
        ({"kind": "farm", "legs": {"$gte": 3}}, ["cow"]),
        ({"legs": {"$in": []}}, []),
        ({"legs": {"$in": [2, 4.0, 5]}}, ["cat", "cow", "dog", "hen"]),
        ({"$or": [{"kind": "pet"}, {"legs": 2}]}, ["cat", "dog", "hen"]),
        ({"$nor": [{"kind": "pet"}, {"legs": 2}]}, ["cow"]),
        ({"$not": {"legs": 4}}, ["hen"]),
        ({"kind": {"$like": "p%"}}, ["cat", "dog"]),
        ({"colour": None}, ["cat", "cow", "dog", "hen"]),
        ({"legs": {"$exists": False}}, []),
    ],
    ids=str,
)
async def test_filter_is_honoured_on_indexed_fields_and_on_others(
    animals: Any, condition: Any, found: list[str]
) -> None:
    """Atlas refuses a path that its index lacks, `$in` of nothing, and values of several types in it."""
    assert sorted(map(str, ids(animals.similarity_search("the", k=9, filter=condition)))) == found
    scored = await animals.asimilarity_search_with_relevance_scores("the", k=9, filter=condition)
    assert sorted(str(d.id) for d, _ in scored) == found


@pytest.mark.parametrize("key", ["rare", "declared"])
def test_k_documents_come_back_however_few_match(make_store: Any, key: str) -> None:
    """What is filtered after the index named its hits leaves fewer than k."""
    store = make_store(index=GRAPH, filter_fields={"declared": int})
    vectors = np.random.default_rng(1).normal(size=(400, 8))
    metadatas = [{key: i % 40} for i in range(400)]
    store.add_embeddings([(str(i), v) for i, v in enumerate(vectors)], metadatas)
    store.collection.refresh()
    found = store.similarity_search_by_vector(vectors[7], k=10, filter={key: 7})
    assert {d.metadata[key] for d in found} == {7}
    assert len(found) == 10
    assert found[0].page_content == "7"


def test_k_may_be_so_large_that_ten_times_as_many_candidates_are_refused(make_store: Any) -> None:
    store = make_store(index=GRAPH)
    vectors = np.random.default_rng(2).normal(size=(1_300, 8)).tolist()
    store.add_embeddings([(str(i), v) for i, v in enumerate(vectors)])
    store.collection.refresh()
    found = store.similarity_search_by_vector(vectors[7], k=1_200)
    assert len({d.id for d in found}) == 1_200
    assert len(store.similarity_search_by_vector(vectors[7], k=10_000)) == 1_300
    with pytest.raises(InputError, match="10,000"):
        store.similarity_search_by_vector(vectors[7], k=10_001)


async def test_nothing_awaited_is_done_in_a_thread_of_the_executor(animals: Any, embedding: Any) -> None:
    class Refusing(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError(f"{fn} was given to a thread")

    embedding.calls.clear()
    asyncio.get_running_loop().set_default_executor(Refusing())
    assert await animals.aadd_documents([Document("the owl sees", id="owl")]) == ["owl"]
    assert ids(await animals.asimilarity_search("the owl sees", k=1)) == ["owl"]
    assert (await animals.asimilarity_search_with_score("the owl sees", k=1))[0][1] == pytest.approx(1.0)
    assert len(await animals.amax_marginal_relevance_search("owl", k=2)) == 2
    assert len(await SVRRetriever(vectorstore=animals, k=2).ainvoke("owl")) == 2
    assert len(await animals.ahybrid_search("owl", k=2)) == 2
    assert len(await animals.akeyword_search("owl", k=2)) <= 1
    assert len(await animals.as_retriever(search_kwargs={"k": 2}).ainvoke("owl")) == 2
    assert ids(await animals.aget_by_ids(["owl"])) == ["owl"]
    assert await animals.adelete(["owl"])
    assert all(call.startswith("a") for call in embedding.calls)


def test_the_vector_and_the_key_stay_out_of_the_metadata(animals: Any) -> None:
    expected = {"kind": "farm", "legs": 2}
    for document in (
        animals.similarity_search("hen egg", k=1)[0],
        animals.max_marginal_relevance_search("hen egg", k=1)[0],
        animals.similarity_search_with_relevance_scores("hen egg", k=1)[0][0],
        animals.get_by_ids(["hen"])[0],
    ):
        assert document == Document("the hen lays an egg", id="hen", metadata=expected)


def test_metadata_keys_that_the_store_uses_itself_are_data(store: Any) -> None:
    metadata = {
        "_id": 1,
        "text": "mine",
        "embedding": [1],
        "metadata": {"svr": 1},
        "svr": {"p": 9},
        "legs": 4,
    }
    store.add_texts(["the real text"], [metadata], ids=["1"])
    assert store.get_by_ids(["1"]) == [Document("the real text", id="1", metadata=metadata)]
    assert store.similarity_search("the real text", filter={"_id": 1, "text": "mine"}) == store.get_by_ids(
        ["1"]
    )


def test_an_id_that_looks_like_an_object_id_stays_the_text_it_is(store: Any) -> None:
    given = ["507f1f77bcf86cd799439011", "507F1F77BCF86CD799439011", "7", "a.b", "$x"]
    assert store.add_texts(given, ids=given) == given
    assert ids(store.get_by_ids(given)) == given
    assert {type(d.id) for d in store.similarity_search("x", k=9)} == {str}
    store.delete(given[:1])
    assert ids(store.get_by_ids(given)) == given[1:]


def test_an_index_that_somebody_dropped_is_not_taken_for_an_empty_collection(animals: Any) -> None:
    from pymongo import MongoClient

    animals.collection.refresh()
    with MongoClient(animals.client.url.partition("?")[0]) as driver:
        database = driver.get_default_database()
        for name in database.list_collection_names(filter={"type": "collection"}):
            for index in database[name].list_search_indexes():
                database[name].drop_search_index(index["name"])
    assert names(animals) == {"cat", "dog", "hen", "cow"}
    animals.collection.refresh()
    assert "(ready)" in animals.collection.explain(vector=[1.0] * 48).plan


@pytest.mark.parametrize(
    "index",
    [
        GRAPH,
        hnsw(min_rows=1, mode="views"),
        hnsw(min_rows=0, mode="fields"),
        hnsw(min_rows=0, vectors="int8"),
        hnsw(min_rows=0, quantization="scalar"),
        flat(),
    ],
    ids=["filtered", "views", "fields", "int8", "scalar", "flat"],
)
def test_a_partitioned_collection_answers_however_it_is_indexed(
    make_store: Any, embedding: Any, index: Any
) -> None:
    embedding.embed_query = lambda text: embedding.embed_documents([text])[0]
    plain = embedding.embed_documents
    embedding.embed_documents = lambda texts: np.round(plain(texts)).tolist()
    store = make_store(index=index, partition_by=by_field("kind"))
    store.add_texts(["a b", "a c"], [{"kind": "x"}, {"kind": "y"}], ids=["1", "2"])
    store.collection.refresh()
    assert ids(store.similarity_search("a", k=2, partitions=["kind=y"])) == ["2"]
    assert ids(store.similarity_search("a b", k=2)) == ["1", "2"]
    assert ids(store.similarity_search("a b", k=2, filter={"kind": "y"})) == ["2"]


async def test_a_store_opens_its_own_client_by_a_mongodb_url(mongodb_url: str, embedding: Any) -> None:
    async with SVRVectorStore(embedding, url=mongodb_url, collection="own") as store:
        assert await store.asimilarity_search("x") == []
        await store.aadd_texts(["x"], ids=["1"])
    with SVRVectorStore(embedding, url=mongodb_url, collection="own") as again:
        assert ids(again.similarity_search("x")) == ["1"]
        assert again.client.backend == "mongodb"
        again.delete_collection()
