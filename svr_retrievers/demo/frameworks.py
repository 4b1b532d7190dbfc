"""The same question through LangChain and LlamaIndex, each if its adapter is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from svr_retrievers.demo.compare import Where

if TYPE_CHECKING:
    from svr_retrievers import Embedder, SVRClient

LANGCHAIN = "LangChain"
LLAMA_INDEX = "LlamaIndex"


@dataclass(frozen=True, slots=True)
class Through:
    """What a framework's store answered, or why it did not: the command that installs it, or its failure."""

    framework: str
    call: str
    ids: tuple[str, ...] = ()
    install: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Asking:
    """The question as every framework gets it."""

    client: SVRClient
    collection: str
    embedder: Embedder
    dimensions: int
    text: str
    where: Where
    limit: int


def ask_all(asking: Asking) -> tuple[Through, ...]:
    return (
        _through(
            Through(LANGCHAIN, "SVRVectorStore.similarity_search(question, filter=...)"),
            "pip install ./integrations/langchain-svr",
            lambda: _langchain(asking),
        ),
        _through(
            Through(LLAMA_INDEX, "SVRVectorStore.query(VectorStoreQuery(...))"),
            "pip install ./integrations/llama-index-vector-stores-svr",
            lambda: _llama_index(asking),
        ),
    )


def _through(through: Through, install: str, ask: Callable[[], tuple[str, ...]]) -> Through:
    try:
        return replace(through, ids=ask())
    except ImportError:
        return replace(through, install=install)
    except Exception as error:  # noqa: BLE001 - an adapter of another release must not cost the rest of the report
        return replace(through, failure=f"{type(error).__name__}: {error}")


def _langchain(asking: Asking) -> tuple[str, ...]:
    module = import_module("langchain_svr")
    store = module.SVRVectorStore(asking.embedder, collection=asking.collection, client=asking.client)
    found = store.similarity_search(asking.text, k=asking.limit, filter=dict(asking.where))
    return tuple(document.id for document in found)


def _llama_index(asking: Asking) -> tuple[str, ...]:
    module = import_module("llama_index.vector_stores.svr")
    types = import_module("llama_index.core.vector_stores.types")
    store = module.SVRVectorStore(
        collection=asking.collection, dimensions=asking.dimensions, client=asking.client
    )
    conditions = [types.MetadataFilter(key=name, value=value) for name, value in asking.where.items()]
    query = types.VectorStoreQuery(
        query_embedding=[float(x) for x in asking.embedder.embed_query(asking.text)],
        similarity_top_k=asking.limit,
        filters=types.MetadataFilters(filters=conditions),
    )
    return tuple(store.query(query).ids or ())
