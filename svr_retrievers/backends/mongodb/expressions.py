"""Leaves as aggregation expressions: for keys that a dotted path cannot name, and for whole lists. PURE.

Slower than a dotted path and served by no index, but exact for every key: empty ones, digits, dots, dollars.
All operands are wrapped in `$literal`, so that none of them is read as a path or an operator.
"""

from __future__ import annotations

from typing import TypeAlias

from svr_retrievers.filters.tree import Op, Path

Expression: TypeAlias = object


def found(root: str, path: Path) -> Expression:
    """The list of all that is at the path, as `svr_retrievers.filters.evaluate` finds it.

    The keys are data, not structure, so that a path of a hundred keys nests no deeper than one of two.
    """
    return {
        "$reduce": {
            "input": literal(list(path)),
            "initialValue": [root],
            "in": {
                "$let": {
                    "vars": {"key": "$$this", "objects": _objects(elements("$$value"))},
                    "in": {
                        "$reduce": {
                            "input": "$$objects",
                            "initialValue": [],
                            "in": {"$concatArrays": ["$$value", _values("$$this", "$$key")]},
                        }
                    },
                }
            },
        }
    }


def _objects(values: Expression) -> Expression:
    return {"$filter": {"input": values, "as": "o", "cond": {"$eq": [{"$type": "$$o"}, "object"]}}}


def _values(item: str, key: str) -> Expression:
    """The value under the key, in a list; an empty one where the object lacks it."""
    entries = {
        "$filter": {"input": {"$objectToArray": item}, "as": "p", "cond": {"$eq": ["$$p.k", key]}},
    }
    return {"$map": {"input": entries, "as": "p", "in": "$$p.v"}}


def elements(values: Expression) -> Expression:
    """The values with each list replaced by its elements, one level deep."""
    each = {"$cond": [{"$isArray": ["$$this"]}, "$$this", ["$$this"]]}
    return {"$reduce": {"input": values, "initialValue": [], "in": {"$concatArrays": ["$$value", each]}}}


def literal(value: object) -> Expression:
    return {"$literal": value}


def is_any_of(values: Expression, operands: list[object]) -> Expression:
    return {"$ne": [{"$setIntersection": [values, literal(operands)]}, []]}


def compares(values: Expression, op: Op, operand: object) -> Expression:
    same_class = {"$eq": [{"$type": "$$v"}, "string"]} if isinstance(operand, str) else {"$isNumber": "$$v"}
    return any_true(values, {"$and": [same_class, {str(op): ["$$v", literal(operand)]}]})


def contains(lists: Expression, operands: list[object]) -> Expression:
    inside = {"$cond": [{"$isArray": ["$$v"]}, "$$v", []]}
    return any_true(lists, is_any_of(inside, operands))


def is_null(values: Expression) -> Expression:
    nothing = {"$eq": ["$$values", []]}
    null = {"$in": [None, elements("$$values")]}
    return {"$let": {"vars": {"values": values}, "in": {"$or": [nothing, null]}}}


def any_true(values: Expression, condition: Expression) -> Expression:
    return {"$anyElementTrue": [{"$map": {"input": values, "as": "v", "in": condition}}]}
