"""Filters in MongoDB's language: their shape, their limits, and that no operand or key leaves its place."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from bson import Decimal128, Int64, encode
from pymongo import MongoClient
from pymongo.collection import Collection

from svr_retrievers.backends.mongodb import filters as compiling
from svr_retrievers.backends.mongodb.filters import Compiled, Paths, compile_match
from svr_retrievers.backends.mongodb.likes import LONG
from svr_retrievers.backends.mongodb.push import MAX_CLAUSES, MAX_TEXT_BYTES, Pushed, compile_push
from svr_retrievers.filters import FieldType, evaluate, parse, typed_value

FIELDS = {
    "n": FieldType.INT,
    "f": FieldType.FLOAT,
    "s": FieldType.STR,
    "ok": FieldType.BOOL,
    "at": FieldType.DATETIME,
    "tags": FieldType.LIST_STR,
}
PATHS = Paths("metadata", {name: f"svr.f.{name}" for name in FIELDS}, "svr.z")
TOP = Paths("", PATHS.typed, PATHS.missing)
NOTHING = {"$nor": [{}]}


def match(filter_: dict[str, object], paths: Paths = PATHS) -> Compiled:
    return compile_match(parse(filter_, FIELDS), paths)


def push(filter_: dict[str, object]) -> Pushed:
    return compile_push(parse(filter_, FIELDS), PATHS)


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ({}, {}),
        ({"$or": []}, NOTHING),
        ({"$nor": []}, {}),
        ({"$not": {"$or": []}}, {}),
        ({"a": 1}, {"metadata.a": {"$eq": 1}}),
        ({"a": "$b"}, {"metadata.a": {"$eq": "$b"}}),
        ({"a.b": {"$in": [1, "x"]}}, {"metadata.a.b": {"$in": [1, "x"]}}),
        ({"a": {"$ne": 1}}, {"$nor": [{"metadata.a": {"$eq": 1}}]}),
        ({"0.x": 1}, {"metadata.0.x": {"$eq": 1}}),
        ({"a": None}, {"metadata.a": {"$eq": None}}),
        (
            {"a.b": None},
            {"$or": [{"metadata.a.b": {"$exists": False}}, {"metadata.a.b": {"$type": "null"}}]},
        ),
        ({"a": {"$contains": None}}, {"metadata.a": {"$elemMatch": {"$eq": None}}}),
        ({"a": ["$b"]}, {"$expr": {"$eq": ["$metadata.a", {"$literal": ["$b"]}]}}),
        ({"n": 3}, {"svr.f.n": {"$eq": 3}}),
        ({"n": None}, {"svr.f.n": {"$eq": None}}),
        ({"tags": ["a"]}, {"svr.f.tags": {"$eq": ["a"]}}),
        ({"at": {"$gte": "1970-01-01T00:00:01Z"}}, {"svr.f.at": {"$gte": 1_000_000}}),
        ({"n": {"$exists": True}}, {"metadata.n": {"$exists": True}}),
        ({"a": 1, "$and": [{"b": 2}]}, {"$and": [{"metadata.a": {"$eq": 1}}, {"metadata.b": {"$eq": 2}}]}),
        ({"$nor": [{"a": 1}, {"b": 2}]}, {"$nor": [{"metadata.a": {"$eq": 1}}, {"metadata.b": {"$eq": 2}}]}),
        ({"s": {"$like": "a%"}}, {"svr.f.s": {"$regex": "^a", "$options": "s"}}),
        ({"s": {"$like": "%a.b%"}}, {"svr.f.s": {"$regex": r"a\.b", "$options": "s"}}),
        ({"s": {"$like": "%ab"}}, {"svr.f.s": {"$regex": r"^.{2,}+(?<=ab)\z", "$options": "s"}}),
        ({"s": {"$ilike": "a_"}}, {"svr.f.s": {"$regex": r"^[Aa].\z", "$options": "s"}}),
    ],
    ids=str,
)  # fmt: skip
def test_shapes(filter_: dict[str, object], expected: dict[str, object]) -> None:
    assert match(filter_) == Compiled(expected, exact=True)


def test_moments_and_integers_are_compared_as_64_bits() -> None:
    operand = match({"at": "1970-01-01T00:00:01Z"}).match["svr.f.at"]
    assert isinstance(operand["$eq"], Int64)
    assert isinstance(match({"n": 1}).match["svr.f.n"]["$eq"], Int64)


@pytest.mark.parametrize(
    ("operand", "forms", "exact"),
    [
        (2**53, [2**53], True),
        (2**53 + 1, [Int64(2**53 + 1)], True),
        (1, [1], True),
        (2**60, [Int64(2**60)], False),
        (10**22, [Decimal128(str(10**22))], True),
        (10**23, [Decimal128("100000000000000000000000"), 1e23], False),
        (10**40 + 1, [Decimal128("1.000000000000000000000000000000000E+40")], False),
    ],
    ids=str,
)
def test_large_numbers_are_exact_unless_a_float_lies_by(operand: int, forms: list, exact: bool) -> None:
    compiled = match({"a": {"$in": [operand]}})
    condition = compiled.match["metadata.a"]
    assert (condition.get("$in", [condition.get("$eq")]), compiled.exact) == (forms, exact)


def test_a_leaf_that_is_not_exact_matches_more_and_its_negation_everything() -> None:
    assert match({"a": {"$gt": 2**60}}) == Compiled({"metadata.a": {"$gte": float(2**60) - 128}}, exact=False)
    assert match({"a": {"$not": {"$gt": 2**60}}}) == Compiled({}, exact=False)
    assert match({"a": {"$not": {"$gt": 2**60}}, "b": 1}) == Compiled({"metadata.b": {"$eq": 1}}, exact=False)
    assert match({"$not": {"a": 2**60, "b": 1}}) == Compiled({}, exact=False)
    assert match({"$nor": [{"a": 2**60}, {"b": 1}]}) == Compiled(
        {"$nor": [{"metadata.b": {"$eq": 1}}]}, exact=False
    )


@pytest.mark.parametrize("key", [".", "$where", "$$ROOT", "a.0", r"a\.b", r"\$expr", "svr", "_id", ""])
@pytest.mark.parametrize("operand", ["$svr.n", "$$ROOT", {"$in": ["$svr.n", "$$NOW"]}, ["$svr.n"]], ids=str)
def test_keys_and_operands_stay_in_their_place(key: str, operand: object) -> None:
    if key in {"$where", "$$ROOT"}:
        key = "\\" + key
    for filter_ in (
        {key: operand},
        {key: {"$not": operand if isinstance(operand, dict) else {"$eq": operand}}},
    ):
        check(match(filter_).match)


VARIABLES = {
    "$metadata", "$$this", "$$value", "$$key", "$$objects", "$$o", "$$p.k", "$$p.v", "$$p", "$$v", "$$values",
    "$metadata.svr", "$metadata._id",
}  # fmt: skip


def check(part: object, *, literal: bool = False, expression: bool = False) -> None:
    """Outside `$literal` no text of the filter's is one that an expression would look up."""
    if isinstance(part, dict):
        for key, value in part.items():
            inside = expression or key == "$expr"
            if not inside and not key.startswith("$"):
                assert key.startswith("metadata."), part
            check(value, literal=literal or key == "$literal", expression=inside)
    elif isinstance(part, list):
        for each in part:
            check(each, literal=literal, expression=expression)
    elif expression and not literal and isinstance(part, str) and part.startswith("$"):
        assert part in VARIABLES


def test_metadata_may_be_the_documents_own_fields() -> None:
    assert match({"year": 3}, TOP).match == {"year": {"$eq": 3}}
    assert match({"a": [1]}, TOP).match == {"$expr": {"$eq": ["$a", {"$literal": [1]}]}}
    assert "$$ROOT" in str(match({"a.0": 3}, TOP).match)


def test_a_filter_too_large_for_one_command_is_left_to_the_caller() -> None:
    large = {"$or": [{"a": f"{i}{'x' * 20_000}"} for i in range(1_000)]}
    assert match(large) == Compiled({}, exact=False)
    assert len(encode(match({"a": {"$in": ["x" * 1000] * 7_000}}).match)) < compiling.MAX_BYTES


@pytest.fixture(scope="module")
def collection(mongodb_server: str) -> Iterator[Collection]:
    with MongoClient(mongodb_server) as client:
        name = f"svr_test_{secrets.token_hex(6)}"
        yield client.get_database(name).get_collection("documents")
        client.drop_database(name)


def found(collection: Collection, filter_: dict[str, object], paths: Paths = PATHS) -> set[int]:
    """Within what a backend puts around a filter."""
    compiled = match(filter_, paths)
    around = [{"$match": {"$and": [{"svr.n": {"$in": ["", None]}}, compiled.match]}}]
    pipeline = [{"$match": {"_id": None}}, {"$unionWith": {"coll": collection.name, "pipeline": around}}]
    return {row["_id"] for row in collection.aggregate(pipeline)}


def nested(levels: int, *, negated: bool) -> dict[str, object]:
    inner: dict[str, object] = {"a.0": 1}
    for level in range(levels):
        inner = {"a": {"$ne": level + 2}, "$or": [{"b": level}, inner]}
        inner = {"$not": inner} if negated else inner
    return inner


@pytest.mark.parametrize(
    ("levels", "negated", "exact"),
    [
        (1, False, True),
        (25, False, True),
        (26, False, False),
        (48, False, False),
        (1, True, True),
        (16, True, True),
        (17, True, False),
        (24, True, False),
    ],
)
def test_deep_filters_are_taken_and_find_at_least_what_they_mean(
    collection: Collection, levels: int, negated: bool, exact: bool
) -> None:
    rows = [{"a": {"0": 1}}, {"a": 1, "b": 3}, {"a": 3, "b": levels - 1}, {}]
    collection.delete_many({})
    collection.insert_many([{"_id": i, "metadata": row} for i, row in enumerate(rows)])
    filter_ = nested(levels, negated=negated)
    node = parse(filter_, FIELDS)
    wanted = {i for i, row in enumerate(rows) if evaluate(node, row, {})}
    answered = found(collection, filter_)
    assert answered == wanted if exact else answered >= wanted
    assert compile_match(node, PATHS).exact is exact


@pytest.mark.parametrize("levels", [20, 90])
def test_a_deep_list_is_compared_with_as_far_as_the_server_takes_it(
    collection: Collection, levels: int
) -> None:
    operand: list = [1]
    for _ in range(levels):
        operand = [operand]
    collection.delete_many({})
    collection.insert_many(
        [{"_id": 1, "metadata": {"a": operand}}, {"_id": 2, "metadata": {"a": operand[0]}}]
    )
    assert found(collection, {"a": operand}) == ({1} if levels == 20 else {1, 2})
    assert match({"a": operand}).exact is (levels == 20)


HOSTILE = [
    "%" + "a%" * 100 + "c",
    "%_" * 100 + "%c",
    "%" + "a_" * 50 + "%",
    "%" + "a" * 100 + "b%",
    "%" * 1000,
]
TAME = ["%ab%b%", "%a%c", "a%b", "a%b%", "%b%c", "b%a_c", "%c%b", "cb%ab%c", "%é%b"]
LONG_TEXTS = [
    "a" * 300_000 + "b",
    "ac" * 100_000 + "ab",
    "cb" + "ab" * 60_000 + "c",
    "é" * LONG + "ab",
    "a" * LONG,
]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", HOSTILE + TAME, ids=lambda p: p[:9])
def test_patterns_on_long_texts(collection: Collection, pattern: str) -> None:
    """Where the server would give a scan up, and answer as if there were no match."""
    rows = [{"t": text, "": [0, text], "s": text} for text in [*LONG_TEXTS, "ab", ""]]
    if collection.count_documents({"metadata.t": {"$exists": True}}) != len(rows):
        collection.delete_many({})
        collection.insert_many(
            [{"_id": i, "metadata": row, "svr": {"f": {"s": row["s"]}}} for i, row in enumerate(rows)]
        )
    for operator in ("$like", "$ilike"):
        for field in ("t", "", "s"):
            filter_ = {field: {operator: pattern}}
            node = parse(filter_, FIELDS)
            typed = [{"s": typed_value("s", FieldType.STR, row)} for row in rows]
            wanted = {i for i, row in enumerate(rows) if evaluate(node, row, typed[i])}
            assert found(collection, filter_) == wanted
            assert found(collection, {"$not": filter_}) == set(range(len(rows))) - wanted


def test_metadata_at_the_top_are_filtered_like_others(collection: Collection) -> None:
    collection.delete_many({})
    collection.insert_many([{"_id": 1, "a": [{"0": 1}], "t": ["x"]}, {"_id": 2, "a": [1], "t": [["x"], 1]}])
    assert found(collection, {"a.0": 1}, TOP) == {1}
    assert found(collection, {"a.0": {"$exists": False}}, TOP) == {2}
    assert found(collection, {"t": ["x"]}, TOP) == {1}
    assert found(collection, {"t": {"$contains": "x"}}, TOP) == {1}


@pytest.mark.parametrize(
    ("filter_", "expected", "exact"),
    [
        ({}, None, True),
        ({"a": 1}, None, False),
        ({"$not": {"a": 1}}, None, False),
        ({"$or": []}, {"svr.z": {"$eq": ""}}, True),
        ({"n": 3}, {"svr.f.n": {"$eq": 3}}, True),
        ({"n": 3, "a": 1}, {"svr.f.n": {"$eq": 3}}, False),
        ({"$or": [{"n": 3}, {"a": 1}]}, None, False),
        ({"$nor": [{"n": 3}, {"a": 1}]}, {"$nor": [{"svr.f.n": {"$eq": 3}}]}, False),
        ({"$not": {"n": 3, "a": 1}}, None, False),
        ({"n": None}, {"svr.z": {"$eq": "n"}}, True),
        ({"n": {"$in": [None, 1]}}, {"$or": [{"svr.f.n": {"$in": [1]}}, {"svr.z": {"$eq": "n"}}]}, True),
        ({"n": {"$nin": [1, 2]}}, {"$nor": [{"svr.f.n": {"$in": [1, 2]}}]}, True),
        ({"s": {"$like": "a%"}}, {"svr.z": {"$ne": "s"}}, False),
        ({"s": {"$not": {"$like": "a%"}}}, None, False),
        ({"tags": ["a", "a"]}, {"$and": [{"svr.z": {"$ne": "tags"}}, {"svr.f.tags": {"$eq": "a"}}]}, False),
        ({"tags": []}, {"svr.z": {"$ne": "tags"}}, False),
        ({"n": {"$exists": True}}, None, False),
        ({"n": {"$exists": False}}, {"$nor": [{"svr.z": {"$ne": "n"}}]}, False),
        ({"f": {"$lt": 2**1024 - 1}}, {"svr.z": {"$ne": "f"}}, True),
        ({"f": {"$gt": 2**1024 - 1}}, {"svr.z": {"$eq": ""}}, True),
        ({"f": {"$in": [-0.0, 2**1024 - 1]}}, {"svr.f.f": {"$in": [0.0]}}, True),
        ({"s": "x" * (MAX_TEXT_BYTES + 1)}, {"svr.z": {"$ne": "s"}}, False),
        ({"s": {"$in": ["é" * MAX_TEXT_BYTES, "a"]}}, None, False),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_a_search_can_filter_by(
    filter_: dict[str, object], expected: dict[str, object] | None, exact: bool
) -> None:
    assert push(filter_) == Pushed(expected, exact)


def test_a_zero_is_pushed_without_its_sign() -> None:
    assert str(push({"f": -0.0}).filter) == str({"svr.f.f": {"$eq": 0.0}})


def test_more_clauses_than_the_engine_takes_are_not_pushed() -> None:
    assert push({"$or": [{"n": i} for i in range(MAX_CLAUSES)]}).exact
    assert push({"$or": [{"n": i} for i in range(MAX_CLAUSES + 1)]}) == Pushed(None, exact=False)
    assert push({"n": {"$in": list(range(5_000))}}).exact
