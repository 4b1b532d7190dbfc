"""Vectors as BSON carries them, and the scores Lucene gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bson.binary import Binary, BinaryVectorDtype

FloatArray = npt.NDArray[np.float32]
_VECTOR_SUBTYPE = 9
FLOAT, INT8, BIT = "float", "int8", "bit"
_NUMPY: dict[bytes, npt.DTypeLike] = {
    BinaryVectorDtype.FLOAT32.value: np.dtype("<f4"),
    BinaryVectorDtype.INT8.value: np.dtype("i1"),
}


@dataclass(frozen=True, slots=True)
class Vector:
    """The values as float32 whatever they were; bits lie unpacked."""

    kind: str
    values: FloatArray


def vector(value: object) -> Vector | None:
    """What a field or a query holds; None where that is no vector."""
    if isinstance(value, Binary):
        return _binary(value)
    if isinstance(value, list) and value and all(type(x) is float for x in value):
        return Vector(FLOAT, np.asarray(value, dtype=np.float32))
    numbers = (
        isinstance(value, list)
        and value
        and not any(isinstance(x, bool) or not isinstance(x, int | float) for x in value)
    )
    return Vector(FLOAT, np.asarray(value, dtype=np.float32)) if numbers else None


def _binary(value: Binary) -> Vector | None:
    if value.subtype != _VECTOR_SUBTYPE or len(value) < 2:
        return None
    kind, padding, data = value[:1], value[1], bytes(value)[2:]
    if kind == BinaryVectorDtype.PACKED_BIT.value:
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        return Vector(BIT, bits[: bits.size - padding].astype(np.float32))
    if kind not in _NUMPY or len(data) % np.dtype(_NUMPY[kind]).itemsize:
        return None
    found = np.frombuffer(data, dtype=_NUMPY[kind]).astype(np.float32)
    return Vector(FLOAT if kind == BinaryVectorDtype.FLOAT32.value else INT8, found)


def scores(
    kind: str, similarity: str, rows: FloatArray, squares: FloatArray, query: FloatArray
) -> FloatArray:
    """Of each row. `squares` are the rows' squared lengths. The euclidean distance stays squared, as in Lucene."""
    if kind == BIT:
        differing = squares + query.sum() - 2 * (rows @ query)
        return np.asarray((query.size - differing) / query.size, dtype=np.float32)
    dots = rows @ query
    own = np.float32(query @ query)
    if similarity == "cosine":
        return np.asarray(np.maximum((1 + dots / np.sqrt(squares * own)) / 2, 0), dtype=np.float32)
    if similarity == "euclidean":
        return np.asarray(1 / (1 + np.maximum(squares - 2 * dots + own, 0)), dtype=np.float32)
    if kind == INT8:
        return np.asarray(0.5 + dots / np.float32(query.size * (1 << 15)), dtype=np.float32)
    return np.asarray(np.maximum((1 + dots) / 2, 0), dtype=np.float32)
