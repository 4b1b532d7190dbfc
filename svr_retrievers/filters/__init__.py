"""The portable filter language: parsed once into a tree, then evaluated or compiled by a backend."""

from svr_retrievers.filters.describe import describe
from svr_retrievers.filters.evaluate import evaluate
from svr_retrievers.filters.parse import parse, split_path
from svr_retrievers.filters.tree import (
    ALL,
    NOTHING,
    And,
    Compare,
    Contains,
    EqualsList,
    Exists,
    FieldType,
    In,
    IsNull,
    Like,
    Node,
    Not,
    Op,
    Operand,
    Or,
    Path,
)
from svr_retrievers.filters.values import (
    Refused,
    TypedValue,
    as_utc,
    iso_utc,
    normalise_metadata,
    typed_value,
    typed_values,
)

__all__ = [
    "ALL",
    "NOTHING",
    "And",
    "Compare",
    "Contains",
    "EqualsList",
    "Exists",
    "FieldType",
    "In",
    "IsNull",
    "Like",
    "Node",
    "Not",
    "Op",
    "Operand",
    "Or",
    "Path",
    "Refused",
    "TypedValue",
    "as_utc",
    "describe",
    "evaluate",
    "iso_utc",
    "normalise_metadata",
    "parse",
    "split_path",
    "typed_value",
    "typed_values",
]
