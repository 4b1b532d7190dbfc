"""Metadata, filter fields and vectors in the form MongoDB keeps them, and back. PURE."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, TypeAlias

import numpy as np
from bson import Binary, DBRef, Decimal128, Int64
from bson.decimal128 import create_decimal128_context
from pydantic_core import from_json

from svr_retrievers.errors import BackendError
from svr_retrievers.filters import FieldType, iso_utc
from svr_retrievers.model import JsonValue, Vector

VectorKind: TypeAlias = Literal["float32", "int8", "bit"]

_INT64: Final = 2**63
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_DECIMAL: Final = create_decimal128_context()
_PLAIN: Final = frozenset({str, float, int, bool, type(None)})

_VECTOR_SUBTYPE: Final = 9
_HEADERS: Final[dict[VectorKind, int]] = {"float32": 0x27, "int8": 0x03, "bit": 0x10}
_KINDS: Final = {code: kind for kind, code in _HEADERS.items()}


def encode_metadata(metadata: Mapping[str, JsonValue]) -> tuple[dict[str, object], str | None]:
    """The metadata as BSON, and its JSON text where BSON or the driver would not give it back exactly.

    That is so for integers beyond 64 bits, which become decimals of 34 digits, and for objects that the
    driver reads as database references.
    """
    exact = all(map(_kept, metadata.values())) and not _is_reference(metadata)
    if exact:
        return dict(metadata), None
    return {key: _bson(value) for key, value in metadata.items()}, json.dumps(metadata)


def _kept(value: JsonValue) -> bool:
    """Whether the driver writes the value and reads the same."""
    if isinstance(value, dict):
        return all(map(_kept, value.values())) and not _is_reference(value)
    if isinstance(value, list):
        return all(map(_kept, value))
    return type(value) is not int or -_INT64 <= value < _INT64


def _is_reference(value: Mapping[str, JsonValue]) -> bool:
    return "$ref" in value and "$id" in value


def _bson(value: JsonValue) -> object:
    if isinstance(value, dict):
        return {key: _bson(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_bson(each) for each in value]
    return bson_number(value) if type(value) is int else value


def bson_number(number: int) -> Int64 | Decimal128:
    """An integer of any size; beyond 64 bits rounded to the 34 digits of a decimal."""
    if -_INT64 <= number < _INT64:
        return Int64(number)
    return Decimal128(_DECIMAL.create_decimal(number))


def decode_metadata(body: Mapping[str, object], original: str | None) -> dict[str, JsonValue]:
    """The metadata as it was given: from its JSON text if there is one, else from BSON.

    BSON that others wrote may hold more than JSON: dates become ISO text, ids text, bytes base64.
    """
    if original is not None:
        return dict(from_json(original))
    return {key: value if type(value) in _PLAIN else _json(value) for key, value in body.items()}  # type: ignore[misc]


def _json(value: object) -> JsonValue:
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    return _foreign(value)


def _foreign(value: object) -> JsonValue:
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, DBRef):
        return _json(value.as_doc())
    if isinstance(value, Decimal128):
        number: Decimal = value.to_decimal()
        return int(number) if number.is_finite() and number == number.to_integral_value() else str(number)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def encode_typed(kind: FieldType, value: object) -> object:
    """A declared field's value as it is stored and compared; None stays None."""
    if value is None:
        return None
    if not kind.is_list:
        return _scalar(kind, value)
    assert isinstance(value, (list, tuple))
    return [_scalar(kind.element, each) for each in value]


def _scalar(kind: FieldType, value: object) -> object:
    if isinstance(value, datetime):
        return Int64((value - _EPOCH) // _MICROSECOND)
    if kind is FieldType.INT:
        assert isinstance(value, int)
        return Int64(value)
    if kind is FieldType.FLOAT:
        assert isinstance(value, (int, float))
        return float(value) + 0.0
    return value


def encode_vectors(rows: Vector, kind: VectorKind = "float32") -> list[Binary]:
    """Each of the rows (n, d) as BSON's vector type.

    `int8` holds whole numbers from -128 to 127, `bit` 0 and 1; others are rounded to them.
    """
    body, padding = _packed(rows, kind)
    count, width = body.shape
    framed = np.empty((count, width + 2), np.uint8)
    framed[:, 0], framed[:, 1] = _HEADERS[kind], padding
    framed[:, 2:] = body
    data = framed.tobytes()
    step = width + 2
    return [Binary(data[start : start + step], _VECTOR_SUBTYPE) for start in range(0, count * step, step)]


def _packed(rows: Vector, kind: VectorKind) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.uint8]], int]:
    """The rows' bytes, and how many bits at the end of the last byte are unused."""
    count, dimensions = rows.shape
    if kind == "float32":
        return np.ascontiguousarray(rows, "<f4").view(np.uint8).reshape(count, 4 * dimensions), 0
    if kind == "bit":
        return np.packbits(rows > 0.5, axis=1), -dimensions % 8
    return np.rint(np.clip(rows, -128, 127)).astype(np.int8).view(np.uint8), 0


def decode_vector(value: object, dimensions: int) -> Vector:
    """The stored vector: of BSON's vector type in any of its three kinds, or a plain list of numbers.

    Bits come back as 0 and 1. Raises BackendError when it is no vector of this many dimensions.
    """
    vector = _from_binary(value) if isinstance(value, bytes) else _from_list(value)
    if vector is None or vector.shape != (dimensions,):
        found = f"of {len(vector)} dimensions" if vector is not None else f"of class {type(value).__name__}"
        raise BackendError(
            f"A stored vector is {found} where the collection has {dimensions}.",
            hint="Something other than this package wrote it; add the document again.",
        )
    return vector


def _from_list(value: object) -> Vector | None:
    if not isinstance(value, list) or not all(isinstance(each, (int, float)) for each in value):
        return None
    return np.asarray(value, np.float32)


def _from_binary(value: bytes) -> Vector | None:
    kind = _KINDS.get(value[0]) if len(value) >= 2 else None
    body = value[2:]
    if kind == "float32" and len(body) % 4 == 0:
        return np.frombuffer(body, "<f4").astype(np.float32)
    if kind == "int8":
        return np.frombuffer(body, np.int8).astype(np.float32)
    if kind == "bit":
        bits = np.unpackbits(np.frombuffer(body, np.uint8), count=8 * len(body) - (value[1] & 7))
        return bits.astype(np.float32)
    return None
