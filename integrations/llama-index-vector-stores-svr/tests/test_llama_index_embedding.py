"""LlamaIndex embedding models as embedders of the router's own collections."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import BaseEmbedding
from llama_index.vector_stores.svr import SVREmbedder

from svr_retrievers import Document, SVRClient
from svr_retrievers.errors import EmbeddingFailed, InputError, SpaceMismatch
from svr_retrievers.spaces import VectorSpace

pytestmark = pytest.mark.providers


class Asymmetric(BaseEmbedding):
    """Knows queries and documents apart, and batches; its own awaitable method would hold up an event loop."""

    api_key: str = "secret-key-123"
    _batches: list[int] = PrivateAttr(default_factory=list)
    _threads: set[int] = PrivateAttr(default_factory=set)

    def _get_text_embedding(self, text: str) -> list[float]:
        return [1.0, float(len(text)), 0.0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._batches.append(len(texts))
        self._threads.add(threading.get_ident())
        return [self._get_text_embedding(text) for text in texts]

    def _get_query_embedding(self, query: str) -> list[float]:
        self._threads.add(threading.get_ident())
        return [1.0, float(len(query)), 0.0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        raise AssertionError("would hold up the event loop")


@pytest.fixture
def model() -> Asymmetric:
    return Asymmetric(model_name="asymmetric", embed_batch_size=2)


@pytest.fixture
def memory() -> Any:
    with SVRClient("memory://") as client:
        yield client


def notes() -> list[Document]:
    return [Document(id="x" * n, text="x" * n) for n in range(1, 6)]


def test_documents_and_queries_are_embedded_each_in_their_way(memory: Any, model: Any) -> None:
    made = memory.create_collection("notes", embedder=SVREmbedder(model), metric="l2")
    made.add(notes())
    assert made.dimensions == 3
    assert made.search(text="four", limit=1).ids == ("xxxx",)
    assert model._batches == [2, 2, 1]


async def test_awaited_collections_embed_beside_the_event_loop(memory: Any, model: Any) -> None:
    made = await memory.aio.create_collection("notes", embedder=SVREmbedder(model), metric="l2")
    await made.add(notes())
    assert (await made.search(text="to", limit=1)).ids == ("xx",)
    assert model._threads
    assert threading.get_ident() not in model._threads


def test_a_declared_space_guards_the_collection(memory: Any, model: Any) -> None:
    mine, other = VectorSpace("llama", "mine", 3), VectorSpace("llama", "other", 3)
    made = memory.create_collection("notes", embedder=SVREmbedder(model, space=mine))
    assert made.space == mine
    with pytest.raises(SpaceMismatch, match=r"llama/mine.*llama/other"):
        memory.collection("notes", embedder=SVREmbedder(model, space=other))
    memory.collection("notes", embedder=SVREmbedder(model))


def test_a_failing_model_is_named_without_its_key(memory: Any) -> None:
    class Failing(MockEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            raise ConnectionError("secret-key-123")

    made = memory.create_collection("notes", embedder=SVREmbedder(Failing(4)), dimensions=4)
    with pytest.raises(EmbeddingFailed, match="ConnectionError") as caught:
        made.search(text="x")
    assert "secret" not in str(caught.value)


def test_its_repr_names_the_model_and_no_key(model: Any) -> None:
    assert repr(SVREmbedder(model)) == "SVREmbedder(Asymmetric: asymmetric)"


@pytest.mark.parametrize("wrong", [None, "text-embedding-3-small", MockEmbedding], ids=repr)
def test_what_is_no_embedding_model_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="LlamaIndex embedding model"):
        SVREmbedder(wrong)
