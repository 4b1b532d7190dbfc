"""What of the documents of others can be taken in, and why the rest cannot. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from svr_retrievers.backends.adopting import StoredVectors, Untaken
from svr_retrievers.backends.indexes import Stored
from svr_retrievers.backends.mongodb import foreign
from svr_retrievers.backends.mongodb.foreign import ForeignLayout
from svr_retrievers.backends.mongodb.layout import Doc
from svr_retrievers.model import Document, Vector


def stored_vectors(value: object) -> StoredVectors | None:
    kind = foreign.vector_kind(value)
    if kind is None:
        return None
    lists = kind == "list"
    return StoredVectors(foreign.size_of(value, kind), cast("Stored", "float32" if lists else kind), lists)


def examined(part: Sequence[Doc], layout: ForeignLayout) -> Untaken:
    documents: list[Document] = []
    faults: dict[int, str] = {}
    for at, each in enumerate(part):
        fault = _fault(each, layout)
        if fault is not None:
            faults[at] = fault
        documents.append(_document(each, layout, has_vector=fault is None))
    return Untaken([each["_id"] for each in part], documents, faults)


def _document(found: Doc, layout: ForeignLayout, *, has_vector: bool) -> Document:
    vector: Vector | None = layout.vector_of(found) if has_vector else None
    if vector is not None and layout.stored == "bit":
        vector = (vector > 0).astype(vector.dtype)
    return Document(layout.key_of(found)[1], layout.text_of(found), layout.metadata_of(found), vector)


def _fault(found: Doc, layout: ForeignLayout) -> str | None:
    """Why the document's vector or metadata are not what the collection's are."""
    source = layout.source
    value = foreign.at(found, source.vector)
    kind, wanted = foreign.vector_kind(value), "list" if source.lists else layout.stored
    if kind is None:
        what = "nothing" if value is None else f"a {type(value).__name__}"
        return f"vector: the field {source.vector!r} holds {what}."
    if kind != wanted:
        return f"vector: it is stored as {kind}, those of the collection as {wanted}: no search finds both."
    size = foreign.size_of(value, kind)
    if size != layout.dimensions:
        return f"vector: it has {size} numbers; the collection holds vectors of {layout.dimensions}."
    body = None if source.metadata is None else foreign.at(found, source.metadata)
    if body is not None and not isinstance(body, Mapping):
        return f"metadata: the field {source.metadata!r} holds a {type(body).__name__}, no object."
    return None
