"""The modes hybrid and text_search: weights, depths, restrictions, and that no query's settings reach another."""

from __future__ import annotations

import asyncio
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode
from llama_index.vector_stores.svr import SVRVectorStore

from svr_retrievers import by_field
from svr_retrievers.errors import BackendError, InputError

pytestmark = pytest.mark.hybrid
COUNT = 9


def at(number: int) -> list[float]:
    return [math.cos(number / 10), math.sin(number / 10), 0.0]


class Pointing(BaseEmbedding):
    """Every question points to node 0."""

    def _get_query_embedding(self, query: str) -> list[float]:
        return at(0)

    def _get_text_embedding(self, text: str) -> list[float]:
        raise AssertionError("nothing is embedded here but questions")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return at(0)


def node(number: int, id: str = "") -> TextNode:
    parity = "odd" if number % 2 else "even"
    return TextNode(
        id_=id or str(number),
        text=f"word{number} common",
        metadata={"n": number, "parity": parity},
        embedding=at(number),
    )


@pytest.fixture
def store(make_store: Any) -> Any:
    """Nine nodes whose order by vector is 0, 1, 2, ... and which hold a word each that no other holds."""
    made = make_store(dimensions=3, partition_by=by_field("parity"))
    made.add([node(n) for n in range(COUNT)])
    made.query(asked("common", mode=Mode.TEXT_SEARCH))
    made.open().refresh()
    return made


@pytest.fixture
def idle(memory_client: Any) -> Any:
    """An empty store, for what is refused before any backend is asked."""
    return SVRVectorStore(collection="idle", client=memory_client, dimensions=3)


@pytest.fixture(params=["blocking", "awaitable"])
def ask(request: Any) -> Any:
    async def do(store: Any, query: VectorStoreQuery, **options: Any) -> Any:
        return (
            store.query(query, **options)
            if request.param == "blocking"
            else await store.aquery(query, **options)
        )

    return do


def asked(text: str | None, top_k: int = 4, mode: Mode = Mode.HYBRID, **more: Any) -> VectorStoreQuery:
    vector = {"query_embedding": at(0)} if mode is not Mode.TEXT_SEARCH else {}
    return VectorStoreQuery(**{"query_str": text, "similarity_top_k": top_k, "mode": mode} | vector | more)


def fused(word: int, alpha: float = 0.5, top_k: int = 4, near: int = COUNT) -> list[str]:
    """The order of reciprocal ranks, of the nearest by vector and of the only one with the word."""
    scores = {n: alpha / (61 + n) if n < near else 0.0 for n in range(COUNT)}
    scores[word] += (1 - alpha) / 61
    return [str(n) for n in sorted(scores, key=lambda n: -scores[n]) if scores[n]][:top_k]


@pytest.mark.parametrize("alpha", [None, 0.5, 0.1, 0.9, 0.999])
async def test_hybrid_weighs_vectors_by_alpha_and_words_by_the_rest(store: Any, ask: Any, alpha: Any) -> None:
    result = await ask(store, asked("word6", alpha=alpha))
    assert result.ids == fused(6, 0.5 if alpha is None else alpha)
    assert [n.node_id for n in result.nodes] == result.ids
    assert result.similarities == sorted(result.similarities, reverse=True)


async def test_an_alpha_of_zero_is_words_alone_and_not_taken_for_unset(store: Any, ask: Any) -> None:
    for query in (asked("word6 word7", alpha=0), asked("word6 word7", alpha=0.0, query_embedding=None)):
        assert set((await ask(store, query)).ids) == {"6", "7"}
    words = await ask(store, asked("word6 word7", mode=Mode.TEXT_SEARCH))
    result = await ask(store, asked("word6 word7", alpha=0))
    assert (result.ids, result.similarities) == (words.ids, words.similarities)


async def test_an_alpha_of_one_is_vectors_alone(store: Any, ask: Any) -> None:
    plain = await ask(store, asked(None, mode=Mode.DEFAULT))
    for query in (asked("word6", alpha=1), asked(None, alpha=1.0)):
        result = await ask(store, query)
        assert (
            (result.ids, result.similarities)
            == (plain.ids, plain.similarities)
            == (
                ["0", "1", "2", "3"],
                plain.similarities,
            )
        )


async def test_text_search_needs_no_vector_and_finds_the_words_alone(store: Any, ask: Any) -> None:
    result = await ask(store, asked("word6 nothing", mode=Mode.TEXT_SEARCH))
    assert result.ids == ["6"]
    assert result.similarities[0] > 0
    assert result.nodes[0].metadata == {"n": 6, "parity": "even"}
    assert result.nodes[0].embedding is None
    assert len((await ask(store, asked("common", 3, Mode.TEXT_SEARCH))).ids) == 3


async def test_sparse_top_k_bounds_the_words(store: Any, ask: Any) -> None:
    found = (await ask(store, asked("common", 3, Mode.TEXT_SEARCH, sparse_top_k=5))).ids
    assert len(found) == 5
    every = (await ask(store, asked("common", COUNT, Mode.TEXT_SEARCH))).ids
    assert found == every[:5]
    one = await ask(store, asked("common", COUNT, alpha=0.3, sparse_top_k=1))
    assert one.ids == fused(int(every[0]), 0.3, COUNT)


@pytest.mark.parametrize("top_k", [1, 2, 5])
async def test_hybrid_top_k_is_how_many_come_back(store: Any, ask: Any, top_k: int) -> None:
    for options in ({"hybrid_top_k": top_k}, {"hybrid_top_k": top_k, "sparse_top_k": 2}):
        result = await ask(store, asked("word6", 9, **options))
        assert result.ids == fused(6, top_k=top_k)
        assert result.similarities == sorted(result.similarities, reverse=True)


async def test_similarity_top_k_bounds_the_vectors_where_hybrid_top_k_is_given(store: Any, ask: Any) -> None:
    result = await ask(store, asked("word6", 2, hybrid_top_k=9, sparse_top_k=9))
    assert result.ids == fused(6, top_k=9, near=2)
    assert set(result.ids) == {"0", "1", "6"}


async def test_two_depths_fuse_as_the_collection_itself_does(store: Any, ask: Any) -> None:
    for fusion in ("rrf", "distribution", "convex"):
        own = await ask(store, asked("word6 common", 9, alpha=0.4), fusion=fusion)
        apart = await ask(store, asked("word6 common", 9, alpha=0.4, sparse_top_k=100), fusion=fusion)
        assert apart.ids == own.ids
        assert apart.similarities == pytest.approx(own.similarities, abs=1e-6)


async def test_restrictions_hold_for_both_rankings(store: Any, ask: Any) -> None:
    few = MetadataFilters(filters=[MetadataFilter(key="n", value=3, operator="<=")])
    for more in ({}, {"sparse_top_k": 9}, {"alpha": 1.0}):
        assert (await ask(store, asked("word6", 9, filters=few, **more))).ids == ["0", "1", "2", "3"]
    assert (await ask(store, asked("word6", 9, filters=few, alpha=0.0))).ids == []
    for mode in (Mode.HYBRID, Mode.TEXT_SEARCH):
        query = asked("common", 9, mode)
        assert sorted((await ask(store, query, partitions=["parity=odd"])).ids) == ["1", "3", "5", "7"]
        assert sorted((await ask(store, query, node_ids=["2", "5", "x"])).ids) == ["2", "5"]
        assert (await ask(store, asked("common", 9, mode, doc_ids=["nobody"]))).ids == []


async def test_an_empty_store_answers_with_empty_lists(make_store: Any, ask: Any) -> None:
    for query in (
        asked("x"),
        asked("x", sparse_top_k=3),
        asked("x", mode=Mode.TEXT_SEARCH),
        asked("x", alpha=0),
    ):
        result = await ask(make_store(dimensions=3), query)
        assert (result.nodes, result.similarities, result.ids) == ([], [], [])


@pytest.mark.parametrize("text", [None, "", "  "])
async def test_a_query_without_words_is_refused(idle: Any, ask: Any, text: Any) -> None:
    for query in (asked(text), asked(text, alpha=0.0), asked(text, mode=Mode.TEXT_SEARCH)):
        with pytest.raises(InputError, match="has no text"):
            await ask(idle, query)


async def test_a_hybrid_query_without_a_vector_is_refused(idle: Any, ask: Any) -> None:
    with pytest.raises(InputError, match="no embedding"):
        await ask(idle, asked("word6", query_embedding=None))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, "0.5", float("nan"), True])
async def test_an_alpha_out_of_range_is_refused(idle: Any, ask: Any, alpha: Any) -> None:
    with pytest.raises(InputError, match="alpha"):
        await ask(idle, asked("word6", alpha=alpha))


@pytest.mark.parametrize("name", ["sparse_top_k", "hybrid_top_k"])
async def test_a_count_of_nothing_is_refused(idle: Any, ask: Any, name: str) -> None:
    for wrong in (0, -1, "3"):
        with pytest.raises(InputError, match=name):
            await ask(idle, asked("word6", **{name: wrong}))


@pytest.mark.parametrize(
    ("mode", "option", "fitting"),
    [
        (Mode.HYBRID, {"nprobe": 2}, '"default" or "mmr"'),
        (Mode.HYBRID, {"mmr_threshold": 0.5}, '"mmr"'),
        (Mode.TEXT_SEARCH, {"exact": True}, '"default" or "mmr"'),
        (Mode.TEXT_SEARCH, {"fusion": "rrf"}, '"hybrid"'),
        (Mode.DEFAULT, {"fusion": "rrf"}, '"hybrid"'),
        (Mode.TEXT_SEARCH, {"reranker": object()}, '"default" or "hybrid"'),
    ],
)
async def test_an_option_of_another_mode_is_refused(
    idle: Any, ask: Any, mode: Mode, option: Any, fitting: str
) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(option))} needs vector_store_query_mode={fitting}"):
        await ask(idle, asked("word6", mode=mode), **option)


async def test_an_unknown_fusion_is_refused(idle: Any, ask: Any) -> None:
    for more in ({}, {"sparse_top_k": 3}, {"alpha": 0.0}, {"alpha": 1.0}):
        with pytest.raises(InputError, match="fusion"):
            await ask(idle, asked("word6", **more), fusion="max")


class Backwards:
    """The higher the number in a text, the better."""

    def rerank(self, query: str, texts: Any) -> list[float]:
        return [float(text.partition("word")[2].split()[0]) for text in texts]


async def test_a_reranker_has_the_last_word(store: Any, ask: Any) -> None:
    result = await ask(store, asked("word6", 2), reranker=Backwards())
    assert (result.ids, result.similarities) == (["8", "7"], [8.0, 7.0])
    with pytest.raises(InputError, match="postprocessor SVRRerank"):
        await ask(store, asked("word6", 2, sparse_top_k=3), reranker=Backwards())
    with pytest.raises(InputError, match="postprocessor SVRRerank"):
        await ask(store, asked("word6", 2, alpha=0.0), reranker=Backwards())


QUESTIONS = [(f"word{n}", alpha, k) for n in range(COUNT) for alpha in (0.1, 0.99) for k in (1, 4)]


async def test_no_setting_of_a_query_reaches_the_next(store: Any) -> None:
    """One store for all, as applications have it: other words, weights and counts at the same time."""
    expected = [fused(int(word[4:]), alpha, k) for word, alpha, k in QUESTIONS]
    queries = [asked(word, k, alpha=alpha) for word, alpha, k in QUESTIONS]
    with ThreadPoolExecutor(8) as threads:
        assert [found.ids for found in threads.map(store.query, queries)] == expected
    assert [found.ids for found in await asyncio.gather(*map(store.aquery, queries))] == expected
    assert store.query(asked("word8")).ids == fused(8)
    assert queries == [asked(word, k, alpha=alpha) for word, alpha, k in QUESTIONS]


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({"vector_store_query_mode": "hybrid", "alpha": 0.1}, fused(6, 0.1, 3)),
        ({"vector_store_query_mode": "hybrid", "alpha": 0}, ["6"]),
        ({"vector_store_query_mode": "hybrid", "hybrid_top_k": 1, "sparse_top_k": 5, "alpha": 0.1}, ["6"]),
        ({"vector_store_query_mode": "text_search"}, ["6"]),
        ({"vector_store_query_mode": "text_search", "sparse_top_k": 1}, ["6"]),
    ],
    ids=str,
)
async def test_the_indexs_retriever_searches_in_these_modes(store: Any, how: Any, found: list[str]) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=Pointing())
    retriever = index.as_retriever(similarity_top_k=3, **how)
    for answer in (retriever.retrieve("word6"), await retriever.aretrieve("word6")):
        assert [each.node.node_id for each in answer] == found
        assert all(each.score is not None for each in answer)


async def test_what_an_answer_lacks_is_logged(store: Any, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG, "llama_index.vector_stores.svr"):
        await store.aquery(asked("common", 20, Mode.TEXT_SEARCH))
    assert "9 of 20 nodes" in caplog.text


class Halting:
    """A collection some of whose calls fail."""

    def __init__(self, found: Any, *broken: str) -> None:
        self.found, self.broken = found, broken

    def __getattr__(self, name: str) -> Any:
        if name == "aio":
            return Halting(self.found.aio, *self.broken)
        return self._fail if name in self.broken else getattr(self.found, name)

    def _fail(self, **_: Any) -> Any:
        raise BackendError("the server is away")


async def test_one_ranking_that_fails_leaves_the_other_and_both_are_an_error(
    store: Any, ask: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    found = store.open()
    query = asked("word6", sparse_top_k=4)
    for broken, expected in (("keywords", ["0", "1", "2", "3"]), ("search", ["6"])):
        monkeypatch.setattr(store._connection, "_collection", Halting(found, broken))
        caplog.clear()
        assert (await ask(store, query)).ids == expected
        assert "the other decided alone: the server is away" in caplog.text
    monkeypatch.setattr(store._connection, "_collection", Halting(found, "keywords", "search"))
    with pytest.raises(BackendError, match="away"):
        await ask(store, query)
    with pytest.raises(BackendError, match="away"):
        await ask(store, asked("word6", mode=Mode.TEXT_SEARCH))


async def test_depths_bound_a_ranking_that_decides_alone_too(store: Any, ask: Any) -> None:
    near = await ask(store, asked("common", 2, alpha=1.0, hybrid_top_k=9))
    assert near.ids == ["0", "1"]
    assert len((await ask(store, asked("common", 9, alpha=0.0, sparse_top_k=3))).ids) == 3
    assert len((await ask(store, asked("common", 9, alpha=0.0, hybrid_top_k=2, sparse_top_k=3))).ids) == 2


@pytest.mark.parametrize("mode", ["default", "hybrid", "text_search", "mmr"])
async def test_a_mode_may_be_written_as_text(store: Any, ask: Any, mode: Any) -> None:
    plain = asked("word6 word7", mode=mode, query_embedding=at(0))
    assert (await ask(store, plain)).ids == (
        await ask(store, asked("word6 word7", mode=Mode(mode), query_embedding=at(0)))
    ).ids
    with pytest.raises(InputError, match="not hybird"):
        await ask(store, asked("x", mode="hybird"))


async def test_as_many_may_be_asked_for_as_the_collection_allows(store: Any, ask: Any) -> None:
    assert len((await ask(store, asked("word6", 10_000, sparse_top_k=3))).ids) == COUNT
