"""A store's settings in two forms: as Python objects, and as the JSON of a dump. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from svr_retrievers import IndexSpec, Scheme
from svr_retrievers.errors import InputError

FieldTypes: TypeAlias = Mapping[str, Any]
_TYPES: Final[dict[str, Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "datetime": datetime,
    "list[str]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
}
_NAMES: Final = {kind: name for name, kind in _TYPES.items()}


def scheme(given: object) -> Any:
    return Scheme.from_json(given) if isinstance(given, list) else given


def index_spec(given: object) -> Any:
    return IndexSpec.from_json(given) if isinstance(given, Mapping) else given


def field_types(given: FieldTypes | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InputError("filter_fields must map field names to types.", hint='e.g. {"year": int}')
    return {name: _TYPES.get(kind, kind) if isinstance(kind, str) else kind for name, kind in given.items()}


def written_spec(given: Scheme | IndexSpec | None) -> Any:
    return None if given is None else given.to_json()


def written_fields(given: FieldTypes | None) -> dict[str, str] | None:
    """What is no known type is written as text, and refused with the reason when the collection is opened."""
    return None if given is None else {name: type_name(kind) for name, kind in given.items()}


def type_name(kind: Any) -> str:
    return _NAMES.get(kind, str(kind))
