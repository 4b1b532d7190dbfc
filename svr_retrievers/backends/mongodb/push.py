"""The part of a filter that `$vectorSearch` takes: comparisons of declared fields. PURE.

Its operators are fewer than those of a query: no patterns, no lists as a whole, no null, and `$in` only of
one type. What it cannot say is left out, so that it never excludes a document that the filter matches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from svr_retrievers.backends.mongodb.combining import MATCH_ALL, MATCH_NONE, Bounded, Filter, Leaf, combine
from svr_retrievers.backends.mongodb.encoding import encode_typed
from svr_retrievers.backends.mongodb.filters import Paths
from svr_retrievers.filters import (
    And,
    Compare,
    Contains,
    EqualsList,
    Exists,
    In,
    IsNull,
    Like,
    Node,
    Not,
    Op,
    Or,
)

MAX_CLAUSES: Final = 1_000
"""Conditions in one filter; the engine below refuses more than 1,024 clauses."""
MAX_TEXT_BYTES: Final = 8_181
"""Longer text is not indexed as a filter value."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A filter for `$vectorSearch`, None without any. Unless exact it lets more through than the node."""

    filter: Filter | None
    exact: bool


def compile_push(node: Node, paths: Paths) -> Pushed:
    if _clauses(node) > MAX_CLAUSES:
        return Pushed(None, exact=False)
    filter_, exact = combine(node, lambda leaf: _leaf(leaf, paths))
    if filter_ is MATCH_ALL:
        return Pushed(None, exact)
    if filter_ is MATCH_NONE:
        return Pushed({paths.missing: {"$eq": ""}}, exact) if paths.typed else Pushed(None, exact=False)
    return Pushed(filter_, exact)


def _clauses(node: Node) -> int:
    match node:
        case And(children) | Or(children):
            return sum(map(_clauses, children))
        case Not(child):
            return _clauses(child)
        case EqualsList(_, operand):
            return len(operand)
        case _:
            return 1


def _leaf(node: Leaf, paths: Paths) -> Bounded:
    if isinstance(node, Exists):
        return _exists(node, paths)
    if isinstance(node, Contains) or node.field is None or node.field_type is None:
        return Bounded.superset()
    path, kind = paths.typed[node.field], node.field_type.element
    present = _present(path, paths)
    match node:
        case IsNull():
            return Bounded.exactly({paths.missing: {"$eq": _key(path)}})
        case EqualsList(_, operand):
            parts = [{path: {"$eq": encode_typed(kind, each)}} for each in dict.fromkeys(operand)]
            return Bounded.superset({"$and": [present, *parts]} if parts else present)
        case Like():
            return Bounded.superset(present)
        case Compare(op, _, operand):
            return _compare(path, op, encode_typed(kind, operand), present)
        case In(_, operands):
            return _any_of(path, [encode_typed(kind, each) for each in operands])


def _exists(node: Exists, paths: Paths) -> Bounded:
    """A declared field that is not null exists; one that is null may exist or not."""
    path = paths.typed.get(node.path[0]) if len(node.path) == 1 else None
    return Bounded.superset() if path is None else Bounded(MATCH_ALL, _present(path, paths))


def _compare(path: str, op: Op, operand: object, present: Filter) -> Bounded:
    if isinstance(operand, float) and math.isinf(operand):
        below = op in {Op.LT, Op.LTE} if operand > 0 else op in {Op.GT, Op.GTE}
        return Bounded.exactly(present if below else MATCH_NONE)
    return Bounded.superset(present) if _too_long(operand) else Bounded.exactly({path: {str(op): operand}})


def _any_of(path: str, operands: list[object]) -> Bounded:
    if any(map(_too_long, operands)):
        return Bounded.superset()
    finite = [each for each in operands if not (isinstance(each, float) and math.isinf(each))]
    return Bounded.exactly({path: {"$in": finite}} if finite else MATCH_NONE)


def _too_long(operand: object) -> bool:
    return isinstance(operand, str) and len(operand.encode()) > MAX_TEXT_BYTES


def _present(path: str, paths: Paths) -> Filter:
    return {paths.missing: {"$ne": _key(path)}}


def _key(path: str) -> str:
    return path.rpartition(".")[2]
