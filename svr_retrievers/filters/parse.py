"""Reads a filter, a dict in the style of MongoDB, into a tree; everything wrong with it is said here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Final

from svr_retrievers.errors import FilterError
from svr_retrievers.filters import binding
from svr_retrievers.filters.binding import Target
from svr_retrievers.filters.tree import ALL, FieldType, Node, Not, Op, Path, all_of, any_of
from svr_retrievers.filters.values import Refused, checked_text, kind_of
from svr_retrievers.model import JsonValue

MAX_DEPTH = 100
MAX_OPERANDS = 10_000

_RANGES: Final = {"$gt": Op.GT, "$gte": Op.GTE, "$lt": Op.LT, "$lte": Op.LTE}
_ON_FIELDS: Final = (
    *("$eq", "$ne", *_RANGES, "$in", "$nin", "$exists", "$contains", "$all", "$like", "$ilike", "$not"),
)
_ON_FILTERS: Final = ("$and", "$or", "$nor", "$not")
_INSTEAD: Final = {
    "$between": "Use $gte and $lte together.",
    "$regex": "Use $like or $ilike with % and _.",
    "$text": "Use $like or $ilike with % and _.",
    "$elemMatch": "Use a dotted path, or $contains for one element.",
    "$any": "Use $in.",
    "$where": "Filters never run code; combine the comparison operators.",
}
_ESCAPES: Final = re.compile(r"\\([.$\\])|(\.)")


def parse(filter: Mapping[str, object] | None, fields: Mapping[str, FieldType]) -> Node:
    r"""The tree of the filter, bound to the declared `fields`. None and {} match everything.

    Dots in a key descend into objects; `\.`, `\$` and `\\` stand for the character itself. A key that is
    the name of a declared field is taken literally. Raises FilterError for whatever is wrong.
    """
    return ALL if filter is None else _Parser(fields).clause(filter, 1)


class _Parser:
    def __init__(self, fields: Mapping[str, FieldType]) -> None:
        self.fields = fields
        self.operands = 0

    def clause(self, clause: object, depth: int) -> Node:
        if not isinstance(clause, Mapping):
            raise FilterError(
                f"A filter is a dict such as {{'year': {{'$gte': 2020}}}}, not {kind_of(clause)}."
            )
        _check_depth(depth)
        self._count(0 if clause else 1)
        nodes = [self._entry(key, value, depth) for key, value in clause.items()]
        return all_of(nodes) if nodes else ALL

    def _entry(self, key: object, value: object, depth: int) -> Node:
        if not isinstance(key, str):
            raise FilterError(
                f"A filter key is {kind_of(key)}.", hint="Keys are field paths or operators: text."
            )
        if key.startswith("$"):
            return self._logical(key, value, depth)
        target = self._target(key)
        if isinstance(value, Mapping):
            return self._conditions(target, value, depth + 1)
        return self._condition(target, "$eq", value, depth)

    def _logical(self, operator: str, value: object, depth: int) -> Node:
        self._count(1)
        if operator == "$not":
            return Not(self.clause(value, depth + 1))
        if operator not in _ON_FILTERS:
            if operator in _ON_FIELDS:
                raise FilterError(
                    f"{operator} stands where a field name should.",
                    hint=f"Write {{'field': {{'{operator}': ...}}}}.",
                )
            raise _unknown(operator, _ON_FILTERS + _ON_FIELDS)
        if not isinstance(value, (list, tuple)):
            raise FilterError(f"{operator} needs a list of filters, not {kind_of(value)}.")
        children = [self.clause(child, depth + 1) for child in value]
        if operator == "$and":
            return all_of(children)
        return any_of(children) if operator == "$or" else Not(any_of(children))

    def _target(self, key: str) -> Target:
        if key in self.fields:
            return Target((key,), key, self.fields[key])
        try:
            path = split_path(checked_text(key))
        except Refused as problem:
            raise FilterError(f"The filter key {key!r} {problem.reason}.") from None
        if len(path) > MAX_DEPTH:
            raise FilterError(f"A filter key has more than {MAX_DEPTH} parts.")
        if len(path) == 1 and path[0] in self.fields:
            return Target(path, path[0], self.fields[path[0]])
        return Target(path)

    def _conditions(self, target: Target, conditions: Mapping[object, object], depth: int) -> Node:
        _check_depth(depth)
        if not conditions or not all(isinstance(k, str) and k.startswith("$") for k in conditions):
            raise FilterError(
                f"{target} is compared with an object, whose keys are not operators.",
                hint="Use operators such as $eq, or a dotted path such as 'address.city'.",
            )
        return all_of(
            [self._condition(target, str(op), operand, depth) for op, operand in conditions.items()]
        )

    def _condition(self, target: Target, operator: str, operand: object, depth: int) -> Node:
        if operator == "$not":
            if not isinstance(operand, Mapping):
                raise FilterError(
                    f"$not on {target} needs operators, not {kind_of(operand)}.",
                    hint="Use $ne for 'not equal to'.",
                )
            return Not(self._conditions(target, operand, depth + 1))
        build = _LEAVES.get(operator)
        if build is None:
            raise _unknown(operator, _ON_FIELDS)
        value = target.plain(operator, operand)
        self._count(_size(value))
        return build(target, operator, value)

    def _count(self, more: int) -> None:
        self.operands += more
        if self.operands > MAX_OPERANDS:
            raise FilterError(
                f"The filter has more than {MAX_OPERANDS:,} conditions and values.",
                hint="Split the query, or store a field that says the same in fewer values.",
            )


def _size(operand: JsonValue) -> int:
    return max(1, sum(map(_size, operand))) if isinstance(operand, list) else 1


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise FilterError(f"The filter is nested more than {MAX_DEPTH} levels deep.", hint="Flatten it.")


def _unknown(operator: str, known: tuple[str, ...]) -> FilterError:
    if operator in _ON_FILTERS:
        hint = f"{operator} combines whole filters: {{'{operator}': [{{'field': ...}}, ...]}}."
    elif operator in _INSTEAD:
        hint = _INSTEAD[operator]
    else:
        near = difflib.get_close_matches(operator.lower(), known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(dict.fromkeys(known))}."
    return FilterError(f"Unknown operator {operator[:80]!r} here.", hint=hint)


def split_path(key: str) -> Path:
    """The keys that a dotted path descends through."""
    parts, start = [""], 0
    for found in _ESCAPES.finditer(key):
        parts[-1] += key[start : found.start()] + (found[1] or "")
        if found[2]:
            parts.append("")
        start = found.end()
    parts[-1] += key[start:]
    return tuple(parts)


def _list(target: Target, operator: str, operand: JsonValue) -> list[JsonValue]:
    if isinstance(operand, list):
        return operand
    raise FilterError(f"{operator} on {target} needs a list, not {kind_of(operand)}.")


def _eq(target: Target, operator: str, operand: JsonValue) -> Node:
    return binding.equals(target, operand, operator)


def _ne(target: Target, operator: str, operand: JsonValue) -> Node:
    return Not(binding.equals(target, operand, operator))


def _range(target: Target, operator: str, operand: JsonValue) -> Node:
    return binding.in_range(target, _RANGES[operator], operand)


def _in(target: Target, operator: str, operand: JsonValue) -> Node:
    return binding.member(target, _list(target, operator, operand))


def _nin(target: Target, operator: str, operand: JsonValue) -> Node:
    return Not(_in(target, operator, operand))


def _exists(target: Target, operator: str, operand: JsonValue) -> Node:
    if not isinstance(operand, bool):
        raise FilterError(f"{operator} on {target} needs True or False, not {kind_of(operand)}.")
    node = binding.exists(target)
    return node if operand else Not(node)


def _contains(target: Target, _operator: str, operand: JsonValue) -> Node:
    return binding.contains(target, operand)


def _all(target: Target, operator: str, operand: JsonValue) -> Node:
    operands = _list(target, operator, operand)
    nodes = [binding.equals(target, value, operator) for value in operands]
    return all_of(nodes) if nodes else any_of([])


_LEAVES: Final[dict[str, Callable[[Target, str, JsonValue], Node]]] = {
    "$eq": _eq,
    "$ne": _ne,
    **dict.fromkeys(_RANGES, _range),
    "$in": _in,
    "$nin": _nin,
    "$exists": _exists,
    "$contains": _contains,
    "$all": _all,
    "$like": binding.like,
    "$ilike": binding.like,
}
