"""The standard suites of LangChain, unmodified, on each backend."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from langchain_svr import SVRRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests


class TestStandardStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, make_store: Any) -> VectorStore:
        return make_store(embedding=self.get_embeddings())


class TestStandardStoreWithPartitions(VectorStoreIntegrationTests):
    """The same with documents spread over partitions by a hash of their ids."""

    @pytest.fixture
    def vectorstore(self, make_store: Any) -> VectorStore:
        from svr_retrievers import by_hash

        return make_store(embedding=self.get_embeddings(), partition_by=by_hash(4))


class TestStandardRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _filled(self, make_store: Any) -> None:
        self.store = make_store()
        self.store.add_documents([Document(f"text number {i}") for i in range(5)])

    @property
    def retriever_constructor(self) -> type[SVRRetriever]:
        return SVRRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "number 3"


class TestStandardRetrieverWithMMR(TestStandardRetriever):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.store, "search_type": "mmr"}
