"""Rerankers: as a document compressor, within LangChain's compression retriever, and passed on to the store."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_svr import SVRRerank, SVRRetriever

from svr_retrievers.errors import RerankFailed

pytestmark = pytest.mark.rerank


class ByLength:
    """The longer a text, the better; remembers what it was asked and in which thread."""

    name = "by length"

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.threads: set[int] = set()

    def rerank(self, query: str, texts: Any) -> list[float]:
        self.asked.append((query, list(texts)))
        self.threads.add(threading.get_ident())
        return [float(len(text)) for text in texts]


class Awaited(ByLength):
    rerank = None  # type: ignore[assignment]

    async def arerank(self, query: str, texts: Any) -> list[float]:
        await asyncio.sleep(0)
        return ByLength.rerank(self, query, texts)


class Both(ByLength):
    async def arerank(self, query: str, texts: Any) -> list[float]:
        return self.rerank(query, texts)


class Broken:
    name = "broken"

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def rerank(self, query: str, texts: Any) -> Any:
        if self.answer is None:
            raise RuntimeError("secret-key-123")
        return self.answer


class Late:
    def __init__(self) -> None:
        self.release = threading.Event()

    def rerank(self, query: str, texts: Any) -> list[float]:
        self.release.wait(30)
        return [0.0] * len(texts)


DOCUMENTS = [
    Document(id="1", page_content="bb", metadata={"a": 1, "relevance_score": "old"}),
    Document(id="2", page_content="  "),
    Document(id="3", page_content="dddd", metadata={"c": [1]}),
    Document(id="4", page_content="cc"),
    Document(page_content="a"),
]


def ids(documents: Any) -> list[str | None]:
    return [d.id for d in documents]


@pytest.fixture(params=["blocking", "awaitable"])
def compress(request: Any) -> Any:
    async def do(compressor: SVRRerank, documents: Any = DOCUMENTS, query: str = "q") -> Any:
        if request.param == "blocking":
            return compressor.compress_documents(documents, query)
        return await compressor.acompress_documents(documents, query)

    return do


@pytest.mark.parametrize("kind", [ByLength, Awaited, Both])
async def test_the_best_come_first_and_none_is_lost(compress: Any, kind: Any) -> None:
    reranker = kind()
    found = await compress(SVRRerank(reranker=reranker))
    assert ids(found) == ["3", "1", "4", None, "2"]
    assert [d.metadata.get("relevance_score") for d in found] == [4.0, 2.0, 2.0, 1.0, None]
    assert found[0].metadata == {"c": [1], "relevance_score": 4.0}
    assert reranker.asked == [("q", ["bb", "dddd", "cc", "a"])]
    assert DOCUMENTS[0].metadata == {"a": 1, "relevance_score": "old"}
    assert "relevance_score" not in DOCUMENTS[2].metadata


async def test_top_n_keeps_the_best(compress: Any) -> None:
    assert ids(await compress(SVRRerank(reranker=ByLength(), top_n=2))) == ["3", "1"]
    assert len(await compress(SVRRerank(reranker=ByLength(), top_n=99))) == 5


async def test_nothing_to_rerank_asks_nobody(compress: Any) -> None:
    reranker = ByLength()
    assert await compress(SVRRerank(reranker=reranker), []) == []
    assert ids(await compress(SVRRerank(reranker=reranker), [DOCUMENTS[1]])) == ["2"]
    assert reranker.asked == []


@pytest.mark.parametrize("answer", [None, [1.0], [float("nan")] * 4, "abcd", [[1.0]] * 4])
async def test_a_failing_reranker_loses_no_document_and_the_log_says_so(
    compress: Any, answer: Any, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING, "langchain_svr"):
        found = await compress(SVRRerank(reranker=Broken(answer)))
    assert found == DOCUMENTS
    assert "the reranker broken" in caplog.text.lower()
    assert "secret" not in caplog.text
    assert ids(await compress(SVRRerank(reranker=Broken(answer), top_n=2))) == ["1", "2"]
    with pytest.raises(RerankFailed, match="broken"):
        await compress(SVRRerank(reranker=Broken(answer), on_failure="fail"))


async def test_a_late_reranker_is_not_waited_for(compress: Any) -> None:
    late = Late()
    try:
        assert await compress(SVRRerank(reranker=late, timeout_seconds=0.01)) == DOCUMENTS
    finally:
        late.release.set()


async def test_a_blocking_reranker_never_runs_on_the_event_loop(compress: Any) -> None:
    reranker = ByLength()
    await compress(SVRRerank(reranker=reranker))
    assert threading.get_ident() not in reranker.threads


def test_many_threads_at_once_get_their_own_answers() -> None:
    compressor = SVRRerank(reranker=Awaited())

    def ask(number: int) -> list[str | None]:
        given = [Document(id=f"{number}-{i}", page_content="x" * (1 + (i * number) % 7)) for i in range(7)]
        found = compressor.compress_documents(given, str(number))
        assert [d.metadata["relevance_score"] for d in found] == sorted(
            (float(len(d.page_content)) for d in given), reverse=True
        )
        return sorted(map(str, ids(found)))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(1, 40)))
    assert answers == [sorted(f"{n}-{i}" for i in range(7)) for n in range(1, 40)]


@pytest.mark.parametrize("wrong", [None, "rerank-2.5", ByLength, object()])
def test_what_is_no_reranker_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="reranker must be an object"):
        SVRRerank(reranker=wrong)


@pytest.mark.parametrize(
    "wrong", [{"top_n": 0}, {"timeout_seconds": 0}, {"on_failure": "ignore"}, {"topn": 3}], ids=str
)
def test_a_compressor_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SVRRerank(reranker=ByLength(), **wrong)


def test_no_dump_or_repr_shows_the_reranker() -> None:
    class Keyed(ByLength):
        def __repr__(self) -> str:
            return "secret-key-123"

    compressor = SVRRerank(reranker=Keyed())
    assert "secret" not in repr(compressor) + str(compressor.model_dump()) + compressor.model_dump_json()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_langchains_compression_retriever_works_with_it(animals: Any) -> None:
    from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever

    retriever = ContextualCompressionRetriever(
        base_compressor=SVRRerank(reranker=ByLength(), top_n=2),
        base_retriever=animals.as_retriever(search_kwargs={"k": 4}),
    )
    expected = ["dog", "cat"]
    assert ids(retriever.invoke("the cow gives milk")) == expected
    assert ids(await retriever.ainvoke("the cow gives milk")) == expected


async def test_a_reranker_passes_through_the_store(animals: Any) -> None:
    reranker = ByLength()
    options = {"reranker": reranker, "fetch_k": 3, "with_details": True}
    for found in (
        animals.similarity_search("cow milk", k=2, **options),
        await animals.asimilarity_search("cow milk", k=2, **options),
        [d for d, _ in animals.similarity_search_with_score("cow milk", k=2, **options)],
        [d for d, _ in await animals.asimilarity_search_with_relevance_scores("cow milk", k=2, **options)],
        animals.as_retriever(search_kwargs={"k": 2, **options}).invoke("cow milk"),
        await SVRRetriever(vectorstore=animals, k=2, **options).ainvoke("cow milk"),
        SVRRetriever(vectorstore=animals).invoke("cow milk", k=2, **options),
    ):
        scores = [d.metadata["svr_rerank_score"] for d in found]
        assert scores == [float(len(d.page_content)) for d in found] == sorted(scores, reverse=True)
        assert len(found) == 2
        query, texts = reranker.asked.pop()
        assert query == "cow milk"
        assert len(texts) == 3
        assert "the cow gives milk" in texts


async def test_every_candidate_is_seen_unless_told_otherwise(animals: Any) -> None:
    reranker = ByLength()
    assert ids(await animals.asimilarity_search("cow milk", k=1, reranker=reranker)) == ["dog"]
    assert len(reranker.asked[0][1]) == 4


def test_a_failing_reranker_leaves_the_closest_and_the_log_says_so(animals: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "langchain_svr"):
        found = animals.similarity_search("the cow gives milk", k=1, reranker=Broken())
    assert ids(found) == ["cow"]
    assert "broken" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("name", ["fetch_k", "rerank_timeout_seconds"])
async def test_options_of_a_reranker_are_refused_without_one(animals: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}': it belongs to .*reranker"):
        animals.similarity_search("x", **{name: 5})
    with pytest.raises(TypeError, match=f"'{name}'"):
        await SVRRetriever(vectorstore=animals).ainvoke("x", **{name: 5})
    with pytest.raises(ValueError, match=f"{name} has no use without a reranker"):
        SVRRetriever(vectorstore=animals, **{name: 5})


def test_a_search_by_vector_or_for_variety_takes_no_reranker(animals: Any) -> None:
    for search in (
        lambda: animals.similarity_search_by_vector([1.0] * 48, reranker=ByLength()),
        lambda: animals.max_marginal_relevance_search("x", reranker=ByLength()),
    ):
        with pytest.raises(TypeError, match="'reranker'"):
            search()
    with pytest.raises(ValueError, match="reranker has no use in search_type='mmr'"):
        SVRRetriever(vectorstore=animals, search_type="mmr", reranker=ByLength())


def test_a_reranker_of_one_call_is_not_that_of_the_next(animals: Any) -> None:
    own = SVRRetriever(vectorstore=animals, k=1)
    assert ids(own.invoke("the cow gives milk", reranker=ByLength())) == ["dog"]
    assert ids(own.invoke("the cow gives milk")) == ["cow"]
    assert own.reranker is None
