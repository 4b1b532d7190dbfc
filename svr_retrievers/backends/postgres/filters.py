"""Compiles a parsed filter to SQL over the typed columns (`s`) and the metadata (`d`) of a document.

The statement's text is put together from the fixed fragments in this file and column identifiers. Keys
and operands travel as parameters, with their types spelled out, so equal shapes share a prepared plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, LiteralString

from psycopg import sql
from psycopg.types.numeric import Int8

from svr_retrievers.filters import (
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
    Or,
    Path,
)
from svr_retrievers.filters.patterns import case_insensitive_regex

COLUMN_TYPES: Final[dict[FieldType, LiteralString]] = {
    FieldType.INT: "bigint",
    FieldType.FLOAT: "double precision",
    FieldType.STR: 'text collate "C"',
    FieldType.BOOL: "boolean",
    FieldType.DATETIME: "timestamptz",
    FieldType.LIST_STR: "text[]",
    FieldType.LIST_INT: "bigint[]",
    FieldType.LIST_FLOAT: "double precision[]",
}
"""How a column for a declared field of each type is declared."""

_SQL_TYPES: Final[dict[FieldType, LiteralString]] = {
    FieldType.INT: "bigint",
    FieldType.FLOAT: "float8",
    FieldType.STR: "text",
    FieldType.BOOL: "boolean",
    FieldType.DATETIME: "timestamptz",
}
_SIGNS: Final[dict[Op, LiteralString]] = {Op.EQ: "=", Op.GT: ">", Op.GTE: ">=", Op.LT: "<", Op.LTE: "<="}
_FLIPPED: Final[dict[Op, LiteralString]] = {Op.GT: "<", Op.GTE: "<=", Op.LT: ">", Op.LTE: ">="}
_JSON_SIGNS: Final[dict[Op, LiteralString]] = {**_SIGNS, Op.EQ: "=="}

_EXISTS = sql.SQL("jsonb_path_exists(d.metadata, %s::jsonpath)")
_MATCHES = sql.SQL("jsonb_path_exists(d.metadata, %s::jsonpath, %s::jsonb)")
_VALUES: Final = "select 1 from jsonb_path_query(d.metadata, %s::jsonpath) v(x)"
_IS_NULL = sql.SQL(
    "(not jsonb_path_exists(d.metadata, %s::jsonpath) or jsonb_path_exists(d.metadata, %s::jsonpath))"
)
_EQUALS_LIST = sql.SQL(f"exists ({_VALUES} where x = %s::jsonb)")
_CONTAINS = sql.SQL(f"exists ({_VALUES} where jsonb_typeof(x) = 'array' and x @> %s::jsonb)")
_TEXT_IN: Final = f"exists ({_VALUES} where jsonb_typeof(x) = 'string' and "
_JSON_LIKE = sql.SQL(_TEXT_IN + "x #>> '{}' like %s::text escape '\\')")
_JSON_REGEX = sql.SQL(_TEXT_IN + "(x #>> '{}') collate \"C\" ~ %s::text)")


def compile_filter(node: Node, columns: Mapping[str, str]) -> tuple[sql.Composable, list[object], bool]:
    """The condition, its parameters in order, and whether it reads `d.metadata`.

    `columns` maps each declared field's name to its column of the table aliased `s`. The condition may
    be null where a field is missing, which WHERE takes as false; negations inside are exact.
    """
    compiler = _Compiler(columns)
    condition = compiler.compile(node)
    return condition, compiler.parameters, compiler.needs_metadata


class _Compiler:
    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = columns
        self.parameters: list[object] = []
        self.needs_metadata = False

    def compile(self, node: Node) -> sql.Composable:
        match node:
            case And(()):
                return sql.SQL("true")
            case Or(()):
                return sql.SQL("false")
            case And(children):
                return self._group(" and ", children)
            case Or(children):
                return self._group(" or ", children)
            case Not(child):
                return sql.SQL("(({}) is not true)").format(self.compile(child))
            case Contains() | Exists():
                return self._from_metadata(node)
            case _:
                return self._from_metadata(node) if node.field_type is None else self._from_column(node)

    def _group(self, word: LiteralString, children: tuple[Node, ...]) -> sql.Composable:
        return sql.SQL("({})").format(sql.SQL(word).join([self.compile(child) for child in children]))

    def _from_metadata(
        self, node: Compare | In | IsNull | EqualsList | Contains | Exists | Like
    ) -> sql.Composable:
        self.needs_metadata = True
        path = _accessors(node.path)
        match node:
            case Compare(op, _, operand):
                return self._add(_MATCHES, f"$ ? (@{path} {_JSON_SIGNS[op]} $v)", _json({"v": operand}))
            case In(_, operands):
                return self._add(_MATCHES, f"$ ? (@{path} == $v[*])", _json({"v": operands}))
            case IsNull():
                return self._add(_IS_NULL, f"${path}", f"$ ? (@{path} == null)")
            case EqualsList(_, operand):
                return self._add(_EQUALS_LIST, f"${path}", _json(operand))
            case Contains(_, operand):
                return self._add(_CONTAINS, f"${path}", _json([operand]))
            case Exists():
                return self._add(_EXISTS, f"${path}")
            case Like(_, pattern, True):
                return self._add(_JSON_REGEX, f"${path}[*]", case_insensitive_regex(pattern))
            case Like(_, pattern):
                return self._add(_JSON_LIKE, f"${path}[*]", pattern)

    def _from_column(self, node: Compare | In | IsNull | EqualsList | Like) -> sql.Composable:
        assert node.field is not None
        assert node.field_type is not None
        column = sql.SQL("s.{}").format(sql.Identifier(self.columns[node.field]))
        match node:
            case IsNull():
                return sql.SQL("{} is null").format(column)
            case Like():
                return self._like_column(node, column, node.field_type)
            case EqualsList(_, operand):
                return self._operator(column, "=", list(operand), node.field_type)
            case In(_, operands) if node.field_type.is_list:
                return self._operator(column, "&&", list(operands), node.field_type)
            case Compare(Op.EQ, _, operand) if node.field_type.is_list:
                return self._operator(column, "&&", [operand], node.field_type)
            case In(_, operands):
                return self._any_of(column, list(operands), node.field_type)
            case Compare(op, _, operand):
                return self._compare(column, op, operand, node.field_type)

    def _operator(
        self, column: sql.Composable, sign: LiteralString, operands: list[object], kind: FieldType
    ) -> sql.Composable:
        """One array against the other, in the form that a GIN index serves."""
        self.parameters.append(_bound(operands))
        cast = sql.SQL(_SQL_TYPES[kind.element])
        return sql.SQL("{} {} %s::{}[]").format(column, sql.SQL(sign), cast)

    def _any_of(self, column: sql.Composable, operands: list[object], kind: FieldType) -> sql.Composable:
        self.parameters.append(_bound(operands))
        return sql.SQL("{} = any(%s::{}[])").format(column, sql.SQL(_SQL_TYPES[kind]))

    def _compare(self, column: sql.Composable, op: Op, operand: object, kind: FieldType) -> sql.Composable:
        self.parameters.append(_bound(operand))
        cast = sql.SQL(_SQL_TYPES[kind.element])
        collate = sql.SQL(' collate "C"' if kind.element is FieldType.STR else "")
        if kind.is_list:
            return sql.SQL("%s::{}{} {} any({})").format(cast, collate, sql.SQL(_FLIPPED[op]), column)
        return sql.SQL("{} {} %s::{}{}").format(column, sql.SQL(_SIGNS[op]), cast, collate)

    def _like_column(self, node: Like, column: sql.Composable, kind: FieldType) -> sql.Composable:
        self.parameters.append(case_insensitive_regex(node.pattern) if node.ignore_case else node.pattern)
        match_sql: LiteralString = (
            '{} collate "C" ~ %s::text' if node.ignore_case else "{} like %s::text escape '\\'"
        )
        if not kind.is_list:
            return sql.SQL(match_sql).format(column)
        matching = sql.SQL(match_sql).format(sql.SQL("x"))
        return sql.SQL("exists (select 1 from unnest({}) v(x) where {})").format(column, matching)

    def _add(self, condition: sql.SQL, *parameters: str) -> sql.Composable:
        self.parameters.extend(parameters)
        return condition


def _bound(operand: object) -> object:
    """Integers always as bigint, so that their size does not change the statement's parameter types."""
    if isinstance(operand, list):
        return [_bound(each) for each in operand]
    return Int8(operand) if isinstance(operand, int) and not isinstance(operand, bool) else operand


def _accessors(path: Path) -> str:
    return "".join("." + json.dumps(key, ensure_ascii=False) for key in path)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
