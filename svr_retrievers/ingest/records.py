"""What sources yield: documents with their place, and what could not be read; and how a record becomes a document."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from svr_retrievers.errors import InputError
from svr_retrievers.ingest.frameworks import record_of
from svr_retrievers.ingest.plain import as_json, body_of
from svr_retrievers.model import Document, VectorLike


@dataclass(frozen=True, slots=True)
class Read:
    """A document and where it stood: a file and a line, row or page, or a number in an iterable."""

    document: Document
    place: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something of a source that is no document: where, and why.

    `raw` is all that stood there, as far as it is text: a record as JSON, cells as a list of them.
    """

    place: str
    message: str
    id: str = ""
    raw: str = ""
    code: str = "unreadable"


Record: TypeAlias = Mapping[str, object]
Item: TypeAlias = Read | Unreadable
Source: TypeAlias = "Iterable[Document | Record | Item] | AsyncIterable[Document | Record | Item]"
Column: TypeAlias = "str | Callable[[Record], object]"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which fields of a record are what. `id` and `text` may be functions of the record, e.g. a `Serializer`.

    What is neither becomes metadata, or, with `metadata`, only the fields named there. A field `metadata` that holds
    an object is spread among the others. A record need not have a vector or a namespace.
    """

    id: Column = "id"
    text: Column = "text"
    vector: str | None = "vector"
    namespace: str | None = "namespace"
    metadata: Sequence[str] | None = None

    def document(self, record: Record) -> Document:
        """Raises InputError for a record that has no id, or a text that is none."""
        if not isinstance(record, Mapping):
            raise InputError(
                f"It is {_kind(record)}, not a record of named fields.",
                hint="Give svr_retrievers.Document, a dict, or a document of LangChain or LlamaIndex.",
            )
        namespace = record.get(self.namespace) if self.namespace else None
        return Document(
            id=self._id(record),
            text=self._text(record),
            metadata=self._metadata(record),
            vector=_vector(record.get(self.vector)) if self.vector else None,
            namespace=None if namespace is None or namespace == "" else str(namespace),
        )

    def _id(self, record: Record) -> str:
        value = self.id(record) if callable(self.id) else record.get(self.id)
        if value is None or value == "":
            raise InputError(
                f"It has no id{'' if callable(self.id) else f': no field {self.id!r}'}.", hint=_NAME_ID
            )
        if isinstance(value, bool | float | Mapping | list):
            raise InputError(f"Its id is {_kind(value)}; ids are text or whole numbers.")
        return str(value)

    def _text(self, record: Record) -> str:
        if callable(self.text):
            value = self.text(record)
        elif self.text not in record and not (self.vector and record.get(self.vector) is not None):
            raise InputError(f"It has no field {self.text!r}.", hint=_NAME_TEXT)
        else:
            value = record.get(self.text)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InputError(f"Its text is {_kind(value)}.", hint=_NAME_TEXT)
        return value

    def _metadata(self, record: Record) -> dict[str, object]:
        spread = record.get("metadata")
        whole = {**record, **spread} if isinstance(spread, Mapping) else dict(record)
        if isinstance(spread, Mapping):
            del whole["metadata"]
        if self.metadata is not None:
            return {name: whole[name] for name in self.metadata if name in whole}
        taken = {name for name in (self.id, self.text, self.vector, self.namespace) if isinstance(name, str)}
        inner = set(spread) if isinstance(spread, Mapping) else set()
        return {name: value for name, value in whole.items() if name not in taken or name in inner}


_NAME_ID = "Name the field with id=, or give a function of the record."
_NAME_TEXT = "Name the field with text=, or give a function such as Serializer(fields=[...])."


def _vector(value: object) -> VectorLike | None:
    """What a record may hold as a vector, left to the collection to check."""
    if value is None or isinstance(value, np.ndarray | list):
        return value
    if isinstance(value, tuple):
        return list(value)
    raise InputError(f"Its vector is {_kind(value)}; it must be a list of numbers.")


def _kind(value: object) -> str:
    name = "null" if value is None else type(value).__name__
    return name if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


@dataclass(frozen=True, slots=True)
class Reader:
    """A source that can be read again and again, one document at a time. Made by `read_jsonl` and its siblings.

    Iterating yields `Read` and `Unreadable` items. `fingerprint` tells whether it is still the same as in an
    earlier run; empty where that is not known.
    """

    name: str
    open: Callable[[], Iterator[Item]] = field(repr=False)
    fingerprint: str = ""

    def __iter__(self) -> Iterator[Item]:
        return self.open()

    def __repr__(self) -> str:
        return self.name

    def map(self, change: Callable[[Document], Document]) -> Reader:
        """The same source with every document changed; one that `change` fails on is refused, with its place."""

        def changed() -> Iterator[Item]:
            for item in self.open():
                yield _changed(item, change) if isinstance(item, Read) else item

        by = getattr(change, "__qualname__", type(change).__name__)
        stamp = f"{self.fingerprint}|{by}" if self.fingerprint else ""
        return Reader(f"{self.name}.map(...)", changed, stamp)


def _changed(item: Read, change: Callable[[Document], Document]) -> Item:
    try:
        made: object = change(item.document)
    except Exception as error:  # noqa: BLE001 - a function of the user's; the next document may be fine
        return _unchanged(item, f"The function given to map() failed: {told(error)}")
    if not isinstance(made, Document):
        return _unchanged(item, f"The function given to map() made {_kind(made)}.")
    return Read(made, item.place)


def _unchanged(item: Read, message: str) -> Unreadable:
    return Unreadable(item.place, message, item.document.id, as_json(body_of(item.document)))


def told(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:500] or type(error).__name__


_THEIRS = Columns()


def as_item(value: object, place: str, columns: Columns) -> Item:
    """A value of any source as an item, whatever it is."""
    if isinstance(value, Read | Unreadable):
        return value
    if isinstance(value, Document):
        return Read(value, place)
    try:
        if (theirs := record_of(value)) is not None:
            return Read(_THEIRS.document(theirs), place)
        return Read(columns.document(value), place)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - also what a function of the user's raises
        found = value.get(columns.id) if isinstance(value, Mapping) and isinstance(columns.id, str) else None
        code = getattr(error, "code", "unreadable")
        return Unreadable(place, told(error), str(found or "")[:200], as_json(value), code)
