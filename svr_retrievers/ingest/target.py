"""The collection as the pipeline sees it, awaited from whatever event loop it runs on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.blocking import Collection
from svr_retrievers.collection import AsyncCollection
from svr_retrievers.embedding import AsyncEmbedder, AtlasEmbedding, Embedder, check_embedder, embed_documents
from svr_retrievers.errors import InputError
from svr_retrievers.ingest.planning import Key
from svr_retrievers.loopfree import Bridge, LoopFreeCollection
from svr_retrievers.model import AddResult, Document, PartitionMap, Vector
from svr_retrievers.spaces import check_same, space_of

IDS_AT_ONCE = 1_000
T = TypeVar("T")


class Target:
    """A collection with the embedder that its texts are embedded by, if it takes vectors and there is one.

    Raises SpaceMismatch for an embedder of another vector space than the collection's.
    """

    def __init__(
        self, collection: Collection | AsyncCollection, embedder: Embedder | AsyncEmbedder | None
    ) -> None:
        if not isinstance(collection, Collection | AsyncCollection):
            raise InputError(
                f"collection must be a Collection or AsyncCollection, not {type(collection).__name__}."
            )
        check_embedder(embedder)
        hops = isinstance(collection, Collection)
        self.collection: AsyncCollection = (
            collection.aio if isinstance(collection, Collection) else collection
        )
        self.bridge: Bridge | None = (
            self.collection.__dict__["_bridge"]
            if hops or isinstance(collection, LoopFreeCollection)
            else None
        )
        self.blocking = hops
        self.config: CollectionConfig = self.collection._ref.config  # noqa: SLF001 - what add() itself checks against
        self.server_embeds = self.config.embedding is not None
        if self.server_embeds and embedder is not None:
            raise InputError("The server embeds this collection.", hint="Leave embedder out.")
        check_same(self.collection.name, self.collection.space, space_of(embedder))
        own = self.collection.embedder
        self.embedder = embedder or (None if isinstance(own, AtlasEmbedding) else own)

    @property
    def collection_id(self) -> int:
        """A collection made anew under the same name has another."""
        return self.collection._ref.id  # noqa: SLF001 - the control plane's own number

    @property
    def partitions(self) -> PartitionMap:
        return self.collection.partitions

    async def rows(self, keys: Iterable[Key], *, with_vectors: bool = False) -> dict[Key, Document]:
        """Those of the rows that exist."""
        ids: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for namespace, row_id in keys:
            ids[namespace][row_id] = None
        found: dict[Key, Document] = {}
        for namespace, wanted in ids.items():
            rows = await self.collection.find(
                ids=list(wanted), namespace=namespace, with_vectors=with_vectors
            )
            found.update(((namespace, row.id), row) for row in rows)
        return found

    async def delete(self, namespace: str, ids: Iterable[str]) -> int:
        """How many of the rows there were. They go in the order given, a thousand at a time."""
        rest, gone = iter(ids), 0
        while some := list(islice(rest, IDS_AT_ONCE)):
            gone += await self.collection.delete(some, namespace=namespace)
        return gone

    async def add(self, documents: Sequence[Document], vectors: Vector | None) -> AddResult:
        return await self.collection.add(documents, vectors=vectors)

    async def embed(self, texts: list[str]) -> Vector:
        """On the client's own loop, to which an embedder's connections belong."""
        assert self.embedder is not None
        return await self._at_home(partial(embed_documents, self.embedder, texts))

    async def _at_home(self, call: Callable[[], Awaitable[T]]) -> T:
        return await (self.bridge.hop(call) if self.bridge is not None else call())
