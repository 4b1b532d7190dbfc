"""Metadata as JSON text whose numbers PostgreSQL gives back as they were."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal

from pydantic_core import from_json

from svr_retrievers.model import JsonValue

loads = from_json
"""Reads a few times faster than the standard library, and exactly the same."""

_MARK = "\x00"
_MARKED = re.compile(r'"\\u0000([^"]*)"')


def dumps(metadata: Mapping[str, JsonValue]) -> str:
    """JSON in which every float stays one: jsonb keeps "1e+23" as an integer, but "1000...0.0" as it is.

    Large floats are written as marked text first; no other text can hold the mark, which no metadata may.
    """
    text = json.dumps(metadata)
    if "e+" not in text:
        return text
    return _MARKED.sub(r"\1", json.dumps(_marked(metadata)))


def _marked(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _marked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_marked(each) for each in value]
    if isinstance(value, float) and "e+" in repr(value):
        return f"{_MARK}{Decimal(repr(value)):f}.0"
    return value
