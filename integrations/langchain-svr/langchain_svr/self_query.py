"""Writes the structured query that a model made of a question as a filter of the store. PURE."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypeAlias, get_origin

from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)

from svr_retrievers.errors import FilterError

Clause: TypeAlias = dict[str, Any]

_RANGES: Final = {
    Comparator.GT: "$gt",
    Comparator.GTE: "$gte",
    Comparator.LT: "$lt",
    Comparator.LTE: "$lte",
}
_COMBINED: Final = {Operator.AND: "$and", Operator.OR: "$or", Operator.NOT: "$nor"}
_LAST_MOMENT: Final = datetime.max.replace(tzinfo=UTC)
_WHOLE: Final = (int, list[int])
_NUMBERS: Final = {int: "int", float: "float", list[int]: "list[int]", list[float]: "list[float]"}
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DAY: Final = timedelta(days=1)


class SVRTranslator(Visitor):
    """For `SelfQueryRetriever(structured_query_translator=...)`: every comparator and operator, nested at will.

    `filter_fields` are the store's declared fields with their types (`store.filter_fields`); they decide
    whether `contain` looks for an element of a list or for a part of a text. In other fields it does both.

    Where `int` is declared, a whole number that the model wrote as text counts as the number.

    A missing value matches only `ne`, `nin` and `not`. `not` of several conditions means that none holds.
    `like` takes a pattern with `%` and `_`; one without either may stand anywhere in the text. A date
    without a time is the whole day in UTC, of stored dates and of stored moments alike: `gt` begins with
    the next.
    """

    def __init__(self, filter_fields: Mapping[str, Any] | None = None) -> None:
        self._fields = dict(filter_fields or {})
        self.allowed_comparators = tuple(_BUILD)
        self.allowed_operators = tuple(_COMBINED)

    def visit_operation(self, operation: Operation) -> Clause:
        self._validate_func(operation.operator)
        return {_COMBINED[operation.operator]: [each.accept(self) for each in operation.arguments]}

    def visit_comparison(self, comparison: Comparison) -> Clause:
        """The condition on one field.

        Raises:
            FilterError: for a date that is none, and for a date where numbers are declared.
        """
        self._validate_func(comparison.comparator)
        field = _Field(comparison.attribute, self._fields.get(comparison.attribute))
        value = _plain(comparison.value)
        if comparison.comparator is not Comparator.LIKE:
            value = field.fitting(value)
        return _BUILD[comparison.comparator](field, comparison.comparator, value)

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, Clause]:
        """The text to search for, and `filter` as a keyword of the search where there is one."""
        if structured_query.filter is None:
            return structured_query.query, {}
        return structured_query.query, {"filter": structured_query.filter.accept(self)}


@dataclass(frozen=True, slots=True)
class _Field:
    """A metadata key, and its declared type as far as there is one."""

    key: str
    declared: object = None

    def where(self, operator: str, operand: Any) -> Clause:
        """A key never becomes an operator, whatever a model calls it."""
        key = "\\" + self.key if self.key.startswith("$") else self.key
        return {key: {operator: operand}}

    def fitting(self, value: Any) -> Any:
        """Text that is a whole number as one, where whole numbers are declared. Raises FilterError for dates there."""
        if isinstance(value, list):
            return [self.fitting(each) for each in value]
        if isinstance(value, date) and self.declared in _NUMBERS:
            raise FilterError(
                f"{self.key!r} is declared {_NUMBERS[self.declared]}, but compared with a date, {value.isoformat()}.",
                hint="Describe the field to the model as a number, or declare it datetime.",
            )
        whole = self.declared in _WHOLE and isinstance(value, str) and _DIGITS.fullmatch(value)
        return int(value) if whole else value

    @property
    def may_be_list(self) -> bool:
        return self.declared is None or get_origin(self.declared) is list

    @property
    def may_be_text(self) -> bool:
        return self.declared is None or self.declared is str


def _equal(field: _Field, _: Comparator, value: Any) -> Clause:
    if _is_day(value):
        return {"$and": [field.where("$gte", value), _not_after(field, value)]}
    return field.where("$eq", value)


def _differs(field: _Field, comparator: Comparator, value: Any) -> Clause:
    return {"$not": _equal(field, comparator, value)}


def _in(field: _Field, comparator: Comparator, value: Any) -> Clause:
    values = value if isinstance(value, list) else [value]
    days = [_equal(field, comparator, each) for each in values if _is_day(each)]
    others = field.where("$in", [each for each in values if not _is_day(each)])
    return {"$or": [others, *days]} if days else others


def _not_in(field: _Field, comparator: Comparator, value: Any) -> Clause:
    return {"$not": _in(field, comparator, value)}


def _range(field: _Field, comparator: Comparator, value: Any) -> Clause:
    if _is_day(value) and comparator is Comparator.LTE:
        return _not_after(field, value)
    if _is_day(value) and comparator is Comparator.GT:
        return field.where("$gt", _LAST_MOMENT) if value == date.max else field.where("$gte", value + _DAY)
    return field.where(_RANGES[comparator], value)


def _not_after(field: _Field, day: date) -> Clause:
    """Until the day is over. Models write 9999-12-31, after which no day begins, for an open end."""
    return field.where("$lte", _LAST_MOMENT) if day == date.max else field.where("$lt", day + _DAY)


def _contain(field: _Field, comparator: Comparator, value: Any) -> Clause:
    """Of several values each must be contained."""
    if isinstance(value, list):
        return {"$and": [_contain(field, comparator, each) for each in value]}
    in_list = field.where("$contains", value)
    if not (field.may_be_text and isinstance(value, str)):
        return in_list
    in_text = field.where("$like", _anywhere(value))
    return {"$or": [in_list, in_text]} if field.may_be_list else in_text


def _like(field: _Field, _: Comparator, value: Any) -> Clause:
    plain = isinstance(value, str) and "%" not in value and "_" not in value
    return field.where("$like", _anywhere(value) if plain else value)


_Build: TypeAlias = Callable[[_Field, Comparator, Any], Clause]
_BUILD: Final[dict[Comparator, _Build]] = {
    Comparator.EQ: _equal,
    Comparator.NE: _differs,
    Comparator.CONTAIN: _contain,
    Comparator.LIKE: _like,
    Comparator.IN: _in,
    Comparator.NIN: _not_in,
    **dict.fromkeys(_RANGES, _range),
}


def _anywhere(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _is_day(value: object) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)


def _plain(value: Any) -> Any:
    """LangChain's parser writes dates as `{"date": "2024-05-01", "type": "date"}`."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if not isinstance(value, Mapping) or str(value.get("type")) not in {"date", "datetime"}:
        return value
    written = value.get(value["type"])
    try:
        kind: type[date] = date if value["type"] == "date" else datetime
        return kind.fromisoformat(str(written).upper())
    except ValueError:
        raise FilterError(
            f"{written!r:.80} is no {value['type']}.", hint="Write 2024-05-01, or 2024-05-01T12:30:00Z."
        ) from None
