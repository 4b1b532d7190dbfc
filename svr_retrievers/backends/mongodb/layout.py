"""How a document of a collection lies in MongoDB, and back. PURE.

    {_id: {n: namespace, i: id}, text, embedding: BinData, metadata: {...},
     svr: {n, i, p: partition, v: version, w: stamp, f: {typed fields}, z: [fields without a value], m: JSON text}}

`svr.m` holds the metadata's JSON text only where BSON cannot hold the metadata exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias, cast

import numpy as np
from bson import Int64, MaxKey, MinKey
from pymongo import ReplaceOne, UpdateOne

from svr_retrievers.backends.mongodb.encoding import (
    decode_metadata,
    decode_vector,
    encode_metadata,
    encode_typed,
    encode_vectors,
)
from svr_retrievers.backends.mongodb.filters import Paths
from svr_retrievers.backends.protocol import Batch, CollectionConfig
from svr_retrievers.filters import FieldType, typed_values
from svr_retrievers.model import Document, JsonValue, Vector

Doc: TypeAlias = dict[str, object]
Mode: TypeAlias = Literal["source", "views", "fields"]

NAMESPACE: Final = "svr.n"
ID: Final = "svr.i"
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
    """The paths of one collection, and what of its documents is what. `stored` is the number type of its vectors."""

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

    @property
    def text_path(self) -> str:
        return TEXT

    @property
    def whole_vector(self) -> str:
        """Where the vector lies whatever the partition."""
        return VECTOR

    def bound_vector(self, vector: Vector) -> object:
        return encode_vectors(self._storable(vector)[None, :], self.stored)[0]

    def _storable(self, vector: Vector) -> Vector:
        """A question made of stored vectors, such as their unit vector or a mean, in the numbers of this kind."""
        largest = float(np.abs(vector).max(initial=0.0))
        if self.stored == "int8" and 0.0 < largest <= 1.0 and (vector != np.rint(vector)).any():
            return np.asarray(vector * (127.0 / largest), dtype=np.float32)
        return vector

    def bound_vectors(self, vectors: Vector) -> Sequence[object]:
        return encode_vectors(np.asarray(vectors, dtype=np.float32), self.stored)

    # Asking

    @property
    def ours(self) -> Doc:
        """A condition for the documents that are of the collection: all of them."""
        return {}

    @property
    def order(self) -> str:
        """The path that orders the documents of a namespace by id."""
        return "_id"

    def within(self, namespace: str) -> Doc:
        """All documents of a namespace, as a range of `_id`, which also orders them by id."""
        low, high = _of_namespace(namespace)
        return {"_id": {"$gte": low, "$lte": high}}

    def behind(self, namespace: str, doc_id: str) -> Doc:
        """What follows a document of the namespace in the order of ids."""
        return {"_id": {"$gt": key(namespace, doc_id)}}

    def chosen(self, namespace: str, ids: Sequence[str]) -> Doc:
        return {"_id": {"$in": [key(namespace, each) for each in ids]}}

    def reads(self, vector_path: str | None = None) -> Doc:
        """The projection for all that a search or a listing gives back, with the vector at the path."""
        return READ if vector_path is None else {**READ, vector_path: 1}

    @property
    def reads_keys(self) -> Doc:
        return {"_id": 1}

    # Reading

    def key_of(self, document: Mapping[str, object]) -> tuple[str, str]:
        """Namespace and id."""
        there = cast("Mapping[str, object]", document["_id"])
        return str(there["n"]), str(there["i"])

    def text_of(self, document: Mapping[str, object]) -> str:
        return str(document.get("text") or "")

    def metadata_of(self, document: Mapping[str, object]) -> dict[str, JsonValue]:
        original = own(document).get("m")
        body = cast("Mapping[str, object]", document.get("metadata") or {})
        return decode_metadata(body, None if original is None else str(original))

    def typed_of(
        self, metadata: Mapping[str, JsonValue], fields: Mapping[str, FieldType]
    ) -> Mapping[str, object]:
        return typed_values(fields, metadata)

    def vector_of(self, document: Mapping[str, object]) -> Vector:
        value = document[VECTOR]
        if isinstance(value, Mapping):
            value = next(iter(value.values()))
        return decode_vector(value, self.dimensions)

    def with_vectors(
        self, documents: Iterable[Mapping[str, object]]
    ) -> list[tuple[Mapping[str, object], Vector]]:
        """The documents that can be compared, with their vectors: here all of them."""
        return [(each, self.vector_of(each)) for each in documents]

    def document_of(self, document: Mapping[str, object], *, with_vector: bool) -> Document:
        namespace, doc_id = self.key_of(document)
        return Document(
            id=doc_id,
            text=self.text_of(document),
            metadata=self.metadata_of(document),
            vector=self.vector_of(document) if with_vector else None,
            namespace=namespace,
            version=number(own(document)["v"]),
        )

    # Writing

    def put_together(
        self, text: str, metadata: Mapping[str, object], vector: object | None, own: Mapping[str, object]
    ) -> Doc:
        """A new document. `own` holds its namespace, id and partition."""
        made: Doc = {"_id": key(str(own["n"]), str(own["i"])), "text": text, "metadata": metadata, "svr": own}
        if vector is not None:
            made[VECTOR] = {f"p{own['p']}": vector} if self.mode == "fields" else vector
        return made

    def there(self, made: Sequence[Doc]) -> Doc:
        """A condition for the documents that these are to replace."""
        return {"_id": {"$in": [each["_id"] for each in made]}}

    def replacing(self, old: object, made: Doc) -> ReplaceOne[Doc] | UpdateOne:
        """What puts the made document in the place of the one with this `_id`."""
        return ReplaceOne({"_id": old}, made)


def key(namespace: str, doc_id: str) -> Doc:
    """A document's `_id`: the order of its two entries is part of it."""
    return {"n": namespace, "i": doc_id}


@lru_cache(maxsize=256)
def _of_namespace(namespace: str) -> tuple[Doc, Doc]:
    return {"n": namespace, "i": MinKey()}, {"n": namespace, "i": MaxKey()}


def documents(batch: Batch, config: CollectionConfig, layout: Layout, partitions: Sequence[int]) -> list[Doc]:
    """The batch's rows as documents of version 1, without stamps: `stamped` adds those."""
    vectors = None if layout.embedded else layout.bound_vectors(batch.vectors)
    kinds = kinds_of(config, layout)
    made: list[Doc] = []
    for at in range(len(batch)):
        metadata, original = encode_metadata(batch.metadatas[at])
        own = own_part(batch, at, int(partitions[at]), kinds)
        if original is not None:
            own["m"] = original
        vector = None if vectors is None else vectors[at]
        made.append(layout.put_together(batch.texts[at], metadata, vector, own))
    return made


def kinds_of(config: CollectionConfig, layout: Layout) -> list[tuple[str, FieldType, str]]:
    return [(name, kind, layout.keys[name]) for name, kind in config.fields.items()]


def own_part(batch: Batch, at: int, partition: int, kinds: Sequence[tuple[str, FieldType, str]]) -> Doc:
    """The sub-document `svr` of a row. `kinds`: each declared field with its type and its key."""
    typed = batch.typed[at]
    fields: Doc = {}
    missing: list[str] = []
    for name, kind, short in kinds:
        value = typed.get(name)
        if value is None:
            missing.append(short)
        else:
            fields[short] = encode_typed(kind, value)
    own: Doc = {
        "n": batch.namespaces[at],
        "i": batch.ids[at],
        "p": partition,
        "v": Int64(1),
        "w": Int64(0),
    }
    return own | {"f": fields, "z": missing} if kinds else own


def stamped(document: Doc, stamp: int, version: int) -> Doc:
    own = cast("Doc", document["svr"])
    own["w"], own["v"] = Int64(stamp), Int64(version)
    return document


def own(document: Mapping[str, object]) -> Mapping[str, object]:
    return cast("Mapping[str, object]", document["svr"])


def number(value: object) -> int:
    return int(cast("int", value))
