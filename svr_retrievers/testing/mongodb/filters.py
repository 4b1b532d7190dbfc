"""The filter of `$vectorSearch`: a small closed part of MQL, on indexed paths only, answered for all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
from bson import ObjectId
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS

from svr_retrievers.testing.mongodb.documents import MISSING, key_of
from svr_retrievers.testing.mongodb.refusals import in_query

Mask = npt.NDArray[np.bool_]
Atom = tuple[str, object]
Cell = tuple[Atom, ...]
"""The values of one field of one document, each with its type; empty where the field is missing."""
Test = Callable[[Cell], bool]
FloatArray = npt.NDArray[np.float64]

_UUID = 4
_NULL: Atom = ("null", None)
_NO_VALUE: Atom = ("array", None)
_RANGES: dict[str, Callable[[bool, bool], bool]] = {
    "$gt": lambda above, _: above,
    "$gte": lambda _, below: not below,
    "$lt": lambda _, below: below,
    "$lte": lambda above, _: not above,
}


_NUMPY: dict[str, np.ufunc] = {
    "$gt": np.greater,
    "$gte": np.greater_equal,
    "$lt": np.less,
    "$lte": np.less_equal,
}
ORDERED = ("number", "date")
_EXACT = 2**53
_COMBINING = {"$and", "$or", "$nor"}
OPERATORS = {*_RANGES, *_COMBINING, "$eq", "$ne", "$in", "$nin", "$exists", "$not"}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One comparison. `test` answers it for the values of one document; where `wanted` is given, for these values,

    and where `ordered` is given, for a number or a date that stands alone.
    """

    key: bytes
    test: Test
    wanted: frozenset[Atom] | None = None
    ordered: tuple[str, Callable[[FloatArray], Mask]] | None = None


class Columns(Protocol):
    """The rows a filter is asked about."""

    def mask(self, path: str, leaf: Leaf) -> Mask: ...

    def all(self) -> Mask: ...


Tree = Callable[[Columns], Mask]


def _atom(value: object) -> Atom | None:
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, str):
        return ("token", value)
    if isinstance(value, datetime | DatetimeMS):
        return ("date", int(value) if isinstance(value, DatetimeMS) else int(DatetimeMS(value)))
    if isinstance(value, ObjectId):
        return ("objectId", value.binary)
    if isinstance(value, Binary) and value.subtype == _UUID:
        return ("uuid", bytes(value))
    return None


def _ranged(key: bytes, name: str, argument: Atom) -> Leaf:
    kind, sought = argument
    exact = plain(argument)
    compare = _NUMPY[name]
    ordered = None if exact is None else (kind, lambda held: np.asarray(compare(held, exact), dtype=np.bool_))
    return Leaf(
        key, lambda held: any(k == kind and _within(name, v, sought) for k, v in held), ordered=ordered
    )


def plain(atom: Atom) -> float | None:
    """A number or date that a double holds exactly and that has its place in an order."""
    kind, value = atom
    if kind not in ORDERED or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        return None
    return float(value) if isinstance(value, float) or abs(value) <= _EXACT else None


def _within(name: str, held: object, sought: object) -> bool:
    """Whether a value stands so to another of its type; NaN stands to nothing."""
    if isinstance(held, int | float) and isinstance(sought, int | float):
        return _RANGES[name](held > sought, held < sought) and held == held and sought == sought  # noqa: PLR0124
    if isinstance(held, str) and isinstance(sought, str):
        return _RANGES[name](held > sought, held < sought)
    if isinstance(held, bytes) and isinstance(sought, bytes):
        return _RANGES[name](held > sought, held < sought)
    return False


def cell(value: object) -> Cell:
    """How a document's value lies in the index; what no filter can ask for only counts as existing."""
    if value is MISSING:
        return ()
    given = value if isinstance(value, list) else [value]
    return tuple(_atom(v) or _NO_VALUE for v in given) or (_NO_VALUE,)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Parses one filter against the filter paths of one index."""

    paths: Collection[str]

    def tree(self, spec: object) -> Tree:
        if not isinstance(spec, dict):
            raise in_query('"filter" must be a document')
        return _every([self._part(key, value) for key, value in spec.items()])

    def _part(self, key: str, value: object) -> Tree:
        if key in _COMBINING:
            if not isinstance(value, list) or not value:
                raise in_query(f'"filter.{key}" must be a non-empty array')
            parts = [self.tree(each) for each in value]
            if key == "$and":
                return _every(parts)
            return _some(parts) if key == "$or" else _not(_some(parts))
        if key.startswith("$"):
            raise in_query(f'"filter" unrecognized operator "{key}"')
        return self._field(key, value)

    def _field(self, path: str, value: object) -> Tree:
        operators = isinstance(value, dict) and any(k.startswith("$") for k in value)
        given: Mapping[str, object] = value if operators and isinstance(value, dict) else {"$eq": value}
        return _every([self._leaf(path, name, argument) for name, argument in given.items()])

    def _leaf(self, path: str, name: str, argument: object) -> Tree:
        if name == "$not":
            if not isinstance(argument, dict):
                raise in_query(f'"filter.{path}.$not" must be a document')
            return _not(self._field(path, argument))
        if name in {"$ne", "$nin"}:
            return _not(self._leaf(path, {"$ne": "$eq", "$nin": "$in"}[name], argument))
        asked = self.compared(path, name, argument)
        return lambda columns: columns.mask(path, asked)

    def compared(self, path: str, name: str, argument: object) -> Leaf:
        key = key_of([name, argument])
        if name == "$exists":
            self._indexed(path)
            return Leaf(key, lambda held: bool(held) == bool(argument))
        if name == "$in":
            wanted = self._members(path, argument)
        elif name == "$eq":
            wanted = frozenset([self._argument(path, argument)])
        elif name in _RANGES:
            return _ranged(key, name, self._argument(path, argument))
        else:
            raise in_query(f'"filter.{path}" unrecognized field "{name}"')
        return Leaf(key, lambda held: not wanted.isdisjoint(held), wanted=wanted)

    def _members(self, path: str, argument: object) -> frozenset[Atom]:
        if not isinstance(argument, list) or not argument:
            raise in_query(f'"filter.{path}.$in" cannot be empty')
        wanted = frozenset(self._argument(path, each) for each in argument)
        if len({kind for kind, _ in wanted}) > 1 or _NULL in wanted:
            raise in_query(f'"filter.{path}.$in" must have elements of the same type')
        return wanted

    def _argument(self, path: str, value: object) -> Atom:
        found = _atom(value)
        if found is None:
            raise in_query(f'"filter.{path}" must be a boolean, objectId, number, string, date, uuid or null')
        self._indexed(path)
        return found

    def _indexed(self, path: str) -> None:
        if path not in self.paths:
            raise in_query(f"Path '{path}' needs to be indexed as filter")


def parse(spec: object, paths: Collection[str]) -> Tree:
    """The question a filter asks. Refuses operators, values and paths that Atlas would."""
    return _Reader(paths).tree(spec)


def leaf(name: str, argument: object, path: str) -> Test:
    """One comparison, as a test of a document's values."""
    return _Reader([path]).compared(path, name, argument).test


def _every(parts: list[Tree]) -> Tree:
    def answer(columns: Columns) -> Mask:
        found = columns.all()
        for part in parts:
            found = found & part(columns)
        return found

    return answer


def _some(parts: list[Tree]) -> Tree:
    def answer(columns: Columns) -> Mask:
        found = parts[0](columns)
        for part in parts[1:]:
            found = found | part(columns)
        return found

    return answer


def _not(part: Tree) -> Tree:
    return lambda columns: ~part(columns)
