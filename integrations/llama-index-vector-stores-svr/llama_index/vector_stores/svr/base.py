"""SVRVectorStore: a routed collection as a LlamaIndex vector store, native in both styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any, Self

import fsspec
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.tools import RetrieverTool
from llama_index.core.vector_stores import (
    MetadataFilters,
    MetadataInfo,
    VectorStoreInfo,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index.vector_stores.svr.connection import Connection
from llama_index.vector_stores.svr.describing import described
from llama_index.vector_stores.svr.nodes import SOURCE_KEY, to_document, to_nodes
from llama_index.vector_stores.svr.options import reject_unknown
from llama_index.vector_stores.svr.querying import Ask, Search, embeds, prepare, restricted
from llama_index.vector_stores.svr.settings import (
    FieldTypes,
    field_types,
    index_spec,
    scheme,
    written_fields,
    written_spec,
)
from pydantic import PlainSerializer

from svr_retrievers import (
    DEFAULT_NAMESPACE,
    AsyncCollection,
    AsyncSVRClient,
    Collection,
    Document,
    IndexSpec,
    Metric,
    Scheme,
    SearchResult,
    SVRClient,
    SVRError,
)

_CONSTANT = ("stores_text", "is_embedding_query", "flat_metadata", "class_name")


class SVRVectorStore(BasePydanticVectorStore):
    """A LlamaIndex vector store over a partitioned collection on PostgreSQL or MongoDB Atlas.

    Opens on first use and makes the collection if it is missing. Safe for many threads and event loops;
    the asynchronous methods never block theirs. Adding a node again replaces it.

    `url` is `postgresql://...`, `mongodb+srv://...` or `memory://`; without it and without a `client` the
    default of SVRClient is used. A `client` is shared and never closed here. `filter_fields` become typed
    and indexed; `ref_doc_id` is always one of those of a new collection. No dump, repr or pickle of a store
    holds its connection: a copy needs `connect`, or `url=` or `client=` in `from_dict`.

    Raises:
        CollectionMismatch: on first use, when the collection exists with other settings.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    stores_text: bool = True
    is_embedding_query: bool = True
    flat_metadata: bool = False
    collection: str
    dimensions: int
    partition_by: Annotated[Any, PlainSerializer(written_spec)] = None
    filter_fields: Annotated[Any, PlainSerializer(written_fields)] = None
    namespace: str = DEFAULT_NAMESPACE
    metric: str = "cosine"
    index: Annotated[Any, PlainSerializer(written_spec)] = None

    _connection: Connection = PrivateAttr()

    def __init__(
        self,
        *,
        collection: str = "default",
        dimensions: int,
        url: str | None = None,
        client: SVRClient | None = None,
        partition_by: Scheme | None = None,
        filter_fields: FieldTypes | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        metric: Metric | str = "cosine",
        index: IndexSpec | None = None,
    ) -> None:
        settings: dict[str, Any] = {
            "dimensions": dimensions,
            "partition_by": scheme(partition_by),
            "filter_fields": field_types(filter_fields),
            "metric": Metric(metric).value,
            "index": index_spec(index),
        }
        names: dict[str, Any] = {"collection": collection, "namespace": namespace}
        super().__init__(**settings, **names)
        self._connection = Connection(collection, settings, url=url, client=client)

    @classmethod
    def class_name(cls) -> str:
        return "SVRVectorStore"

    @property
    def client(self) -> SVRClient:
        """The client, opened if need be."""
        return self._connection.client()

    @property
    def aclient(self) -> AsyncSVRClient:
        """The same client for `await`, from any event loop."""
        return self.client.aio

    def open(self) -> Collection:
        """The collection behind the store, for what LlamaIndex has no words for: route, explain, refresh."""
        return self._connection.collection()

    def connect(self, *, url: str | None = None, client: SVRClient | None = None) -> Self:
        """Connects a copy that was read from a dump or a pickle, or a closed store. Neither: the default."""
        self._connection.close()
        self._connection.use(url=url, client=client)
        return self

    def close(self) -> None:
        """Closes the client unless it was passed in. A closed store raises ClientClosed."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """All settings but where the data is; `connection` says whether a copy must be told."""
        return super().to_dict(**kwargs) | {"connection": "given" if self._connection.given else "default"}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """A store with these settings. `url=` or `client=` says where its data is."""
        settings = {k: v for k, v in (data | kwargs).items() if k not in _CONSTANT}
        elsewhere = settings.pop("connection", "default") == "given"
        made = cls(**settings)
        if elsewhere and not made._connection.given:
            made._connection.lose()
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Stores nodes that carry embeddings, all or none; a known id is replaced, of twins the last stays.

        Returns:
            The ids, one for each node given.

        Raises:
            BatchError: naming each node that cannot be stored.
        """
        reject_unknown("add", kwargs)
        if nodes:
            self._connection.run(lambda found: found.add(_documents(nodes, found), namespace=self.namespace))
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        reject_unknown("async_add", kwargs)
        if nodes:
            await self._connection.arun(
                lambda known, found: found.add(_documents(nodes, known), namespace=self.namespace)
            )
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Deletes the nodes of a source document; an unknown one is no error."""
        reject_unknown("delete", delete_kwargs)
        where = {SOURCE_KEY: ref_doc_id}
        self._connection.run(lambda found: found.delete(filter=where, namespace=self.namespace))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        reject_unknown("adelete", delete_kwargs)
        where = {SOURCE_KEY: ref_doc_id}
        await self._connection.arun(lambda _, found: found.delete(filter=where, namespace=self.namespace))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Deletes nodes by id, by filter, or those for which both hold.

        Neither given, an empty list of ids, and filters without conditions on their own delete nothing:
        `clear` deletes everything.
        """
        reject_unknown("delete_nodes", delete_kwargs)
        if _selects(node_ids, filters):
            self._connection.run(lambda found: found.delete(node_ids, **self._where(filters, found)))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        reject_unknown("adelete_nodes", delete_kwargs)
        if _selects(node_ids, filters):
            await self._connection.arun(
                lambda known, found: found.delete(node_ids, **self._where(filters, known))
            )

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes with their embeddings: by id, by filter, where both hold; all of them when neither is given.

        In the order of `node_ids`, otherwise by id. Unknown ids are skipped. Where the server embeds, they have none.
        """
        return to_nodes(
            self._connection.run(lambda found: found.find(**self._wanted(node_ids, filters, found))), node_ids
        )

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        async def find(known: Collection, found: AsyncCollection) -> list[Document]:
            return await found.find(**self._wanted(node_ids, filters, known))

        return to_nodes(await self._connection.arun(find), node_ids)

    def clear(self) -> None:
        """Deletes every node of the namespace."""
        self._connection.run(lambda found: found.clear(namespace=self.namespace))

    async def aclear(self) -> None:
        await self._connection.arun(lambda _, found: found.clear(namespace=self.namespace))

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes that answer best, best first, by the query's mode.

        `default` ranks by vectors, `mmr` chooses a varied part of the nearest, `text_search` ranks by the words of
        `query_str`, and `hybrid` by both, where `alpha` weighs vectors against words: 1 is vectors alone, 0 (as
        given, not as left out) words alone. `hybrid_top_k` is how many nodes a hybrid query answers, in place of
        `similarity_top_k`, which then bounds the ranking by vectors as `sparse_top_k` does that by words.
        A collection that the server embeds is asked by `query_str` in every mode.

        Keyword arguments, `vector_store_kwargs` of a retriever: `partitions`, `exact`, `nprobe`,
        `recall_target`, `timeout_seconds` and `ef_search` as in `Collection.search`; `node_ids` searches
        only these nodes; in mode hybrid `fusion`; in the modes default and hybrid `reranker`, `fetch_k` and
        `rerank_timeout_seconds`; in mode mmr `mmr_threshold` (1 only closeness, 0 only variety, default 0.5) and
        `mmr_prefetch_factor` (default 4) or `mmr_prefetch_k`. `query.node_ids` is not used: LlamaIndex
        fills it with the image and index nodes of its own index, which would hide all text nodes.
        """

        def search(found: Collection) -> VectorStoreQueryResult:
            wanted = prepare(query, kwargs, found, self.namespace)
            return wanted.result([_answer(found, ask, wanted) for ask in wanted.asks])

        return self._connection.run(search)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        async def search(known: Collection, found: AsyncCollection) -> VectorStoreQueryResult:
            wanted = prepare(query, kwargs, known, self.namespace)
            return wanted.result([await _aanswer(found, ask, wanted) for ask in wanted.asks])

        return await self._connection.arun(search)

    def persist(self, persist_path: str = "", fs: fsspec.AbstractFileSystem | None = None) -> None:
        """Nothing to do: each write is durable when it returns."""

    def as_tool(
        self,
        *,
        embed_model: BaseEmbedding | str | None = None,
        name: str,
        description: str,
        similarity_top_k: int = 4,
        **retriever_options: Any,
    ) -> RetrieverTool:
        """A tool with which an agent searches this store. More options go to the index's `as_retriever`."""
        index = VectorStoreIndex.from_vector_store(self, embed_model=embed_model)
        retriever = index.as_retriever(similarity_top_k=similarity_top_k, **retriever_options)
        return RetrieverTool.from_defaults(retriever, name=name, description=description)

    def vector_store_info(
        self,
        content_info: str,
        descriptions: Mapping[str, str] | None = None,
        *,
        more: Sequence[MetadataInfo] = (),
    ) -> VectorStoreInfo:
        """For `VectorIndexAutoRetriever`: the declared fields and partition keys, with types and descriptions.

        `content_info` says what the nodes are about, `descriptions` what a field means, `more` describes
        metadata that is not declared. Opens the collection.

        Raises:
            InputError: for a description of a field that is not declared.
        """
        found = self.open()
        return described(content_info, found.filter_fields, found.partition_by, descriptions or {}, more)

    def _where(self, filters: MetadataFilters | None, known: Collection) -> dict[str, Any]:
        return {"filter": restricted(filters, known) or None, "namespace": self.namespace}

    def _wanted(
        self, node_ids: list[str] | None, filters: MetadataFilters | None, known: Collection
    ) -> dict[str, Any]:
        return {**self._where(filters, known), "ids": node_ids, "with_vectors": not embeds(known)}


def _documents(nodes: Sequence[BaseNode], known: Collection) -> list[Document]:
    """Without vectors where the server makes them from the texts."""
    with_vectors = not embeds(known)
    return list({node.node_id: to_document(node, with_vector=with_vectors) for node in nodes}.values())


def _selects(node_ids: list[str] | None, filters: MetadataFilters | None) -> bool:
    if node_ids is None:
        return filters is not None and bool(filters.filters)
    return bool(node_ids)


def _answer(found: Collection, ask: Ask, wanted: Search) -> SearchResult | SVRError:
    try:
        answer: SearchResult = getattr(found, ask.method)(**ask.arguments)
    except SVRError as error:
        return wanted.without(error)
    return answer


async def _aanswer(found: AsyncCollection, ask: Ask, wanted: Search) -> SearchResult | SVRError:
    try:
        answer: SearchResult = await getattr(found, ask.method)(**ask.arguments)
    except SVRError as error:
        return wanted.without(error)
    return answer
