"""LangChain's indexing API keeps a store in step with its source."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index


def source(*pairs: tuple[str, str]) -> list[Document]:
    return [Document(text, metadata={"source": where}) for where, text in pairs]


@pytest.fixture
def records() -> InMemoryRecordManager:
    manager = InMemoryRecordManager("test")
    manager.create_schema()
    return manager


def texts(store: Any) -> set[str]:
    return {d.page_content for d in store.similarity_search("text", k=100)}


OPTIONS: dict[str, Any] = {"source_id_key": "source", "key_encoder": "sha256"}


def test_incremental_cleanup_replaces_what_changed(store: Any, records: Any) -> None:
    first = source(("a", "text one"), ("a", "text two"), ("b", "text three"))
    assert index(first, records, store, cleanup="incremental", **OPTIONS)["num_added"] == 3
    assert index(first, records, store, cleanup="incremental", **OPTIONS)["num_skipped"] == 3
    result = index(source(("a", "text one")), records, store, cleanup="incremental", **OPTIONS)
    assert (result["num_skipped"], result["num_deleted"]) == (1, 1)
    assert texts(store) == {"text one", "text three"}


def test_full_cleanup_leaves_exactly_the_source(store: Any, records: Any) -> None:
    index(source(*(("a", f"text {i}") for i in range(7))), records, store, batch_size=2, **OPTIONS)
    result = index(source(("b", "text new")), records, store, cleanup="full", **OPTIONS)
    assert (result["num_added"], result["num_deleted"]) == (1, 7)
    assert texts(store) == {"text new"}


async def test_aindex_does_the_same(store: Any, records: Any) -> None:
    documents = source(*(("a", f"text {i}") for i in range(5)))
    added = await aindex(documents, records, store, cleanup="incremental", batch_size=2, **OPTIONS)
    assert added["num_added"] == 5
    changed = await aindex(documents[:2], records, store, cleanup="incremental", **OPTIONS)
    assert changed["num_deleted"] == 3
    emptied = await aindex([], records, store, cleanup="full", **OPTIONS)
    assert emptied["num_deleted"] == 2
    assert await store.asimilarity_search("text", k=100) == []


def test_keys_of_any_form_work(store: Any, records: Any) -> None:
    options = OPTIONS | {"key_encoder": lambda d: f"key:{d.page_content}"}
    index(source(("a", "text one")), records, store, cleanup="full", **options)
    index(source(("a", "text one")), records, store, cleanup="full", force_update=True, **options)
    assert [d.id for d in store.similarity_search("text")] == ["key:text one"]
    index([], records, store, cleanup="full", **options)
    assert texts(store) == set()


def test_upsert_kwargs_reach_the_store(store: Any, records: Any) -> None:
    index(source(("a", "text one")), records, store, upsert_kwargs={"namespace": "other"}, **OPTIONS)
    assert texts(store) == set()
    assert len(store.similarity_search("text", namespace="other")) == 1
