"""Stores, clients and an embedding that needs no network, for the tests of the adapter."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Iterator

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_svr import SVRVectorStore

from svr_retrievers import SVRClient

_names = itertools.count()
MakeStore = Callable[..., SVRVectorStore]


class WordEmbeddings(Embeddings):
    """Counts words in hashed buckets; native in both styles, and counts the calls it gets."""

    def __init__(self, size: int = 48) -> None:
        self.size = size
        self.calls: list[str] = []

    def _vector(self, text: str) -> list[float]:
        vector = [0.01] * self.size
        for word in re.findall(r"\w+", text.lower()):
            vector[zlib.crc32(word.encode()) % self.size] += 1.0
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls.append("embed_documents")
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.calls.append("embed_query")
        return self._vector(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls.append("aembed_documents")
        return [self._vector(text) for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        self.calls.append("aembed_query")
        return self._vector(text)


@pytest.fixture
def embedding() -> WordEmbeddings:
    return WordEmbeddings()


@pytest.fixture
def make_store(client: SVRClient, embedding: WordEmbeddings) -> Iterator[MakeStore]:
    """Makes stores over a collection of this test alone, unless they name another."""
    name = f"langchain_{next(_names)}"
    used = {name}

    def make(**options: object) -> SVRVectorStore:
        options = {"embedding": embedding, "collection": name, "client": client} | options
        used.add(str(options["collection"]))
        return SVRVectorStore(**options)  # type: ignore[arg-type]

    yield make
    for collection in used:
        client.drop_collection(collection, missing_ok=True)


@pytest.fixture
def store(make_store: MakeStore) -> SVRVectorStore:
    return make_store()


@pytest.fixture
def animals(store: SVRVectorStore) -> SVRVectorStore:
    """Four short texts about animals."""
    store.add_documents([
        Document(id="cat", page_content="the cat sleeps on the sofa", metadata={"kind": "pet", "legs": 4}),
        Document(id="dog", page_content="the dog barks at the postman", metadata={"kind": "pet", "legs": 4}),
        Document(id="hen", page_content="the hen lays an egg", metadata={"kind": "farm", "legs": 2}),
        Document(id="cow", page_content="the cow gives milk", metadata={"kind": "farm", "legs": 4}),
    ])  # fmt: skip
    return store
