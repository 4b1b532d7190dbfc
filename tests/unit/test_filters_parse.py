"""Parsing: what a filter means, and what is said about one that means nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from svr_retrievers.errors import FilterError, InputError
from svr_retrievers.filters import (
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
    Not,
    Op,
    Or,
    describe,
    parse,
    split_path,
)

FIELDS = {
    "year": FieldType.INT,
    "price": FieldType.FLOAT,
    "lang": FieldType.STR,
    "open": FieldType.BOOL,
    "at": FieldType.DATETIME,
    "tags": FieldType.LIST_STR,
    "sizes": FieldType.LIST_INT,
    "user.id": FieldType.INT,
}
MOMENT = datetime(2024, 3, 1, tzinfo=UTC)


def year(op: Op, operand: int) -> Compare:
    return Compare(op, ("year",), operand, "year", FieldType.INT)


def at(op: Op, operand: datetime) -> Compare:
    return Compare(op, ("at",), operand, "at", FieldType.DATETIME)


@pytest.mark.parametrize(
    ("filter_", "tree"),
    [
        (None, ALL),
        ({}, ALL),
        ({"a": 1}, Compare(Op.EQ, ("a",), 1)),
        ({"a.b": "x"}, Compare(Op.EQ, ("a", "b"), "x")),
        ({r"a\.b": "x"}, Compare(Op.EQ, ("a.b",), "x")),
        ({r"\$where": "x"}, Compare(Op.EQ, ("$where",), "x")),
        ({"a": None}, IsNull(("a",))),
        ({"a": [1, [None]]}, EqualsList(("a",), (1, (None,)))),
        ({"a": (1, 2)}, EqualsList(("a",), (1, 2))),
        ({"a": {"$ne": 1}}, Not(Compare(Op.EQ, ("a",), 1))),
        ({"a": {"$in": [1, "x"]}}, In(("a",), (1, "x"))),
        ({"a": {"$in": [1, None, [2]]}}, Or((In(("a",), (1,)), IsNull(("a",)), EqualsList(("a",), (2,))))),
        ({"a": {"$in": []}}, NOTHING),
        ({"a": {"$nin": []}}, Not(NOTHING)),
        ({"a": {"$all": []}}, NOTHING),
        ({"a": {"$all": [1]}}, Compare(Op.EQ, ("a",), 1)),
        ({"a": {"$exists": True}}, Exists(("a",))),
        ({"a": {"$exists": False}}, Not(Exists(("a",)))),
        ({"a": {"$contains": None}}, Contains(("a",), None)),
        ({"a": {"$like": "x%"}}, Like(("a",), "x%")),
        ({"a": {"$ilike": "x%"}}, Like(("a",), "x%", ignore_case=True)),
        ({"a": {"$not": {"$gt": 1}}}, Not(Compare(Op.GT, ("a",), 1))),
        ({"a": {"$gt": 1, "$lt": 3}}, And((Compare(Op.GT, ("a",), 1), Compare(Op.LT, ("a",), 3)))),
        ({"a": 1, "b": 2}, And((Compare(Op.EQ, ("a",), 1), Compare(Op.EQ, ("b",), 2)))),
        ({"$and": []}, ALL),
        ({"$or": []}, NOTHING),
        ({"$nor": [{"a": 1}]}, Not(Compare(Op.EQ, ("a",), 1))),
        ({"$not": {"a": 1}}, Not(Compare(Op.EQ, ("a",), 1))),
        ({"$or": [{"a": 1}, {}]}, Or((Compare(Op.EQ, ("a",), 1), ALL))),
        ({"a": date(2024, 3, 1)}, Compare(Op.EQ, ("a",), "2024-03-01")),
        ({"a": datetime(2024, 3, 1)}, Compare(Op.EQ, ("a",), "2024-03-01T00:00:00.000000Z")),
        ({"a": np.int64(3)}, Compare(Op.EQ, ("a",), 3)),
    ],
)
def test_undeclared_paths(filter_: dict[str, Any], tree: object) -> None:
    assert parse(filter_, FIELDS) == tree


@pytest.mark.parametrize(
    ("condition", "tree"),
    [
        (1.0, year(Op.EQ, 1)),
        (1.5, NOTHING),
        (2**63, NOTHING),
        ({"$ne": 1.5}, Not(NOTHING)),
        ({"$gt": 1.5}, year(Op.GT, 1)),
        ({"$gte": 1.5}, year(Op.GTE, 2)),
        ({"$lt": 1.5}, year(Op.LT, 2)),
        ({"$lte": 1.5}, year(Op.LTE, 1)),
        ({"$gt": -1.5}, year(Op.GT, -2)),
        ({"$lte": 2**63}, year(Op.LTE, 2**63 - 1)),
        ({"$lt": 1e300}, year(Op.LTE, 2**63 - 1)),
        ({"$gte": 2**63}, NOTHING),
        ({"$gt": -(2**70)}, year(Op.GTE, -(2**63))),
        ({"$lt": -(2**70)}, NOTHING),
        ({"$in": [1, 2.0, 2.5, 2**80]}, In(("year",), (1, 2), "year", FieldType.INT)),
        ({"$in": [2.5]}, NOTHING),
        (None, IsNull(("year",), "year", FieldType.INT)),
    ],
)
def test_numbers_for_a_declared_integer_become_bigints(condition: object, tree: object) -> None:
    assert parse({"year": condition}, FIELDS) == tree


@pytest.mark.parametrize(
    "operand",
    [
        MOMENT,
        datetime(2024, 3, 1),
        datetime(2024, 3, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        date(2024, 3, 1),
        "2024-03-01",
        "2024-03-01T00:00:00Z",
        "2024-03-01T01:00:00+01:00",
    ],
)
def test_every_spelling_of_a_moment_is_one_moment(operand: object) -> None:
    assert parse({"at": {"$gte": operand}}, FIELDS) == at(Op.GTE, MOMENT)


def test_a_declared_name_with_a_dot_is_literal_however_it_is_written() -> None:
    bound = Compare(Op.EQ, ("user.id",), 7, "user.id", FieldType.INT)
    assert parse({"user.id": 7}, FIELDS) == parse({r"user\.id": 7}, FIELDS) == bound


def test_contains_on_a_declared_list_is_equality_with_an_element() -> None:
    bound = Compare(Op.EQ, ("tags",), "a", "tags", FieldType.LIST_STR)
    assert parse({"tags": {"$contains": "a"}}, FIELDS) == parse({"tags": "a"}, FIELDS) == bound
    assert parse({"tags": {"$contains": None}}, FIELDS) == NOTHING


def test_whole_lists_of_a_declared_list() -> None:
    assert parse({"sizes": [1, 2.0]}, FIELDS) == EqualsList(("sizes",), (1, 2), "sizes", FieldType.LIST_INT)
    assert parse({"sizes": [1, 2.5]}, FIELDS) == NOTHING
    assert parse({"sizes": [1, None]}, FIELDS) == NOTHING


def test_numbers_beyond_a_float_are_infinite_for_a_declared_float() -> None:
    node = parse({"price": {"$lt": 2**1024 - 1}}, FIELDS)
    assert node == Compare(Op.LT, ("price",), float("inf"), "price", FieldType.FLOAT)


@pytest.mark.parametrize(
    ("filter_", "words"),
    [
        ({"a": {"$gtt": 1}}, ["$gtt", "Did you mean $gt"]),
        ({"a": {"$GTE": 1}}, ["$GTE", "Did you mean $gte"]),
        ({"a": {"$between": [1, 2]}}, ["$between", "$gte and $lte"]),
        ({"a": {"$where": "1"}}, ["$where", "never run code"]),
        ({"a": {"$or": [1]}}, ["$or", "combines whole filters"]),
        ({"a": {"$zzzzzzzzzz": 1}}, ["Known:", "$contains"]),
        ({"$adn": []}, ["$adn", "Did you mean $and"]),
        ({"$gt": 1}, ["$gt", "where a field name should"]),
        ({"$and": {"a": 1}}, ["$and", "list of filters", "dict"]),
        ({"$and": [1]}, ["A filter is a dict", "int 1"]),
        ({"$not": [{"a": 1}]}, ["A filter is a dict"]),
        ([], ["A filter is a dict", "a list"]),
        ("year > 2020", ["A filter is a dict", "a str"]),
        ({1: 2}, ["filter key", "int 1"]),
        ({"a": {}}, ["'a'", "object"]),
        ({"a": {"b": 1}}, ["'a'", "dotted path"]),
        ({"a": {"$gt": 1, "b": 1}}, ["'a'", "not operators"]),
        ({"a": {"$eq": {"b": 1}}}, ["$eq", "'a'", "object"]),
        ({"a": {"$in": [{"b": 1}]}}, ["$in", "object"]),
        ({"a": {"$gt": True}}, ["$gt", "'a'", "bool True"]),
        ({"a": {"$lt": None}}, ["$lt", "null"]),
        ({"a": {"$gte": [1]}}, ["$gte", "a list", "$in"]),
        ({"a": {"$in": 1}}, ["$in", "needs a list", "int 1"]),
        ({"a": {"$in": "ab"}}, ["$in", "needs a list", "a str"]),
        ({"a": {"$nin": {1}}}, ["$nin", "set", "sorted"]),
        ({"a": {"$all": "x"}}, ["$all", "needs a list"]),
        ({"a": {"$exists": 1}}, ["$exists", "True or False"]),
        ({"a": {"$not": 1}}, ["$not", "$ne"]),
        ({"a": {"$contains": [1]}}, ["$contains", "$all"]),
        ({"a": {"$like": 1}}, ["$like", "text pattern"]),
        ({"a": {"$like": "x\\"}}, ["$like", "lone backslash"]),
        ({"a": {"$ilike": "x" * 1001}}, ["$ilike", "1000"]),
        ({"a": float("nan")}, ["$eq", "nan"]),
        ({"a": float("inf")}, ["$eq", "inf"]),
        ({"a": "x\0"}, ["$eq", "NUL"]),
        ({"a": "\ud800"}, ["$eq", "surrogate"]),
        ({"a": b"x"}, ["$eq", "bytes", "base64"]),
        ({"a": object()}, ["$eq", "object"]),
        ({"a": 1 << 1024}, ["$eq", "1024 bits"]),
        ({"a\0": 1}, ["filter key", "NUL"]),
        ({"\ud800": 1}, ["filter key", "surrogate"]),
        ({"year": "2020"}, ["$eq", "'year'", "declared int", "a str", "Give a number"]),
        ({"year": True}, ["'year'", "declared int", "bool True"]),
        ({"year": [2020]}, ["'year'", "declared int", "a list", "$in"]),
        ({"year": {"$in": ["2020"]}}, ["$in", "'year'", "a str"]),
        ({"year": {"$like": "20%"}}, ["$like", "'year'", "declared int"]),
        ({"year": {"$contains": 1}}, ["$contains", "'year'", "declared int"]),
        ({"lang": {"$contains": "e"}}, ["$contains", "'lang'", "$like"]),
        ({"lang": 1}, ["'lang'", "declared str", "int 1"]),
        ({"lang": {"$gt": 1}}, ["$gt", "'lang'", "declared str"]),
        ({"open": 1}, ["'open'", "declared bool", "int 1"]),
        ({"open": {"$gt": 1}}, ["$gt", "'open'", "declared bool"]),
        ({"at": 1}, ["'at'", "declared datetime", "int 1"]),
        ({"at": "yesterday"}, ["'at'", "declared datetime", "ISO 8601"]),
        ({"tags": {"$all": [1]}}, ["$all", "'tags'", "declared list[str]"]),
        ({"price": True}, ["'price'", "declared float", "bool True"]),
    ],
)
def test_errors_name_what_is_wrong(filter_: Any, words: list[str]) -> None:
    with pytest.raises(FilterError) as caught:
        parse(filter_, FIELDS)
    assert [word for word in words if word not in str(caught.value)] == []


def nested(levels: int) -> dict[str, Any]:
    filter_: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        filter_ = {"$not": filter_}
    return filter_


def test_nesting_is_limited() -> None:
    parse(nested(99), {})
    with pytest.raises(FilterError, match="100 levels"):
        parse(nested(100), {})
    with pytest.raises(FilterError, match="100 levels"):
        parse(nested(100_000), {})


def test_a_filter_that_contains_itself_is_refused() -> None:
    filter_: dict[str, Any] = {}
    filter_["$and"] = [filter_, filter_]
    with pytest.raises(FilterError, match="100 levels"):
        parse(filter_, {})
    condition: dict[str, Any] = {}
    condition["$not"] = condition
    with pytest.raises(FilterError, match="100 levels"):
        parse({"a": condition}, {})
    operand: list[Any] = []
    operand.append(operand)
    with pytest.raises(FilterError, match="100 levels"):
        parse({"a": operand}, {})


@pytest.mark.parametrize(
    "filter_",
    [
        {"a": {"$in": list(range(10_001))}},
        {"$or": [{"a": i} for i in range(10_001)]},
        {"$or": [{"a": {"$in": list(range(200))}} for _ in range(60)]},
        {str(i): i for i in range(10_001)},
        {"$or": [{}] * 10_001},
        {"a": [[[0] * 5_000, [[0] * 5_001]]]},
    ],
)
def test_size_is_limited(filter_: dict[str, Any]) -> None:
    with pytest.raises(FilterError, match="10,000"):
        parse(filter_, {})


def test_large_filters_within_the_limit_pass() -> None:
    node = parse({"a": {"$in": list(range(10_000))}}, {})
    assert isinstance(node, In)
    assert len(node.operands) == 10_000


def test_a_path_of_too_many_parts_is_refused() -> None:
    with pytest.raises(FilterError, match="100 parts"):
        parse({".".join("a" * 101): 1}, {})


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("", ("",)),
        ("..", ("", "", "")),
        (r"a\.b.c", ("a.b", "c")),
        (r"a\\.b", ("a\\", "b")),
        (r"a\x", ("a\\x",)),
        (r"\$a\$b", ("$a$b",)),
        ("é.\u202e", ("é", "\u202e")),
    ],
)
def test_paths(key: str, path: tuple[str, ...]) -> None:
    assert split_path(key) == path


@pytest.mark.parametrize(
    ("python_type", "expected"),
    [
        (int, FieldType.INT),
        (float, FieldType.FLOAT),
        (str, FieldType.STR),
        (bool, FieldType.BOOL),
        (datetime, FieldType.DATETIME),
        (list[str], FieldType.LIST_STR),
        (list[int], FieldType.LIST_INT),
        (list[float], FieldType.LIST_FLOAT),
        (FieldType.INT, FieldType.INT),
        ("list[str]", FieldType.LIST_STR),
    ],
)
def test_field_types(python_type: object, expected: FieldType) -> None:
    kind = FieldType.of(python_type)
    assert kind is expected
    assert FieldType.of(kind.python_type) is kind


@pytest.mark.parametrize(
    "python_type", [dict, list, list[bool], list[datetime], date, None, "text", int | None, 3]
)
def test_unsupported_field_types_are_named(python_type: object) -> None:
    with pytest.raises(InputError, match=r"'year'.*cannot be of type"):
        FieldType.of(python_type, "year")


@pytest.mark.parametrize(
    ("filter_", "text"),
    [
        ({}, "everything"),
        ({"$or": []}, "nothing"),
        (
            {"year": {"$gte": 2020}, "$or": [{"lang": "en"}, {"tags": {"$ne": "x"}}]},
            'year >= 2020 and (lang = "en" or not (tags = "x"))',
        ),
        ({"a": {"$in": list(range(12))}}, "a in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2 more]"),
        ({"a": None, "x y.z": {"$exists": True}}, 'a is null and "x y".z exists'),
        ({"a": {"$ilike": "é%"}}, 'a ilike "é%"'),
        ({"a": {"$contains": 1}}, "a contains 1"),
        ({"a": [1, "b"]}, 'a = [1, "b"]'),
        ({"at": {"$lt": date(2024, 1, 1)}}, "at < 2024-01-01T00:00:00.000000Z"),
        ({"a": "\u202ex\ny"}, 'a = "\\u202ex\\ny"'),
        ({"a": "x" * 200}, f'a = "{"x" * 77}..."'),
    ],
)
def test_describe(filter_: dict[str, Any], text: str) -> None:
    assert describe(parse(filter_, FIELDS)) == text


def test_describe_shortens_many_conditions_to_one_line() -> None:
    text = describe(parse({"$or": [{"a": i} for i in range(9_999)]}, {}))
    assert text.endswith(" or 9,989 more")
    assert len(text) < 200
