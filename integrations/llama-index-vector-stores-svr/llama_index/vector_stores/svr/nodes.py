"""Writes a node as a stored document and reads it back exactly.

Metadata is stored once, at the top level, where filters see it. The node's other fields are one JSON
text under `_node_content`, with the order of the metadata keys and only those values that the top level
cannot give back as they were: objects and floats (a database may reorder keys and write 1e22 as an
integer) and values under names that are reserved there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    TextNode,
)
from llama_index.vector_stores.svr.filters import LIST_KEYS

from svr_retrievers import Document as StoredDocument
from svr_retrievers.errors import InputError

SOURCE_KEY: Final = "ref_doc_id"
ID_KEY: Final = "_node_id"
_CONTENT: Final = "_node_content"
_TYPE: Final = "_node_type"
_ORDER: Final = "metadata_keys"
_SOURCE_KEYS: Final = (SOURCE_KEY, "doc_id", "document_id")
RESERVED: Final = frozenset({_CONTENT, _TYPE, ID_KEY, LIST_KEYS, *_SOURCE_KEYS})
_CLASSES: Final[dict[str, type[BaseNode]]] = {
    cls.class_name(): cls for cls in (TextNode, ImageNode, IndexNode, Node, Document, ImageDocument)
}


def to_document(node: BaseNode, *, with_vector: bool = True) -> StoredDocument:
    """The document that holds this node; its id is the node's id.

    Raises:
        InputError: for a node without an embedding, or with content that JSON cannot hold.
    """
    if with_vector and node.embedding is None:
        raise InputError(
            f"The node {node.node_id!r} has no embedding.",
            hint="Add nodes through a VectorStoreIndex or an IngestionPipeline with an embed_model, "
            "or set node.embedding.",
        )
    content = _dumped(node)
    metadata: dict[str, Any] = content["metadata"]
    content[_ORDER] = list(metadata)
    content["metadata"] = {k: v for k, v in metadata.items() if k in RESERVED or not _kept_exactly(v)}
    stored = {k: v for k, v in metadata.items() if k not in RESERVED} | _own_keys(node, metadata)
    stored[_CONTENT] = json.dumps(content, ensure_ascii=False)
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return StoredDocument(
        id=node.node_id, text=text, metadata=stored, vector=node.embedding if with_vector else None
    )


def to_node(
    id: str, text: str, metadata: Mapping[str, Any], embedding: list[float] | None = None
) -> BaseNode:
    """The node as it was added. A document that was not written by this package becomes a TextNode."""
    if _CONTENT not in metadata:
        return TextNode(id_=id, text=text, metadata=dict(metadata), embedding=embedding)
    content: dict[str, Any] = json.loads(metadata[_CONTENT])
    apart: dict[str, Any] = content["metadata"]
    known = {**{k: v for k, v in metadata.items() if k not in RESERVED}, **apart}
    content["metadata"] = {key: known[key] for key in content.pop(_ORDER) if key in known}
    content |= {"id_": id, "embedding": embedding}
    return _with_text(content, text, str(metadata.get(_TYPE)))


def to_nodes(documents: Sequence[StoredDocument], order: Sequence[str] | None = None) -> list[BaseNode]:
    """With their vectors, in the order of these ids, or as given."""
    if order is not None:
        by_id = {document.id: document for document in documents}
        documents = [by_id[each] for each in dict.fromkeys(order) if each in by_id]
    return [to_node(each.id, each.text, each.metadata, _listed(each)) for each in documents]


def _listed(document: StoredDocument) -> list[float] | None:
    if document.vector is None:
        return None
    numbers: list[float] = np.asarray(document.vector, dtype=float).tolist()
    return numbers


def _dumped(node: BaseNode) -> dict[str, Any]:
    """The node as JSON without what is stored elsewhere: id, embedding, text."""
    try:
        json.dumps(node.metadata, allow_nan=False, default=str)  # pydantic would write NaN as null
        content: dict[str, Any] = node.model_dump(
            mode="json", exclude={"embedding", "text", "id_", "class_name"}
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The node {node.node_id!r} cannot be written as JSON: {error}.",
            hint="Keep metadata and IndexNode.obj to what JSON can hold.",
        ) from error
    resource = content.get("text_resource")
    if resource is not None and resource.get("text") is not None:
        del resource["text"]
    content.pop("class_name", None)
    return content


def _own_keys(node: BaseNode, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Reserved keys: what LlamaIndex itself writes, without its "None" for a node that has no source."""
    own: dict[str, Any] = {_TYPE: node.class_name(), ID_KEY: node.node_id}
    if node.ref_doc_id is not None:
        own |= dict.fromkeys(_SOURCE_KEYS, node.ref_doc_id)
    lists = [k for k, v in metadata.items() if isinstance(v, list) and k not in RESERVED]
    return own | ({LIST_KEYS: lists} if lists else {})


def _kept_exactly(value: object) -> bool:
    if isinstance(value, list):
        return all(_kept_exactly(each) for each in value)
    return value is None or isinstance(value, (bool, int, str))


def _with_text(content: dict[str, Any], text: str, type_name: str) -> BaseNode:
    resource = content.get("text_resource")
    if resource is not None:
        resource.setdefault("text", text)
    elif "text_resource" not in content:
        content["text"] = text
    fallback = Node if "text_resource" in content else TextNode
    return _CLASSES.get(type_name, fallback).from_dict(content)
