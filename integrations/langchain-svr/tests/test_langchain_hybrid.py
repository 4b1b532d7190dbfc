"""Keyword and hybrid search by the store and by retrievers, and that no query's settings reach another."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_svr import SVRRetriever, SVRVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from svr_retrievers import by_field
from svr_retrievers.errors import InputError

pytestmark = pytest.mark.hybrid
COUNT = 9


class Pointing(Embeddings):
    """Every question points to document 0; the documents lie at growing angles to it, in the order of their numbers."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [at(len(text)) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(text)
        return at(0)

    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)


def at(number: int) -> list[float]:
    return [math.cos(number / 10), math.sin(number / 10), 0.0]


def texts() -> list[tuple[str, list[float]]]:
    return [(f"word{n} common", at(n)) for n in range(COUNT)]


@pytest.fixture
def pointing() -> Pointing:
    return Pointing()


@pytest.fixture
def store(make_store: Any, pointing: Pointing) -> Any:
    """Nine documents whose order by vector is 0, 1, 2, ... and which hold a word each that no other holds."""
    made = make_store(embedding=pointing, partition_by=by_field("parity"))
    metadatas = [{"n": n, "parity": "odd" if n % 2 else "even"} for n in range(COUNT)]
    made.add_embeddings(texts(), metadatas, [str(n) for n in range(COUNT)])
    made.keyword_search("common")
    made.collection.refresh()
    return made


@pytest.fixture
def idle(memory_client: Any, pointing: Pointing) -> Iterator[Any]:
    """A store for what is refused before any backend is asked."""
    store = SVRVectorStore(pointing, collection="idle", client=memory_client)
    store.add_embeddings(texts()[:1])
    yield store
    store.delete_collection()


def ids(documents: list[Document]) -> list[str | None]:
    return [d.id for d in documents]


def fused(word: int, weights: tuple[float, float] = (1.0, 1.0), k: int = 4) -> list[str]:
    """The order of reciprocal ranks, of all documents by vector and of the only one with the word."""
    scores = {n: weights[0] / (61 + n) + (weights[1] / 61 if n == word else 0.0) for n in range(COUNT)}
    return [str(n) for n in sorted(scores, key=lambda n: -scores[n])][:k]


async def every_way(store: Any, search_type: str, query: str, **options: Any) -> list[list[Document]]:
    """The same question by the store, by LangChain's retriever and by ours, blocking and awaited."""
    plain = store.as_retriever(search_type=search_type, search_kwargs=options)
    own = SVRRetriever(vectorstore=store, search_type=search_type, **options)
    return [
        store.search(query, search_type, **options),
        await store.asearch(query, search_type, **options),
        getattr(store, f"{search_type}_search")(query, **options),
        await getattr(store, f"a{search_type}_search")(query, **options),
        plain.invoke(query),
        await plain.ainvoke(query),
        own.invoke(query),
        await own.ainvoke(query),
    ]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.1), (0.1, 1.0), (1.0, 0.0)])
async def test_hybrid_fuses_both_rankings_in_every_way_to_ask(store: Any, weights: Any) -> None:
    for found in await every_way(store, "hybrid", "word6", weights=weights):
        assert ids(found) == fused(6, weights)


async def test_keyword_finds_the_words_alone_and_embeds_nothing(store: Any, pointing: Pointing) -> None:
    pointing.asked.clear()
    for found in await every_way(store, "keyword", "word6 word7 nothing", k=3):
        assert sorted(map(str, ids(found))) == ["6", "7"]
    assert pointing.asked == []


@pytest.mark.parametrize("fusion", ["rrf", "distribution", "convex"])
async def test_each_fusion_reaches_the_search(store: Any, fusion: str) -> None:
    weights = (0.1, 1.0)
    expected = store.collection.hybrid(text="word6", vector=at(0), limit=5, fusion=fusion, weights=weights)
    assert expected.ids[0] == "6"
    for found in await every_way(store, "hybrid", "word6", k=5, fusion=fusion, weights=weights):
        assert tuple(map(str, ids(found))) == expected.ids


async def test_k_documents_come_back_and_the_best_has_the_highest_score(store: Any) -> None:
    for scored in (
        store.hybrid_search_with_score("word6", k=COUNT),
        await store.ahybrid_search_with_score("word6", k=COUNT),
    ):
        assert [d.id for d, _ in scored] == fused(6, k=COUNT)
        scores = [score for _, score in scored]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == pytest.approx(1 / 61 + 1 / 67)
    [(found, score)] = store.keyword_search_with_score("word6")
    assert (found.id, score > 0) == ("6", True)
    assert await store.akeyword_search_with_score("word6") == [(found, score)]


async def test_documents_keep_their_ids_and_nothing_is_added_to_their_metadata(store: Any) -> None:
    expected = Document(id="6", page_content="word6 common", metadata={"n": 6, "parity": "even"})
    for search_type in ("hybrid", "keyword"):
        for found in await every_way(store, search_type, "word6", k=1):
            assert found == [expected]


async def test_details_tell_where_a_document_stood_in_each_ranking(store: Any) -> None:
    for found in await every_way(store, "hybrid", "word6", k=2, with_details=True, weights=(0.9, 1.0)):
        told = [(d.metadata["svr_vector_rank"], d.metadata["svr_keyword_rank"]) for d in found]
        assert told == [(7, 1), (1, None)]
        assert found[0].metadata["svr_partition"] == "parity=even"
    [alone] = await store.akeyword_search("word6", with_details=True)
    assert alone.metadata["svr_distance"] is None
    assert alone.metadata["svr_score"] > 0


async def test_filters_partitions_and_namespaces_narrow_both_rankings(store: Any) -> None:
    store.add_embeddings(texts(), ids=[f"other{n}" for n in range(COUNT)], namespace="other")
    for found in await every_way(store, "hybrid", "word6", k=9, filter={"n": {"$lte": 3}}):
        assert ids(found) == ["0", "1", "2", "3"]
    for found in await every_way(store, "keyword", "common", k=9, filter={"n": {"$gte": 7}}):
        assert sorted(map(str, ids(found))) == ["7", "8"]
    for search_type in ("hybrid", "keyword"):
        for found in await every_way(store, search_type, "common", k=9, partitions=["parity=odd"]):
            assert sorted(map(str, ids(found))) == ["1", "3", "5", "7"]
    assert all(str(d.id).startswith("other") for d in store.hybrid_search("word6", namespace="other"))
    own = SVRRetriever(vectorstore=store, search_type="hybrid", filter={"parity": "odd"}, k=9)
    assert ids(await own.ainvoke("word6", filter={"n": {"$lt": 5}})) == ["1", "3"]


def answers(store: Any) -> list[tuple[str, tuple[float, float], int]]:
    return [
        (f"word{n}", weights, k)
        for n in range(COUNT)
        for weights in ((0.1, 1.0), (1.0, 0.01))
        for k in (1, 4)
    ]


async def test_no_setting_of_a_query_reaches_the_next(store: Any) -> None:
    """One retriever for all, as applications have it: other words, weights and counts at the same time."""
    retrievers = (
        store.as_retriever(search_type="hybrid", search_kwargs={"k": 2}),
        SVRRetriever(vectorstore=store, search_type="hybrid", k=2),
    )
    asked = answers(store)
    for retriever in retrievers:
        before = repr(retriever)

        def ask(one: Any, retriever: Any = retriever) -> list[Any]:
            word, weights, k = one
            return ids(retriever.invoke(word, weights=weights, k=k))

        async def aask(one: Any, retriever: Any = retriever) -> list[Any]:
            word, weights, k = one
            return ids(await retriever.ainvoke(word, weights=weights, k=k))

        expected = [fused(int(word[4:]), weights, k) for word, weights, k in asked]
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(ask, asked)) == expected
        assert await asyncio.gather(*map(aask, asked)) == expected
        assert repr(retriever) == before
        assert ids(retriever.invoke("word8")) == fused(8, k=2)


async def test_a_call_replaces_what_the_retriever_was_made_with_for_itself_alone(store: Any) -> None:
    retriever = store.as_retriever(search_type="hybrid", search_kwargs={"k": 1, "weights": (1.0, 0.01)})
    assert ids(retriever.invoke("word6", weights=(0.1, 1.0))) == ["6"]
    assert ids(await retriever.ainvoke("word6")) == ["0"]
    assert retriever.search_kwargs == {"k": 1, "weights": (1.0, 0.01)}


async def test_an_empty_store_answers_with_nothing(make_store: Any) -> None:
    for search_type in ("hybrid", "keyword"):
        for found in await every_way(make_store(), search_type, "word"):
            assert found == []


class Backwards:
    """The higher the number in a text, the better."""

    def rerank(self, query: str, texts: Any) -> list[float]:
        return [float(text.removeprefix("word").split()[0]) for text in texts]


async def test_hybrid_answers_may_be_reranked(store: Any) -> None:
    for found in await every_way(store, "hybrid", "word2", k=2, reranker=Backwards()):
        assert ids(found) == ["8", "7"]
    for found in await every_way(store, "hybrid", "word2", k=2, reranker=Backwards(), fetch_k=3):
        assert ids(found) == ["2", "1"]


def test_the_tool_searches_by_words_too(store: Any) -> None:
    tool = store.as_tool(name="words", description="Words.", search_type="hybrid", k=1, weights=(0.1, 1.0))
    call = {"name": "words", "args": {"query": "word6"}, "id": "1", "type": "tool_call"}
    assert ids(tool.invoke(call).artifact) == ["6"]


@pytest.mark.parametrize(
    ("search_type", "wrong"),
    [
        ("hybrid", {"exact": True}),
        ("hybrid", {"nprobe": 3}),
        ("hybrid", {"lambda_mult": 0.1}),
        ("hybrid", {"fetch_k": 10}),
        ("keyword", {"weights": (1.0, 1.0)}),
        ("keyword", {"reranker": Backwards()}),
        ("similarity", {"weights": (1.0, 1.0)}),
        ("mmr", {"fusion": "rrf"}),
    ],
)
async def test_an_option_that_a_search_has_no_use_for_is_refused(
    idle: Any, search_type: str, wrong: dict[str, Any]
) -> None:
    name = next(iter(wrong))
    with pytest.raises(TypeError, match=f"'{name}'"):
        idle.search("x", search_type, **wrong)
    with pytest.raises(TypeError, match=f"'{name}'"):
        await idle.asearch("x", search_type, **wrong)
    with pytest.raises(TypeError, match=f"'{name}'"):
        SVRRetriever(vectorstore=idle, search_type=search_type).invoke("x", **wrong)
    with pytest.raises(ValidationError, match=f"{name} has no use"):
        SVRRetriever(vectorstore=idle, search_type=search_type, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"fusion": "max"}, {"weights": (0, 0)}, {"weights": (-1, 1)}, {"weights": 0.5}], ids=str
)
async def test_a_value_that_makes_no_sense_is_refused_by_its_name(idle: Any, wrong: Any) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        idle.hybrid_search("x", **wrong)
    with pytest.raises(InputError, match=next(iter(wrong))):
        await idle.ahybrid_search("x", **wrong)


async def test_a_question_without_words_is_refused(idle: Any) -> None:
    for search_type in ("hybrid", "keyword"):
        with pytest.raises(InputError, match="not empty"):
            await idle.asearch("  ", search_type)


def test_an_unknown_search_type_is_refused(idle: Any) -> None:
    with pytest.raises(ValueError, match="hybird"):
        idle.search("x", "hybird")
    with pytest.raises(ValueError, match="hybird"):
        idle.as_retriever(search_type="hybird")


class TestStandardRetrieverByHybrid(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _filled(self, make_store: Any) -> None:
        self.store = make_store()
        self.store.add_documents([Document(f"text number {i}") for i in range(5)])

    @property
    def retriever_constructor(self) -> type[SVRRetriever]:
        return SVRRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.store, "search_type": "hybrid"}

    @property
    def retriever_query_example(self) -> str:
        return "number 3"
