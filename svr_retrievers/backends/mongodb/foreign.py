"""Documents that others wrote, read as ours, and ours written as theirs. PURE.

What is added to a document of theirs is one sub-document, `svr`, as in `layout` but without the original metadata.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, cast

from bson import Binary, Code, DatetimeMS, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import UUID_SUBTYPE, VECTOR_SUBTYPE
from pydantic_core import from_json
from pymongo import ReplaceOne, UpdateOne

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.encoding import decode_vector
from svr_retrievers.backends.mongodb.filters import Paths
from svr_retrievers.backends.mongodb.layout import Doc, Layout
from svr_retrievers.backends.sources import OWN, Source
from svr_retrievers.errors import BackendError, InputError
from svr_retrievers.filters import FieldType, iso_utc, typed_value, typed_values
from svr_retrievers.model import JsonValue, Vector

_MOST_BITS: Final = 1024
"""Larger integers are no metadata."""


@dataclass(frozen=True, slots=True)
class ForeignLayout(Layout):
    """The paths of a collection that others made."""

    source: Source = Source("")  # noqa: RUF009 - frozen

    @property
    def paths(self) -> Paths:
        typed = {name: f"{lay.TYPED}.{key}" for name, key in self.keys.items()}
        hidden = self.source.hidden if self.source.metadata is None else frozenset()
        return Paths(self.source.metadata or "", typed, lay.MISSING, foreign=True, hidden=hidden)

    def vector_path(self, partition: int | None) -> str:  # noqa: ARG002 - all in one field
        return self.source.vector

    @property
    def text_path(self) -> str:
        return self.source.text

    @property
    def whole_vector(self) -> str:
        return self.source.vector

    def bound_vector(self, vector: Vector) -> object:
        return self.bound_vectors(vector[None, :])[0]

    def bound_vectors(self, vectors: Vector) -> Sequence[object]:
        """As the others are: an index answers nothing to a vector that is stored in another way."""
        if self.source.lists:
            return cast("list[object]", vectors.tolist())
        return Layout.bound_vectors(self, vectors)

    # Asking

    @property
    def ours(self) -> Doc:
        return {lay.NAMESPACE: self.source.namespace}

    @property
    def order(self) -> str:
        return lay.ID

    def within(self, namespace: str) -> Doc:
        return {lay.NAMESPACE: namespace}

    def behind(self, namespace: str, doc_id: str) -> Doc:
        return {lay.NAMESPACE: namespace, lay.ID: {"$gt": doc_id}}

    def chosen(self, namespace: str, ids: Sequence[str]) -> Doc:
        return {lay.NAMESPACE: namespace, lay.ID: {"$in": list(ids)}}

    def reads(self, vector_path: str | None = None) -> Doc:
        if self.source.metadata is None:
            left_out: Doc = {lay.TYPED: 0, lay.MISSING: 0, lay.STAMP: 0}
            return left_out if vector_path is not None else {**left_out, self.source.vector: 0}
        own = {f"{OWN}.{name}": 1 for name in "nipvm"}
        read: Doc = {self.source.text: 1, self.source.metadata: 1, **own}
        return read if vector_path is None else {**read, vector_path: 1}

    @property
    def reads_keys(self) -> Doc:
        return {"_id": 1, lay.NAMESPACE: 1, lay.ID: 1}

    # Reading

    def key_of(self, document: Mapping[str, object]) -> tuple[str, str]:
        own = document.get(OWN)
        if isinstance(own, Mapping) and "i" in own:
            return str(own["n"]), str(own["i"])
        return self.source.namespace, id_text(document["_id"])

    def text_of(self, document: Mapping[str, object]) -> str:
        text = at(document, self.source.text)
        return text if isinstance(text, str) else "" if text is None else id_text(text)

    def metadata_of(self, document: Mapping[str, object]) -> dict[str, JsonValue]:
        original = (cast("Mapping[str, object]", document.get(OWN) or {})).get("m")
        if original is not None:
            return dict(from_json(str(original)))
        if self.source.metadata is None:
            hidden = self.source.hidden
            return {key: json_of(value) for key, value in document.items() if key not in hidden}
        body = at(document, self.source.metadata)
        return {key: json_of(value) for key, value in body.items()} if isinstance(body, Mapping) else {}

    def typed_of(
        self, metadata: Mapping[str, JsonValue], fields: Mapping[str, FieldType]
    ) -> Mapping[str, object]:
        """A value that others made one of another type counts as missing."""
        try:
            return typed_values(fields, metadata)
        except InputError:
            return {name: _typed(name, kind, metadata) for name, kind in fields.items()}

    def vector_of(self, document: Mapping[str, object]) -> Vector:
        return decode_vector(at(document, self.source.vector), self.dimensions)

    def with_vectors(
        self, documents: Iterable[Mapping[str, object]]
    ) -> list[tuple[Mapping[str, object], Vector]]:
        """Without those whose vector others have made unusable since they were taken in: no index holds them either."""
        found = []
        for each in documents:
            with suppress(BackendError):
                found.append((each, self.vector_of(each)))
        return found

    # Writing

    def put_together(
        self, text: str, metadata: Mapping[str, object], vector: object | None, own: Mapping[str, object]
    ) -> Doc:
        made: Doc = {"_id": key_for(str(own["i"]))}
        _put(made, self.source.text, text)
        _put(made, self.source.vector, vector)
        if self.source.metadata is None:
            made |= metadata
        else:
            _put(made, self.source.metadata, metadata)
        made[OWN] = own
        return made

    def there(self, made: Sequence[Doc]) -> Doc:
        """Those with the same id, and those of others under the same key, which are not taken in yet."""
        ids = [str(lay.own(each)["i"]) for each in made]
        return {
            "$or": [self.chosen(self.source.namespace, ids), {"_id": {"$in": [each["_id"] for each in made]}}]
        }

    def replacing(self, old: object, made: Doc) -> ReplaceOne[Doc] | UpdateOne:
        """Fields that are no metadata stay."""
        if self.source.metadata is None:
            return ReplaceOne({"_id": old}, {**made, "_id": old})
        paths = (self.source.text, self.source.vector, self.source.metadata, OWN)
        return UpdateOne({"_id": old}, {"$set": {path: at(made, path) for path in paths}})


def _typed(name: str, kind: FieldType, metadata: Mapping[str, JsonValue]) -> object:
    try:
        return typed_value(name, kind, metadata)
    except InputError:
        return None


def at(document: Mapping[str, object], path: str) -> object:
    """What is at the dotted path; None where there is nothing."""
    found: object = document
    for key in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def _put(document: Doc, path: str, value: object) -> None:
    *above, last = path.split(".")
    for key in above:
        document = cast("Doc", document.setdefault(key, {}))
    document[last] = value


def id_text(value: object) -> str:
    """An `_id` of any type as text: an ObjectId by its digits, a UUID as usual, the rest as JSON."""
    if isinstance(value, str):
        return str.__str__(value)
    made = json_of(value)
    return made if isinstance(made, str) else json.dumps(made, ensure_ascii=False)


def key_for(doc_id: str) -> object:
    """The `_id` of a new document: an ObjectId where the id is one's digits."""
    if len(doc_id) == 24 and ObjectId.is_valid(doc_id) and doc_id == doc_id.lower():
        return ObjectId(doc_id)
    return doc_id


def vector_kind(value: object) -> str | None:
    """How a vector is stored: as "list", or as "float32", "int8" or "bit" of BSON; None where it is no vector."""
    if isinstance(value, list) and value:
        return (
            "list"
            if all(type(each) is not bool and isinstance(each, (int, float)) for each in value)
            else None
        )
    if isinstance(value, Binary) and value.subtype == VECTOR_SUBTYPE and len(value) > 2:
        return _KINDS.get(value[0])
    return None


_KINDS: Final = {0x27: "float32", 0x03: "int8", 0x10: "bit"}


def size_of(value: object, kind: str) -> int:
    """The dimensions of a stored vector."""
    if isinstance(value, bytes):
        body = len(value) - 2
        return {"float32": body // 4, "int8": body, "bit": 8 * body - (value[1] & 7)}[kind]
    return len(cast("list[object]", value))


def json_of(value: object) -> JsonValue:
    """What is in a document of others as JSON: what it cannot hold becomes text."""
    if value is None or type(value) in (str, bool):
        return cast("JsonValue", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, Mapping):
        return {str(key): json_of(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_of(each) for each in value]
    return _text_or_number(value)


_NOT_FINITE: Final = {math.inf: "Infinity", -math.inf: "-Infinity"}


def _text_or_number(value: object) -> JsonValue:
    match value:
        case datetime():
            return iso_utc(value)
        case Timestamp():
            return iso_utc(value.as_datetime())
        case DatetimeMS():
            return str(int(value))
        case Decimal128():
            return _decimal(value.to_decimal())
        case Binary() if value.subtype == UUID_SUBTYPE and len(value) == 16:
            return str(value.as_uuid())
        case bytes():
            return base64.b64encode(value).decode()
        case Regex():
            return str(value.pattern)
        case Code():
            return str.__str__(value)
        case MinKey() | MaxKey():
            return type(value).__name__
        case _:
            return str(value)


def _decimal(number: Decimal) -> JsonValue:
    """The number, where an integer or a float stands for exactly this one; else its text."""
    if not number.is_finite():
        return str(number)
    if number == number.to_integral_value():
        return int(number) if number.adjusted() < _MOST_BITS * 3 // 10 else str(number)
    near = float(number)
    return near if Decimal(repr(near)) == number else str(number)
