"""What every part of the conformance suite starts from: clients on one store, and collections of their own."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.blocking import Collection, SVRClient
from svr_retrievers.embedding import Embedder
from svr_retrievers.model import Metric
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.testing.data import DIMENSIONS

MakeClient = Callable[[], SVRClient]


class Make(Protocol):
    """Creates a collection that is dropped when the test ends."""

    def __call__(
        self,
        *,
        dimensions: int = DIMENSIONS,
        metric: Metric | str = Metric.COSINE,
        partition_by: Scheme | None = None,
        filter_fields: dict[str, object] | None = None,
        embedder: Embedder | None = None,
    ) -> Collection: ...


class Suite:
    """Fixtures of the suite. `make_client` must be overridden: each call gives a new client on the same store.

    `index` and `servers` are what collections are created with; `persistent` says that a second client sees what the
    first wrote.
    """

    index: IndexSpec | None = None
    servers: tuple[str, ...] = ()
    persistent: bool = True

    @pytest.fixture
    def make_client(self) -> MakeClient:
        pytest.fail("The conformance suite needs a store: override the fixture make_client.")

    @pytest.fixture
    def client(self, make_client: MakeClient) -> Iterator[SVRClient]:
        with make_client() as client:
            yield client

    @pytest.fixture
    def name(self, client: SVRClient) -> Iterator[str]:
        """A name no collection has; a collection of this name is dropped afterwards."""
        name = f"conformance {uuid.uuid4().hex}"
        yield name
        with contextlib.suppress(Exception):
            client.drop_collection(name, missing_ok=True)

    @pytest.fixture
    def make(self, client: SVRClient, name: str) -> Make:
        def make(
            *,
            dimensions: int = DIMENSIONS,
            metric: Metric | str = Metric.COSINE,
            partition_by: Scheme | None = None,
            filter_fields: dict[str, object] | None = None,
            embedder: Embedder | None = None,
        ) -> Collection:
            return client.create_collection(
                name,
                dimensions=dimensions,
                metric=metric,
                partition_by=partition_by,
                filter_fields=filter_fields,
                index=self.index,
                embedder=embedder,
                servers=self.servers,
            )

        return make
