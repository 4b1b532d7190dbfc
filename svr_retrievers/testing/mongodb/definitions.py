"""What an index definition may say; what it may not is refused with the words of the search process."""

from __future__ import annotations

from dataclasses import dataclass

from svr_retrievers.testing.mongodb.documents import Document, section, text, whole
from svr_retrievers.testing.mongodb.refusals import Refused

MOST_DIMENSIONS = 8192
AUTO_EMBED_DIMENSIONS = 1024
_KEYS = {
    "vector": {"type", "path", "numDimensions", "similarity", "quantization", "indexingMethod", "hnswOptions"},
    "filter": {"type", "path"},
    "autoEmbed": {
        "type", "path", "modality", "model", "numDimensions", "similarity", "quantization", "indexingMethod",
        "hnswOptions",
    },
}  # fmt: skip
_REQUIRED = {
    "vector": ("path", "numDimensions", "similarity"),
    "filter": ("path",),
    "autoEmbed": ("path", "modality", "model"),
}
_CHOICES = {
    "similarity": {"euclidean", "cosine", "dotProduct"},
    "indexingMethod": {"hnsw", "flat"},
    "modality": {"text"},
}
_QUANTIZATIONS = {
    "vector": {"none", "scalar", "binary"},
    "autoEmbed": {"float", "scalar", "binary", "binaryNoRescore"},
}
_HNSW = {"maxEdges": (16, 64), "numEdgeCandidates": (100, 3200)}
_FAMILY = {"voyage-4", "voyage-4-large", "voyage-4-lite"}  # whose vectors can be compared with each other's
_MODELS = _FAMILY | {"voyage-code-3"}
_AUTO_EMBED_SIZES = {256, 512, 1024, 2048}


def _bad(what: str) -> Refused:
    return Refused(f'"userCommand.indexes[0]{what}', 2)


@dataclass(frozen=True, slots=True)
class Field:
    """One vector or embedded field of a definition, with the defaults filled in."""

    path: str
    kind: str
    dimensions: int
    similarity: str
    model: str


def vector_fields(definition: Document) -> list[Field]:
    return [_field(f) for f in fields(definition) if f.get("type") != "filter"]


def filter_paths(definition: Document) -> list[str]:
    return [text(f, "path") for f in fields(definition) if f.get("type") == "filter"]


def compatible(model: str, other: str) -> bool:
    return model == other or {model, other} <= _FAMILY


def fields(definition: Document) -> list[Document]:
    given = definition.get("fields")
    return [f for f in given if isinstance(f, dict)] if isinstance(given, list) else []


def _field(given: Document) -> Field:
    binary = text(given, "quantization").startswith("binary") and given.get("type") == "autoEmbed"
    return Field(
        path=text(given, "path"),
        kind=text(given, "type"),
        dimensions=whole(given.get("numDimensions")) or AUTO_EMBED_DIMENSIONS,
        similarity=text(given, "similarity") or ("euclidean" if binary else "dotProduct"),
        model=text(given, "model"),
    )


def check(definition: object) -> Document:
    """The definition, when Atlas would take it for a `vectorSearch` index."""
    given = definition.get("fields") if isinstance(definition, dict) else None
    if not isinstance(definition, dict) or not isinstance(given, list) or not given:
        raise _bad('.fields" is required and cannot be empty')
    unknown = sorted(definition.keys() - {"fields", "storedSource", "numPartitions"})
    if unknown:
        raise _bad(f'" unrecognized field "{unknown[0]}"')
    check_stored(definition)
    for at, each in enumerate(given):
        _check_field(f".fields[{at}]", each)
    kinds = {each["type"] for each in given}
    if kinds == {"filter"}:
        raise _bad('.fields" must contain a vector or autoEmbed field')
    if {"vector", "autoEmbed"} <= kinds:
        raise _bad('.fields" cannot mix vector and autoEmbed fields')
    if len({each["path"] for each in given}) < len(given):
        raise _bad('" Vector and filter fields should have distinct paths')
    return definition


def check_stored(definition: Document) -> None:
    stored = definition.get("storedSource", False)
    if stored is True:
        raise _bad('" storedSource true not allowed for vector indexes')
    if stored is False:
        return
    if not isinstance(stored, dict) or len(stored) != 1 or not stored.keys() <= {"include", "exclude"}:
        raise _bad('.storedSource" must be false, {include: [...]} or {exclude: [...]}')
    paths = next(iter(stored.values()))
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) and p for p in paths):
        raise _bad('.storedSource" must name paths')


def _check_field(at: str, given: object) -> None:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(kind, str) or kind not in _KEYS:
        raise _bad(f'{at}.type" must be one of [autoEmbed, filter, vector]')
    unknown = sorted(given.keys() - _KEYS[kind])
    if unknown:
        raise _bad(f'{at}" unrecognized field "{unknown[0]}"')
    for name in _REQUIRED[kind]:
        if name not in given:
            raise _bad(f'{at}.{name}" is required')
    path = given["path"]
    if not isinstance(path, str) or not path or path.startswith("$") or not all(path.split(".")):
        raise _bad(f'{at}.path" must be a non-empty path')
    if kind != "filter":
        _check_vector(at, kind, given)


def _check_vector(at: str, kind: str, given: Document) -> None:
    choices = _CHOICES | {"quantization": _QUANTIZATIONS[kind]}
    for name, allowed in choices.items():
        if name in given and given[name] not in allowed:
            raise _bad(f'{at}.{name}" must be one of [{", ".join(sorted(allowed))}]')
    dimensions = whole(given.get("numDimensions", AUTO_EMBED_DIMENSIONS))
    if dimensions is None or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise _bad(f'{at}.numDimensions" must be within bounds [1, {MOST_DIMENSIONS}]')
    if kind == "autoEmbed" and given["model"] not in _MODELS:
        raise _bad(f'{at}.model" must be one of [{", ".join(sorted(_MODELS))}]')
    if kind == "autoEmbed" and dimensions not in _AUTO_EMBED_SIZES:
        raise _bad(f'{at}.numDimensions" must be one of {sorted(_AUTO_EMBED_SIZES)}')
    if text(given, "quantization").startswith("binary") and dimensions % 8:
        raise _bad(f'{at}.numDimensions" must be a multiple of 8')
    _check_graph(at, section(given, "hnswOptions"))


def _check_graph(at: str, options: Document) -> None:
    for name, value in options.items():
        if name not in _HNSW:
            raise _bad(f'{at}.hnswOptions" unrecognized field "{name}"')
        low, high = _HNSW[name]
        given = whole(value)
        if given is None or not low <= given <= high:
            raise _bad(f'{at}.hnswOptions.{name}" must be within bounds [{low}, {high}]')
