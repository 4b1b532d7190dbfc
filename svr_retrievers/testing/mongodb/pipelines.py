"""Turns a pipeline with search stages into one that any MongoDB server runs."""

from __future__ import annotations

from collections.abc import Sequence

from svr_retrievers.testing.mongodb import management
from svr_retrievers.testing.mongodb.documents import Document, section, text
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.refusals import QueryFailed, Refused
from svr_retrievers.testing.mongodb.searching import search
from svr_retrievers.testing.mongodb.store import Found
from svr_retrievers.testing.mongodb.views import VIEWS_SINCE, is_view

_HIDDEN = "__standIn"  # rides along with each document, and is taken off at the end
_SCORE = f"{_HIDDEN}.score"
_META = {"vectorSearchScore", "searchScore", "score"}
_ENDS = {"$out", "$merge"}
_FEW = (
    200  # up to here a list is searched for each document; above, documents and scores are joined by hashing
)
_NOTHING: Document = {"$match": {"$alwaysFalse": 1}}
_NOT_FIRST, _NOT_IN_TRANSACTIONS, _NOT_IN_FACET = 40602, 263, 40600


async def rewritten(mongot: Mongot, command: Document) -> Document:
    """The `aggregate` command as the server can take it."""
    database, collection = text(command, "$db"), text(command, "aggregate")
    pipeline = _stages(command.get("pipeline"))
    if pipeline and "$listSearchIndexes" in pipeline[0]:
        listed = management.entries(mongot, database, collection, pipeline[0]["$listSearchIndexes"])
        return command | {"pipeline": [*_given(listed), *pipeline[1:]]}
    if "autocommit" in command:
        raise Refused(
            "Operation not permitted in transaction :: caused by :: Aggregation stage $vectorSearch cannot run "
            "within a multi-document transaction",
            _NOT_IN_TRANSACTIONS,
        )
    stages, scored = await _Rewriting(mongot, database).pipeline(collection, pipeline)
    return command | {"pipeline": _uncovered(stages) if scored else stages}


def _stages(value: object) -> list[Document]:
    return [stage for stage in value if isinstance(stage, dict)] if isinstance(value, list) else []


def _given(documents: Sequence[Document]) -> list[Document]:
    """Stages that answer these documents instead of the collection's, which is still asked for permission."""
    literal: list[object] = [{"$literal": document} for document in documents]
    union: list[Document] = [{"$documents": literal}] if literal else [{"$documents": []}]
    return [_NOTHING, {"$unionWith": {"pipeline": union}}]


class _Rewriting:
    def __init__(self, mongot: Mongot, database: str) -> None:
        self._mongot = mongot
        self._database = database

    async def pipeline(self, collection: str, stages: Sequence[Document]) -> tuple[list[Document], bool]:
        """The stages, and whether their documents carry a score."""
        out: list[Document] = []
        scored = False
        for at, stage in enumerate(stages):
            name = next(iter(stage), "")
            if name == "$vectorSearch":
                if at or await self._inlines(collection):
                    raise Refused("$vectorSearch is only valid as the first stage in a pipeline", _NOT_FIRST)
                out, scored = await self._found(collection, stage[name]), True
            elif name in {"$unionWith", "$lookup"} and "pipeline" in section(stage, name):
                inner, carries = await self._within(name, section(stage, name), collection)
                scored = scored or carries
                out.append(inner)
            else:
                _refuse_in_facet(name, stage)
                out.append(_carrying(stage) if scored else stage)
        return out, scored

    async def _inlines(self, collection: str) -> bool:
        """Whether the collection is a view whose stages come first, as they do for search before 8.1."""
        if self._mongot.control.of(self._database).version >= VIEWS_SINCE:
            return False
        return await is_view(self._mongot.client.get_database(self._database), collection)

    async def _found(self, collection: str, asked: object) -> list[Document]:
        try:
            found = await search(self._mongot, self._database, collection, asked)
        except QueryFailed as failed:
            version = self._mongot.control.of(self._database).version
            raise failed.on(f"{self._database}.{collection}", version) from failed
        if any(each.stored is not None for each in found):
            return _given([(each.stored or {}) | {_HIDDEN: {"score": each.score}} for each in found])
        return _looked_up(found)

    async def _within(self, name: str, stage: Document, collection: str) -> tuple[Document, bool]:
        key = "coll" if name == "$unionWith" else "from"
        inner, scored = await self.pipeline(text(stage, key, collection), _stages(stage["pipeline"]))
        if name == "$lookup" and scored:
            inner, scored = _uncovered(inner), False
        return {name: stage | {"pipeline": inner}}, scored


def _looked_up(found: Sequence[Found]) -> list[Document]:
    """The documents as they are now, best first; what is gone meanwhile drops out."""
    idents = [each.ident for each in found]
    matching: Document = {"$match": {"_id": {"$in": idents}}}
    if len(found) > _FEW:
        return [matching, *_joined(found)]
    place: Document = {"$indexOfArray": [{"$literal": idents}, "$_id"]}
    ranks = {"$literal": [each.score for each in found]}
    return [
        matching,
        {"$set": {_HIDDEN: {"at": place}}},
        {"$sort": {f"{_HIDDEN}.at": 1}},
        {"$set": {_HIDDEN: {"score": {"$arrayElemAt": [ranks, f"${_HIDDEN}.at"]}}}},
    ]


def _joined(found: Sequence[Found]) -> list[Document]:
    ranked = [{"_id": each.ident, "at": at, "score": each.score} for at, each in enumerate(found)]
    return [
        {"$project": {"document": "$$ROOT"}},
        {"$unionWith": {"pipeline": [{"$documents": {"$literal": ranked}}]}},
        {
            "$group": {
                "_id": "$_id",
                "document": {"$max": "$document"},
                "at": {"$max": "$at"},
                "score": {"$max": "$score"},
            }
        },
        {"$match": {"document": {"$type": "object"}}},
        {"$sort": {"at": 1}},
        {"$replaceWith": {"$mergeObjects": ["$document", {_HIDDEN: {"score": "$score"}}]}},
    ]


def _refuse_in_facet(name: str, stage: Document) -> None:
    if name == "$facet":
        for inner in section(stage, name).values():
            if any("$vectorSearch" in each for each in _stages(inner)):
                raise Refused("$vectorSearch is not allowed to be used within a $facet stage", _NOT_IN_FACET)


def _uncovered(stages: Sequence[Document]) -> list[Document]:
    """Without what rode along, which a last stage that writes must not see either."""
    ends = bool(stages) and next(iter(stages[-1]), "") in _ENDS
    at = len(stages) - ends
    return [*stages[:at], {"$unset": _HIDDEN}, *stages[at:]]


def _carrying(stage: Document) -> Document:
    """A stage that reads and keeps the score as the metadata it is for the server."""
    if len(stage) != 1:
        return stage
    [(name, argument)] = stage.items()
    if name == "$sort" and isinstance(argument, dict):
        return {name: dict(_sort_key(key, order) for key, order in argument.items())}
    if name == "$facet" and isinstance(argument, dict):
        return {
            name: {key: _uncovered([_carrying(s) for s in _stages(inner)]) for key, inner in argument.items()}
        }
    argument = _read(argument)
    keep = {_HIDDEN: f"${_HIDDEN}"}
    if name == "$project" and isinstance(argument, dict) and _includes(argument):
        argument = argument | {_HIDDEN: 1}
    elif name == "$replaceWith":
        argument = {"$mergeObjects": [argument, keep]}
    elif name == "$replaceRoot" and isinstance(argument, dict):
        argument = {"newRoot": {"$mergeObjects": [argument.get("newRoot"), keep]}}
    return {name: argument}


def _includes(projection: Document) -> bool:
    """Whether it names what to keep, rather than what to leave out."""
    leaves_out = (value == 0 and isinstance(value, int | float) for value in projection.values())
    return not all(leaves_out)


def _sort_key(key: str, order: object) -> tuple[str, object]:
    return (_SCORE, -1) if isinstance(order, dict) and order.get("$meta") in _META else (key, order)


def _read(value: object) -> object:
    """Expressions that ask for the score get the field that carries it; the whole document goes without it."""
    if isinstance(value, list):
        return [_read(each) for each in value]
    if isinstance(value, dict):
        if len(value) == 1 and value.get("$meta") in _META:
            return f"${_SCORE}"
        return {key: each if key == "$literal" else _read(each) for key, each in value.items()}
    if isinstance(value, str) and value in {"$$ROOT", "$$CURRENT"}:
        return {"$unsetField": {"field": _HIDDEN, "input": value}}
    return value
