"""The public conformance suite on MongoDB: at once, over late indexes, over views, and over fields."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from svr_retrievers import Document, SVRClient, by_field, flat, hnsw
from svr_retrievers.errors import MissingExtra
from svr_retrievers.testing.base import Make
from svr_retrievers.testing.concurrency import ConcurrencyConformance
from svr_retrievers.testing.conformance import CollectionConformance, MakeClient, Suite
from svr_retrievers.testing.data import documents, vector
from svr_retrievers.testing.mongodb import AtlasStandIn, Mongod, Settings
from svr_retrievers.testing.mongodb.server import binary
from svr_retrievers.testing.partitioning import PartitioningConformance
from svr_retrievers.testing.scanning import ScanningConformance
from svr_retrievers.testing.searching import SearchingConformance
from svr_retrievers.testing.words import WordsConformance
from svr_retrievers.testing.writing import WritingConformance

pytestmark = [pytest.mark.mongodb, pytest.mark.slow]


def database(server: str) -> str:
    """The server's URL with a new database in it."""
    hosts, _, options = server.partition("?")
    return f"{hosts.rstrip('/')}/svr_conformance_{secrets.token_hex(6)}" + (f"?{options}" if options else "")


@pytest.fixture(scope="module")
def module_url(mongodb_server: str) -> Iterator[str]:
    url = database(mongodb_server)
    yield url
    with MongoClient(url) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture(scope="module")
def late_url() -> Iterator[str]:
    """A server whose indexes take every write late."""
    try:
        binary()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    with Mongod() as server, AtlasStandIn(server.uri, Settings(build=0.3, refresh=0.4)) as late:
        yield database(late.uri)


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, SVRClient]]:
    """Clients by URL, so that a test needs no connections of its own."""
    clients: dict[str, SVRClient] = {}
    yield clients
    for client in clients.values():
        client.close()


class Mongo(Suite):
    @pytest.fixture
    def url(self, module_url: str) -> str:
        return module_url

    @pytest.fixture
    def client(self, url: str, shared: dict[str, SVRClient]) -> SVRClient:
        if url not in shared:
            shared[url] = SVRClient(url)
        return shared[url]

    @pytest.fixture
    def make_client(self, url: str) -> MakeClient:
        return lambda: SVRClient(url)


class TestMongo(Mongo, CollectionConformance):
    """As most collections are: one index that filters by partition."""


class TestMongoGraph(Mongo, SearchingConformance, PartitioningConformance):
    """The graph is asked however few the rows are."""

    index = hnsw(min_rows=0)

    def test_the_index_is_really_used(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"), filter_fields={"year": int})
        collection.add(documents(30))
        collection.refresh()
        assert all(p.stats.indexed for p in collection.partitions)
        plan = collection.explain(vector=vector(1), filter={"year": {"$gte": 2020}}).plan
        assert "(ready)" in plan
        assert "numCandidates" in plan
        assert '"svr.f.f0_year": {"$gte": 2020}' in plan
        assert '"exact": true' in collection.explain(vector=vector(1), exact=True).plan


class TestMongoFlat(Mongo, SearchingConformance):
    index = flat()


class TestMongoViews(Mongo, WritingConformance, SearchingConformance, PartitioningConformance):
    """Every partition that a refresh finds gets a view and an index of its own."""

    index = hnsw(min_rows=1, mode="views")

    def test_each_partition_has_an_index_of_its_own(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(30))
        collection.refresh()
        plan = collection.explain(vector=vector(1)).plan
        assert plan.count("(ready) over svr.view.") == len(collection.partitions) == 4
        collection.add([Document("new", metadata={"category": "new"}, vector=vector(1))])
        assert collection.search(vector=vector(1), filter={"category": "new"}).ids == ("new",)
        assert len(collection.search(vector=vector(1), limit=50)) == 31
        assert collection.explain(vector=vector(1)).plan.count("index svr_") == 5


class TestMongoFields(Mongo, WritingConformance, SearchingConformance, PartitioningConformance):
    """Every partition has a vector field of its own in one index."""

    index = hnsw(min_rows=0, mode="fields")

    def test_each_partition_has_a_field_of_its_own(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(30))
        collection.refresh()
        plan = collection.explain(vector=vector(1)).plan
        assert {f'"embedding.p{n}"' in plan for n in range(1, 5)} == {True}


class TestMongoLate(
    Mongo,
    WritingConformance,
    ConcurrencyConformance,
    SearchingConformance,
    WordsConformance,
    ScanningConformance,
):
    """The index takes every write half a second late: what it does not hold yet is found all the same."""

    index = hnsw(min_rows=0)

    @pytest.fixture
    def url(self, late_url: str) -> str:
        return late_url
