"""Decides in memory whether a document matches a parsed filter, exactly as the databases do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias, TypeVar

from svr_retrievers.filters import patterns
from svr_retrievers.filters.equality import comparable, equality_key
from svr_retrievers.filters.tree import (
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
    Path,
)

Ordered = TypeVar("Ordered", float, str, datetime)


Leaf: TypeAlias = Compare | In | IsNull | EqualsList | Contains | Like


def evaluate(node: Node, metadata: Mapping[str, object], typed: Mapping[str, object]) -> bool:
    """Whether the filter holds. `metadata` is normalised; `typed` holds the declared fields' values.

    Declared fields are read from `typed` (absent or None: missing), except by `$exists`.
    """
    match node:
        case And():
            return all(evaluate(child, metadata, typed) for child in node.children)
        case Or():
            return any(evaluate(child, metadata, typed) for child in node.children)
        case Not():
            return not evaluate(node.child, metadata, typed)
        case Exists():
            return bool(_at(metadata, node.path))
        case _:
            return _leaf(node, _values(node, metadata, typed))


def _leaf(node: Leaf, values: list[object]) -> bool:
    match node:
        case Compare():
            return any(_compare(node.op, value, node.operand) for value in _elements(values))
        case In():
            scalars = (value for value in _elements(values) if not isinstance(value, (dict, list)))
            return any(equality_key(value) in node.keys for value in scalars)
        case IsNull():
            return not values or None in _elements(values)
        case EqualsList():
            return any(_same(value, node.operand) for value in values)
        case Contains():
            return any(
                _same(each, node.operand) for value in values if isinstance(value, list) for each in value
            )
        case Like():
            texts = (value for value in _elements(values) if isinstance(value, str))
            return any(patterns.like(text, node.pattern, ignore_case=node.ignore_case) for text in texts)


def _values(node: Leaf, metadata: Mapping[str, object], typed: Mapping[str, object]) -> list[object]:
    if isinstance(node, Contains) or node.field is None:
        return _at(metadata, node.path)
    value = typed.get(node.field)
    return [] if value is None else [value]


def _at(metadata: Mapping[str, object], path: Path) -> list[object]:
    """Everything at the path: keys look into objects, and into the objects of a list."""
    found: list[object] = [metadata[path[0]]] if path[0] in metadata else []
    for key in path[1:]:
        objects = [item for item in _elements(found) if isinstance(item, dict)]
        found = [item[key] for item in objects if key in item]
    return found


def _elements(values: list[object]) -> list[object]:
    """The values with each list replaced by its elements, one level deep."""
    if len(values) == 1 and not isinstance(values[0], list):
        return values
    return [each for value in values for each in (value if isinstance(value, list) else (value,))]


def _compare(op: Op, value: object, operand: object) -> bool:
    """Numbers with numbers, text with text and so on; values of two classes never match."""
    if op is Op.EQ:
        return equality_key(value) == equality_key(operand)
    if isinstance(value, str):
        return isinstance(operand, str) and _holds(op, value, operand)
    if isinstance(value, (int, float)):
        if isinstance(value, bool) or not isinstance(operand, (int, float)):
            return False
        return _holds(op, comparable(value), comparable(operand))
    return isinstance(value, datetime) and isinstance(operand, datetime) and _holds(op, value, operand)


def _holds(op: Op, left: Ordered, right: Ordered) -> bool:
    if op is Op.GT:
        return left > right
    if op is Op.GTE:
        return left >= right
    return left < right if op is Op.LT else left <= right


def _same(value: object, operand: object) -> bool:
    """Equality of a whole value, lists element by element."""
    if isinstance(operand, tuple):
        return (
            isinstance(value, list)
            and len(value) == len(operand)
            and all(_same(mine, theirs) for mine, theirs in zip(value, operand, strict=True))
        )
    return equality_key(value) == equality_key(operand)
