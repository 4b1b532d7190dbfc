"""Adding, deleting, reading and clearing nodes, in both styles."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index.vector_stores.svr import SVRVectorStore

from svr_retrievers import SVRClient, by_field
from svr_retrievers.errors import BatchError

TWINS = {
    "add": "async_add",
    "delete": "adelete",
    "delete_nodes": "adelete_nodes",
    "get_nodes": "aget_nodes",
    "clear": "aclear",
    "query": "aquery",
}
PETS = MetadataFilters(filters=[MetadataFilter(key="kind", value="pet")])
NO_CONDITION = MetadataFilters(filters=[])


@pytest.fixture(params=["blocking", "awaitable"])
def call(request: Any) -> Any:
    """Calls a method of the store in one of the two styles."""

    async def do(store: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "blocking":
            return getattr(store, method)(*args, **kwargs)
        return await getattr(store, TWINS[method])(*args, **kwargs)

    return do


def ids(store: Any) -> list[str]:
    return sorted(node.node_id for node in store.get_nodes())


def test_the_store_is_a_vector_store_by_its_mro() -> None:
    assert BasePydanticVectorStore.__name__ in [cls.__name__ for cls in SVRVectorStore.__mro__]


def test_every_method_of_the_base_is_overridden_in_both_styles() -> None:
    for method in [*TWINS, *TWINS.values(), "persist", "client"]:
        assert method in vars(SVRVectorStore), method
    for method in TWINS.values():
        assert inspect.iscoroutinefunction(getattr(SVRVectorStore, method))


async def test_adding_the_same_nodes_twice_leaves_no_duplicates(
    store: Any, make_node: Any, call: Any
) -> None:
    nodes = [make_node(str(i)) for i in range(3)]
    assert await call(store, "add", nodes) == ["0", "1", "2"]
    assert await call(store, "add", nodes) == ["0", "1", "2"]
    assert ids(store) == ["0", "1", "2"]


async def test_a_node_added_again_is_replaced_as_a_whole(store: Any, make_node: Any, call: Any) -> None:
    await call(store, "add", [make_node("1", "old", "doc-a", x=1, y=2)])
    await call(store, "add", [make_node("1", "new", "doc-b", y=3)])
    [node] = store.get_nodes()
    assert (node.text, node.metadata, node.ref_doc_id) == ("new", {"y": 3}, "doc-b")
    await call(store, "delete", "doc-a")
    assert ids(store) == ["1"]


def test_a_replaced_node_moves_to_the_partition_of_its_new_value(make_store: Any, make_node: Any) -> None:
    store = make_store(partition_by=by_field("topic"))
    store.add([make_node("1", topic="a")])
    store.add([make_node("1", topic="b")])
    assert [n.metadata["topic"] for n in store.get_nodes()] == ["b"]
    assert store.open().count({"topic": "a"}) == 0


async def test_of_twins_in_one_call_the_last_stays_and_every_id_is_returned(
    store: Any, make_node: Any, call: Any
) -> None:
    twins = [make_node("1", "first"), make_node("2"), make_node("1", "last")]
    assert await call(store, "add", twins) == ["1", "2", "1"]
    assert [n.text for n in store.get_nodes(["1"])] == ["last"]


async def test_adding_nothing_is_nothing(store: Any, call: Any) -> None:
    assert await call(store, "add", []) == []


async def test_a_batch_with_one_bad_node_writes_nothing(store: Any, make_node: Any, call: Any) -> None:
    short = make_node("short")
    short.embedding = [1.0, 2.0]
    with pytest.raises(BatchError, match=r"short.*2 numbers.*48"):
        await call(store, "add", [make_node("fine"), short])
    assert ids(store) == []


async def test_delete_removes_the_nodes_of_a_source_document_and_no_others(animals: Any, call: Any) -> None:
    await call(animals, "delete", "pets")
    assert ids(animals) == ["cow", "hen"]
    await call(animals, "delete", "unknown")
    await call(animals, "delete", "cow")
    assert ids(animals) == ["cow", "hen"]


def test_delete_finds_the_source_document_by_an_indexed_field(animals: Any, make_store: Any) -> None:
    assert animals.open().filter_fields == {"ref_doc_id": str}
    other = make_store(collection="declared", filter_fields={"legs": int})
    assert other.open().filter_fields == {"ref_doc_id": str, "legs": int}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"node_ids": ["cat", "cow"]}, ["dog", "hen"]),
        ({"node_ids": ["unknown"]}, ["cat", "cow", "dog", "hen"]),
        ({"filters": PETS}, ["cow", "hen"]),
        ({"node_ids": ["cat", "cow"], "filters": PETS}, ["cow", "dog", "hen"]),
        ({"node_ids": ["cat"], "filters": NO_CONDITION}, ["cow", "dog", "hen"]),
        ({}, ["cat", "cow", "dog", "hen"]),
        ({"node_ids": []}, ["cat", "cow", "dog", "hen"]),
        ({"filters": NO_CONDITION}, ["cat", "cow", "dog", "hen"]),
        ({"node_ids": [], "filters": PETS}, ["cat", "cow", "dog", "hen"]),
    ],
)
async def test_delete_nodes_deletes_what_ids_and_filters_both_name_and_never_more(
    animals: Any, call: Any, given: Any, left: list[str]
) -> None:
    await call(animals, "delete_nodes", **given)
    assert ids(animals) == left


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"node_ids": ["hen", "unknown", "cat"]}, ["hen", "cat"]),
        ({"node_ids": ["hen", "hen"]}, ["hen"]),
        ({"filters": PETS}, ["cat", "dog"]),
        ({"node_ids": ["dog", "cow", "cat"], "filters": PETS}, ["dog", "cat"]),
        ({}, ["cat", "cow", "dog", "hen"]),
        ({"filters": NO_CONDITION}, ["cat", "cow", "dog", "hen"]),
        ({"node_ids": []}, []),
    ],
)
async def test_get_nodes_reads_by_ids_filters_both_or_all(
    animals: Any, call: Any, embed: Any, given: Any, found: list[str]
) -> None:
    nodes = await call(animals, "get_nodes", **given)
    assert [node.node_id for node in nodes] == found
    assert all(node.embedding == pytest.approx(embed(node.text)) for node in nodes)


async def test_clear_empties_this_namespace_only(make_store: Any, make_node: Any, call: Any) -> None:
    one, two = make_store(namespace="one"), make_store(namespace="two")
    for store in (one, two):
        await call(store, "add", [make_node("1", source="d")])
    await call(one, "delete", "d")
    assert (ids(one), ids(two)) == ([], ["1"])
    await call(one, "clear")
    assert ids(two) == ["1"]
    await call(two, "clear")
    assert ids(two) == []


@pytest.mark.parametrize(
    ("method", "argument"),
    [("add", []), ("delete", "doc"), ("delete_nodes", None)],
    ids=["add", "delete", "nodes"],
)
async def test_an_unknown_keyword_argument_is_refused(
    animals: Any, call: Any, method: str, argument: Any
) -> None:
    with pytest.raises(TypeError, match="batch"):
        await call(animals, method, argument, batch=3)
    assert len(ids(animals)) == 4


def test_a_large_batch_is_one_call(store: Any, make_node: Any) -> None:
    """More values than one statement can have parameters."""
    nodes = [make_node(str(i), f"t{i % 7}", f"doc{i % 3}", n=i) for i in range(5000)]
    assert len(store.add(nodes)) == 5000
    store.delete("doc0")
    assert store.open().count() == 3333


def test_a_collection_dropped_by_someone_else_is_made_again(
    store: Any, make_node: Any, client: SVRClient
) -> None:
    store.add([make_node("1")])
    client.drop_collection(store.collection)
    assert store.get_nodes() == []
    store.add([make_node("2")])
    assert ids(store) == ["2"]


async def test_it_is_made_again_for_awaiting_callers_too(
    store: Any, make_node: Any, client: SVRClient
) -> None:
    await store.async_add([make_node("1")])
    client.drop_collection(store.collection)
    assert await store.aget_nodes() == []
    await store.async_add([TextNode(id_="2", text="t", embedding=[1.0] * 48)])
    assert [n.node_id for n in await store.aget_nodes()] == ["2"]
