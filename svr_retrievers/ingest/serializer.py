"""From a structured record to the text that is embedded, with every number as it was."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from string import Formatter
from uuid import UUID

import numpy as np

from svr_retrievers.errors import InputError

_DEPTH = 100
_NAMES = "Name fields that the records have, with dots for what lies deeper."
MISSING = object()


class Serializer:
    """Turns a record into text: one line a value, `path: value`, in an order that does not depend on the record's.

    `fields` chooses what is told and in which order (`"author.name"` for what lies deeper); without it everything is,
    ordered by name. `template` is text with fields in braces instead: `"{title} by {author.name}"`.

    A field that is missing is left out, but a record with none of `fields` is refused, for a misspelt name would
    empty the text of every document. In a template no field may be missing, unless `default` says what stands for it.
    What is null is there: it is left out, and in a template it is the default, or empty without one.

    Integers of any size, `Decimal` and floats keep every digit, dates and times are ISO 8601, bytes base64.
    A serializer can be called: `read_jsonl(path, text=Serializer(fields=["title", "body"]))`.
    """

    def __init__(
        self, fields: Sequence[str] | None = None, *, template: str | None = None, default: str | None = None
    ) -> None:
        if fields is not None and template is not None:
            raise InputError(
                "Give either fields or a template.", hint="A template names its fields in braces."
            )
        if isinstance(fields, str):
            raise InputError("fields must be a list of names.", hint=f"e.g. fields=[{fields!r}]")
        if default is not None and (template is None or not isinstance(default, str)):
            raise InputError("default is a text that stands for missing fields of a template.")
        self.default = default
        self.fields = None if fields is None else tuple(fields)
        self.template = template
        self._parts = None if template is None else _parts(template)

    def __repr__(self) -> str:
        if self.template is not None:
            default = "" if self.default is None else f", default={self.default!r}"
            return f"Serializer(template={self.template!r}{default})"
        return f"Serializer({list(self.fields)!r})" if self.fields is not None else "Serializer()"

    def __call__(self, record: Mapping[str, object]) -> str:
        """The record's text. Raises InputError for missing fields and values that have no text, such as functions."""
        if self._parts is not None:
            return "".join(
                literal + ("" if field is None else self._filled(record, field))
                for literal, field in self._parts
            )
        if self.fields is None:
            return "\n".join(_lines(record, ""))
        values = [(field, found(record, field)) for field in self.fields]
        if values and all(value is MISSING for _, value in values):
            raise InputError(
                f"It has none of the fields {', '.join(map(repr, self.fields)):.200}.", hint=_NAMES
            )
        return "\n".join(
            line for field, value in values if value is not MISSING for line in _lines(value, field)
        )

    def _filled(self, record: Mapping[str, object], field: str) -> str:
        value = found(record, field)
        if value is MISSING and self.default is None:
            raise InputError(
                f"It has no field {field!r}, which the template names.",
                hint='Mend the template, or say with default="" what stands for fields that are missing.',
            )
        return self.default or "" if value is MISSING or value is None else _inline(value, field)


def found(record: Mapping[str, object], path: str) -> object:
    """What lies at a path: the key of that very name, else what its steps lead to; MISSING if nothing."""
    if path in record:
        return record[path]
    here: object = record
    for step in path.split("."):
        if not isinstance(here, Mapping) or step not in here:
            return MISSING
        here = here[step]
    return here


def _parts(template: str) -> list[tuple[str, str | None]]:
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"The template cannot be read: {error}.", hint="Write {{ for a brace.") from None
    if any(field == "" or form or conversion for _, field, form, conversion in parsed):
        raise InputError(
            f"The template {template!r} may hold only names in braces.",
            hint="Formats such as {price:.2f} would lose digits.",
        )
    return [(literal, field) for literal, field, _, _ in parsed]


def _lines(value: object, path: str, depth: int = 0) -> Iterator[str]:
    """One line a scalar; a list of scalars is one line, other lists number their elements from 1."""
    if depth > _DEPTH:
        raise InputError(f"{path[:80]} is nested more than {_DEPTH} levels deep, or contains itself.")
    if value is None:
        return
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _lines(value[key], f"{path}.{key}" if path else str(key), depth + 1)
    elif _is_list(value) and any(isinstance(v, Mapping) or _is_list(v) for v in value):  # type: ignore[attr-defined]
        for number, element in enumerate(value, start=1):  # type: ignore[arg-type, var-annotated]
            yield from _lines(element, f"{path}.{number}", depth + 1)
    elif text := _inline(value, path):
        yield f"{path}: {text}"


def _inline(value: object, path: str) -> str:
    """A value within a line; of nested ones the parts, separated by commas and semicolons."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "; ".join(_lines(value, ""))
    if _is_list(value):
        return ", ".join(_inline(v, path) for v in value)  # type: ignore[attr-defined]
    return scalar(value, path)


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and not (
        isinstance(value, np.ndarray) and not value.ndim
    )


def scalar(value: object, path: str = "value") -> str:
    """The text of a single value, from which the same value can be read again."""
    match value:
        case str():
            return str.__str__(value)
        case Enum():
            return scalar(value.value, path)
        case bool() | np.bool_():
            return "true" if value else "false"
        case int():
            return _integer(int(value))
        case np.float64() | float():
            return float.__repr__(value)
        case np.floating() | np.integer() | Decimal() | UUID():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return _seconds(value)
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
    raise InputError(
        f"{path} holds a {type(value).__name__}, which has no text.",
        hint="Convert it to text, a number or a date.",
    )


def _integer(value: int) -> str:
    """All digits, also beyond the 4,300 at which int() stops for fear of its own slowness."""
    if abs(value) < 10**4000:
        return int.__repr__(value)
    digits = Decimal(value)
    return format(digits, "f")


def _seconds(value: timedelta) -> str:
    """Whole seconds and microseconds, which a float would round."""
    micro = value.days * 86_400_000_000 + value.seconds * 1_000_000 + value.microseconds
    sign, micro = ("-", -micro) if micro < 0 else ("", micro)
    return f"{sign}{micro // 1_000_000}.{micro % 1_000_000:06d} s"
