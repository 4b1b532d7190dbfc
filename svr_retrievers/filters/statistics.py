"""What is kept of the values of a filter field: small, and enough to estimate how many rows match. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, TypeAlias, cast

from svr_retrievers.filters.choice import ScanCosts
from svr_retrievers.filters.equality import equality_key
from svr_retrievers.filters.tree import FieldType, Operand, Path
from svr_retrievers.filters.values import iso_utc, typed_moment
from svr_retrievers.model import JsonValue

_REPEATED: Final = 50
COMMON_KEPT, BOUNDS_KEPT = 100, 33
"""What is kept of a field over the whole collection: what PostgreSQL's own statistics hold, fewer bounds."""
_TEXT_KEPT = 100
_DEPTH = 4
_NEARLY_ALL = 0.98
_PATHS = 64
"""Paths of undeclared metadata that are looked at: those most documents have."""


@dataclass(frozen=True, slots=True)
class FieldStatistics:
    """What a sample says of one field's values in some rows. All shares are of all rows.

    For a list field, `common` and `distinct` speak of elements, each with the share of rows that hold it.
    """

    missing: float = 0.0
    distinct: float = 0.0
    """Estimated number of different values; 0 where it is not known."""
    common: tuple[tuple[Operand, float], ...] = ()
    """The most common values with their shares, most common first."""
    bounds: tuple[Operand, ...] = ()
    """Ends of ranges that hold equally many of the values that are not common, ascending."""
    is_list: bool = False
    shares: Mapping[object, float] = field(init=False, repr=False, compare=False)
    rest: float = field(init=False, repr=False, compare=False)
    """The share of the rows whose value is not one of the common ones."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", {equality_key(v): share for v, share in self.common})
        rest = 1.0 - self.missing - sum(share for _, share in self.common)
        object.__setattr__(self, "rest", max(0.0, rest))


Fields: TypeAlias = Mapping[str, FieldStatistics]


@dataclass(frozen=True, slots=True)
class FilterStatistics:
    """The fields' statistics over a whole collection, and within its partitions where they are kept.

    Declared fields stand under their names, the paths of others under the dotted path.
    """

    fields: Fields = field(default_factory=dict)
    partitions: Mapping[int, Fields] = field(default_factory=dict)
    rows: int = 0
    """The size of the collection when this was measured."""
    namespaces: Mapping[str, float] = field(default_factory=dict)
    """The share of the rows in each of the largest namespaces; empty where that was not measured."""
    costs: ScanCosts | None = None
    """What the steps of a search take on this machine; None where it was not measured."""
    memo: dict[object, dict[int, float]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Shares already worked out, by filter and partition."""
    _complete: Mapping[int, Fields] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        complete = {number: {**self.fields, **own} for number, own in self.partitions.items()}
        object.__setattr__(self, "_complete", complete)

    def alone(self, namespace: str) -> bool:
        """Whether nearly all rows are of this namespace, or no other is known of."""
        return not self.namespaces or self.namespaces.get(namespace, 0.0) >= _NEARLY_ALL

    def within(self, partition: int) -> Fields:
        """The partition's own figures where they are kept, those of the collection for the rest."""
        return self._complete.get(partition, self.fields)


def dotted(path: Path) -> str:
    r"""The path as a filter key, with `\.` for a dot inside a name."""
    return ".".join(step.replace("\\", "\\\\").replace(".", "\\.") for step in path)


def alike(left: Operand, right: Operand) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool)
    return any(isinstance(left, kind) and isinstance(right, kind) for kind in ((int, float), str, datetime))


def compact(known: FieldStatistics, *, common: int, bounds: int) -> FieldStatistics:
    """The same with at most so many common values and bounds, which are at least two.

    Values that go join the rest: their number stays in `distinct`, their order in the bounds.
    """
    ends = known.bounds or bounds_of(known.common[common:])
    if len(ends) > bounds:
        last = len(ends) - 1
        ends = tuple(ends[round(i * last / (bounds - 1))] for i in range(bounds))
    return replace(known, common=known.common[:common], bounds=ends)


def bounds_of(values: Sequence[tuple[Operand, float]]) -> tuple[Operand, ...]:
    """The values in order, each as often as its share of them asks for."""
    if len(values) < 2 or not all(alike(values[0][0], value) for value, _ in values):
        return ()
    least = min(share for _, share in values) or 1.0
    ordered = sorted(values, key=lambda pair: pair[0])
    return tuple(v for v, share in ordered for _ in range(min(_REPEATED, round(share / least))))


def measured(values: Sequence[Operand | None | list[Operand]], rows: float) -> FieldStatistics:
    """The statistics of one field from a sample of its values, None for missing, out of `rows` rows."""
    is_list = any(isinstance(value, list) for value in values)
    holders: Counter[object] = Counter()
    named: dict[object, Operand] = {}
    for value in values:
        elements = value if isinstance(value, list) else () if value is None else (value,)
        keys = {equality_key(each): each for each in elements}
        holders.update(keys.keys())
        named |= keys
    size = max(1, len(values))
    common = [(named[key], count / size) for key, count in holders.most_common() if count > 1]
    others = [(named[key], 1 / size) for key, count in holders.items() if count == 1]
    full = FieldStatistics(
        missing=sum(value is None for value in values) / size,
        distinct=_distinct(holders, size, rows),
        common=tuple(common[:COMMON_KEPT]),
        bounds=bounds_of(common[COMMON_KEPT:] + others),
        is_list=is_list,
    )
    return compact(full, common=COMMON_KEPT, bounds=BOUNDS_KEPT)


def _distinct(holders: Counter[object], sampled: int, rows: float) -> float:
    """Different values among all rows, by the estimator of Haas and Stokes: values seen once hint at others."""
    once = sum(count == 1 for count in holders.values())
    seen = len(holders)
    if not seen or sampled >= rows:
        return float(seen)
    return min(rows, sampled * seen / (sampled - once + once * sampled / rows))


def of_metadata(sample: Sequence[Mapping[str, JsonValue]], rows: float) -> dict[str, FieldStatistics]:
    """The statistics of every path in a sample of metadata, the most frequent paths first."""
    values: dict[str, dict[int, Operand | list[Operand]]] = {}
    for at, metadata in enumerate(sample):
        for path, value in _scalars(metadata, ()):
            values.setdefault(dotted(path), {}).setdefault(at, value)
    frequent = sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))[:_PATHS]
    return {path: measured([held.get(i) for i in range(len(sample))], rows) for path, held in frequent}


def _scalars(body: Mapping[str, JsonValue], above: Path) -> Iterator[tuple[Path, Operand | list[Operand]]]:
    for key, value in body.items():
        path = (*above, key)
        if isinstance(value, dict):
            if len(path) < _DEPTH:
                yield from _scalars(value, path)
        elif isinstance(value, list):
            elements: list[Operand] = [v for v in value if isinstance(v, bool | int | float | str)]
            if elements:
                yield path, elements
        elif value is not None:
            yield path, value


def to_json(known: FieldStatistics) -> dict[str, JsonValue]:
    """Short keys: there is one of these for each field of each partition."""
    body: dict[str, JsonValue] = {"m": round(known.missing, 5), "d": round(known.distinct, 1)}
    common = [(value, share) for value, share in known.common if _is_short(value)]
    if common:
        body["c"] = [[_plain(value), round(share, 6)] for value, share in common]
    if known.bounds and all(map(_is_short, known.bounds)):
        body["b"] = [_plain(value) for value in known.bounds]
    return body | ({"l": True} if known.is_list else {})


def of_json(body: Mapping[str, JsonValue], kind: FieldType | None) -> FieldStatistics:
    """`kind` is the declared type; None for what stands in the metadata alone."""
    moments = kind is FieldType.DATETIME
    common = cast("list[tuple[JsonValue, float]]", body.get("c", ()))
    bounds = cast("list[JsonValue]", body.get("b", ()))
    return FieldStatistics(
        missing=float(cast("float", body["m"])),
        distinct=float(cast("float", body["d"])),
        common=tuple((_operand(value, moments=moments), float(share)) for value, share in common),
        bounds=tuple(_operand(value, moments=moments) for value in bounds),
        is_list=bool(body.get("l", False)),
    )


def _is_short(value: Operand) -> bool:
    """Long texts are not kept; rows that have one count among the rest."""
    return not isinstance(value, str) or len(value) <= _TEXT_KEPT


def _plain(value: Operand) -> JsonValue:
    return iso_utc(value) if isinstance(value, datetime) else value


def _operand(value: JsonValue, *, moments: bool) -> Operand:
    return typed_moment(str(value)) if moments else cast("Operand", value)


def all_to_json(known: FilterStatistics) -> dict[str, JsonValue]:
    partitions: dict[str, JsonValue] = {
        str(number): {name: to_json(one) for name, one in fields.items()}
        for number, fields in known.partitions.items()
    }
    fields: dict[str, JsonValue] = {name: to_json(one) for name, one in known.fields.items()}
    made: dict[str, JsonValue] = {"rows": known.rows, "fields": fields, "partitions": partitions}
    made["namespaces"] = dict(known.namespaces)
    return made if known.costs is None else made | {"costs": known.costs.to_json()}


def all_of_json(body: Mapping[str, JsonValue], declared: Mapping[str, FieldType]) -> FilterStatistics:
    def read(fields: JsonValue) -> dict[str, FieldStatistics]:
        given = cast("Mapping[str, Mapping[str, JsonValue]]", fields)
        return {name: of_json(one, declared.get(name)) for name, one in given.items()}

    partitions = cast("Mapping[str, JsonValue]", body["partitions"])
    within = {int(number): read(fields) for number, fields in partitions.items()}
    costs = cast("Mapping[str, JsonValue] | None", body.get("costs"))
    return FilterStatistics(
        read(body["fields"]),
        within,
        cast("int", body["rows"]),
        cast("Mapping[str, float]", body.get("namespaces", {})),
        None if costs is None else ScanCosts.of_json(costs),
    )
