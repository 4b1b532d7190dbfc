"""How a document of a collection lies in MongoDB, and back. PURE.

    {_id: {n: namespace, i: id}, text, embedding: BinData, metadata: {...},
     svr: {n, i, p: partition, v: version, w: stamp, f: {typed fields}, z: [fields without a value], m: JSON text}}

`svr.m` holds the metadata's JSON text only where BSON cannot hold the metadata exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias, cast

import numpy as np
from bson import Int64, MaxKey, MinKey

from svr_retrievers.backends.mongodb.encoding import (
    decode_metadata,
    decode_vector,
    encode_metadata,
    encode_typed,
    encode_vectors,
)
from svr_retrievers.backends.mongodb.filters import Paths
from svr_retrievers.backends.protocol import Batch, CollectionConfig
from svr_retrievers.model import Document, JsonValue, Vector
from svr_retrievers.names import column_for

Doc: TypeAlias = dict[str, object]
Mode: TypeAlias = Literal["source", "views", "fields"]

NAMESPACE: Final = "svr.n"
PARTITION: Final = "svr.p"
STAMP: Final = "svr.w"
MISSING: Final = "svr.z"
TYPED: Final = "svr.f"
VECTOR: Final = "embedding"
TEXT: Final = "text"
READ: Final[Doc] = {"text": 1, "metadata": 1, "svr.p": 1, "svr.v": 1, "svr.m": 1}
"""What a search or a listing reads of a document, its vector aside."""
HAS_TEXT: Final[Doc] = {TEXT: {"$ne": ""}}
"""An empty text is never embedded."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one collection. `stored` is the number type of its vectors."""

    mode: Mode
    stored: Literal["float32", "int8", "bit"]
    dimensions: int
    keys: Mapping[str, str]
    """Each declared field's key under `svr.f`."""
    embedded: bool = False
    """Whether the server embeds the text, so that documents have no vector."""

    @property
    def paths(self) -> Paths:
        return Paths("metadata", {name: f"{TYPED}.{key}" for name, key in self.keys.items()}, MISSING)

    def vector_path(self, partition: int | None) -> str:
        """Where the vector lies that an index compares; in mode fields each partition has a field of its own."""
        if self.embedded:
            return TEXT
        return f"{VECTOR}.p{partition}" if self.mode == "fields" else VECTOR

    def bound_vector(self, vector: Vector) -> object:
        return encode_vectors(vector[None, :], self.stored)[0]


def layout_of(config: CollectionConfig, mode: Mode) -> Layout:
    keys = {name: column_for(name, position) for position, name in enumerate(config.fields)}
    return Layout(mode, config.index.vectors, config.dimensions, keys, config.embedding is not None)


def key(namespace: str, doc_id: str) -> Doc:
    """A document's `_id`: the order of its two entries is part of it."""
    return {"n": namespace, "i": doc_id}


@lru_cache(maxsize=256)
def _of_namespace(namespace: str) -> tuple[Doc, Doc]:
    return {"n": namespace, "i": MinKey()}, {"n": namespace, "i": MaxKey()}


def within(namespace: str) -> Doc:
    """All documents of a namespace, as a range of `_id`, which also orders them by id."""
    low, high = _of_namespace(namespace)
    return {"_id": {"$gte": low, "$lte": high}}


def documents(batch: Batch, config: CollectionConfig, layout: Layout, partitions: Sequence[int]) -> list[Doc]:
    """The batch's rows as documents of version 1, without stamps: `stamped` adds those."""
    vectors = None
    if not layout.embedded:
        vectors = encode_vectors(np.asarray(batch.vectors, dtype=np.float32), layout.stored)
    kinds = [(name, kind, layout.keys[name]) for name, kind in config.fields.items()]
    made: list[Doc] = []
    for at, namespace in enumerate(batch.namespaces):
        doc_id, partition, typed = batch.ids[at], int(partitions[at]), batch.typed[at]
        metadata, original = encode_metadata(batch.metadatas[at])
        fields: Doc = {}
        missing: list[str] = []
        for name, kind, short in kinds:
            value = typed.get(name)
            if value is None:
                missing.append(short)
            else:
                fields[short] = encode_typed(kind, value)
        own: Doc = {"n": namespace, "i": doc_id, "p": partition, "v": Int64(1), "w": Int64(0)}
        if kinds:
            own |= {"f": fields, "z": missing}
        if original is not None:
            own["m"] = original
        document: Doc = {"_id": key(namespace, doc_id), "text": batch.texts[at]}
        if vectors is not None:
            document[VECTOR] = {f"p{partition}": vectors[at]} if layout.mode == "fields" else vectors[at]
        made.append(document | {"metadata": metadata, "svr": own})
    return made


def stamped(document: Doc, stamp: int, version: int) -> Doc:
    own = cast("Doc", document["svr"])
    own["w"], own["v"] = Int64(stamp), Int64(version)
    return document


def own(document: Mapping[str, object]) -> Mapping[str, object]:
    return cast("Mapping[str, object]", document["svr"])


def key_of(document: Mapping[str, object]) -> tuple[str, str]:
    there = cast("Mapping[str, object]", document["_id"])
    return str(there["n"]), str(there["i"])


def metadata_of(document: Mapping[str, object]) -> dict[str, JsonValue]:
    original = own(document).get("m")
    body = cast("Mapping[str, object]", document.get("metadata") or {})
    return decode_metadata(body, None if original is None else str(original))


def vector_of(document: Mapping[str, object], dimensions: int) -> Vector:
    value = document[VECTOR]
    if isinstance(value, Mapping):
        value = next(iter(value.values()))
    return decode_vector(value, dimensions)


def number(value: object) -> int:
    return int(cast("int", value))


def document_of(document: Mapping[str, object], dimensions: int, *, with_vector: bool) -> Document:
    namespace, doc_id = key_of(document)
    return Document(
        id=doc_id,
        text=str(document.get("text") or ""),
        metadata=metadata_of(document),
        vector=vector_of(document, dimensions) if with_vector else None,
        namespace=namespace,
        version=number(own(document)["v"]),
    )
