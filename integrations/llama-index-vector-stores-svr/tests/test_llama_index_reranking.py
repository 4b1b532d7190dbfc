"""Rerankers: as a node postprocessor, within a query engine, and passed on to the store."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.vector_stores.svr import SVRRerank

from svr_retrievers.errors import InputError, RerankFailed

pytestmark = pytest.mark.rerank


class ByLength:
    """The longer a text, the better; remembers what it was asked."""

    name = "by length"

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def rerank(self, query: str, texts: Any) -> list[float]:
        self.asked.append((query, list(texts)))
        return [float(len(text)) for text in texts]


class Awaited(ByLength):
    rerank = None  # type: ignore[assignment]

    async def arerank(self, query: str, texts: Any) -> list[float]:
        await asyncio.sleep(0)
        return ByLength.rerank(self, query, texts)


class Broken:
    name = "broken"

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def rerank(self, query: str, texts: Any) -> Any:
        if self.answer is None:
            raise RuntimeError("secret-key-123")
        return self.answer


def scored(text: str, score: float | None, **metadata: Any) -> NodeWithScore:
    return NodeWithScore(node=TextNode(id_=text or "blank", text=text, metadata=metadata), score=score)


def given() -> list[NodeWithScore]:
    return [scored("bb", 0.9), scored("", 0.8), scored("dddd", None), scored("cc", 0.1), scored("a", 0.0)]


def ids(found: Any) -> list[str]:
    return [each.node.node_id for each in found]


@pytest.fixture(params=["blocking", "awaitable"])
def rerank(request: Any) -> Any:
    async def do(postprocessor: SVRRerank, nodes: Any, query: str | None = "q") -> Any:
        if request.param == "blocking":
            return postprocessor.postprocess_nodes(nodes, query_str=query)
        return await postprocessor.apostprocess_nodes(nodes, query_str=query)

    return do


@pytest.mark.parametrize("kind", [ByLength, Awaited])
async def test_the_best_come_first_and_none_is_lost(rerank: Any, kind: Any) -> None:
    reranker, nodes = kind(), given()
    found = await rerank(SVRRerank(reranker=reranker), nodes)
    assert ids(found) == ["dddd", "bb", "cc", "a", "blank"]
    assert [each.score for each in found] == [4.0, 2.0, 2.0, 1.0, None]
    assert reranker.asked == [("q", ["bb", "dddd", "cc", "a"])]
    assert [each.score for each in nodes] == [0.9, 0.8, None, 0.1, 0.0]
    assert found[0].node is nodes[2].node


async def test_top_n_keeps_the_best(rerank: Any) -> None:
    assert ids(await rerank(SVRRerank(reranker=ByLength(), top_n=2), given())) == ["dddd", "bb"]
    assert len(await rerank(SVRRerank(reranker=ByLength(), top_n=99), given())) == 5
    assert await rerank(SVRRerank(reranker=ByLength()), []) == []


async def test_the_reranker_reads_the_metadata_that_is_meant_to_be_read(rerank: Any) -> None:
    reranker = ByLength()
    node = scored("text", 0.5, title="Ducks", secret="s")
    node.node.excluded_embed_metadata_keys = ["secret"]
    await rerank(SVRRerank(reranker=reranker), [node])
    assert reranker.asked == [("q", ["title: Ducks\n\ntext"])]


async def test_an_image_without_text_stands_last_even_with_metadata(rerank: Any) -> None:
    image = NodeWithScore(node=ImageNode(id_="image", image="aGk=", metadata={"long": "x" * 90}), score=1.0)
    assert ids(await rerank(SVRRerank(reranker=ByLength()), [image, scored("a", 0.1)])) == ["a", "image"]


@pytest.mark.parametrize("answer", [None, [1.0], [float("nan")] * 4, "abcd"])
async def test_a_failing_reranker_loses_no_node_and_the_log_says_so(
    rerank: Any, answer: Any, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING, "llama_index.vector_stores.svr"):
        found = await rerank(SVRRerank(reranker=Broken(answer)), given())
    assert [(each.node.node_id, each.score) for each in found] == [(n.node.node_id, n.score) for n in given()]
    assert "the reranker broken" in caplog.text.lower()
    assert "secret" not in caplog.text
    assert ids(await rerank(SVRRerank(reranker=Broken(answer), top_n=1), given())) == ["bb"]
    with pytest.raises(RerankFailed, match="broken"):
        await rerank(SVRRerank(reranker=Broken(answer), on_failure="fail"), given())


async def test_a_late_reranker_is_not_waited_for(rerank: Any) -> None:
    class Late:
        release = threading.Event()

        def rerank(self, query: str, texts: Any) -> list[float]:
            self.release.wait(30)
            return [0.0] * len(texts)

    try:
        found = await rerank(SVRRerank(reranker=Late(), timeout_seconds=0.01), given())
        assert ids(found) == ids(given())
    finally:
        Late.release.set()


async def test_without_a_question_it_is_refused(rerank: Any) -> None:
    with pytest.raises(InputError, match="needs the question"):
        await rerank(SVRRerank(reranker=ByLength()), given(), None)


def test_many_threads_at_once_get_their_own_answers() -> None:
    postprocessor = SVRRerank(reranker=Awaited())

    def ask(number: int) -> list[float | None]:
        nodes = [scored("x" * (1 + (i * number) % 7), 0.0) for i in range(7)]
        return [each.score for each in postprocessor.postprocess_nodes(nodes, QueryBundle("q"))]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(1, 40)))
    assert answers == [sorted((float(1 + (i * n) % 7) for i in range(7)), reverse=True) for n in range(1, 40)]


@pytest.mark.parametrize("wrong", [None, "rerank-2.5", ByLength, object()])
def test_what_is_no_reranker_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="reranker must be an object"):
        SVRRerank(reranker=wrong)


@pytest.mark.parametrize(
    "wrong", [{"top_n": 0}, {"timeout_seconds": 0}, {"on_failure": "ignore"}, {"topn": 3}], ids=str
)
def test_a_postprocessor_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SVRRerank(reranker=ByLength(), **wrong)


def test_no_dump_or_repr_shows_the_reranker() -> None:
    class Keyed(ByLength):
        def __repr__(self) -> str:
            return "secret-key-123"

    made = SVRRerank(reranker=Keyed(), top_n=3)
    assert "secret" not in repr(made) + str(made) + made.to_json() + str(made.to_dict())
    assert made.to_dict()["class_name"] == "SVRRerank"
    assert made.to_dict()["top_n"] == 3


async def test_a_query_engine_answers_from_the_reranked_nodes(animals: Any, embed_model: Any) -> None:
    index = VectorStoreIndex.from_vector_store(animals, embed_model=embed_model)
    engine = index.as_query_engine(
        llm=MockLLM(),
        similarity_top_k=4,
        node_postprocessors=[SVRRerank(reranker=ByText("egg"), top_n=1)],
    )
    for answer in (engine.query("the cow gives milk"), await engine.aquery("the cow gives milk")):
        assert ids(answer.source_nodes) == ["hen"]
        assert answer.source_nodes[0].score == 1.0


class ByText:
    """1 for texts with this part, otherwise 0."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.seen: list[int] = []

    def rerank(self, query: str, texts: Any) -> list[float]:
        self.seen.append(len(texts))
        return [float(self.part in text) for text in texts]


async def test_a_reranker_passes_through_the_store(animals: Any, embed: Any) -> None:
    query = VectorStoreQuery(
        query_embedding=embed("the cow gives milk"), query_str="cow milk", similarity_top_k=2
    )
    reranker = ByText("barks")
    for result in (
        animals.query(query, reranker=reranker, fetch_k=4),
        await animals.aquery(query, reranker=reranker, fetch_k=4, rerank_timeout_seconds=5),
    ):
        assert result.ids == ["dog", "cow"]
        assert result.similarities == [1.0, 0.0]
    assert reranker.seen == [4, 4]
    assert animals.query(query).ids[0] == "cow"


async def test_a_failing_reranker_leaves_the_order_of_the_search(
    animals: Any, embed: Any, caplog: Any
) -> None:
    query = VectorStoreQuery(query_embedding=embed("the cow gives milk"), query_str="cow", similarity_top_k=1)
    plain = await animals.aquery(query)
    with caplog.at_level(logging.WARNING, "llama_index.vector_stores.svr"):
        found = await animals.aquery(query, reranker=Broken())
    assert (found.ids, found.similarities) == (plain.ids, plain.similarities) == (["cow"], plain.similarities)
    assert "broken" in caplog.text
    assert "secret" not in caplog.text


def test_a_reranker_needs_the_question_and_a_mode_without_variety(animals: Any, embed: Any) -> None:
    with pytest.raises(InputError, match="has no text"):
        animals.query(VectorStoreQuery(query_embedding=embed("x")), reranker=ByLength())
    varied = VectorStoreQuery(query_embedding=embed("x"), query_str="x", mode="mmr")
    with pytest.raises(TypeError, match='reranker needs vector_store_query_mode="default" or "hybrid"'):
        animals.query(varied, reranker=ByLength())
    assert animals.query(VectorStoreQuery(query_embedding=embed("x")), reranker=None, fetch_k=None).ids
    with pytest.raises(TypeError, match="fetch_k needs a reranker"):
        animals.query(VectorStoreQuery(query_embedding=embed("x")), fetch_k=5)


class Watching(BaseEventHandler):
    _seen: list[Any] = PrivateAttr(default_factory=list)

    def handle(self, event: Any, **_: Any) -> None:
        self._seen.append(event)


async def test_who_watches_events_sees_what_was_reranked(rerank: Any) -> None:
    watching, dispatcher = Watching(), get_dispatcher()
    dispatcher.add_event_handler(watching)
    try:
        await rerank(SVRRerank(reranker=ByLength(), top_n=2), given())
        await rerank(SVRRerank(reranker=Broken()), given())
    finally:
        dispatcher.event_handlers.remove(watching)
    begun, ended, again, kept = watching._seen
    assert (begun.model_name, begun.top_n, ids(begun.nodes)) == ("by length", 2, ids(given()))
    assert ids(ended.nodes) == ["dddd", "bb"]
    assert (again.model_name, ids(kept.nodes)) == ("broken", ids(given()))
