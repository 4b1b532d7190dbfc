"""The compiled SQL: its text comes from a fixed vocabulary, whatever keys and values a filter holds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from svr_retrievers.backends.postgres.filters import COLUMN_TYPES, compile_filter
from svr_retrievers.filters import FieldType, parse

CORPUS = [
    "'; drop table d; --",
    'zq"zq',
    "zq'zq",
    "zq;zq",
    "zq%szq",
    "zq%(a)szq",
    "zq{}zq",
    "zq$1zq",
    "\\$where",
    "zq..zq",
    "zq\\.zq",
    "zq\u202ezq",
    "zq\nzq",
    "k" * 64,
    "é" * 40,
    "SELECT",
    "user",
    "/* zq */",
    "$v zq".replace("$", "\\$"),
    "?(@ zq",
]
FIELDS = {kind.value: kind for kind in FieldType}
COLUMNS = {kind.value: f"c{index}" for index, kind in enumerate(FieldType)}
WORDS = re.compile(r"[a-z_0-9]+")
FIXED = """
    true false and or is not null exists select from where any like escape collate c unnest v x s d metadata
    text bigint float8 boolean timestamptz jsonb jsonpath jsonb_path_exists jsonb_path_query jsonb_typeof
    array string 1
"""
VOCABULARY = set(FIXED.split()) | set(COLUMNS.values())
SYMBOLS = set(" ().,\"':%\\#><=&@~{}[]")


def every_condition(operand: str) -> list[object]:
    return [
        operand,
        None,
        [operand, [operand]],
        {"$ne": operand},
        {"$in": [operand, None, [operand]]},
        {"$nin": [operand]},
        {"$gt": operand, "$gte": operand, "$lt": operand, "$lte": operand},
        {"$exists": True},
        {"$exists": False},
        {"$contains": operand},
        {"$all": [operand, operand]},
        {"$like": operand},
        {"$ilike": operand},
        {"$not": {"$eq": operand}},
    ]


def text_of(filter_: dict[str, Any]) -> str:
    return compile_filter(parse(filter_, FIELDS), COLUMNS)[0].as_string()


def assert_fixed_vocabulary(text: str) -> None:
    bare = text.replace("%s", "")
    words = WORDS.findall(bare.lower())
    assert set(words) <= VOCABULARY, text
    assert set(WORDS.sub("", bare.lower())) <= SYMBOLS, text


@pytest.mark.parametrize("hostile", CORPUS)
def test_neither_keys_nor_values_reach_the_statement(hostile: str) -> None:
    ordinary = every_condition("ordinary")
    for index, condition in enumerate(every_condition(hostile)):
        text = text_of({hostile: condition})
        assert hostile not in text
        assert "zq" not in text
        assert_fixed_vocabulary(text)
        assert text == text_of({"key": ordinary[index]})


@pytest.mark.parametrize("hostile", CORPUS)
@pytest.mark.parametrize("kind", [FieldType.STR, FieldType.LIST_STR])
def test_values_of_declared_fields_do_not_reach_the_statement(hostile: str, kind: FieldType) -> None:
    for condition in (hostile, {"$in": [hostile]}, {"$lt": hostile}, {"$like": hostile}, {"$ilike": hostile}):
        text = text_of({kind.value: condition})
        assert hostile not in text.replace("select", "")
        assert_fixed_vocabulary(text)


def test_column_names_are_identifiers() -> None:
    node = parse({"int": 1}, FIELDS)
    text = compile_filter(node, {"int": 'a"; drop table s; --'})[0].as_string()
    assert text == 's."a""; drop table s; --" = %s::bigint'


@pytest.mark.parametrize("hostile", CORPUS)
def test_keys_are_quoted_inside_the_path_parameter(hostile: str) -> None:
    _, parameters, _ = compile_filter(parse({hostile: {"$exists": True}}, {}), {})
    (path,) = parameters
    assert isinstance(path, str)
    assert re.fullmatch(r'\$(\."(?:[^"\\\x00-\x1f]|\\.)*")+', path), path


@pytest.mark.parametrize(
    ("filter_", "text", "needs_metadata"),
    [
        ({}, "true", False),
        ({"$or": []}, "false", False),
        ({"int": 1}, 's."c0" = %s::bigint', False),
        ({"int": {"$in": [1, 2]}}, 's."c0" = any(%s::bigint[])', False),
        ({"int": None}, 's."c0" is null', False),
        ({"int": {"$ne": 1}}, '((s."c0" = %s::bigint) is not true)', False),
        ({"str": {"$gte": "x"}}, 's."c2" >= %s::text collate "C"', False),
        ({"list[str]": "x"}, 's."c5" && %s::text[]', False),
        ({"list[int]": {"$gt": 1}}, '%s::bigint < any(s."c6")', False),
        ({"int": {"$exists": True}}, "jsonb_path_exists(d.metadata, %s::jsonpath)", True),
        ({"a": 1}, "jsonb_path_exists(d.metadata, %s::jsonpath, %s::jsonb)", True),
    ],
)
def test_statements(filter_: dict[str, Any], text: str, needs_metadata: bool) -> None:
    condition, parameters, needs = compile_filter(parse(filter_, FIELDS), COLUMNS)
    assert condition.as_string() == text
    assert needs is needs_metadata
    assert len(parameters) == text.count("%s")


def test_every_field_type_has_a_column_type() -> None:
    assert set(COLUMN_TYPES) == set(FieldType)
