"""Stores, clients and an embedding that needs no network, for the tests of the LlamaIndex adapter."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Iterator

import pytest
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.vector_stores.svr import SVRVectorStore

from svr_retrievers import SVRClient

_names = itertools.count()
_SIZE = 48
MakeStore = Callable[..., SVRVectorStore]


def word_vector(text: str) -> list[float]:
    """Counts words in hashed buckets: texts that share words lie close together."""
    vector = [0.01] * _SIZE
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % _SIZE] += 1.0
    return vector


class WordEmbedding(BaseEmbedding):
    def _get_query_embedding(self, query: str) -> list[float]:
        return word_vector(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return word_vector(text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return word_vector(query)


@pytest.fixture
def embed() -> Callable[[str], list[float]]:
    return word_vector


@pytest.fixture
def make_node() -> Callable[..., TextNode]:
    """A text node with its embedding; `source` names the document it comes from."""

    def make(id: str, text: str = "", source: str | None = None, **metadata: object) -> TextNode:
        node = TextNode(id_=id, text=text or f"text {id}", metadata=metadata)
        node.embedding = word_vector(node.text)
        if source is not None:
            node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=source)
        return node

    return make


@pytest.fixture
def embed_model() -> WordEmbedding:
    return WordEmbedding()


@pytest.fixture
def make_store(client: SVRClient) -> Iterator[MakeStore]:
    """Makes stores over a collection of this test alone, unless they name another."""
    name = f"llama_index_{next(_names)}"
    used = {name}

    def make(**options: object) -> SVRVectorStore:
        options = {"collection": name, "client": client, "dimensions": _SIZE} | options
        used.add(str(options["collection"]))
        return SVRVectorStore(**options)  # type: ignore[arg-type]

    yield make
    for collection in used:
        client.drop_collection(collection, missing_ok=True)


@pytest.fixture
def store(make_store: MakeStore) -> SVRVectorStore:
    return make_store()


@pytest.fixture
def animals(store: SVRVectorStore, make_node: Callable[..., TextNode]) -> SVRVectorStore:
    """Four short texts about animals, from two documents."""
    store.add([
        make_node("cat", "the cat sleeps on the sofa", "pets", kind="pet", legs=4),
        make_node("dog", "the dog barks at the postman", "pets", kind="pet", legs=4),
        make_node("hen", "the hen lays an egg", "farm", kind="farm", legs=2),
        make_node("cow", "the cow gives milk", "farm", kind="farm", legs=4),
    ])  # fmt: skip
    return store
