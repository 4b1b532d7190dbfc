"""Estimates which share of some rows a filter lets pass, from small statistics of their fields. PURE.

An estimate chooses between ways of finding the same answer, so a wrong one costs time and never a row.
Conditions are taken as independent of each other: `and` multiplies, `or` is the complement of none
holding, `not` the complement. Two bounds on one field are one interval.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import prod
from typing import Final

from svr_retrievers.filters import patterns
from svr_retrievers.filters.choice import Estimates
from svr_retrievers.filters.equality import equality_key
from svr_retrievers.filters.statistics import (
    Fields,
    FieldStatistics,
    FilterStatistics,
    alike,
    compact,
    dotted,
)
from svr_retrievers.filters.tree import (
    ALL,
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
    Operand,
    Or,
)

EQUAL_UNKNOWN: Final = 0.01
"""Share assumed to equal a value of a field nothing is known about: one value in a hundred."""
RANGE_UNKNOWN: Final = 1 / 3
"""Share assumed to lie beyond a bound where no distribution is known; a quarter lies in an interval."""
INTERVAL_UNKNOWN: Final = 0.25
LIKE_UNKNOWN: Final = 0.05
"""Share of the less common texts assumed to match a pattern."""
MISSING_UNKNOWN: Final = 0.1
"""Share of the rows assumed to lack a field nothing is known about."""

_FEW: Final = 0.05
_FILTERS_REMEMBERED: Final = 500
_ELSEWHERE: Final = -1
"""Stands for every partition that has no figures of its own."""
_RANGES: Final = (Op.GT, Op.GTE, Op.LT, Op.LTE)


def selectivity(node: Node, fields: Fields) -> float:
    """The estimated share of rows that match, from 0 to 1."""
    match node:
        case And(children):
            return prod(_conjuncts(children, fields))
        case Or(children):
            return 1.0 - prod(1.0 - selectivity(child, fields) for child in children)
        case Not(child):
            return 1.0 - selectivity(child, fields)
        case _:
            known = fields.get(_name(node))
            return _unknown(node) if known is None else _clamped(_leaf(node, known))


def share_in(node: Node, known: FilterStatistics, partition: int) -> float:
    """The estimated share of the partition's rows that match; remembered, as the same filters come again."""
    if partition not in known.partitions:
        partition = _ELSEWHERE
    shares = known.memo.get(node)
    if shares is None:
        if len(known.memo) >= _FILTERS_REMEMBERED:
            known.memo.clear()
        shares = known.memo[node] = {}
    share = shares.get(partition)
    if share is None:
        share = shares[partition] = selectivity(node, known.within(partition))
    return share


def estimates(node: Node, known: FilterStatistics, partitions: Iterable[int]) -> Estimates:
    """The shares in each of the partitions, with what undeclared conditions make the search read."""
    first = declared_part(node)
    asked = tuple(partitions)
    shares = {number: share_in(node, known, number) for number in asked}
    reads = {} if first is node else {number: share_in(first, known, number) for number in asked}
    return Estimates(shares, reads, is_led_by_value(node, known.fields), known.costs)


def declared_part(node: Node) -> Node:
    """What of the filter typed columns alone can answer: the filter itself where that is all of it."""
    if _is_declared(node):
        return node
    if isinstance(node, And):
        return And(tuple(child for child in node.children if _is_declared(child)))
    return ALL


def _is_declared(node: Node) -> bool:
    match node:
        case And(children) | Or(children):
            return all(map(_is_declared, children))
        case Not(child):
            return _is_declared(child)
        case _:
            return getattr(node, "field_type", None) is not None


def is_led_by_value(node: Node, fields: Fields) -> bool:
    """Whether an index finds few rows by a value of one field, whatever that value is.

    Then a plan made for any value is good for this one.
    """
    conditions = node.children if isinstance(node, And) else (node,)
    return any(
        isinstance(c, Compare | In)
        and (isinstance(c, In) or c.op is Op.EQ)
        and c.field_type is not None
        and not c.field_type.is_list
        and selectivity(c, fields) <= _FEW
        for c in conditions
    )


def fields_of(node: Node) -> set[str]:
    """The names of all fields and paths that the filter speaks of."""
    match node:
        case And(children) | Or(children):
            return {name for child in children for name in fields_of(child)}
        case Not(child):
            return fields_of(child)
        case _:
            return {_name(node)}


def is_estimated(node: Node, fields: Fields) -> bool:
    """Whether every condition of the filter is about a field with statistics."""
    match node:
        case And(children) | Or(children):
            return all(is_estimated(child, fields) for child in children)
        case Not(child):
            return is_estimated(child, fields)
        case _:
            return _name(node) in fields


def _name(node: Compare | In | IsNull | EqualsList | Contains | Exists | Like) -> str:
    declared = getattr(node, "field", None)
    return declared if isinstance(declared, str) else dotted(node.path)


def _conjuncts(children: Sequence[Node], fields: Fields) -> Iterable[float]:
    """The factors of an `and`: bounds on one field that is no list make one interval."""
    bounds: dict[str, list[Compare]] = {}
    for child in children:
        if isinstance(child, Compare) and child.op in _RANGES:
            bounds.setdefault(_name(child), []).append(child)
        else:
            yield selectivity(child, fields)
    for name, compares in bounds.items():
        known = fields.get(name)
        if len(compares) == 1 or (known is not None and known.is_list):
            yield from (selectivity(compare, fields) for compare in compares)
        else:
            yield INTERVAL_UNKNOWN if known is None else _clamped(_interval(compares, known))


def _clamped(share: float) -> float:
    return min(1.0, max(0.0, share))


def _leaf(
    node: Compare | In | IsNull | EqualsList | Contains | Exists | Like, known: FieldStatistics
) -> float:
    match node:
        case IsNull():
            return known.missing
        case Exists():
            return 1.0 - known.missing
        case Compare(Op.EQ, _, operand):
            return _equal(operand, known)
        case Contains(_, operand):
            return known.missing if operand is None else _equal(operand, known)
        case In(_, operands):
            return _any_of(operands, known)
        case EqualsList(_, operands):
            return _equal_list([o for o in operands if o is not None and not isinstance(o, tuple)], known)
        case Like():
            return _like(node, known)
        case Compare():
            return _interval([node], known)


def _equal(operand: Operand, known: FieldStatistics) -> float:
    """The value's own share if it is common; otherwise what is left, divided among the other values."""
    share = known.shares.get(equality_key(operand))
    if share is not None:
        return share
    least = known.common[-1][1] if known.common else 1.0
    if known.is_list:
        return least / 2 if known.common else EQUAL_UNKNOWN
    others = known.distinct - len(known.common)
    if known.distinct and others < 1:
        return 0.0
    return min(least, known.rest / others if known.distinct else EQUAL_UNKNOWN)


def _any_of(operands: Sequence[Operand], known: FieldStatistics) -> float:
    shares = [_equal(operand, known) for operand in {equality_key(o): o for o in operands}.values()]
    return 1.0 - prod(1.0 - s for s in shares) if known.is_list else min(1.0 - known.missing, sum(shares))


def _equal_list(operands: Sequence[Operand], known: FieldStatistics) -> float:
    """No row has this list unless it has each element."""
    return min((_equal(operand, known) for operand in operands), default=1.0 - known.missing) / 2


def _interval(compares: Sequence[Compare], known: FieldStatistics) -> float:
    """The share of rows within all bounds: common values one by one, the others by where the bounds cut."""
    if known.is_list:
        return (1.0 - known.missing) * RANGE_UNKNOWN
    common = sum(share for value, share in known.common if all(_holds(value, c) for c in compares))
    return common + known.rest * _uncommon(compares, known)


def _uncommon(compares: Sequence[Compare], known: FieldStatistics) -> float:
    if len(known.bounds) < 2 or not all(alike(known.bounds[0], c.operand) for c in compares):
        return RANGE_UNKNOWN if len(compares) == 1 else INTERVAL_UNKNOWN
    low, high = 0.0, 1.0
    for compare in compares:
        at = _position(compare.operand, known.bounds)
        if compare.op in (Op.GT, Op.GTE):
            low = max(low, at)
        else:
            high = min(high, at)
    return max(0.0, high - low)


def _holds(value: Operand, compare: Compare) -> bool:
    if not alike(value, compare.operand):
        return False
    order = _order(value, compare.operand)
    match compare.op:
        case Op.GT:
            return order > 0
        case Op.GTE:
            return order >= 0
        case Op.LT:
            return order < 0
        case Op.LTE:
            return order <= 0
        case Op.EQ:
            return order == 0


def _order(left: Operand, right: Operand) -> int:
    """Negative, 0 or positive, for values of one class."""
    return (left > right) - (left < right)  # type: ignore[operator]


def _position(operand: Operand, bounds: Sequence[Operand]) -> float:
    """The share of the distribution below the operand, by straight lines between the bounds."""
    right = bisect_right(bounds, operand)
    if right == 0:
        return 0.0
    if right == len(bounds):
        return 1.0
    left = bisect_left(bounds, operand)
    if left < right:
        return (left + right - 1) / 2 / (len(bounds) - 1)
    return (right - 1 + _between(bounds[right - 1], operand, bounds[right])) / (len(bounds) - 1)


def _between(low: Operand, value: Operand, high: Operand) -> float:
    """Where the value lies between two bounds, from 0 to 1; the middle for text."""
    if isinstance(low, datetime) and isinstance(value, datetime) and isinstance(high, datetime):
        return (value - low) / (high - low) if high > low else 0.5
    if isinstance(low, str) or isinstance(value, str) or isinstance(high, str):
        return 0.5
    if isinstance(low, datetime) or isinstance(value, datetime) or isinstance(high, datetime):
        return 0.5
    return (value - low) / (high - low) if high > low else 0.5


def _like(node: Like, known: FieldStatistics) -> float:
    """Common texts are matched one by one; of the others, the bounds speak as a small sample."""
    matched = sum(share for value, share in known.common if _matches(node, value))
    texts = [b for b in known.bounds if isinstance(b, str)]
    hits = sum(_matches(node, text) for text in texts)
    return matched + known.rest * (hits / len(texts) if hits else LIKE_UNKNOWN)


def _matches(node: Like, value: Operand) -> bool:
    return isinstance(value, str) and patterns.like(value, node.pattern, ignore_case=node.ignore_case)


def _unknown(node: Compare | In | IsNull | EqualsList | Contains | Exists | Like) -> float:
    """For a field nothing is known about."""
    match node:
        case Compare(Op.EQ) | Contains() | EqualsList():
            return EQUAL_UNKNOWN
        case In(_, operands):
            return min(0.5, EQUAL_UNKNOWN * len(operands))
        case IsNull():
            return MISSING_UNKNOWN
        case Exists():
            return 1.0 - MISSING_UNKNOWN
        case Like():
            return LIKE_UNKNOWN
        case Compare():
            return RANGE_UNKNOWN


__all__ = [
    "FieldStatistics",
    "FilterStatistics",
    "compact",
    "declared_part",
    "dotted",
    "estimates",
    "fields_of",
    "is_estimated",
    "is_led_by_value",
    "selectivity",
    "share_in",
]
