"""When two values are equal, for every operator and backend: the one rule and a key that hashes by it."""

from __future__ import annotations

from decimal import Decimal

EXACT_FLOAT_INTEGER = 2**53
"""Up to here every integer is a float, so both compare alike."""


def exact_integer(number: float) -> int | None:
    """The integer that the float's shortest decimal form stands for, None if it has a fraction."""
    if not number.is_integer():
        return None
    return int(number) if abs(number) <= EXACT_FLOAT_INTEGER else int(Decimal(repr(number)))


def equality_key(value: object) -> object:
    """Equal for exactly the scalars that are equal: 1 and 1.0 are, 1 and True are not."""
    if isinstance(value, bool):
        return (bool, value)
    return comparable(value) if isinstance(value, float) else value


def comparable(number: float) -> float:
    """The number as JSON writes it: a float without a fraction becomes its shortest decimal form's integer.

    Python compares the binary value instead, which differs beyond the integers that floats hold.
    """
    integer = exact_integer(number) if isinstance(number, float) else number
    return number if integer is None else integer
