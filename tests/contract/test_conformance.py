"""The public conformance suite on each backend, and on PostgreSQL over each kind of index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from svr_retrievers import Document, SVRClient, flat, hnsw, ivfflat
from svr_retrievers.testing.base import Make
from svr_retrievers.testing.conformance import CollectionConformance, MakeClient, Suite
from svr_retrievers.testing.data import documents, vector
from svr_retrievers.testing.partitioning import PartitioningConformance
from svr_retrievers.testing.searching import SearchingConformance
from svr_retrievers.testing.writing import WritingConformance

INDEX_ONLY = "&options=-c%20enable_seqscan%3Doff%20-c%20enable_bitmapscan%3Doff%20-c%20enable_sort%3Doff"
"""Makes the planner take the vector index of tables that are so small that it would scan them."""


class TestMemory(CollectionConformance):
    persistent = False

    @pytest.fixture
    def make_client(self) -> MakeClient:
        return lambda: SVRClient("memory://")


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, SVRClient]]:
    """Clients by URL, so that a test needs no new pool."""
    clients: dict[str, SVRClient] = {}
    yield clients
    for client in clients.values():
        client.close()


class Postgres(Suite):
    """Clients on the module's database, one of them kept for all tests."""

    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def client(self, url: str, shared: dict[str, SVRClient]) -> SVRClient:
        if url not in shared:
            shared[url] = SVRClient(url)
        return shared[url]

    @pytest.fixture
    def make_client(self, url: str) -> MakeClient:
        return lambda: SVRClient(url)


@pytest.mark.slow
class TestPostgres(Postgres, CollectionConformance):
    """As most collections are: too small for an index."""


class Indexed(Postgres, WritingConformance, SearchingConformance, PartitioningConformance):
    method = ""

    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url + INDEX_ONLY

    def test_the_index_is_really_used(self, make: Make) -> None:
        collection = make()
        collection.add(documents(30))
        assert all(p.stats.indexed for p in collection.partitions)
        plan = collection.explain(vector=vector(1)).plan
        assert "Index Scan using" in plan
        assert self.method in plan
        assert self.method not in collection.explain(vector=vector(1), exact=True).plan


@pytest.mark.slow
class TestPostgresHnsw(Indexed):
    index = hnsw(min_rows=1)
    method = "_hnsw"


@pytest.mark.slow
class TestPostgresIvfflat(Indexed):
    """Every list is probed, so that the small collections of the suite are searched in full."""

    index = ivfflat(lists=3, probes=3, min_rows=1)
    method = "_ivfflat"


@pytest.mark.slow
class TestPostgresFlat(Postgres, SearchingConformance):
    index = flat()

    def test_ties_are_broken_by_id_at_the_limit_without_asking(self, make: Make) -> None:
        collection = make()
        collection.add([Document(f"t{n}", vector=vector(1)) for n in range(9)][::-1])
        assert collection.search(vector=vector(1), limit=4).ids == ("t0", "t1", "t2", "t3")
