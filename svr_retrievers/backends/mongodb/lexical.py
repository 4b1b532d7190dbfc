"""The index of words of a collection and the questions to it: `$search` over texts, and filters in its terms. PURE."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.layout import Doc, Layout
from svr_retrievers.backends.mongodb.pipelines import FRESH, Rows, united_generation
from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.filters import FieldType

SCORE: Final = "svr.score"
_TOKEN: Final[Doc] = {"type": "token"}
_WHOLE: Final[Doc] = {"type": "number", "representation": "int64"}
_TYPES: Final[Mapping[FieldType, Doc]] = {
    FieldType.INT: _WHOLE,
    FieldType.DATETIME: _WHOLE,
    FieldType.FLOAT: {"type": "number"},
    FieldType.BOOL: {"type": "boolean"},
    FieldType.STR: _TOKEN,
}
_RANGES: Final = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


def index_name(collection: int) -> str:
    return f"svr_{collection}_words"


def definition(config: CollectionConfig, layout: Layout) -> Doc:
    """Texts by their words; what filters and marks ask for as it is. Nothing else is indexed."""
    fields: Doc = {}
    paths: dict[str, Doc] = {
        layout.text_path: {"type": "string"},
        lay.NAMESPACE: _TOKEN,
        lay.PARTITION: _WHOLE,
        lay.STAMP: _WHOLE,
    }
    if layout.keys:
        paths[lay.MISSING] = _TOKEN
    paths |= {layout.paths.typed[name]: _TYPES[kind.element] for name, kind in config.fields.items()}
    for path, kind in paths.items():
        _put(fields, path.split("."), kind)
    return {"mappings": {"dynamic": False, "fields": fields}}


def _put(fields: Doc, path: Sequence[str], kind: Doc) -> None:
    head, *rest = path
    if not rest:
        fields[head] = kind
        return
    inner = cast("Doc", fields.setdefault(head, {"type": "document", "dynamic": False, "fields": {}}))
    _put(cast("Doc", inner["fields"]), rest, kind)


def is_defined(found: object, wanted: object) -> bool:
    """Whether an index's definition holds all that is wanted; servers may add defaults."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return all(is_defined(found.get(name), value) for name, value in wanted.items())
    return found == wanted


def question(index: str, words: str, layout: Layout, rows: Rows, push: Doc | None) -> Doc:
    """The stage: texts with any of the words, the predicate of namespace and partitions outside the user's filter."""
    where: list[Doc] = [{"equals": {"path": lay.NAMESPACE, "value": rows.namespace}}]
    if rows.partitions is not None:
        where.append({"in": {"path": lay.PARTITION, "value": list(rows.partitions)}})
    if push is not None:
        where.append(clause(push))
    words_asked: Doc = {"text": {"path": layout.text_path, "query": words}}
    return {"$search": {"index": index, "compound": {"must": [words_asked], "filter": where}}}


def search(
    asked: Doc,
    limit: int,
    rows: Rows,
    fresh: Sequence[Doc],
    fields: Doc,
    *,
    most_fresh: int,
    documents: str,
    generation: Sequence[Doc],
    catalog: str,
) -> list[Doc]:
    """What the index names, as it is now, with the rows that it does not hold yet, and the map's generation."""
    waiting: list[Doc] = [
        {"$match": rows.condition({"$or": list(fresh)})},
        {"$limit": most_fresh},
        {"$project": fields},
        {"$set": {FRESH: True}},
    ]
    return [
        asked,
        {"$limit": limit},
        {"$project": fields},
        {"$set": {SCORE: {"$meta": "searchScore"}}},
        {"$unionWith": {"coll": documents, "pipeline": waiting}},
        united_generation(catalog, generation),
    ]


def probe(index: str, stamps: Sequence[int]) -> list[Doc]:
    """Which of the rows with these stamps the index holds."""
    return [
        {"$search": {"index": index, "in": {"path": lay.STAMP, "value": list(stamps)}}},
        {"$limit": len(stamps)},
        {"$project": {"_id": 0, "w": f"${lay.STAMP}"}},
    ]


def with_stamp(fields: Doc) -> Doc:
    """The projection with the rows' stamps, whether it names what to keep or what to leave out."""
    kept = {path: value for path, value in fields.items() if path != lay.STAMP}
    return {**kept, lay.STAMP: 1} if 1 in kept.values() else kept


def words_of(text: str) -> set[str]:
    """Roughly as the index takes texts apart."""
    return set(re.findall(r"\w+", text.lower()))


def clause(filter_: Mapping[str, object]) -> Doc:
    """A filter of `$vectorSearch` in the operators of `$search`."""
    parts = [_entry(name, value) for name, value in filter_.items()]
    return parts[0] if len(parts) == 1 else {"compound": {"filter": parts}}


def _entry(name: str, value: object) -> Doc:
    if name in ("$and", "$or", "$nor"):
        parts = [clause(each) for each in cast("list[Mapping[str, object]]", value)]
        if name == "$or":
            return {"compound": {"should": parts, "minimumShouldMatch": 1}}
        return {"compound": {"filter": parts}} if name == "$and" else _none_of(parts)
    tests = [_test(name, operator, operand) for operator, operand in cast("Doc", value).items()]
    return tests[0] if len(tests) == 1 else {"compound": {"filter": tests}}


def _test(path: str, operator: str, operand: object) -> Doc:
    match operator:
        case "$eq":
            return {"equals": {"path": path, "value": operand}}
        case "$ne":
            return _none_of([{"equals": {"path": path, "value": operand}}])
        case "$in":
            return {"in": {"path": path, "value": operand}}
        case _:
            return {"range": {"path": path, _RANGES[operator]: operand}}


def _none_of(parts: list[Doc]) -> Doc:
    """With something that every row has, so that it is never a question of exclusions alone."""
    return {"compound": {"filter": [{"exists": {"path": lay.NAMESPACE}}], "mustNot": parts}}
