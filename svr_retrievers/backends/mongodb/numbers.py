"""Numbers as operands: what BSON compares with, and whether that is the same as comparing decimal forms. PURE.

Two numbers are equal when their shortest decimal forms are. MongoDB compares binary values, which differs
only next to floats beyond 2**53 that do not print as what they are, and where an integer has lost digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from svr_retrievers.backends.mongodb.encoding import bson_number
from svr_retrievers.filters.equality import EXACT_FLOAT_INTEGER, exact_integer
from svr_retrievers.filters.tree import Op, Scalar

_DECIMAL_DIGITS: Final = 10**34


@dataclass(frozen=True, slots=True)
class Equal:
    """All stored forms of values equal to an operand; exact when nothing else is stored as one of them."""

    operands: tuple[object, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison that all values wanted satisfy; exact when no other value does."""

    op: Op
    operand: object
    exact: bool


def equal(operand: Scalar | None) -> Equal:
    number = _large(operand)
    if number is None:
        return Equal((operand,), exact=True)
    nearest = _float(number)
    prints_so = exact_integer(nearest) == number if math.isfinite(nearest) else False
    is_so = int(nearest) == number if math.isfinite(nearest) else False
    forms = (bson_number(number), nearest) if prints_so and not is_so else (bson_number(number),)
    return Equal(forms, exact=abs(number) < _DECIMAL_DIGITS and prints_so is is_so)


def is_ordinary(operand: Scalar | None) -> bool:
    """Text and small integers, which have one stored form: the usual operands, told quickly."""
    return type(operand) is str or (
        type(operand) is int and -EXACT_FLOAT_INTEGER <= operand <= EXACT_FLOAT_INTEGER
    )


def bound(op: Op, operand: Scalar) -> Bound:
    """For the four range operators."""
    number = _large(operand)
    if number is None:
        return Bound(op, operand, exact=True)
    nearest = _float(number)
    if abs(number) < _DECIMAL_DIGITS and _holds(op, int(nearest), number) == _holds(
        op, exact_integer(nearest) or 0, number
    ):
        return Bound(op, bson_number(number), exact=True)
    upward = op in {Op.GT, Op.GTE}
    return Bound(
        Op.GTE if upward else Op.LTE, math.nextafter(nearest, -math.inf if upward else math.inf), exact=False
    )


def _large(operand: Scalar | None) -> int | None:
    """The integer beyond those that floats hold that the operand stands for."""
    if isinstance(operand, (bool, str)) or operand is None:
        return None
    number = exact_integer(operand) if isinstance(operand, float) else operand
    return number if number is not None and abs(number) > EXACT_FLOAT_INTEGER else None


def _float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _holds(op: Op, left: int, right: int) -> bool:
    match op:
        case Op.GT:
            return left > right
        case Op.GTE:
            return left >= right
        case Op.LT:
            return left < right
        case _:
            return left <= right
