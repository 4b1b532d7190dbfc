"""Filters on adopted documents: whatever types their owner used, the answers are those that memory gives."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import bson
import numpy as np
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex
from pymongo import MongoClient
from pymongo.database import Database

from svr_retrievers import SVRClient
from svr_retrievers.filters import evaluate, parse

pytestmark = pytest.mark.mongodb

Row = dict[str, object]


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Database[Row]]:
    with MongoClient[Row](mongodb_url) as opened:
        yield opened.get_default_database()


@pytest.fixture
def client(mongodb_url: str) -> Iterator[SVRClient]:
    with SVRClient(mongodb_url) as opened:
        yield opened


VALUES: list[object] = [
    None, True, False, 0, 1, -1, 2.5, -0.0, 2**53, 2**53 + 1, float(2**53), 2**60, 1e16, 1e22, "", "a", "A", "ab", "é",
    "1", "2024-01-01T00:00:00.000000Z", "a" * 24, ObjectId("a" * 24), ObjectId("b" * 24),
    datetime(2024, 1, 1, tzinfo=UTC), datetime(2023, 5, 1, 2, 3, 4, 5000, tzinfo=UTC),
    Decimal128("1"), Decimal128("2.5"),
    Decimal128(Decimal(2**60)), Decimal128("0.1000000000000000000000001"), b"\x00\x01",
    Binary.from_uuid(uuid.UUID(int=9)), float("nan"), float("inf"), float("-inf"),
    Regex("a.*"), bson.Code("a"), bson.Timestamp(1, 1), bson.MinKey(),
    Int64(5), bson.DBRef("a", ObjectId("a" * 24)),
]  # fmt: skip
KEYS = ["a", "b", "c", "d.e", "0", "", "$x", "text", "text2"]
OPERANDS: list[object] = [
    True, False, 0, 1, -1, 2.5, 2**53, 2**53 + 1, 2**60, 5, 1e16, "", "a", "ab", "é", "1", "a" * 24, "b" * 24,
    datetime(2024, 1, 1), "2023-05-01T02:03:04.005000Z", "NaN", "Infinity", "AAE=", str(uuid.UUID(int=9)), "a.*",
]  # fmt: skip
SEEDS = 6
FILTERS_EACH = 100


def _value(rng: np.random.Generator, depth: int = 0) -> object:
    kind = rng.integers(0, 10)
    if depth < 3 and kind == 0:
        return {_key(rng, inside=True): _value(rng, depth + 1) for _ in range(rng.integers(0, 3))}
    if depth < 3 and kind in (1, 2):
        return [_value(rng, depth + 1) for _ in range(rng.integers(0, 4))]
    return VALUES[rng.integers(0, len(VALUES))]


def _key(rng: np.random.Generator, *, inside: bool = False) -> str:
    keys = KEYS if inside else [key for key in KEYS if not key.startswith("$") and key != "text"]
    return keys[rng.integers(0, len(keys))]


def _condition(rng: np.random.Generator) -> dict[str, object]:
    keys = [KEYS[rng.integers(0, len(KEYS))] for _ in range(rng.integers(1, 3))]
    path = ".".join(key.replace(".", "\\.").replace("$", "\\$") for key in keys)
    operator = [
        "$eq",
        "$ne",
        "$in",
        "$nin",
        "$gt",
        "$gte",
        "$lt",
        "$lte",
        "$exists",
        "$contains",
        "$like",
        "$all",
    ][rng.integers(0, 12)]
    one = OPERANDS[rng.integers(0, len(OPERANDS))]
    several = [OPERANDS[rng.integers(0, len(OPERANDS))] for _ in range(rng.integers(0, 3))]
    operand: object = one
    if operator in ("$gt", "$gte", "$lt", "$lte") and isinstance(one, bool):
        operand = 1
    elif operator in ("$in", "$nin", "$all"):
        operand = [*several, None] if rng.integers(0, 3) == 0 and operator != "$all" else several
    elif operator in ("$eq", "$ne"):
        operand = [one, None, several][rng.integers(0, 3)]
    elif operator == "$exists":
        operand = bool(rng.integers(0, 2))
    elif operator == "$like":
        operand = ["%", "a%", "%a%", "2024%", "_", "%=", "aaaa%"][rng.integers(0, 7)]
    condition = {operator: operand}
    return {path: {"$not": condition} if rng.integers(0, 3) == 0 else condition}


def _filter(rng: np.random.Generator) -> dict[str, object]:
    kind = rng.integers(0, 6)
    if kind == 0:
        return {"$or": [_condition(rng), _condition(rng)]}
    if kind == 1:
        return {"$nor": [_condition(rng), _condition(rng)]}
    if kind == 2:
        return {"$and": [_condition(rng), {"$not": _condition(rng)}]}
    return _condition(rng)


@pytest.mark.parametrize("layout", ["flat", "field"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_filters_answer_as_in_memory(
    client: SVRClient, database: Database[Row], seed: int, layout: str
) -> None:
    rng = np.random.default_rng([seed, len(layout)])
    theirs = database["docs"]
    bodies = [{_key(rng): _value(rng) for _ in range(rng.integers(1, 4))} for _ in range(80)]
    common = {"text": "t", "embedding": [1.0, 2.0]}
    theirs.insert_many(
        [
            {"_id": f"{at:02}", **common, **(b if layout == "flat" else {"m": b})}
            for at, b in enumerate(bodies)
        ]
    )
    found = client.adopt_collection("mine", "docs", metadata_field=None if layout == "flat" else "m")
    assert found.adopted is not None
    assert found.adopted.taken >= 60, found.adopted.problems[:3]
    known = {each.id: each.metadata for each in found.find()}

    matched = 0
    for _ in range(FILTERS_EACH):
        filter_ = _filter(rng)
        node = parse(filter_, {})
        expected = [name for name, metadata in sorted(known.items()) if evaluate(node, metadata, {})]
        assert [each.id for each in found.find(filter_)] == expected, filter_
        matched += 0 < len(expected) < len(known)
    assert matched > FILTERS_EACH // 8
