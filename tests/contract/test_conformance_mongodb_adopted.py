"""The public conformance suite over collections of others: what SVR does there is what it does everywhere."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from svr_retrievers import Collection, SVRClient, hnsw
from svr_retrievers.testing.base import Make
from svr_retrievers.testing.conformance import MakeClient
from svr_retrievers.testing.partitioning import PartitioningConformance
from svr_retrievers.testing.scanning import ScanningConformance
from svr_retrievers.testing.searching import SearchingConformance
from svr_retrievers.testing.words import WordsConformance
from svr_retrievers.testing.writing import WritingConformance

pytestmark = [pytest.mark.mongodb, pytest.mark.slow]


@pytest.fixture(scope="module")
def module_url(mongodb_server: str) -> Iterator[str]:
    hosts, _, options = mongodb_server.partition("?")
    url = f"{hosts.rstrip('/')}/svr_conformance_{secrets.token_hex(6)}" + (f"?{options}" if options else "")
    yield url
    with MongoClient(url) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture(scope="module")
def shared(module_url: str) -> Iterator[SVRClient]:
    with SVRClient(module_url) as opened:
        yield opened


class TestAdopted(
    WritingConformance,
    ScanningConformance,
    SearchingConformance,
    WordsConformance,
    PartitioningConformance,
):
    """Each collection is adopted over an empty one, with metadata in a field of their own.

    An adopted collection is one namespace, so what is about several is left out here.
    """

    index = hnsw(min_rows=0)

    test_namespaces_have_partitions_of_their_own = None
    test_namespaces_do_not_see_one_another = None
    test_namespaces_are_scanned_apart = None
    test_namespaces_do_not_see_one_anothers_words = None
    test_ids_and_namespaces_are_any_text = None
    test_clear_empties_a_namespace_and_leaves_it_usable = None

    @pytest.fixture
    def client(self, shared: SVRClient) -> SVRClient:
        return shared

    @pytest.fixture
    def make_client(self, module_url: str) -> MakeClient:
        return lambda: SVRClient(module_url)

    @pytest.fixture
    def make(self, client: SVRClient, name: str, module_url: str) -> Iterator[Make]:
        source = f"source_{secrets.token_hex(6)}"
        with MongoClient(module_url) as theirs:
            database = theirs.get_default_database()

            def make(**given: object) -> Collection:
                database.create_collection(source)
                given.setdefault("dimensions", 4)
                return client.adopt_collection(
                    name,
                    source,
                    metadata_field="metadata",
                    index=self.index,
                    **given,  # type: ignore[arg-type]
                )

            yield make
            client.drop_collection(name, missing_ok=True)
            database.drop_collection(source)
