"""The blocking client: one line a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.blocking.collection import Collection
from svr_retrievers.blocking.loop import running_loop
from svr_retrievers.client import AsyncSVRClient, IfExists, OnProblem
from svr_retrievers.embedding import AsyncEmbedder, AtlasEmbedding, Embedder
from svr_retrievers.loopfree import Bridge, loop_free_client
from svr_retrievers.model import (
    DEFAULT_NAMESPACE,
    Metric,
    Server,
)
from svr_retrievers.routing.probe import DEFAULT_RECALL_TARGET
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.settings import Settings


class SVRClient:
    """The blocking face of AsyncSVRClient: same arguments, same errors. Safe for many threads.

    Opens at once, so that a wrong URL fails here. Close it, or use it as a context manager; what is
    still open when the interpreter ends is closed then.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        path: str | Path | None = None,
        control: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._async = AsyncSVRClient(url, path=path, control=control, settings=settings)
        loop = running_loop()
        self._bridge = Bridge(loop)
        self._bridge.run(self._async.open)
        loop.adopt(self)

    @property
    def aio(self) -> AsyncSVRClient:
        """The same client for `await`, from any event loop."""
        return loop_free_client(self._async, self._bridge)

    @property
    def url(self) -> str:
        return self._async.url

    @property
    def backend(self) -> str:
        return self._async.backend

    @property
    def settings(self) -> Settings:
        return self._async.settings

    def __repr__(self) -> str:
        return f"SVRClient({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._bridge.run(self._async.close)

    def create_collection(
        self,
        name: str,
        *,
        dimensions: int | None = None,
        metric: Metric | str = Metric.COSINE,
        partition_by: Scheme | None = None,
        filter_fields: Mapping[str, object] | None = None,
        index: IndexSpec | None = None,
        embedder: Embedder | AsyncEmbedder | AtlasEmbedding | None = None,
        servers: Sequence[str] = (),
        recall_target: float = DEFAULT_RECALL_TARGET,
        text_search: str | None = None,
        if_exists: IfExists = "error",
    ) -> Collection:
        made = self._bridge.run(
            partial(
                self._async.create_collection,
                name,
                dimensions=dimensions,
                metric=metric,
                partition_by=partition_by,
                filter_fields=filter_fields,
                index=index,
                embedder=embedder,
                servers=servers,
                recall_target=recall_target,
                text_search=text_search,
                if_exists=if_exists,
            )
        )
        return Collection(made, self._bridge)

    def adopt_collection(
        self,
        name: str,
        source: str,
        *,
        dimensions: int | None = None,
        metric: Metric | str = Metric.COSINE,
        partition_by: Scheme | None = None,
        filter_fields: Mapping[str, object] | None = None,
        text_field: str = "text",
        vector_field: str = "embedding",
        metadata_field: str | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        index: IndexSpec | None = None,
        search_index: str | None = None,
        embedder: Embedder | AsyncEmbedder | None = None,
        recall_target: float = DEFAULT_RECALL_TARGET,
        on_problem: OnProblem = "report",
        progress: Callable[[int, int], None] | None = None,
    ) -> Collection:
        made = self._bridge.run(
            partial(
                self._async.adopt_collection,
                name,
                source,
                dimensions=dimensions,
                metric=metric,
                partition_by=partition_by,
                filter_fields=filter_fields,
                text_field=text_field,
                vector_field=vector_field,
                metadata_field=metadata_field,
                namespace=namespace,
                index=index,
                search_index=search_index,
                embedder=embedder,
                recall_target=recall_target,
                on_problem=on_problem,
                progress=progress,
            )
        )
        return Collection(made, self._bridge)

    def collection(
        self, name: str, *, embedder: Embedder | AsyncEmbedder | AtlasEmbedding | None = None
    ) -> Collection:
        return Collection(
            self._bridge.run(partial(self._async.collection, name, embedder=embedder)), self._bridge
        )

    def list_collections(self) -> list[str]:
        return self._bridge.run(self._async.list_collections)

    def drop_collection(self, name: str, *, missing_ok: bool = False) -> None:
        self._bridge.run(partial(self._async.drop_collection, name, missing_ok=missing_ok))

    def add_server(self, name: str, url: str) -> Server:
        return self._bridge.run(partial(self._async.add_server, name, url))

    def servers(self) -> list[Server]:
        return self._bridge.run(self._async.servers)

    def remove_server(self, name: str, *, lost: bool = False) -> None:
        self._bridge.run(partial(self._async.remove_server, name, lost=lost))
