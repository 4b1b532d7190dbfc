"""Turns metadata into what JSON and the typed filter columns can hold, or says why it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TypeAlias

import numpy as np

from svr_retrievers.errors import InputError
from svr_retrievers.filters.equality import exact_integer
from svr_retrievers.filters.tree import FieldType, Operand
from svr_retrievers.model import JsonValue

MAX_DEPTH = 100
MAX_INTEGER_BITS = 1024
"""About the range of a float: larger integers cannot be read back by most JSON readers."""
BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1

_ORDINARY = 2**63
_KEYS_SHOWN = 8
_REPR_SHOWN = 24

TypedValue: TypeAlias = Operand | list[str] | list[int] | list[float]


class Refused(ValueError):
    """Why a value cannot be stored; the keys that lead to it are added on the way out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.keys: list[str | int] = []

    @property
    def where(self) -> str:
        shown = self.keys[-_KEYS_SHOWN:]
        more = "..." if len(self.keys) > _KEYS_SHOWN else ""
        return (
            "".join(f"[{str(k)[:80]!r}]" if isinstance(k, str) else f"[{k!r}]" for k in reversed(shown))
            + more
        )


def normalise_metadata(metadata: Mapping[str, object]) -> dict[str, JsonValue]:
    """A copy that JSON and PostgreSQL's jsonb hold without loss; InputError names the path of what cannot."""
    if not isinstance(metadata, Mapping):
        raise InputError(
            f"metadata is {kind_of(metadata)}.", hint="Give a dict whose keys are strings, or leave it out."
        )
    try:
        return _object(metadata, 1)
    except Refused as problem:
        raise InputError(f"metadata{problem.where} {problem.reason}.") from None


def _object(mapping: Mapping[str, object], depth: int) -> dict[str, JsonValue]:
    if depth > MAX_DEPTH:
        raise Refused(f"is nested more than {MAX_DEPTH} levels deep (or contains itself); flatten it")
    result: dict[str, JsonValue] = {}
    for key, value in mapping.items():
        try:
            name = key if type(key) is str and key.isascii() and "\0" not in key else _key(key)
            result[name] = plain(value, depth)
        except Refused as problem:
            problem.keys.append(key)
            raise
    return result


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise Refused(f"has a key that is {kind_of(key)}; keys must be strings")
    return checked_text(key)


def plain(value: object, depth: int = 0) -> JsonValue:
    """The JSON form of any accepted value; raises Refused for the rest."""
    if isinstance(value, str):
        return value if type(value) is str and value.isascii() and "\0" not in value else checked_text(value)
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int and -_ORDINARY < value < _ORDINARY:
        return value
    if isinstance(value, int):
        return _checked_integer(int(value))
    if isinstance(value, float):
        return _checked_float(float(value))
    if isinstance(value, (list, tuple)):
        return _array(value, depth + 1)
    return _object(value, depth + 1) if isinstance(value, Mapping) else _converted(value)


def _array(values: list[object] | tuple[object, ...], depth: int) -> list[JsonValue]:
    if depth > MAX_DEPTH:
        raise Refused(f"is nested more than {MAX_DEPTH} levels deep (or contains itself); flatten it")
    result: list[JsonValue] = []
    for index, value in enumerate(values):
        try:
            result.append(plain(value, depth))
        except Refused as problem:
            problem.keys.append(index)
            raise
    return result


def _converted(value: object) -> JsonValue:
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, np.generic):
        item: object = value.item()
        if not isinstance(item, np.generic):
            return plain(item)
    fix = next((text for kinds, text in _FIXES if isinstance(value, kinds)), "convert it to text or a number")
    raise Refused(f"is {kind_of(value)}, which JSON cannot hold; {fix}")


_FIXES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((set, frozenset), "use a list: sorted(value)"),
    ((bytes, bytearray, memoryview), "decode it, or store base64 text"),
    (np.ndarray, "use value.tolist()"),
    (Decimal, "use float(value) or str(value)"),
)


def checked_text(text: str) -> str:
    """The text, unless PostgreSQL could not store it: NUL characters and half surrogate pairs."""
    if "\0" in text:
        raise Refused("contains a NUL character, which PostgreSQL text cannot hold; remove it")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refused("contains half of a surrogate pair, which UTF-8 cannot hold; remove it") from None
    return str.__str__(text)


def _checked_integer(number: int) -> int:
    if number.bit_length() > MAX_INTEGER_BITS:
        raise Refused(f"is an integer of more than {MAX_INTEGER_BITS} bits; store it as text")
    return number


def _checked_float(number: float) -> float:
    if not math.isfinite(number):
        raise Refused(f"is {number}, which JSON cannot hold; leave the key out or use None")
    return number


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC; one without a time zone is taken as UTC."""
    if moment != moment:  # noqa: PLR0124 - the not-a-time value of pandas is a datetime unequal to itself
        raise Refused("is not a time; leave the key out or use None")
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise Refused("is outside the years 1 to 9999 in UTC") from None


def iso_utc(moment: datetime) -> str:
    return as_utc(moment).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def kind_of(value: object) -> str:
    """The value's kind as an error names it, with the value itself where that is short."""
    if value is None:
        return "null"
    shown = f" {value!r}" if isinstance(value, (bool, int, float)) and len(repr(value)) <= _REPR_SHOWN else ""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}{shown}"


def typed_value(field: str, field_type: FieldType, metadata: Mapping[str, object]) -> TypedValue | None:
    """What the declared field's column holds for this metadata: None when missing or null.

    The metadata may be normalised already or not. A value of another class is an InputError.
    """
    value = metadata.get(field)
    if value is None:
        return None
    convert = _TYPED[field_type.element]
    try:
        if not field_type.is_list:
            return convert(plain(value))
        if not isinstance(value, (list, tuple)):
            raise Refused("is not a list")  # noqa: TRY301 - one place turns it into the error
        return [convert(plain(v)) for v in value]  # type: ignore[return-value]
    except Refused as problem:
        raise InputError(
            f"filter field {field!r} is declared {field_type}, but its value, {kind_of(value)}, "
            f"{problem.reason}.",
            hint=f"Give {_EXPECTED[field_type]}, or leave the field out.",
        ) from None


def typed_values(
    fields: Mapping[str, FieldType], metadata: Mapping[str, JsonValue]
) -> dict[str, TypedValue | None]:
    """`typed_value` of every declared field, for metadata that was normalised already."""
    made: dict[str, TypedValue | None] = {}
    for name, kind in fields.items():
        value = metadata.get(name)
        convert = _TYPED.get(kind)
        if value is None or convert is None:
            made[name] = None if value is None else typed_value(name, kind, metadata)
            continue
        try:
            made[name] = convert(value)
        except Refused:
            made[name] = typed_value(name, kind, metadata)  # which says what is wrong
    return made


_EXPECTED = {
    FieldType.INT: "an integer",
    FieldType.FLOAT: "a number",
    FieldType.STR: "text",
    FieldType.BOOL: "True or False",
    FieldType.DATETIME: "a datetime, a date or ISO 8601 text",
    FieldType.LIST_STR: "a list of texts without nulls",
    FieldType.LIST_INT: "a list of integers without nulls",
    FieldType.LIST_FLOAT: "a list of numbers without nulls",
}


def _typed_integer(value: JsonValue) -> int:
    number = exact_integer(value) if isinstance(value, float) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise Refused("is not an integer")
    if not BIGINT_MIN <= number <= BIGINT_MAX:
        raise Refused("is outside the 64-bit range")
    return number


def _typed_float(value: JsonValue) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("is not a number")
    try:
        return float(value)
    except OverflowError:
        raise Refused("is outside the range of a float") from None


def _typed_text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise Refused("is not text")
    return value


def _typed_bool(value: JsonValue) -> bool:
    if not isinstance(value, bool):
        raise Refused("is not a boolean")
    return value


def typed_moment(value: JsonValue) -> datetime:
    if not isinstance(value, str):
        raise Refused("is not a date")
    try:
        return as_utc(datetime.fromisoformat(value))
    except ValueError as problem:
        reason = problem.reason if isinstance(problem, Refused) else "is not ISO 8601 text"
        raise Refused(reason) from None


_TYPED: dict[FieldType, Callable[[JsonValue], Operand]] = {
    FieldType.INT: _typed_integer,
    FieldType.FLOAT: _typed_float,
    FieldType.STR: _typed_text,
    FieldType.BOOL: _typed_bool,
    FieldType.DATETIME: typed_moment,
}
