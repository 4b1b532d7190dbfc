"""Over a collection that the server embeds: nodes are stored without vectors, and every query is asked by its text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode
from llama_index.vector_stores.svr import SVRVectorStore

from svr_retrievers import AtlasEmbedding, SVRClient
from svr_retrievers.errors import InputError

pytestmark = pytest.mark.mongodb
SIZE = 256
TEXTS = {
    "cat": "the cat sleeps on the warm sofa",
    "dog": "the dog runs across the green field",
    "tax": "how to file a tax return in spring",
    "law": "the law on income tax and its exceptions",
}


@pytest.fixture
def store(mongodb_client: SVRClient) -> Iterator[SVRVectorStore]:
    embedding = AtlasEmbedding("voyage-4", dimensions=SIZE)
    fields = {"ref_doc_id": str, "year": int}
    made = mongodb_client.create_collection("llama_auto", embedder=embedding, filter_fields=fields)
    store = SVRVectorStore(collection="llama_auto", client=mongodb_client, dimensions=SIZE)
    nodes = [
        TextNode(id_=name, text=text, metadata={"year": 2020 + at})
        for at, (name, text) in enumerate(TEXTS.items())
    ]
    store.add(nodes)
    made.hybrid(text="anything")
    made.refresh()
    yield store
    mongodb_client.drop_collection("llama_auto")


def asked(text: str | None, top_k: int = 2, **more: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_str=text, similarity_top_k=top_k, **more)


async def test_every_mode_but_mmr_answers_by_the_text(store: Any) -> None:
    for query in (
        asked("tax return"),
        asked("tax return", query_embedding=[1.0] * 8),
        asked("tax return", mode=Mode.HYBRID),
        asked("tax return", mode=Mode.HYBRID, alpha=0.0),
        asked("tax return", mode=Mode.HYBRID, alpha=1.0),
        asked("tax return", mode=Mode.HYBRID, sparse_top_k=2),
        asked("tax return", mode=Mode.TEXT_SEARCH),
    ):
        for result in (store.query(query), await store.aquery(query)):
            assert result.ids == ["tax", "law"], query
            assert result.nodes[0].metadata == {"year": 2022}


async def test_filters_narrow_it(store: Any) -> None:
    old = MetadataFilters(filters=[MetadataFilter(key="year", value=2021, operator="<=")])
    assert (await store.aquery(asked("the green field", filters=old))).ids == ["dog", "cat"]


async def test_the_embeddings_that_an_index_makes_are_left_out(store: Any) -> None:
    """LlamaIndex embeds every node and question itself, so that a mock serves."""
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(1))
    index.insert(Document(id_="d", text="a warm sofa for the cat"))
    store.open().refresh()
    retriever = index.as_retriever(similarity_top_k=1)
    assert [each.node.text for each in retriever.retrieve("a warm sofa for the cat")] == [
        "a warm sofa for the cat"
    ]
    assert len(await retriever.aretrieve("a warm sofa for the cat")) == 1
    index.delete_ref_doc("d")
    assert sorted(node.node_id for node in store.get_nodes()) == sorted(TEXTS)
    assert all(node.embedding is None for node in store.get_nodes())


async def test_what_needs_vectors_of_our_own_is_refused_with_the_reason(store: Any) -> None:
    with pytest.raises(InputError, match=r"mmr compares the nodes' vectors.*embeds 'llama_auto'.*hybrid"):
        await store.aquery(asked("tax", mode=Mode.MMR))
    for wrong in (asked(None, query_embedding=[1.0] * SIZE), asked(None, mode=Mode.HYBRID)):
        with pytest.raises(InputError, match=r"has no text.*query_str"):
            store.query(wrong)
