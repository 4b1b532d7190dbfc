"""A node comes back exactly as it was added, whatever its class and its metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery

from svr_retrievers import Document as StoredDocument
from svr_retrievers.errors import InputError, SVRError

SOURCE = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"a": 1}, hash="h")}
FAMILY = SOURCE | {
    NodeRelationship.NEXT: RelatedNodeInfo(node_id="n"),
    NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
}
METADATA = {
    "zebra": "first",
    "a": 1,
    "float": 2.5,
    "whole float": 3.0,
    "huge": 1e22,
    "tiny": 1e-300,
    "big": 2**60,
    "yes": True,
    "none": None,
    "tags": ["y", "x"],
    "empty": [],
    "mixed": [1, "a", None, 1e22],
    "nested": {"z": 1, "aa": {"y": [1, 2]}, "b": 2},
    "dotted.key": "v",
    "": "nameless",
    "text": "mine",
    "id": 7,
    "ünï": "ça",
}
RESERVED = {
    "doc_id": "mine",
    "document_id": 5,
    "ref_doc_id": "mine too",
    "_node_content": {"a": 1},
    "_node_type": "X",
    "_node_id": [1],
    "_list_keys": "L",
    "metadata_keys": "M",
    "metadata": {"a": 1},
    "class_name": "C",
}
NODES = [
    TextNode(id_="plain", text="text"),
    TextNode(id_="empty", text=""),
    TextNode(id_="rich", text="ünï\n'\"\\ text", metadata=METADATA, relationships=FAMILY),
    TextNode(id_="reserved", text="t", metadata={"before": 1, **RESERVED, "after": 2}, relationships=SOURCE),
    TextNode(
        id_="settings",
        text="t",
        start_char_idx=3,
        end_char_idx=9,
        mimetype="text/x",
        excluded_llm_metadata_keys=["a"],
        excluded_embed_metadata_keys=["b"],
        metadata_template="{key}={value}",
        metadata_separator=";",
        text_template="{content}",
    ),
    IndexNode(id_="index", text="see there", index_id="other", metadata={"a": 1}, relationships=SOURCE),
    IndexNode(
        id_="pointer", text="see", index_id="x", obj=TextNode(id_="inner", text="t", metadata={"k": 1})
    ),
    ImageNode(id_="image", text="a cat", image="aGVsbG8=", image_url="http://x/y.png", text_embedding=[1.0]),
    ImageNode(id_="file", image_path="a/b.png", metadata=METADATA),
    Node(id_="node", text_resource=MediaResource(text="hello"), metadata=METADATA, relationships=SOURCE),
    Node(
        id_="media", text_resource=MediaResource(text="t", mimetype="text/plain", embeddings={"dense": [1.0]})
    ),
    Node(
        id_="textless", image_resource=MediaResource(path="a.png"), text_resource=MediaResource(path="b.txt")
    ),
    Node(id_="bare"),
    Document(id_="document", text="whole document", metadata={"a": 1}),
]


def embedded(node: BaseNode) -> BaseNode:
    copy = node.model_copy(deep=True)
    copy.embedding = [0.5] * 48
    return copy


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.node_id)
def test_a_node_survives_the_round_trip_exactly(store: Any, node: BaseNode) -> None:
    added = embedded(node)
    before = added.model_copy(deep=True)
    store.add([added])
    [read] = store.get_nodes([node.node_id])
    assert added == before
    assert type(read) is type(added)
    assert read == added
    assert list(read.metadata) == list(added.metadata)
    assert json.dumps(read.metadata) == json.dumps(added.metadata)
    assert read.hash == added.hash
    assert read.ref_doc_id == added.ref_doc_id
    [found] = store.query(VectorStoreQuery(query_embedding=[0.5] * 48)).nodes
    assert found == node


def test_metadata_is_stored_once_but_for_what_the_top_level_cannot_give_back(store: Any) -> None:
    store.add([embedded(TextNode(id_="1", text="the text", metadata=METADATA | RESERVED))])
    [stored] = store.open().get(["1"])
    content = json.loads(stored.metadata["_node_content"])
    assert {"zebra", "tags", "big"}.isdisjoint(content["metadata"])
    assert set(RESERVED) & set(content["metadata"]) >= {"doc_id", "_node_type", "metadata"}
    assert "the text" not in stored.metadata["_node_content"]
    assert "embedding" not in content
    assert {k: stored.metadata[k] for k in METADATA} == METADATA


def test_a_user_key_named_ref_doc_id_does_not_make_a_node_part_of_that_document(store: Any) -> None:
    mine = {"ref_doc_id": "doc", "doc_id": "doc"}
    store.add([embedded(TextNode(id_="1", text="t", metadata=mine))])
    store.delete("doc")
    assert [n.metadata for n in store.get_nodes()] == [mine]


def test_nodes_without_a_source_are_not_deleted_with_the_document_named_None(
    store: Any, make_node: Any
) -> None:
    store.add([make_node("1"), make_node("2", source="None")])
    store.delete("None")
    assert [n.node_id for n in store.get_nodes()] == ["1"]


def test_a_subclass_of_text_node_comes_back_as_its_nearest_known_class(store: Any) -> None:
    class Special(TextNode):
        @classmethod
        def class_name(cls) -> str:
            return "Special"

    store.add([embedded(Special(id_="1", text="t", metadata={"a": 1}))])
    [read] = store.get_nodes()
    assert (type(read), read.text, read.metadata) == (TextNode, "t", {"a": 1})


def test_a_document_that_the_core_wrote_is_read_as_a_text_node(store: Any) -> None:
    store.open().add([StoredDocument("1", "plain", {"a": 1, "tags": ["x"]}, vector=[1.0] * 48)])
    [node] = store.query(VectorStoreQuery(query_embedding=[1.0] * 48)).nodes
    assert node == TextNode(id_="1", text="plain", metadata={"a": 1, "tags": ["x"]})
    tagged = MetadataFilters(filters=[MetadataFilter(key="tags", value="x", operator="contains")])
    assert store.get_nodes(filters=tagged)[0].node_id == "1"


def test_metadata_that_the_core_changed_is_read_as_it_is_now(store: Any) -> None:
    store.add([embedded(TextNode(id_="1", text="t", metadata={"a": 1, "b": "x", "c": 2}))])
    [stored] = store.open().get(["1"], with_vectors=True)
    changed = {k: v for k, v in stored.metadata.items() if k != "c"} | {"a": 2}
    store.open().add([StoredDocument("1", stored.text, changed, vector=stored.vector)])
    assert store.get_nodes()[0].metadata == {"a": 2, "b": "x"}


def test_numpy_embeddings_are_taken_as_they_are(store: Any, make_node: Any) -> None:
    vector = np.arange(1, 49, dtype=np.float32)
    store.add([make_node("1").model_copy(update={"embedding": vector})])
    [read] = store.get_nodes()
    assert read.embedding == vector.tolist()
    assert all(type(each) is float for each in read.embedding)
    found = store.query(VectorStoreQuery(query_embedding=vector))
    assert found.similarities == pytest.approx([1.0])


def test_a_node_without_embedding_is_refused_by_name_and_nothing_is_written(
    store: Any, make_node: Any
) -> None:
    with pytest.raises(InputError, match=r"'bad' has no embedding.*embed_model"):
        store.add([make_node("good"), TextNode(id_="bad", text="t")])
    assert store.get_nodes() == []


@pytest.mark.parametrize("value", [object(), float("nan"), "nul\0"])
def test_what_cannot_be_stored_is_refused_by_name_and_nothing_is_written(
    store: Any, make_node: Any, value: object
) -> None:
    bad = make_node("bad")
    bad.metadata["k"] = value
    with pytest.raises(SVRError, match="bad"):
        store.add([make_node("good"), bad])
    assert store.get_nodes() == []
