"""Says what a collection can be filtered by, as LlamaIndex's auto-retrieval reads it. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llama_index.core.vector_stores import MetadataInfo, VectorStoreInfo
from llama_index.vector_stores.svr.nodes import RESERVED
from llama_index.vector_stores.svr.settings import type_name

from svr_retrievers import Scheme
from svr_retrievers.errors import InputError

_TOLD: Final = {
    "datetime": 'a moment, written in ISO 8601 as "2024-05-01" or "2024-05-01T12:30:00Z"',
    "bool": "1 for true, 0 for false",
}


def described(
    content_info: str,
    fields: Mapping[str, Any],
    scheme: Scheme | None,
    descriptions: Mapping[str, str],
    more: Sequence[MetadataInfo],
) -> VectorStoreInfo:
    """Declared fields, then the keys it is partitioned by, then `more`.

    Raises:
        InputError: for a description of a field that is none of these.
    """
    known = {name: type_name(kind) for name, kind in fields.items() if name not in RESERVED}
    keys = () if scheme is None else scheme.fields
    types = known | {name: "str" for name in keys if name not in known}
    unknown = sorted(set(descriptions) - set(types))
    if unknown:
        raise InputError(
            f"There is no declared field {', '.join(unknown)} to describe; there are {', '.join(types) or 'none'}.",
            hint="Declare it in filter_fields, or describe it by a MetadataInfo in `more`.",
        )
    told = [
        MetadataInfo(name=name, type=kind, description=_described(descriptions.get(name), kind, name in keys))
        for name, kind in types.items()
    ]
    return VectorStoreInfo(content_info=content_info, metadata_info=[*told, *more])


def _described(own: str | None, kind: str, key: bool) -> str:
    """A model that names a key of the partitions spares the search the others."""
    parts = [
        own or "",
        _TOLD.get(kind, ""),
        "partition key: name it where the question allows" if key else "",
    ]
    return "; ".join(part for part in parts if part)
