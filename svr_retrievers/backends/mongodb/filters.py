"""Compiles a parsed filter to MongoDB's query language: exactly, or to a superset and says so. PURE.

Operands stand only as values of an operator or inside `$literal`, and keys only below the metadata, so no
filter can reach another path or widen what it is combined with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bson import encode

from svr_retrievers.backends.mongodb import expressions, likes
from svr_retrievers.backends.mongodb.combining import (
    MATCH_ALL,
    MATCH_NONE,
    Bounded,
    Filter,
    Leaf,
    combine,
    conjunction,
    disjunction,
    negation,
)
from svr_retrievers.backends.mongodb.encoding import encode_typed
from svr_retrievers.backends.mongodb.numbers import bound, equal, is_ordinary
from svr_retrievers.filters import (
    Compare,
    Contains,
    EqualsList,
    Exists,
    FieldType,
    In,
    IsNull,
    Like,
    Node,
    Op,
    Path,
    evaluate,
)
from svr_retrievers.filters.tree import ListOperand, Operand, Scalar

MAX_BYTES: Final = 8_000_000
"""Of a compiled filter: half of what the server takes as one command."""
MAX_LIST_LEVELS: Final = 30
"""Of a list compared as a whole, so that it fits below the groups that the filter may nest."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a document keeps what filters ask for.

    `metadata` is empty where the metadata are the document's own fields. `typed` gives each declared field's
    dotted path; `missing` names the list of those (by the last key of the path) that are null or missing.
    """

    metadata: str
    typed: Mapping[str, str]
    missing: str
    foreign: bool = False
    """Whether others wrote the metadata, who may use types that JSON lacks."""
    hidden: frozenset[str] = frozenset()
    """Keys at the top that are no metadata."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A `$match` filter. Unless exact it also lets through documents that the node does not match."""

    match: Filter
    exact: bool


def compile_match(node: Node, paths: Paths) -> Compiled:
    match, exact = combine(node, lambda leaf: _leaf(leaf, paths))
    if len(encode(match)) > MAX_BYTES:
        return Compiled({}, exact=False)
    return Compiled(dict(match), exact)


def _leaf(node: Leaf, paths: Paths) -> Bounded:
    if isinstance(node, (Contains, Exists)) or node.field is None or node.field_type is None:
        dotted = dotted_path(paths.metadata, node.path)
        if paths.foreign:
            return _foreign(node, dotted, paths)
        return _by_expression(node, paths) if dotted is None else _by_path(node, dotted, paths)
    path = paths.typed[node.field]
    if isinstance(node, Like):
        return _like(node, path, [f"${path}"])
    return Bounded.exactly({path: _typed(node, node.field_type)})


_NO_JSON: Final = (
    "objectId", "date", "timestamp", "decimal", "binData", "regex", "javascript", "javascriptWithScope", "symbol",
    "dbPointer", "undefined", "minKey", "maxKey",
)  # fmt: skip
"""Types whose values become JSON of another kind when they are read."""


def _foreign(node: Leaf, path: str | None, paths: Paths) -> Bounded:
    """As for our own metadata, but documents with a value that JSON cannot hold may match or not."""
    if node.path[0] in paths.hidden:
        return Bounded.exactly(MATCH_ALL if evaluate(node, {}, {}) else MATCH_NONE)
    if path is None:
        return Bounded.superset()
    bounded = _by_path(node, path, paths)
    if isinstance(node, Exists):
        return bounded
    odd: Filter = {
        "$or": [
            {path: {"$type": list(_NO_JSON)}},
            {path: {"$in": [math.nan, math.inf, -math.inf]}},
        ]
    }
    return Bounded(disjunction([bounded.at_most, odd]), conjunction([bounded.at_least, negation(odd)]))


def _typed(node: Compare | In | IsNull | EqualsList, kind: FieldType) -> Filter:
    match node:
        case Compare(op, _, operand):
            return {str(op): encode_typed(kind.element, operand)}
        case In(_, operands):
            return {"$in": [encode_typed(kind.element, each) for each in operands]}
        case IsNull():
            return {"$eq": None}
        case EqualsList(_, operand):
            return {"$eq": encode_typed(kind, operand)}


def _like(node: Like, path: str, values: object) -> Bounded:
    """A regular expression, and for long texts, where that may fail unseen, a search in steps besides."""
    like = likes.pattern(node.pattern, ignore_case=node.ignore_case)
    short: Filter = {path: {"$regex": like.regex, "$options": likes.OPTIONS}}
    if not like.scans:
        return Bounded.exactly(short)
    long: Filter = {path: {"$regex": likes.IS_LONG, "$options": likes.OPTIONS}}
    in_steps = {"$expr": likes.matches(expressions.elements(values), like)}
    return Bounded.exactly({"$or": [short, {"$and": [long, in_steps]}]})


def dotted_path(root: str, path: Path) -> str | None:
    """The path in the query language; None where a key cannot be written there.

    Digits below the first key would be read as positions in a list as well.
    """
    for index, key in enumerate(path):
        if not key or "." in key or key.startswith("$") or (index and key.isdigit()):
            return None
    return ".".join((root, *path) if root else path)


def _by_path(node: Leaf, path: str, paths: Paths) -> Bounded:
    match node:
        case Compare(Op.EQ, _, operand):
            return _any_of(path, (operand,))
        case Compare(op, _, operand):
            limit = bound(op, _scalar(operand))
            filter_: Filter = {path: {str(limit.op): limit.operand}}
            return Bounded.exactly(filter_) if limit.exact else Bounded.superset(filter_)
        case In(_, operands):
            return _any_of(path, operands)
        case IsNull():
            return Bounded.exactly(_null(node, path))
        case Contains(_, operand):
            operands_, exact = _equal_forms((operand,))
            inside: Filter = {path: {"$elemMatch": _membership(operands_)}}
            return Bounded.exactly(inside) if exact else Bounded.superset(inside)
        case Exists():
            return Bounded.exactly({path: {"$exists": True}})
        case Like():
            return _like(node, path, _found(node, paths))
        case EqualsList(_, operand):
            return _whole_list(node, paths, {path: {"$size": len(operand)}})


def _null(node: IsNull, path: str) -> Filter:
    """`{path: null}` would also match where only one object of a list lacks the key."""
    if len(node.path) == 1:
        return {path: {"$eq": None}}
    return {"$or": [{path: {"$exists": False}}, {path: {"$type": "null"}}]}


def _any_of(path: str, operands: tuple[Operand, ...]) -> Bounded:
    forms, exact = _equal_forms(tuple(_scalar(each) for each in operands))
    filter_: Filter = {path: _membership(forms)}
    return Bounded.exactly(filter_) if exact else Bounded.superset(filter_)


def _membership(forms: list[object]) -> Filter:
    return {"$eq": forms[0]} if len(forms) == 1 else {"$in": forms}


def _equal_forms(operands: tuple[Scalar | None, ...]) -> tuple[list[object], bool]:
    if all(map(is_ordinary, operands)):
        return list(operands), True
    found = [equal(operand) for operand in operands]
    return [form for each in found for form in each.operands], all(each.exact for each in found)


def _whole_list(node: EqualsList, paths: Paths, otherwise: Filter) -> Bounded:
    operand, exact = _bson_list(node.operand)
    if not exact or _levels(node.operand) > MAX_LIST_LEVELS:
        return Bounded.superset(otherwise)
    if len(node.path) == 1 and dotted_path(paths.metadata, node.path) is not None:
        field = f"${dotted_path(paths.metadata, node.path)}"
        return _expression({"$eq": [field, expressions.literal(operand)]})
    return _expression({"$in": [expressions.literal(operand), _found(node, paths)]})


def _bson_list(operand: ListOperand) -> tuple[list[object], bool]:
    """Exact when each number has one stored form, and that is no other's."""
    items: list[object] = []
    exact = True
    for each in operand:
        if isinstance(each, tuple):
            inner, same = _bson_list(each)
            items.append(inner)
        else:
            form = equal(None if each is None else _scalar(each))
            items.append(form.operands[0])
            same = form.exact
        exact = exact and same
    return items, exact


def _levels(operand: ListOperand) -> int:
    return 1 + max((_levels(each) for each in operand if isinstance(each, tuple)), default=0)


def _expression(expression: object) -> Bounded:
    return Bounded.exactly({"$expr": expression})


def _found(node: Leaf, paths: Paths) -> object:
    return expressions.found(f"${paths.metadata}" if paths.metadata else "$$ROOT", node.path)


def _by_expression(node: Leaf, paths: Paths) -> Bounded:
    values = _found(node, paths)
    each = expressions.elements(values)
    match node:
        case Exists():
            return _expression({"$ne": [values, []]})
        case IsNull():
            return _expression(expressions.is_null(values))
        case Like(_, pattern, ignore_case):
            return _expression(likes.matches(each, likes.pattern(pattern, ignore_case=ignore_case)))
        case Compare(op, _, operand) if op is not Op.EQ:
            limit = bound(op, _scalar(operand))
            return _if(limit.exact, expressions.compares(each, limit.op, limit.operand))
        case Compare(_, _, operand):
            forms, exact = _equal_forms((_scalar(operand),))
            return _if(exact, expressions.is_any_of(each, forms))
        case In(_, operands):
            forms, exact = _equal_forms(tuple(map(_scalar, operands)))
            return _if(exact, expressions.is_any_of(each, forms))
        case Contains(_, operand):
            forms, exact = _equal_forms((operand,))
            return _if(exact, expressions.contains(values, forms))
        case EqualsList():
            return _whole_list(node, paths, MATCH_ALL)


def _if(exact: bool, expression: object) -> Bounded:
    return _expression(expression) if exact else Bounded.superset({"$expr": expression})


def _scalar(operand: Operand) -> Scalar:
    assert isinstance(operand, (bool, int, float, str))
    return operand
