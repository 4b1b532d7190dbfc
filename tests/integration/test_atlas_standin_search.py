"""The Atlas stand-in: what `$vectorSearch` finds, how it scores, and what it refuses, over the real socket."""

from __future__ import annotations

import datetime as dt
import math
import os
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from bson import Decimal128, ObjectId
from bson.binary import Binary, BinaryVectorDtype
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from svr_retrievers.testing.mongodb.waiting import built, counted, told

pytestmark = [
    pytest.mark.usefixtures("mongodb_server"),
    pytest.mark.skipif("SVR_TEST_MONGODB_URI" in os.environ, reason="these test the stand-in itself"),
]

Documents = list[dict[str, object]]
SCORE = {"$project": {"s": {"$meta": "vectorSearchScore"}}}


def definition(*filters: str, similarity: str = "cosine", dimensions: int = 2) -> dict[str, object]:
    vector = {"type": "vector", "path": "v", "numDimensions": dimensions, "similarity": similarity}
    return {"fields": [vector, *({"type": "filter", "path": path} for path in filters)]}


@pytest.fixture
def db(mongodb_url: str) -> Iterator[Database]:
    with MongoClient(mongodb_url) as client:
        yield client.get_default_database()


def stage(vector: object = (1.0, 0.0), *, limit: int = 100, **more: object) -> dict[str, object]:
    query = list(vector) if isinstance(vector, tuple) else vector
    asked = {"index": "ix", "path": "v", "queryVector": query, "limit": limit, "exact": True}
    if "numCandidates" in more:
        del asked["exact"]
    return {"$vectorSearch": {k: v for k, v in (asked | more).items() if v is not ...}}


def found(coll: Collection, *stages: dict[str, object], **more: object) -> Documents:
    return coll.aggregate([stage(**more), *stages]).to_list()


def ids(coll: Collection, **more: object) -> list[object]:
    return [each["_id"] for each in found(coll, **more)]


@pytest.fixture
def few(db: Database) -> Collection:
    """Four points around a circle; `n` counts, `t` tags."""
    db.c.insert_many([
        {"_id": 0, "v": [1.0, 0.0], "n": 0, "t": ["a", "b"]},
        {"_id": 1, "v": [0.0, 2.0], "n": 1, "t": ["b"]},
        {"_id": 2, "v": [-1.0, 0.0], "n": 2.5, "t": []},
        {"_id": 3, "v": [1.0, 1.0], "n": None},
    ])  # fmt: skip
    built(db.c, "ix", definition("n", "t"))
    return db.c


def test_the_nearest_come_first_with_lucenes_cosine_score(few: Collection) -> None:
    hits = found(few, SCORE)
    assert [h["_id"] for h in hits] == [0, 3, 1, 2]
    assert [h["s"] for h in hits] == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [("dotProduct", {0: 1.0, 1: 0.5, 2: 0.0, 3: 1.0}), ("euclidean", {0: 1.0, 1: 1 / 6, 2: 0.2, 3: 0.5})],
)
def test_other_similarities_score_as_lucene_does(few: Collection, similarity: str, expected: dict) -> None:
    few.drop_search_index("ix")
    built(few, "ix", definition(similarity=similarity))
    assert {h["_id"]: h["s"] for h in found(few, SCORE)} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("dtype", "similarity", "scores"), [
    (BinaryVectorDtype.FLOAT32, "cosine", [1.0, 0.5]),
    (BinaryVectorDtype.INT8, "cosine", [1.0, 0.5]),
    (BinaryVectorDtype.INT8, "dotProduct", [0.5 + 16 / (8 << 15), 0.5]),
    (BinaryVectorDtype.INT8, "euclidean", [1.0, 1 / 33]),
])  # fmt: skip
def test_bindata_vectors_are_scored_by_their_kind(
    db: Database, dtype: BinaryVectorDtype, similarity: str, scores: list[float]
) -> None:
    first, second = [4, 0, 0, 0, 0, 0, 0, 0], [0, 4, 0, 0, 0, 0, 0, 0]
    for n, values in enumerate((first, second)):
        db.c.insert_one({"_id": n, "v": Binary.from_vector(values, dtype)})
    built(db.c, "ix", definition(similarity=similarity, dimensions=8))
    assert [h["s"] for h in found(db.c, SCORE, vector=Binary.from_vector(first, dtype))] == pytest.approx(
        scores
    )


def test_packed_bits_count_the_bits_that_agree(db: Database) -> None:
    def bits(*values: int) -> Binary:
        return Binary.from_vector(list(values), BinaryVectorDtype.PACKED_BIT)

    db.c.insert_many([{"_id": 0, "v": bits(0b11110000)}, {"_id": 1, "v": bits(0b11111111)}])
    built(db.c, "ix", definition(similarity="euclidean", dimensions=8))
    assert [(h["_id"], h["s"]) for h in found(db.c, SCORE, vector=bits(0b11110001))] == [
        (0, 7 / 8),
        (1, 5 / 8),
    ]


def test_a_query_of_another_kind_than_the_vectors_finds_nothing_without_an_error(db: Database) -> None:
    db.c.insert_one({"_id": 0, "v": Binary.from_vector([1, 1], BinaryVectorDtype.INT8)})
    built(db.c, "ix", definition())
    assert ids(db.c, vector=(1.0, 1.0)) == []
    assert ids(db.c, vector=Binary.from_vector([1, 1], BinaryVectorDtype.INT8)) == [0]


def test_what_cannot_be_compared_is_left_out_without_an_error(db: Database) -> None:
    db.c.insert_many([
        {"_id": "good", "v": [1.0, 0.0]},
        {"_id": "ints", "v": [1, 1]},
        {"_id": "missing"},
        {"_id": "long", "v": [1.0, 0.0, 0.0]},
        {"_id": "zero", "v": [0.0, 0.0]},
        {"_id": "nan", "v": [float("nan"), 0.0]},
        {"_id": "text", "v": "no"},
        {"_id": "mixed", "v": [1.0, "no"]},
        {"_id": "bits", "v": Binary.from_vector([1], BinaryVectorDtype.PACKED_BIT)},
        {"_id": "bytes", "v": b"12"},
    ])  # fmt: skip
    built(db.c, "ix", definition())
    assert ids(db.c) == ["good", "ints"]


def test_a_missing_index_or_collection_answers_nothing_without_an_error(
    few: Collection, db: Database
) -> None:
    assert ids(few, index="misspelt") == []
    assert ids(db.other) == []
    assert ids(db.client[db.name + "_b"].c) == []


@pytest.mark.parametrize(("given", "expected"), [
    ({"n": 1}, [1]),
    ({"n": {"$eq": 0}}, [0]),
    ({"n": None}, [3]),
    ({"n": {"$ne": 0}}, [3, 1, 2]),
    ({"n": {"$gt": 0}}, [1, 2]),
    ({"n": {"$gte": 0, "$lt": 2.5}}, [0, 1]),
    ({"n": {"$lte": 1}}, [0, 1]),
    ({"n": {"$in": [0, 2.5]}}, [0, 2]),
    ({"n": {"$nin": [0, 2.5]}}, [3, 1]),
    ({"n": {"$gt": ""}}, []),
    ({"n": False}, []),
    ({"t": "b"}, [0, 1]),
    ({"t": {"$ne": "a"}}, [3, 1, 2]),
    ({"t": {"$in": ["a"]}}, [0]),
    ({"t": {"$exists": True}}, [0, 1, 2]),
    ({"t": {"$exists": False}}, [3]),
    ({"n": {"$not": {"$gt": 0}}}, [0, 3]),
    ({"$or": [{"n": 0}, {"n": 1}]}, [0, 1]),
    ({"$nor": [{"n": 0}, {"n": 1}]}, [3, 2]),
    ({"$and": [{"n": {"$gte": 0}}, {"t": "b"}]}, [0, 1]),
    ({"n": {"$gte": 0}, "t": "a"}, [0]),
    ({}, [0, 3, 1, 2]),
])  # fmt: skip
def test_filters_choose_before_the_limit_is_applied(
    few: Collection, given: dict, expected: list[int]
) -> None:
    assert ids(few, filter=given) == expected
    assert ids(few, filter=given, limit=1) == expected[:1]


def test_every_indexable_type_can_be_filtered_within_its_type(db: Database) -> None:
    values: Documents = [
        {"x": 1}, {"x": 1.5}, {"x": "1"}, {"x": True}, {"x": ObjectId("0" * 24)},
        {"x": Binary.from_uuid(uuid.UUID(int=1))}, {"x": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}, {"x": None},
    ]  # fmt: skip
    db.c.insert_many([each | {"_id": n, "v": [1.0, 0.0]} for n, each in enumerate(values)])
    built(db.c, "ix", definition("x"))
    for n, each in enumerate(values):
        assert ids(db.c, filter=each) == [n], each
    assert ids(db.c, filter={"x": {"$gte": "0"}}) == [2]
    assert ids(db.c, filter={"x": {"$gt": 1}}) == [1]
    assert ids(db.c, filter={"x": {"$lt": dt.datetime(2025, 1, 1, tzinfo=dt.UTC)}}) == [6]


def test_dotted_paths_reach_into_documents_and_arrays_of_them(db: Database) -> None:
    db.c.insert_many([
        {"_id": 0, "a": {"v": [1.0, 0.0], "k": 1}},
        {"_id": 1, "a": {"v": [1.0, 0.0], "k": 2}, "l": [{"k": 1}, {"k": 5}]},
    ])  # fmt: skip
    fields = [{"type": "vector", "path": "a.v", "numDimensions": 2, "similarity": "cosine"}]
    built(db.c, "ix", {"fields": fields + [{"type": "filter", "path": p} for p in ("a.k", "l.k")]})
    assert ids(db.c, path="a.v", filter={"a.k": 2}) == [1]
    assert ids(db.c, path="a.v", filter={"l.k": 5}) == [1]
    assert ids(db.c, path="a.v", filter={"l.k": {"$exists": False}}) == [0]


@pytest.mark.parametrize(("more", "said"), [
    ({"filter": {"other": 1}}, "Path 'other' needs to be indexed as"),
    ({"filter": {"n": {"$regex": "a"}}}, "$regex"),
    ({"filter": {"n": {"$elemMatch": {}}}}, "$elemMatch"),
    ({"filter": {"$where": "1"}}, "$where"),
    ({"filter": {"n": {"$in": []}}}, "cannot be empty"),
    ({"filter": {"n": {"$in": [1, "a"]}}}, "same type"),
    ({"filter": {"n": {"$nin": [None]}}}, "same type"),
    ({"filter": {"n": {"a": 1}}}, "must be a boolean"),
    ({"filter": {"n": Decimal128("1")}}, "must be a boolean"),
    ({"filter": {"$or": []}}, "non-empty"),
    ({"filter": {"n": {"$not": 1}}}, "$not"),
    ({"filter": 1}, "must be a document"),
    ({"vector": (1.0,)}, "indexed with 2 dimensions but queried with 1"),
    ({"vector": (0.0, 0.0)}, "zero vector"),
    ({"vector": (1.0, float("nan"))}, "position [1]"),
    ({"vector": "a"}, "parsing vector"),
    ({"path": "n"}, "n is not indexed as vector"),
    ({"limit": 0}, "must be positive"),
    ({"limit": "a"}, "must be an integer"),
    ({"limit": 11, "numCandidates": 10}, "less than or equal"),
    ({"numCandidates": 10_001}, "within bounds"),
    ({"numCandidates": 100, "exact": True}, "omitted"),
    ({"exact": False}, "numCandidates is required"),
    ({"index": ...}, '"index" is required'),
    ({"queryVector": ...}, "query and queryVector"),
    ({"query": "a"}, "query and queryVector"),
    ({"returnStoredSource": True}, "8.2"),
    ({"surprise": 1}, "surprise"),
])  # fmt: skip
def test_a_question_that_atlas_refuses_is_refused(
    few: Collection, more: dict[str, object], said: str
) -> None:
    with pytest.raises(OperationFailure, match="caused by") as caught:
        found(few, **more)
    assert caught.value.code == 8
    assert said in str(caught.value)


def test_the_stage_must_be_the_first(few: Collection) -> None:
    with pytest.raises(OperationFailure) as caught:
        few.aggregate([{"$match": {}}, stage()])
    assert caught.value.code == 40602
    with pytest.raises(OperationFailure):
        few.aggregate([{"$facet": {"a": [stage()]}}])


def test_it_is_refused_in_a_transaction(few: Collection) -> None:
    with few.database.client.start_session() as session, session.start_transaction():
        few.find_one({}, session=session)
        with pytest.raises(OperationFailure) as caught:
            few.aggregate([stage()], session=session)
    assert caught.value.code == 263


def test_the_score_outlives_what_reshapes_documents(few: Collection) -> None:
    meta = {"$meta": "vectorSearchScore"}
    best = {"_id": 0, "s": 1.0}
    for stages in (
        [{"$set": {"s": meta}}, {"$project": {"s": 1}}],
        [{"$addFields": {"s": meta}}, {"$unset": ["v", "n", "t"]}],
        [{"$project": {"n": 1}}, {"$project": {"s": meta}}],
        [{"$project": {"v": 0}}, {"$project": {"s": meta}}],
        [{"$replaceRoot": {"newRoot": {"_id": "$_id"}}}, {"$set": {"s": meta}}],
        [{"$replaceWith": {"_id": "$_id"}}, {"$set": {"s": meta}}],
        [{"$limit": 2}, {"$project": {"s": meta}}, {"$sort": {"s": -1}}],
        [{"$sort": {"n": -1}}, {"$sort": {"score": meta}}, {"$project": {"s": meta}}],
        [{"$project": {"s": {"$multiply": [meta, 1]}}}],
    ):
        assert found(few, *stages)[0] == best, stages


def test_nothing_of_the_stand_in_shows_in_documents(few: Collection) -> None:
    assert found(few, limit=1) == [{"_id": 0, "v": [1.0, 0.0], "n": 0, "t": ["a", "b"]}]
    whole = found(few, {"$project": {"_id": 0, "d": "$$ROOT"}}, limit=1)
    assert whole == [{"d": {"_id": 0, "v": [1.0, 0.0], "n": 0, "t": ["a", "b"]}}]
    facets = found(few, {"$facet": {"a": [{"$limit": 1}]}})
    assert facets[0]["a"][0].keys() == {"_id", "v", "n", "t"}


def test_it_works_within_union_and_lookup(few: Collection, db: Database) -> None:
    union = few.aggregate(
        [stage(limit=1), {"$unionWith": {"coll": "c", "pipeline": [stage((-1.0, 0.0), limit=1)]}}]
    )
    assert [each["_id"] for each in union] == [0, 2]
    db.one.insert_one({"_id": "x"})
    joined = db.one.aggregate(
        [{"$lookup": {"from": "c", "pipeline": [stage(limit=2), SCORE], "as": "near"}}]
    ).to_list()
    assert joined == [{"_id": "x", "near": [{"_id": 0, "s": 1.0}, {"_id": 3, "s": pytest.approx(0.8535534)}]}]
    after = db.one.aggregate([
        {"$unionWith": {"coll": "c", "pipeline": [stage(limit=2), {"$set": {"s": {"$meta": "vectorSearchScore"}}}]}},
    ]).to_list()  # fmt: skip
    assert [each["_id"] for each in after] == ["x", 0, 3]
    assert after[1].keys() == {"_id", "v", "n", "t", "s"}


def test_results_can_be_written_elsewhere(few: Collection, db: Database) -> None:
    found(few, {"$set": {"s": {"$meta": "vectorSearchScore"}}}, {"$out": "kept"})
    assert db.kept.count_documents({"s": {"$gte": 0.5}}) == 3
    assert db.kept.find_one({"_id": 0}).keys() == {"_id", "v", "n", "t", "s"}


def test_many_results_keep_their_order_and_scores_over_several_batches(db: Database) -> None:
    numbers = np.random.default_rng(1).normal(size=(1500, 4))
    db.c.insert_many([
        {"_id": {"a": n}, "v": Binary.from_vector(row.tolist(), BinaryVectorDtype.FLOAT32)}
        for n, row in enumerate(numbers)
    ])  # fmt: skip
    built(db.c, "ix", definition(dimensions=4))
    asked = db.c.aggregate([stage((1.0, 0.0, 0.0, 0.0), limit=1400), SCORE], batchSize=100).to_list()
    cosine = (1 + numbers[:, 0] / np.linalg.norm(numbers, axis=1)) / 2
    order = np.argsort(-cosine)[:1400]
    assert [each["_id"]["a"] for each in asked] == order.tolist()
    assert [each["s"] for each in asked] == pytest.approx(cosine[order], abs=1e-5)


def test_explain_is_answered(few: Collection) -> None:
    explained = few.database.command("explain", {"aggregate": "c", "pipeline": [stage()], "cursor": {}})
    assert explained["ok"] == 1


def test_a_search_takes_as_long_as_told_and_the_client_waits_as_long_as_it_said(few: Collection) -> None:
    told(few.database, searchDelay=60)
    with pytest.raises(OperationFailure) as caught:
        few.aggregate([stage()], maxTimeMS=20)
    assert caught.value.code == 50
    told(few.database, searchDelay=0.001)
    assert len(found(few)) == 4


def test_what_is_asked_is_counted(few: Collection) -> None:
    told(few.database, resetCounts=True)
    found(few)
    found(few, limit=1)
    few.aggregate([{"$unionWith": {"coll": "c", "pipeline": [stage()]}}])
    few.find_one()
    assert counted(few.database, "$vectorSearch") == 3
    assert counted(few.database, "aggregate") == 3
    assert counted(few.database, "find") == 1
    assert counted(few.database, "createSearchIndexes") == 0


def test_approximate_answers_miss_hits_where_told_the_same_each_time(db: Database) -> None:
    numbers = np.random.default_rng(2).normal(size=(400, 4))
    db.c.insert_many([{"_id": n, "v": row.tolist()} for n, row in enumerate(numbers)])
    built(db.c, "ix", definition(dimensions=4))
    query = tuple(numbers[0])
    exact = set(ids(db.c, vector=query, limit=50))

    def recall(candidates: int) -> float:
        return len(exact & set(ids(db.c, vector=query, limit=50, numCandidates=candidates))) / 50

    assert recall(50) == 1.0
    told(db, recall=0.5, recallShare=0.5)
    low, middle = recall(50), recall(120)
    assert 0.4 <= low < middle < 1.0
    assert recall(50) == low
    assert recall(200) == 1.0
    assert set(ids(db.c, vector=query, limit=50)) == exact
