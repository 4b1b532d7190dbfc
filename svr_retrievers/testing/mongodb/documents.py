"""BSON documents as this package handles them: one type, one codec, and careful ways to look inside."""

from __future__ import annotations

import bson
from bson.codec_options import CodecOptions, DatetimeConversion

Document = dict[str, object]

CODEC: CodecOptions[Document] = CodecOptions(
    document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
MISSING = object()


def decode(data: bytes) -> Document:
    return bson.decode(data, CODEC)


def encode(document: Document) -> bytes:
    return bson.encode(document, codec_options=CODEC)


def key_of(value: object) -> bytes:
    """Tells values apart as the server does for `_id`, and makes any of them a dictionary's key."""
    return encode({"": value})


def section(document: Document, name: str) -> Document:
    """A document within a document; an empty one where it is absent or something else."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def text(document: Document, name: str, default: str = "") -> str:
    value = document.get(name)
    return value if isinstance(value, str) else default


def whole(value: object) -> int | None:
    """The value where it is a whole number, also one written as a double; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == int(value) else None


def at_path(document: object, path: str) -> object:
    """The value at a dotted path, through arrays the list of the values found; MISSING where there is none."""
    head, _, rest = path.partition(".")
    if isinstance(document, list):
        found = [v for each in document if (v := at_path(each, path)) is not MISSING]
        return [v for each in found for v in (each if isinstance(each, list) else [each])] or MISSING
    if not isinstance(document, dict) or head not in document:
        return MISSING
    return at_path(document[head], rest) if rest else document[head]
