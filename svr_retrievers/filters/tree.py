"""The nodes of a parsed filter, and the types a filter field can be declared with."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias, get_args, get_origin

from svr_retrievers.errors import InputError
from svr_retrievers.filters.equality import equality_key

Path: TypeAlias = tuple[str, ...]
Scalar: TypeAlias = bool | int | float | str
Operand: TypeAlias = Scalar | datetime
ListOperand: TypeAlias = "tuple[Operand | ListOperand | None, ...]"


class FieldType(StrEnum):
    """What a declared filter field holds. The values are the names stored with a collection."""

    INT = "int"
    FLOAT = "float"
    STR = "str"
    BOOL = "bool"
    DATETIME = "datetime"
    LIST_STR = "list[str]"
    LIST_INT = "list[int]"
    LIST_FLOAT = "list[float]"

    @classmethod
    def of(cls, python_type: object, field: str = "") -> FieldType:
        """The field type for `int`, `list[str]` and so on; a FieldType or its name is taken as it is."""
        name = python_type if isinstance(python_type, str) else _type_name(python_type)
        if name in cls._value2member_map_:
            return cls(name)
        subject = f"filter field {field!r}" if field else "a filter field"
        raise InputError(
            f"{subject} cannot be of type {name}.",
            hint="Use int, float, str, bool, datetime.datetime, list[str], list[int] or list[float].",
        )

    @property
    def python_type(self) -> object:
        return _PYTHON_TYPES[self]

    @property
    def is_list(self) -> bool:
        return self in _ELEMENTS

    @property
    def element(self) -> FieldType:
        """The type of one element of a list type; the type itself for all others."""
        return _ELEMENTS.get(self, self)


_ELEMENTS = {
    FieldType.LIST_STR: FieldType.STR,
    FieldType.LIST_INT: FieldType.INT,
    FieldType.LIST_FLOAT: FieldType.FLOAT,
}
_PYTHON_TYPES: dict[FieldType, object] = {
    FieldType.INT: int,
    FieldType.FLOAT: float,
    FieldType.STR: str,
    FieldType.BOOL: bool,
    FieldType.DATETIME: datetime,
    FieldType.LIST_STR: list[str],
    FieldType.LIST_INT: list[int],
    FieldType.LIST_FLOAT: list[float],
}


def _type_name(python_type: object) -> str:
    if get_origin(python_type) is list:
        return f"list[{', '.join(_type_name(a) for a in get_args(python_type))}]"
    return python_type.__name__ if isinstance(python_type, type) else repr(python_type)


class Op(StrEnum):
    """How one value is compared with the operand."""

    EQ = "$eq"
    GT = "$gt"
    GTE = "$gte"
    LT = "$lt"
    LTE = "$lte"


@dataclass(frozen=True, slots=True)
class And:
    """All children hold; without children it matches everything."""

    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one child holds; without children it matches nothing."""

    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Exactly the documents that the child does not match, those without the field included."""

    child: Node


@dataclass(frozen=True, slots=True)
class Compare:
    """The value at the path, or one element of it if it is a list, compares so with the operand.

    `field` and `field_type` are set when the path is a declared field; the operand is then already
    of the declared type (for a list type: of its elements). Otherwise it is a JSON scalar.
    """

    op: Op
    path: Path
    operand: Operand
    field: str | None = None
    field_type: FieldType | None = None


@dataclass(frozen=True, slots=True)
class In:
    """As `Compare` with `$eq`, for any of the operands (never null, never empty).

    `keys` are the operands' equality keys, made once, so that a long list costs no more than a short one.
    """

    path: Path
    operands: tuple[Operand, ...]
    field: str | None = None
    field_type: FieldType | None = None
    keys: frozenset[object] = dataclass_field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", frozenset(map(equality_key, self.operands)))


@dataclass(frozen=True, slots=True)
class IsNull:
    """Nothing is at the path, or null, or a list that contains null."""

    path: Path
    field: str | None = None
    field_type: FieldType | None = None


@dataclass(frozen=True, slots=True)
class EqualsList:
    """The value is a list and equals the operand as a whole, in order."""

    path: Path
    operand: ListOperand
    field: str | None = None
    field_type: FieldType | None = None


@dataclass(frozen=True, slots=True)
class Contains:
    """The value is a list with an element that equals the operand. Undeclared paths only."""

    path: Path
    operand: Scalar | None


@dataclass(frozen=True, slots=True)
class Exists:
    """Something is at the path, null included. Always answered from the metadata."""

    path: Path


@dataclass(frozen=True, slots=True)
class Like:
    """The text, or one text of a list, matches the SQL pattern: `%`, `_`, a backslash escapes."""

    path: Path
    pattern: str
    ignore_case: bool = False
    field: str | None = None
    field_type: FieldType | None = None


Node: TypeAlias = And | Or | Not | Compare | In | IsNull | EqualsList | Contains | Exists | Like

ALL = And(())
NOTHING = Or(())


def all_of(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else And(tuple(nodes))


def any_of(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else Or(tuple(nodes))
