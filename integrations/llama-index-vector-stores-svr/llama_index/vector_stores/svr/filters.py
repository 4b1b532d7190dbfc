"""Writes LlamaIndex metadata filters in the router's filter language. PURE.

The meaning is that of LlamaIndex's own `build_metadata_filter_fn`: a missing or null value matches only
`!=`, `nin` and `is_empty`; `==` and `in` compare whole values, so that a list never equals its element;
`contains`, `any` and `all` look for elements of a list or parts of a text. The router's own operators
look into lists, so the conditions for undeclared fields name `LIST_KEYS`, in which each stored node
says which of its values are lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from svr_retrievers.errors import FilterError
from svr_retrievers.filters import FieldType, parse

Clause: TypeAlias = dict[str, Any]
Value: TypeAlias = int | float | str | None

LIST_KEYS: Final = "_list_keys"
EVERYTHING: Final[Clause] = {}
NOTHING: Final[Clause] = {"$or": []}
_RANGES: Final = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}
_LIKES: Final = {FilterOperator.TEXT_MATCH: "$like", FilterOperator.TEXT_MATCH_INSENSITIVE: "$ilike"}
_WORDS: Final = {
    **{theirs: own.value for own, theirs in (_RANGES | _LIKES).items()},
    "$eq": "==",
    "$ne": "!=",
    "$in": "in",
    "$nin": "nin",
    "$contains": "contains",
    "$all": "all",
}
_ROUTERS_WORD: Final = re.compile(r"\$[a-z]+")
_LIST_TYPES: Final = (list[str], list[int], list[float])


def to_svr_filter(
    filters: MetadataFilters | None,
    fields: Mapping[str, object] | None = None,
    single_valued: Sequence[str] = (),
) -> Clause:
    """The same condition as a filter dict; {} for no condition.

    `fields` are the collection's declared filter fields with their types, `single_valued` further
    fields that never hold a list, such as those it is partitioned by: their conditions come out simpler.

    Raises:
        FilterError: for a value that the operator cannot use.
    """
    if filters is None or not filters.filters:
        return EVERYTHING
    known = fields or {}
    parts = [
        to_svr_filter(each, known, single_valued)
        if isinstance(each, MetadataFilters)
        else _condition(each, _Field.of(each.key, known, single_valued))
        for each in filters.filters
    ]
    match filters.condition:
        case FilterCondition.NOT:
            return {"$nor": parts}
        case FilterCondition.OR:
            return _any(parts)
        case _:
            return _all(parts)


def among(key: str, values: Iterable[str]) -> Clause:
    """The condition that a field with a single value has one of these."""
    return {key: {"$in": list(values)}}


def both(*parts: Clause) -> Clause:
    """All of these conditions; those without any content are left out."""
    return _all([part for part in parts if part])


@dataclass(frozen=True, slots=True)
class _Field:
    """A metadata key, with what is known about its values beforehand."""

    key: str
    declared: object = None
    single: bool = False

    @staticmethod
    def of(key: str, fields: Mapping[str, object], single_valued: Sequence[str]) -> _Field:
        declared = fields.get(key)
        single = key in single_valued or (declared is not None and declared not in _LIST_TYPES)
        return _Field(key, declared, single)

    @property
    def always_list(self) -> bool:
        return self.declared in _LIST_TYPES

    def where(self, operator: str, operand: Any) -> Clause:
        return {_literal(self.key): {operator: operand}}

    @property
    def holds_list(self) -> Clause:
        return {LIST_KEYS: {"$contains": self.key}}

    def unless_list(self, clause: Clause) -> Clause:
        return clause if self.single else _all([clause, {"$not": self.holds_list}])


def _condition(asked: MetadataFilter, field: _Field) -> Clause:
    operator, value = asked.operator, asked.value
    if operator is FilterOperator.IS_EMPTY:
        return _empty(field)
    if value is None:
        raise FilterError(
            f"The filter {asked.key!r} {operator.value} has no value.",
            hint="To ask for a missing or null value use the operator is_empty, without a value.",
        )
    clause = _BUILD[operator](field, operator, value)
    _check(clause, field, operator)
    return clause


def _check(clause: Clause, field: _Field, operator: FilterOperator) -> None:
    """Raises what the router would say of this condition, in LlamaIndex's words."""
    try:
        parse(clause, {} if field.declared is None else {field.key: FieldType.of(field.declared)})
    except FilterError as error:
        message = _ROUTERS_WORD.sub(operator.value, error.message, count=1)
        raise FilterError(_reworded(message), hint=_reworded(error.hint.replace("%", ""))) from None


def _reworded(text: str) -> str:
    return _ROUTERS_WORD.sub(lambda found: _WORDS.get(found[0], found[0]), text)


def _empty(field: _Field) -> Clause:
    """Missing, null, "" or [], as far as the field's type allows them."""
    blank: list[Value] = [None, ""] if field.declared in {None, str} else [None]
    nothing = field.unless_list(field.where("$in", blank))
    return nothing if field.single else _any([nothing, field.where("$eq", [])])


def _equal(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    if isinstance(value, list):
        return field.where("$eq", value)
    return _in(field, operator, [value])


def _in(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    values = _listed(field, operator, value)
    if field.always_list or not values:
        return NOTHING
    same = _equals_of(field, values)
    return field.unless_list(field.where("$in", same) if len(same) > 1 else field.where("$eq", same[0]))


def _differs(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    return {"$not": _equal(field, operator, value)}


def _not_in(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    return {"$not": _in(field, operator, value)}


def _range(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    return field.where(_RANGES[operator], value)


def _text_match(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    if not isinstance(value, str):
        raise FilterError(
            f"The filter {field.key!r} {operator.value} needs text, not {type(value).__name__}."
        )
    return field.where(_LIKES[operator], _substring(value))


def _contains(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    if isinstance(value, list):
        raise FilterError(
            f"The filter {field.key!r} {operator.value} looks for one value, not for a list.",
            hint="Use any or all for several.",
        )
    return _any_part(field, FilterOperator.ANY, [value])


def _any_part(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    values = _listed(field, operator, value)
    texts = [field.where("$like", _substring(each)) for each in values if isinstance(each, str)]
    in_text = field.unless_list(_any(texts)) if texts else NOTHING
    if field.single and (texts or field.declared is None):
        return in_text
    in_list = _any([field.where("$contains", each) for each in _equals_of(field, values)])
    return in_list if field.always_list or not texts else _any([in_list, in_text])


def _all_parts(field: _Field, operator: FilterOperator, value: Any) -> Clause:
    """No parts are parts of every value but null."""
    values = _listed(field, operator, value)
    if values:
        return _all([_any_part(field, operator, [each]) for each in values])
    present = field.where("$ne", None)
    return present if field.single else _any([present, field.holds_list])


_Build: TypeAlias = Callable[[_Field, FilterOperator, Any], Clause]
_BUILD: Final[dict[FilterOperator, _Build]] = {
    FilterOperator.EQ: _equal,
    FilterOperator.NE: _differs,
    FilterOperator.IN: _in,
    FilterOperator.NIN: _not_in,
    FilterOperator.ANY: _any_part,
    FilterOperator.ALL: _all_parts,
    FilterOperator.CONTAINS: _contains,
    **dict.fromkeys(_RANGES, _range),
    **dict.fromkeys(_LIKES, _text_match),
}


def _listed(field: _Field, operator: FilterOperator, value: Any) -> list[Value]:
    if isinstance(value, list):
        return value
    raise FilterError(
        f"The filter {field.key!r} {operator.value} needs a list of values, not {type(value).__name__}.",
        hint=f"Write [{value!r}].",
    )


def _equals_of(field: _Field, values: list[Value]) -> list[Value]:
    """The values with the booleans that equal them in Python: LlamaIndex's filters cannot name a boolean."""
    if field.declared is bool:
        return [bool(each) if each in {0, 1} else each for each in values]
    if field.declared is not None:
        return values
    return values + [bool(each) for each in values if each in {0, 1}]


def _any(parts: list[Clause]) -> Clause:
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _all(parts: list[Clause]) -> Clause:
    if not parts:
        return EVERYTHING
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _literal(key: str) -> str:
    r"""The key as the path of one step: `a.b` is a name here, as LlamaIndex's metadata is flat."""
    escaped = key.replace("\\", "\\\\").replace(".", "\\.")
    return "\\" + escaped if escaped.startswith("$") else escaped


def _substring(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
