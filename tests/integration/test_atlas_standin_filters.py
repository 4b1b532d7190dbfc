"""The Atlas stand-in's filters against the server's own `$match`, on random documents and random filters."""

from __future__ import annotations

import datetime as dt
import os
import random
import uuid
from collections.abc import Iterator

import pytest
from bson import Int64, ObjectId
from bson.binary import Binary
from pymongo import MongoClient
from pymongo.collection import Collection

from svr_retrievers.testing.mongodb.waiting import built, told

pytestmark = [
    pytest.mark.usefixtures("mongodb_server"),
    pytest.mark.skipif("SVR_TEST_MONGODB_URI" in os.environ, reason="these test the stand-in itself"),
]

BIG = 2**53
VALUES: dict[str, list[object]] = {
    "number": [0, 1, -1, 1.0, 1.5, -0.0, 7, BIG, Int64(BIG + 1), Int64(BIG + 2), 1e300, float("inf")],
    "text": ["", "a", "A", "b", "ab", "\u00e9", "\U0001f600"],
    "bool": [True, False],
    "date": [dt.datetime(2024, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)],
    "object": [ObjectId(f"{n:024x}") for n in (1, 2, 255)],
    "uuid": [Binary.from_uuid(uuid.UUID(int=n)) for n in (1, 2, 2**100)],
}
FIELDS = ("a", "b", "c.d")
DEFINITION = {"fields": [
    {"type": "vector", "path": "v", "numDimensions": 1, "similarity": "dotProduct"},
    *({"type": "filter", "path": path} for path in FIELDS),
]}  # fmt: skip


def value(draw: random.Random) -> object:
    return draw.choice(VALUES[draw.choice(list(VALUES))])


def held(draw: random.Random) -> object:
    if draw.random() < 0.2:
        return [value(draw) for _ in range(draw.randrange(4))]
    return None if draw.random() < 0.05 else value(draw)


def document(draw: random.Random, ident: int) -> dict[str, object]:
    made: dict[str, object] = {"_id": ident, "v": [1.0]}
    for name in ("a", "b"):
        if draw.random() < 0.85:
            made[name] = held(draw)
    if draw.random() < 0.85:
        made["c"] = (
            {"d": held(draw)}
            if draw.random() < 0.8
            else [{"d": value(draw)} for _ in range(draw.randrange(3))]
        )
    return made


def comparison(draw: random.Random) -> dict[str, object]:
    name = draw.choice(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not"])
    if name == "$exists":
        return {name: draw.random() < 0.5}
    if name == "$not":
        return {name: comparison(draw)}
    if name in {"$in", "$nin"}:
        kind = VALUES[draw.choice(list(VALUES))]
        return {name: [draw.choice(kind) for _ in range(draw.randint(1, 3))]}
    return {name: value(draw)}


def clause(draw: random.Random, depth: int = 0) -> dict[str, object]:
    if depth < 2 and draw.random() < 0.3:
        return {
            draw.choice(["$and", "$or", "$nor"]): [clause(draw, depth + 1) for _ in range(draw.randint(1, 3))]
        }
    fields = draw.sample(FIELDS, draw.randint(1, 2))
    return {field: comparison(draw) if draw.random() < 0.8 else value(draw) for field in fields}


@pytest.fixture
def coll(mongodb_url: str) -> Iterator[Collection]:
    with MongoClient(mongodb_url) as client:
        yield client.get_default_database()["c"]


def through_index(coll: Collection, given: dict[str, object]) -> set[object]:
    asked = {"index": "ix", "path": "v", "queryVector": [1.0], "limit": 1000, "exact": True, "filter": given}
    return {each["_id"] for each in coll.aggregate([{"$vectorSearch": asked}, {"$project": {"_id": 1}}])}


@pytest.mark.parametrize("seed", range(4))
def test_a_filter_chooses_what_the_servers_own_chooses(coll: Collection, seed: int) -> None:
    draw = random.Random(seed)
    coll.insert_many([document(draw, n) for n in range(150)])
    built(coll, "ix", DEFINITION)
    for n in range(120):
        if n == 60:  # the same questions, to rows that changed
            coll.delete_many({"_id": {"$lt": 30}})
            coll.insert_many([document(draw, n) for n in range(200, 260)])
            for ident in range(30, 60):
                coll.replace_one({"_id": ident}, document(draw, ident))
            told(coll.database, settle=True)
        given = clause(draw)
        expected = {each["_id"] for each in coll.find(given, {"_id": 1})}
        assert through_index(coll, given) == expected, (seed, given)
