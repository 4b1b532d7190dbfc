"""Stored source: the part of a document that an index keeps, so that it can answer without the collection."""

from __future__ import annotations

from collections.abc import Sequence

from svr_retrievers.testing.mongodb.documents import Document


def kept(document: Document, wanted: Document) -> Document:
    """The part that a definition names, with the `_id`."""
    paths = wanted.get("include")
    if isinstance(paths, list):
        part: Document = {"_id": document["_id"]}
        for path in paths:
            _copy(document, part, str(path).split("."))
        return part
    left_out = wanted.get("exclude")
    return _without(document, [str(p).split(".") for p in left_out] if isinstance(left_out, list) else [])


def _copy(source: Document, target: Document, path: Sequence[str]) -> None:
    head, *rest = path
    if head not in source:
        return
    value = source[head]
    if rest and isinstance(value, dict):
        inner = target.setdefault(head, {})
        assert isinstance(inner, dict)
        _copy(value, inner, rest)
    elif not rest:
        target[head] = value


def _without(source: Document, paths: Sequence[Sequence[str]]) -> Document:
    gone = {path[0] for path in paths if len(path) == 1 and path[0] != "_id"}
    deeper = {name: [path[1:] for path in paths if len(path) > 1 and path[0] == name] for name in source}
    return {
        name: _without(value, deeper[name]) if deeper[name] and isinstance(value, dict) else value
        for name, value in source.items()
        if name not in gone
    }
