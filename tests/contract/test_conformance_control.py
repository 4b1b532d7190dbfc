"""The public conformance suite on PostgreSQL with its control plane in MongoDB: what users see is the same."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from svr_retrievers import SVRClient
from svr_retrievers.testing.collections import CollectionsConformance
from svr_retrievers.testing.concurrency import ConcurrencyConformance
from svr_retrievers.testing.conformance import MakeClient, Suite
from svr_retrievers.testing.partitioning import PartitioningConformance
from svr_retrievers.testing.writing import WritingConformance

pytestmark = [pytest.mark.mongodb, pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def control_url(mongodb_server: str) -> Iterator[str]:
    hosts, _, options = mongodb_server.partition("?")
    name = f"svr_control_{secrets.token_hex(6)}"
    yield f"{hosts.rstrip('/')}/{name}" + (f"?{options}" if options else "")
    with MongoClient(mongodb_server) as client:
        client.drop_database(name)


@pytest.fixture(scope="module")
def shared(postgres_url: str, control_url: str) -> Iterator[SVRClient]:
    with SVRClient(postgres_url, control=control_url) as client:
        yield client


class Controlled(Suite):
    @pytest.fixture
    def client(self, shared: SVRClient) -> SVRClient:
        return shared

    @pytest.fixture
    def make_client(self, postgres_url: str, control_url: str) -> MakeClient:
        return lambda: SVRClient(postgres_url, control=control_url)


class TestControlled(
    Controlled, CollectionsConformance, WritingConformance, PartitioningConformance, ConcurrencyConformance
):
    """Collections, maps and their changes, by one client and by many."""
