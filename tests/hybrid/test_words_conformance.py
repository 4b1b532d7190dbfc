"""Searches by words and scans, as every backend promises them, on PostgreSQL and in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from svr_retrievers import SVRClient
from svr_retrievers.testing.conformance import MakeClient, Suite
from svr_retrievers.testing.scanning import ScanningConformance
from svr_retrievers.testing.words import WordsConformance

pytestmark = pytest.mark.hybrid


class TestMemory(WordsConformance, ScanningConformance):
    @pytest.fixture
    def make_client(self) -> MakeClient:
        return lambda: SVRClient("memory://")


@pytest.fixture(scope="module")
def shared(postgres_url: str) -> Iterator[SVRClient]:
    with SVRClient(postgres_url) as client:
        yield client


@pytest.mark.postgres
class TestPostgres(WordsConformance, ScanningConformance, Suite):
    @pytest.fixture
    def client(self, shared: SVRClient) -> SVRClient:
        return shared

    @pytest.fixture
    def make_client(self, postgres_url: str) -> MakeClient:
        return lambda: SVRClient(postgres_url)
