"""The same question through LangChain and LlamaIndex, each if its adapter is installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from svr_retrievers.demo.compare import Where
from svr_retrievers.demo.routed import COLLECTION

if TYPE_CHECKING:
    from svr_retrievers import Embedder, SVRClient

LANGCHAIN = "LangChain"
LLAMA_INDEX = "LlamaIndex"


@dataclass(frozen=True, slots=True)
class Through:
    """What a framework's retriever answered, or the command that installs its adapter."""

    framework: str
    call: str
    ids: tuple[str, ...] = ()
    install: str = ""


def ask_all(client: SVRClient, embedder: Embedder, text: str, where: Where, limit: int) -> list[Through]:
    return [
        _langchain(client, embedder, text, where, limit),
        _llama_index(client, embedder, text, where, limit),
    ]


def _langchain(client: SVRClient, embedder: Embedder, text: str, where: Where, limit: int) -> Through:
    call = "SVRVectorStore.similarity_search(question, filter=...)"
    try:
        module = import_module("langchain_svr")
    except ImportError:
        return Through(LANGCHAIN, call, install="pip install langchain-svr")
    store = module.SVRVectorStore(embedder, collection=COLLECTION, client=client)
    found = store.similarity_search(text, k=limit, filter=dict(where))
    return Through(LANGCHAIN, call, tuple(document.id for document in found))


def _llama_index(client: SVRClient, embedder: Embedder, text: str, where: Where, limit: int) -> Through:
    call = "SVRVectorStore.query(VectorStoreQuery(...))"
    try:
        module = import_module("llama_index.vector_stores.svr")
        types = import_module("llama_index.core.vector_stores.types")
    except ImportError:
        return Through(LLAMA_INDEX, call, install="pip install llama-index-vector-stores-svr")
    store = module.SVRVectorStore(collection=COLLECTION, client=client)
    conditions = [types.MetadataFilter(key=name, value=value) for name, value in where.items()]
    query = types.VectorStoreQuery(
        query_embedding=[float(x) for x in embedder.embed_query(text)],
        similarity_top_k=limit,
        filters=types.MetadataFilters(filters=conditions),
    )
    return Through(LLAMA_INDEX, call, tuple(store.query(query).ids or ()))
