"""Scores ride along with documents through a server that does not know them as metadata."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from svr_retrievers.testing.mongodb.documents import Document, section
from svr_retrievers.testing.mongodb.found import Found

_HIDDEN = "__standIn"
_FIELDS = {"scoreDetails": f"{_HIDDEN}.details"}
_SCORE = f"{_HIDDEN}.score"
_ENDS = {"$out", "$merge"}
_FEW = (
    200  # up to here a list is searched for each document; above, documents and scores are joined by hashing
)
_NOTHING: Document = {"$match": {"$alwaysFalse": 1}}


def listed(documents: Sequence[Document]) -> list[Document]:
    """Stages that answer these documents instead of the collection's, which is still asked for permission."""
    literal = [{"$literal": document} for document in documents]
    return [_NOTHING, {"$unionWith": {"pipeline": [{"$documents": literal}]}}]


def stored(found: Sequence[Found]) -> list[Document]:
    """What the index kept, without a look at the collection."""
    return listed([(each.stored or {}) | {_HIDDEN: _besides(each)} for each in found])


def looked_up(found: Sequence[Found]) -> list[Document]:
    """The documents as they are now, best first; what is gone meanwhile drops out."""
    idents = [each.ident for each in found]
    matching: Document = {"$match": {"_id": {"$in": idents}}}
    if len(found) > _FEW:
        return [matching, *_joined(found)]
    place: Document = {"$indexOfArray": [{"$literal": idents}, "$_id"]}
    besides = {"$literal": [_besides(each) for each in found]}
    return [
        matching,
        {"$set": {_HIDDEN: {"at": place}}},
        {"$sort": {f"{_HIDDEN}.at": 1}},
        {"$set": {_HIDDEN: {"$arrayElemAt": [besides, f"${_HIDDEN}.at"]}}},
    ]


def _besides(each: Found) -> Document:
    return {"score": each.score} | ({"details": each.details} if each.details is not None else {})


def _joined(found: Sequence[Found]) -> list[Document]:
    ranked = [{"_id": each.ident, "at": at, "besides": _besides(each)} for at, each in enumerate(found)]
    together = {name: {"$max": f"${name}"} for name in ("document", "at", "besides")}
    return [
        {"$project": {"document": "$$ROOT"}},
        {"$unionWith": {"pipeline": [{"$documents": {"$literal": ranked}}]}},
        {"$group": {"_id": "$_id", **together}},
        {"$match": {"document": {"$type": "object"}}},
        {"$sort": {"at": 1}},
        {"$replaceWith": {"$mergeObjects": ["$document", {_HIDDEN: "$besides"}]}},
    ]


def uncovered(stages: Sequence[Document]) -> list[Document]:
    """Without what rode along, which a last stage that writes must not see either."""
    ends = bool(stages) and next(iter(stages[-1]), "") in _ENDS
    at = len(stages) - ends
    return [*stages[:at], {"$unset": _HIDDEN}, *stages[at:]]


def carrying(stage: Document, metas: Collection[str]) -> Document:
    """A stage that reads and keeps the score as the metadata it is for the server; `metas` are its names there."""
    if len(stage) != 1:
        return stage
    [(name, argument)] = stage.items()
    if name == "$sort" and isinstance(argument, dict):
        return {name: dict(_sort_key(key, order, metas) for key, order in argument.items())}
    if name == "$facet" and isinstance(argument, dict):
        return {name: {key: _facet(section(stage, name), key, metas) for key in argument}}
    argument = _read(argument, metas)
    keep = {_HIDDEN: f"${_HIDDEN}"}
    if name == "$project" and isinstance(argument, dict) and _includes(argument):
        argument = argument | {_HIDDEN: 1}
    elif name == "$replaceWith":
        argument = {"$mergeObjects": [argument, keep]}
    elif name == "$replaceRoot" and isinstance(argument, dict):
        argument = {"newRoot": {"$mergeObjects": [argument.get("newRoot"), keep]}}
    return {name: argument}


def _facet(facets: Document, name: str, metas: Collection[str]) -> list[Document]:
    inner = facets[name]
    stages = [stage for stage in inner if isinstance(stage, dict)] if isinstance(inner, list) else []
    return uncovered([carrying(stage, metas) for stage in stages])


def _includes(projection: Document) -> bool:
    """Whether it names what to keep, rather than what to leave out."""
    leaves_out = (value == 0 and isinstance(value, int | float) for value in projection.values())
    return not all(leaves_out)


def _sort_key(key: str, order: object, metas: Collection[str]) -> tuple[str, object]:
    return (_SCORE, -1) if isinstance(order, dict) and order.get("$meta") in metas else (key, order)


def _read(value: object, metas: Collection[str]) -> object:
    """Expressions that ask for the score get the field that carries it; the whole document goes without it."""
    if isinstance(value, list):
        return [_read(each, metas) for each in value]
    if isinstance(value, dict):
        meta = value.get("$meta") if len(value) == 1 else None
        if isinstance(meta, str) and meta in metas:
            return "$" + _FIELDS.get(meta, _SCORE)
        return {key: each if key == "$literal" else _read(each, metas) for key, each in value.items()}
    if isinstance(value, str) and value in {"$$ROOT", "$$CURRENT"}:
        return {"$unsetField": {"field": _HIDDEN, "input": value}}
    return value


def score_of(document: Document) -> object:
    """What rides along with a document that was read back; None where nothing does."""
    return section(document, _HIDDEN).get("score")


def scored_ids() -> Document:
    """A stage that leaves of each document its `_id` and what rides along."""
    return {"$project": {_HIDDEN: 1}}
