"""Any value as JSON can hold it, so that nothing of what was refused is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from svr_retrievers.ingest.serializer import scalar
from svr_retrievers.model import Document

_DEPTH = 100
_TOO_DEEP = "(nested too deep)"


def as_json(value: object) -> str:
    """All of a value in one line, of characters that every encoding has."""
    return json.dumps(plain(value), ensure_ascii=True)


def body_of(document: Document) -> dict[str, object]:
    """A document as a record; what it does not have is left out."""
    body: dict[str, object] = {
        "id": plain(document.id),
        "text": plain(document.text),
        "metadata": plain(document.metadata),
    }
    if document.vector is not None:
        body["vector"] = plain(document.vector)
    if document.namespace is not None:
        body["namespace"] = plain(document.namespace)
    return body


def plain(value: object, depth: int = 0) -> object:
    """What JSON can hold of a value that was refused, perhaps for being none of that."""
    if depth > _DEPTH:
        return _TOO_DEEP
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 10**4000 else scalar(value)
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), depth + 1)
    if isinstance(value, Mapping):
        return {_name(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner, depth + 1) for inner in value]
    return _name(value)


def _name(value: object) -> str:
    try:
        return str(value.isoformat() if hasattr(value, "isoformat") else value)
    except Exception:  # noqa: BLE001 - an object of the user's, which was refused already
        return type(value).__name__
