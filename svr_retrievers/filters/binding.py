"""Makes leaves out of a path and an operand, with the operand in the type of the declared field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from svr_retrievers.errors import FilterError
from svr_retrievers.filters import patterns
from svr_retrievers.filters.equality import exact_integer
from svr_retrievers.filters.tree import (
    NOTHING,
    Compare,
    Contains,
    EqualsList,
    Exists,
    FieldType,
    In,
    IsNull,
    Like,
    ListOperand,
    Node,
    Op,
    Operand,
    Path,
    any_of,
)
from svr_retrievers.filters.values import (
    BIGINT_MAX,
    BIGINT_MIN,
    Refused,
    kind_of,
    plain,
    typed_moment,
)
from svr_retrievers.model import JsonValue

_ACCEPTED: Final = {
    FieldType.INT: "a number",
    FieldType.FLOAT: "a number",
    FieldType.STR: "text",
    FieldType.BOOL: "True or False",
    FieldType.DATETIME: "a datetime, a date or ISO 8601 text",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a condition is about: a path, and the declared field if the path is one."""

    path: Path
    field: str | None = None
    field_type: FieldType | None = None

    def __str__(self) -> str:
        return repr(self.field if self.field is not None else ".".join(self.path))

    def plain(self, operator: str, operand: object) -> JsonValue:
        """The operand as JSON; objects and what JSON cannot hold are a FilterError."""
        try:
            value = plain(operand)
        except Refused as problem:
            raise FilterError(f"{operator} on {self}: the operand{problem.where} {problem.reason}.") from None
        if _has_object(value):
            raise FilterError(
                f"{operator} on {self} has an object as its operand.",
                hint="Compare the fields inside it one by one, with a dotted path such as 'address.city'.",
            )
        return value


def _has_object(value: JsonValue) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(_has_object(v) for v in value))


def equals(target: Target, operand: JsonValue, operator: str = "$eq") -> Node:
    if operand is None:
        return IsNull(target.path, target.field, target.field_type)
    if isinstance(operand, list):
        return _equals_list(target, operand, operator)
    if target.field_type is None:
        return Compare(Op.EQ, target.path, _scalar(operand))
    value = _exact(target, target.field_type.element, operand, operator)
    if value is None:
        return NOTHING
    return Compare(Op.EQ, target.path, value, target.field, target.field_type)


def _equals_list(target: Target, operand: list[JsonValue], operator: str) -> Node:
    if target.field_type is None:
        return EqualsList(target.path, _frozen(operand))
    if not target.field_type.is_list:
        raise _mismatch(target, operator, operand, hint="Use $in for any of several values.")
    values: list[Operand] = []
    for item in operand:
        value = None if item is None else _exact(target, target.field_type.element, item, operator)
        if value is None:
            return NOTHING
        values.append(value)
    return EqualsList(target.path, tuple(values), target.field, target.field_type)


def _frozen(values: list[JsonValue]) -> ListOperand:
    return tuple(_frozen(v) if isinstance(v, list) else _scalar(v) if v is not None else None for v in values)


def member(target: Target, operands: list[JsonValue]) -> Node:
    """`$in`: scalars in one node; null and whole lists each need their own."""
    scalars: list[Operand] = []
    others: list[Node] = []
    for operand in operands:
        node = equals(target, operand, "$in")
        if isinstance(node, Compare):
            scalars.append(node.operand)
        elif node is not NOTHING:
            others.append(node)
    if scalars:
        others.insert(0, In(target.path, tuple(scalars), target.field, target.field_type))
    return any_of(others)


def contains(target: Target, operand: JsonValue) -> Node:
    if isinstance(operand, list):
        raise FilterError(
            f"$contains on {target} has a list as its operand.",
            hint="Use $all for several elements, $in for any of them.",
        )
    if target.field_type is None:
        return Contains(target.path, None if operand is None else _scalar(operand))
    if not target.field_type.is_list:
        raise FilterError(
            f"$contains looks for an element of a list, but {target} is declared {target.field_type}.",
            hint="Use $eq for the whole value, or $like '%part%' for a part of a text.",
        )
    return NOTHING if operand is None else equals(target, operand, "$contains")


def exists(target: Target) -> Exists:
    return Exists(target.path)


def like(target: Target, operator: str, operand: JsonValue) -> Like:
    if not isinstance(operand, str):
        raise FilterError(f"{operator} on {target} needs a text pattern, not {kind_of(operand)}.")
    if target.field_type is not None and target.field_type.element is not FieldType.STR:
        raise FilterError(
            f"{operator} matches text, but {target} is declared {target.field_type}.",
            hint="Use $eq, $in or a range.",
        )
    if len(operand) > patterns.MAX_PATTERN:
        raise FilterError(
            f"{operator} on {target}: the pattern is longer than {patterns.MAX_PATTERN} characters."
        )
    if patterns.ends_in_escape(operand):
        raise FilterError(
            f"{operator} on {target}: the pattern ends in a lone backslash.",
            hint="Write two backslashes for a literal one.",
        )
    return Like(target.path, operand, operator == "$ilike", target.field, target.field_type)


def in_range(target: Target, op: Op, operand: JsonValue) -> Node:
    if operand is None or isinstance(operand, (bool, list, dict)):
        raise FilterError(
            f"{op} on {target} needs a number, a text or a date, not {kind_of(operand)}.",
            hint="Use $eq, or $in for several values.",
        )
    if target.field_type is None:
        return Compare(op, target.path, operand)
    element = target.field_type.element
    if element is FieldType.INT and isinstance(operand, (int, float)):
        return _integer_range(target, op, operand)
    value = _exact(target, element, operand, op)
    if value is None:
        return NOTHING
    return Compare(op, target.path, value, target.field, target.field_type)


def _integer_range(target: Target, op: Op, operand: float) -> Node:
    """The same range with an integer bound that a bigint holds, so that an index can serve it."""
    rounded = math.ceil if op in {Op.GTE, Op.LT} else math.floor
    bound = operand if isinstance(operand, int) else rounded(Decimal(repr(operand)))
    upward = op in {Op.GT, Op.GTE}
    if bound > BIGINT_MAX or bound < BIGINT_MIN:
        if upward is (bound > 0):
            return NOTHING
        op, bound = (Op.GTE, BIGINT_MIN) if upward else (Op.LTE, BIGINT_MAX)
    return Compare(op, target.path, bound, target.field, target.field_type)


def _scalar(value: JsonValue) -> bool | int | float | str:
    assert isinstance(value, (bool, int, float, str))
    return value


def _exact(target: Target, element: FieldType, operand: JsonValue, operator: str) -> Operand | None:
    """The operand in the declared type; None if no value of that type can equal it."""
    if isinstance(operand, bool) and element is FieldType.BOOL:
        return operand
    if isinstance(operand, str) and element is FieldType.STR:
        return operand
    if isinstance(operand, str) and element is FieldType.DATETIME:
        return _moment(target, operator, operand)
    if isinstance(operand, (int, float)) and not isinstance(operand, bool):
        if element is FieldType.FLOAT:
            return _nearest_float(operand)
        if element is FieldType.INT:
            return _bigint(operand)
    raise _mismatch(target, operator, operand)


def _bigint(operand: float) -> int | None:
    number = exact_integer(operand) if isinstance(operand, float) else operand
    return number if number is not None and BIGINT_MIN <= number <= BIGINT_MAX else None


def _nearest_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _moment(target: Target, operator: str, operand: str) -> Operand:
    try:
        return typed_moment(operand)
    except Refused as problem:
        raise _mismatch(target, operator, operand, hint=f"The text {problem.reason}.") from None


def _mismatch(target: Target, operator: str, operand: JsonValue, *, hint: str = "") -> FilterError:
    assert target.field_type is not None
    return FilterError(
        f"{operator} on {target}: the field is declared {target.field_type}, "
        f"the operand is {kind_of(operand)}.",
        hint=hint or f"Give {_ACCEPTED[target.field_type.element]}.",
    )
