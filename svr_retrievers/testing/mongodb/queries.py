"""A `$vectorSearch` stage, checked the way the search process checks it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svr_retrievers.testing.mongodb.documents import Document, whole
from svr_retrievers.testing.mongodb.refusals import in_query
from svr_retrievers.testing.mongodb.vectors import BIT, Vector, vector

_MOST_CANDIDATES = 10_000
_KEYS = {
    "index", "path", "queryVector", "query", "model", "limit", "numCandidates", "exact", "filter",
    "returnStoredSource", "explainOptions", "searchNodePreference",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """What one stage asks, as far as it can be known without the index. `candidates` is None for an exact search."""

    index: str
    path: str
    limit: int
    candidates: int | None
    vector: Vector | None
    text: str | None
    model: str | None
    filter: object
    stored_source: bool


def vector_query(stage: object) -> VectorQuery:
    if not isinstance(stage, dict):
        raise in_query('"$vectorSearch" must be a document')
    unknown = sorted(stage.keys() - _KEYS)
    if unknown:
        raise in_query(f'"$vectorSearch" unrecognized field "{unknown[0]}"')
    limit, candidates = _sizes(stage)
    if ("queryVector" in stage) == ("query" in stage):
        raise in_query("Exactly one and only one of query and queryVector can be present")
    model = stage.get("model")
    return VectorQuery(
        index=_name(stage, "index"),
        path=_name(stage, "path"),
        limit=limit,
        candidates=candidates,
        vector=_given(stage["queryVector"]) if "queryVector" in stage else None,
        text=_words(stage["query"]) if "query" in stage else None,
        model=model if isinstance(model, str) else None,
        filter=stage.get("filter"),
        stored_source=stage.get("returnStoredSource") is True,
    )


def _name(stage: Document, key: str) -> str:
    value = stage.get(key)
    if not isinstance(value, str) or not value:
        raise in_query(f'"{key}" is required' if value is None else f'"{key}" cannot be empty')
    return value


def _sizes(stage: Document) -> tuple[int, int | None]:
    exact = stage.get("exact", False)
    if not isinstance(exact, bool):
        raise in_query('"exact" must be a boolean')
    limit = _integer(stage, "limit")
    if limit is None:
        raise in_query('"limit" is required')
    if limit <= 0:
        raise in_query('"limit" must be positive')
    candidates = _integer(stage, "numCandidates")
    if exact:
        if candidates is not None:
            raise in_query('"numCandidates" must be omitted when "exact" is set to true')
        return limit, None
    if candidates is None:
        raise in_query("numCandidates is required for approximate vector search")
    if not 1 <= candidates <= _MOST_CANDIDATES:
        raise in_query(f'"numCandidates" must be within bounds [1, {_MOST_CANDIDATES}]')
    if limit > candidates:
        raise in_query("limit should be less than or equal to numCandidates")
    return limit, candidates


def _integer(stage: Document, key: str) -> int | None:
    value = stage.get(key)
    found = whole(value)
    if value is not None and found is None:
        raise in_query(f'"{key}" must be an integer')
    return found


def _given(value: object) -> Vector:
    found = vector(value)
    if found is None or not found.values.size:
        raise in_query("Unexpected type found when parsing vector")
    return found


def _words(value: object) -> str:
    given = value.get("text") if isinstance(value, dict) else value
    if not isinstance(given, str) or not given:
        raise in_query('"query" must be a text that is not empty')
    return given


def check_vector(found: Vector, dimensions: int, similarity: str) -> None:
    """Whether this vector can be compared with those of the index."""
    if found.values.size != dimensions:
        raise in_query(
            f"vector field is indexed with {dimensions} dimensions but queried with {found.values.size}"
        )
    finite = np.isfinite(found.values)
    if not finite.all():
        at = int(np.argmin(finite))
        raise in_query(
            f"'queryVector' contains a non-finite value (Infinity or NaN) at position [{at}]. "
            'All values in "queryVector" must be finite.'
        )
    if similarity == "cosine" and found.kind != BIT and not found.values.any():
        raise in_query("Cosine similarity cannot be calculated against a zero vector.")
