"""The blocking client: the asynchronous one, one line a method, over one background event loop.

The loop runs in a daemon thread that all blocking clients of a process share. Calls wait for it from
any thread, also under a running loop as in a notebook; `aio` gives the same calls as awaitables that
work from any event loop. A call from the background loop itself would wait for itself and is refused.
A forked child has no such thread: clients made before the fork are refused there, new ones work.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy.typing as npt
from anyio.from_thread import BlockingPortal, start_blocking_portal

from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.client import AsyncSVRClient, IfExists
from svr_retrievers.collection import AsyncCollection
from svr_retrievers.embedding import AsyncEmbedder, Embedder
from svr_retrievers.loopfree import Bridge, loop_free, loop_free_client
from svr_retrievers.model import (
    DEFAULT_NAMESPACE,
    AddResult,
    Document,
    Explanation,
    Metric,
    OnFailure,
    PartitionMap,
    Route,
    SearchResult,
    VectorLike,
)
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.settings import Settings


class _Loop:
    """The background event loop of this process, started when first needed."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._stack = contextlib.ExitStack()
        self.portal: BlockingPortal = self._stack.enter_context(start_blocking_portal(name="svr-loop"))
        self.thread: int = self.portal.call(threading.get_ident)
        self.clients: weakref.WeakSet[SVRClient] = weakref.WeakSet()

    def stop(self) -> None:
        for client in list(self.clients):
            with contextlib.suppress(Exception):
                client.close()
        self._stack.close()


_lock = threading.Lock()
_loop: _Loop | None = None


def _running_loop() -> _Loop:
    global _loop  # noqa: PLW0603 - one loop a process is the point
    with _lock:
        if _loop is None or _loop.pid != os.getpid():
            _loop = _Loop()
        return _loop


def _forget_after_fork() -> None:
    global _loop, _lock  # noqa: PLW0603 - the child starts without the parent's thread and lock
    _loop = None
    _lock = threading.Lock()


@atexit.register
def _stop_at_exit() -> None:
    if _loop is not None and _loop.pid == os.getpid():
        _loop.stop()


os.register_at_fork(after_in_child=_forget_after_fork)


class SVRClient:
    """The blocking face of AsyncSVRClient: same arguments, same errors. Safe for many threads.

    Opens at once, so that a wrong URL fails here. Close it, or use it as a context manager; what is
    still open when the interpreter ends is closed then.
    """

    def __init__(
        self, url: str | None = None, *, path: str | Path | None = None, settings: Settings | None = None
    ) -> None:
        self._async = AsyncSVRClient(url, path=path, settings=settings)
        self._bridge = Bridge(_running_loop())
        self._bridge.run(self._async.open)
        _running_loop().clients.add(self)

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
        embedder: Embedder | AsyncEmbedder | None = None,
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
                if_exists=if_exists,
            )
        )
        return Collection(made, self._bridge)

    def collection(self, name: str, *, embedder: Embedder | AsyncEmbedder | None = None) -> Collection:
        return Collection(
            self._bridge.run(partial(self._async.collection, name, embedder=embedder)), self._bridge
        )

    def list_collections(self) -> list[str]:
        return self._bridge.run(self._async.list_collections)

    def drop_collection(self, name: str, *, missing_ok: bool = False) -> None:
        self._bridge.run(partial(self._async.drop_collection, name, missing_ok=missing_ok))


class Collection:
    """The blocking face of AsyncCollection: same arguments, same errors. Safe for many threads."""

    def __init__(self, inner: AsyncCollection, bridge: Bridge) -> None:
        self._async = inner
        self._bridge = bridge

    @property
    def aio(self) -> AsyncCollection:
        """The same collection for `await`, from any event loop."""
        return loop_free(self._async, self._bridge)

    @property
    def name(self) -> str:
        return self._async.name

    @property
    def dimensions(self) -> int:
        return self._async.dimensions

    @property
    def metric(self) -> Metric:
        return self._async.metric

    @property
    def partition_by(self) -> Scheme | None:
        return self._async.partition_by

    @property
    def filter_fields(self) -> dict[str, object]:
        return self._async.filter_fields

    @property
    def partitions(self) -> PartitionMap:
        return self._async.partitions

    @property
    def embedder(self) -> Embedder | AsyncEmbedder | None:
        return self._async.embedder

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncCollection", "Collection", 1)

    def add(
        self,
        documents: Iterable[Document],
        *,
        vectors: npt.ArrayLike | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> AddResult:
        return self._bridge.run(partial(self._async.add, documents, vectors=vectors, namespace=namespace))

    def search(
        self,
        *,
        vector: VectorLike | None = None,
        text: str | None = None,
        limit: int = 10,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        exact: bool = False,
        nprobe: int | None = None,
        recall_target: float | None = None,
        ef_search: int | None = None,
        timeout_seconds: float | None = None,
        on_failure: OnFailure = "fail",
        with_vectors: bool = False,
    ) -> SearchResult:
        return self._bridge.run(
            partial(
                self._async.search,
                vector=vector,
                text=text,
                limit=limit,
                filter=filter,
                namespace=namespace,
                partitions=partitions,
                exact=exact,
                nprobe=nprobe,
                recall_target=recall_target,
                ef_search=ef_search,
                timeout_seconds=timeout_seconds,
                on_failure=on_failure,
                with_vectors=with_vectors,
            )
        )

    def route(
        self,
        *,
        vector: VectorLike | None = None,
        text: str | None = None,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        exact: bool = False,
        nprobe: int | None = None,
        recall_target: float | None = None,
    ) -> Route:
        return self._bridge.run(
            partial(
                self._async.route,
                vector=vector,
                text=text,
                filter=filter,
                namespace=namespace,
                partitions=partitions,
                exact=exact,
                nprobe=nprobe,
                recall_target=recall_target,
            )
        )

    def explain(
        self,
        *,
        vector: VectorLike | None = None,
        text: str | None = None,
        limit: int = 10,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        partitions: Sequence[str] | None = None,
        exact: bool = False,
        nprobe: int | None = None,
        recall_target: float | None = None,
        ef_search: int | None = None,
        analyze: bool = False,
    ) -> Explanation:
        return self._bridge.run(
            partial(
                self._async.explain,
                vector=vector,
                text=text,
                limit=limit,
                filter=filter,
                namespace=namespace,
                partitions=partitions,
                exact=exact,
                nprobe=nprobe,
                recall_target=recall_target,
                ef_search=ef_search,
                analyze=analyze,
            )
        )

    def get(
        self, ids: Sequence[str], *, namespace: str = DEFAULT_NAMESPACE, with_vectors: bool = False
    ) -> list[Document]:
        return self._bridge.run(partial(self._async.get, ids, namespace=namespace, with_vectors=with_vectors))

    def find(
        self,
        filter: Mapping[str, object] | None = None,
        *,
        ids: Sequence[str] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        limit: int | None = None,
        with_vectors: bool = False,
    ) -> list[Document]:
        return self._bridge.run(
            partial(
                self._async.find, filter, ids=ids, namespace=namespace, limit=limit, with_vectors=with_vectors
            )
        )

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, object] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> int:
        return self._bridge.run(partial(self._async.delete, ids, filter=filter, namespace=namespace))

    def clear(self, *, namespace: str = DEFAULT_NAMESPACE) -> int:
        return self._bridge.run(partial(self._async.clear, namespace=namespace))

    def count(self, filter: Mapping[str, object] | None = None, *, namespace: str = DEFAULT_NAMESPACE) -> int:
        return self._bridge.run(partial(self._async.count, filter, namespace=namespace))

    def refresh(self) -> PartitionMap:
        return self._bridge.run(self._async.refresh)
