"""What auto-retrieval is told of a store, and the filters that a model makes of it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.indices.vector_store.retrievers import VectorIndexAutoRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.vector_stores import MetadataInfo

from svr_retrievers import by_field, by_time
from svr_retrievers.errors import InputError

FIELDS = {"year": int, "made": datetime, "labels": list[str], "open": bool}


@pytest.fixture
def store(make_store: Any) -> Any:
    return make_store(
        filter_fields=FIELDS, partition_by=by_field("topic").then(by_time("made", every="year"))
    )


def test_every_declared_field_and_partition_key_is_described(store: Any) -> None:
    info = store.vector_store_info("Notes.", {"year": "when it was written", "topic": "art or tax"})
    told = {each.name: (each.type, each.description) for each in info.metadata_info}
    assert info.content_info == "Notes."
    assert set(told) == {*FIELDS, "topic"}
    assert told["year"] == ("int", "when it was written")
    assert told["labels"] == ("list[str]", "")
    assert told["topic"][0] == "str"
    assert told["topic"][1].startswith("art or tax; partition key")
    assert told["made"][0] == "datetime"
    assert "2024-05-01" in told["made"][1]
    assert "partition key" in told["made"][1]
    assert "1 for true" in told["open"][1]


def test_a_store_that_declares_nothing_describes_what_the_collection_has(store: Any, make_store: Any) -> None:
    store.open()
    assert make_store().vector_store_info("Notes.") == store.vector_store_info("Notes.")


def test_other_metadata_is_described_by_hand(store: Any) -> None:
    more = MetadataInfo(name="author", type="str", description="who wrote it")
    assert store.vector_store_info("Notes.", more=[more]).metadata_info[-1] == more


def test_a_field_that_does_not_exist_is_not_described(store: Any) -> None:
    with pytest.raises(InputError, match=r"no declared field period .*year, made, labels, open, topic"):
        store.vector_store_info("Notes.", {"period": "not there"})


def writer(answer: dict[str, Any], told: list[str]) -> MockLLM:
    """A model that always answers this; what it is told is kept."""

    class Writer(MockLLM):
        def predict(self, prompt: Any, **given: Any) -> str:
            told.append(prompt.format(**given))
            return json.dumps(answer)

        async def apredict(self, prompt: Any, **given: Any) -> str:
            return self.predict(prompt, **given)

    return Writer()


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([("year", ">=", 2021)], {"b", "c"}),
        ([("made", ">", "2021-06-01")], {"c"}),
        ([("made", "<=", "2021-06-01T12:00:00Z"), ("topic", "==", "tax")], {"b"}),
        ([("labels", "contains", "x")], {"a", "c"}),
        ([("open", "==", 1)], {"a"}),
        ([("topic", "in", ["art"])], {"a", "c"}),
        ([], {"a", "b", "c"}),
    ],
)
async def test_the_auto_retriever_finds_what_its_model_asked_for(
    store: Any, make_node: Any, embed_model: Any, filters: Any, found: set[str]
) -> None:
    store.add([
        make_node("a", topic="art", year=2020, made="2020-01-01", labels=["x"], open=True),
        make_node("b", topic="tax", year=2021, made="2021-06-01", labels=[], open=False),
        make_node("c", topic="art", year=2022, made="2022-01-01", labels=["x", "y"]),
    ])  # fmt: skip
    asked = [{"key": key, "operator": operator, "value": value} for key, operator, value in filters]
    told: list[str] = []
    retriever = VectorIndexAutoRetriever(
        VectorStoreIndex.from_vector_store(store, embed_model=embed_model),
        vector_store_info=store.vector_store_info("Notes.", {"year": "when it was written"}),
        llm=writer({"query": "text", "filters": asked}, told),
        similarity_top_k=9,
    )
    assert {each.node.node_id for each in retriever.retrieve("notes")} == found
    assert {each.node.node_id for each in await retriever.aretrieve("notes")} == found
    assert len(told) == 2
    assert all("when it was written" in each and "partition key" in each for each in told)
