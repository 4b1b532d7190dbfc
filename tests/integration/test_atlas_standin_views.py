"""The Atlas stand-in: indexes on views, and fields that the deployment embeds itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

from svr_retrievers.testing.mongodb.waiting import built, ready, status, told, until

pytestmark = [
    pytest.mark.usefixtures("mongodb_server"),
    pytest.mark.skipif("SVR_TEST_MONGODB_URI" in os.environ, reason="these test the stand-in itself"),
]

PLAIN = {"fields": [{"type": "vector", "path": "v", "numDimensions": 2, "similarity": "cosine"}]}
EMBEDDED = {"fields": [
    {"type": "autoEmbed", "path": "text", "modality": "text", "model": "voyage-4"},
    {"type": "filter", "path": "n"},
]}  # fmt: skip
OVER_ONE = [{"$match": {"$expr": {"$gt": ["$n", 1]}}}, {"$set": {"twice": {"$multiply": ["$n", 2]}}}]


@pytest.fixture
def db(mongodb_url: str) -> Iterator[Database]:
    with MongoClient(mongodb_url) as client:
        db = client.get_default_database()
        db.c.insert_many([{"_id": n, "v": [1.0, float(n)], "n": n} for n in range(4)])
        db.create_collection("view", viewOn="c", pipeline=OVER_ONE)
        yield db


def near(coll: Collection, index: str = "ix", **more: object) -> list[dict]:
    asked = {"index": index, "path": "v", "queryVector": [1.0, 0.0], "limit": 10, "exact": True} | more
    return coll.aggregate([{"$vectorSearch": asked}]).to_list()


def ids(coll: Collection, index: str = "ix") -> list[object]:
    return [each["_id"] for each in near(coll, index)]


def test_a_view_is_indexed_and_queried_itself_and_shows_what_it_adds(db: Database) -> None:
    built(db["view"], "ix", PLAIN)
    assert near(db["view"]) == [{"_id": n, "v": [1.0, float(n)], "n": n, "twice": 2 * n} for n in (2, 3)]
    assert ids(db.c) == []
    assert db.c.list_search_indexes().to_list() == []
    assert status(db["view"], "ix") == "READY"


def test_a_view_of_a_view_and_paths_that_a_view_adds(db: Database) -> None:
    db.create_collection("outer", viewOn="view", pipeline=[{"$addFields": {"w": "$v"}}])
    built(
        db["outer"],
        "ix",
        {"fields": [PLAIN["fields"][0] | {"path": "w"}, {"type": "filter", "path": "twice"}]},
    )
    assert [each["_id"] for each in near(db["outer"], path="w", filter={"twice": 6})] == [3]


def test_documents_enter_and_leave_a_view(db: Database) -> None:
    built(db["view"], "ix", PLAIN)
    db.c.update_one({"_id": 0}, {"$set": {"n": 5}})
    db.c.update_one({"_id": 2}, {"$set": {"n": 0}})
    db.c.insert_one({"_id": 8, "v": [1.0, 0.5], "n": 9})
    told(db, settle=True)
    assert ids(db["view"]) == [0, 8, 3]


def test_a_document_that_left_a_view_drops_out_even_before_the_index_knows(db: Database) -> None:
    built(db["view"], "ix", PLAIN)
    told(db, paused=True)
    db.c.update_one({"_id": 2}, {"$set": {"n": 0}})
    assert ids(db["view"]) == [3]


def test_before_8_1_a_views_index_is_made_elsewhere_and_answers_through_the_collection(db: Database) -> None:
    told(db, serverVersion="8.0.4")
    with pytest.raises(OperationFailure) as caught:
        db["view"].create_search_index(SearchIndexModel(PLAIN, "ix", "vectorSearch"))
    assert caught.value.code == 166
    index = {"name": "ix", "type": "vectorSearch", "definition": PLAIN}
    made = told(db, throughApi={"createSearchIndexes": "view", "indexes": [index]})["created"]
    assert [each["name"] for each in made] == ["ix"]
    ready(db["view"], "ix", PLAIN)
    assert near(db.c) == [{"_id": n, "v": [1.0, float(n)], "n": n} for n in (2, 3)]
    with pytest.raises(OperationFailure) as caught:
        ids(db["view"])
    assert caught.value.code == 40602
    told(db, serverVersion="8.1.0")
    assert ids(db["view"]) == [2, 3]
    assert ids(db.c) == []


def test_names_are_unique_over_a_collection_and_its_views(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    with pytest.raises(OperationFailure) as caught:
        db["view"].create_search_index(SearchIndexModel(PLAIN, "ix", "vectorSearch"))
    assert caught.value.code == 68
    built(db["view"], "other", PLAIN)
    assert ids(db["view"], "ix") == []
    with pytest.raises(OperationFailure) as caught:
        db.c.update_search_index("other", PLAIN)
    assert caught.value.code == 27


@pytest.mark.parametrize(("pipeline", "code"), [
    ([{"$project": {"v": 1}}], 10623000),
    ([{"$unwind": "$v"}], 10623000),
    ([{"$match": {"n": 1}}], 10623001),
    ([{"$match": {"$expr": True, "n": 1}}], 10623001),
    ([{"$set": {"_id": 1}}], 10623002),
    ([{"$addFields": {"r": {"$rand": {}}}}], 10623003),
    ([{"$match": {"$expr": {"$lt": ["$at", "$$NOW"]}}}], 10623004),
    ([{"$set": {"a": {"$let": {"vars": {"CURRENT": "$v"}, "in": 1}}}}], 10623005),
])  # fmt: skip
def test_a_view_that_cannot_be_indexed_is_refused_with_its_code(
    db: Database, pipeline: list, code: int
) -> None:
    db.create_collection("other", viewOn="c", pipeline=pipeline)
    with pytest.raises(OperationFailure) as caught:
        db.other.create_search_index(SearchIndexModel(PLAIN, "ix", "vectorSearch"))
    assert caught.value.code == code


def test_an_index_follows_what_its_view_becomes_and_goes_with_it(db: Database) -> None:
    built(db["view"], "ix", PLAIN)
    db.command({"collMod": "view", "viewOn": "c", "pipeline": [{"$match": {"$expr": {"$lt": ["$n", 2]}}}]})
    until(lambda: ids(db["view"]) == [0, 1])
    ready(db["view"], "ix", PLAIN)
    db.command({"collMod": "view", "viewOn": "c", "pipeline": [{"$limit": 1}]})
    assert status(db["view"], "ix") == "FAILED"
    db["view"].drop()
    assert db["view"].list_search_indexes().to_list() == []
    assert ids(db["view"]) == []


def by_text(db: Database, words: object, **more: object) -> list[object]:
    asked = {"index": "ix", "path": "text", "query": words, "limit": 2, "exact": True} | more
    return [each["_id"] for each in db.t.aggregate([{"$vectorSearch": asked}])]


@pytest.fixture
def embedded(db: Database) -> Database:
    texts = ["a red fox in the snow", "green tea with honey", "the red car of a fox"]
    db.t.insert_many([{"_id": n, "text": each, "n": n} for n, each in enumerate(texts)])
    db.t.insert_many([{"_id": "none"}, {"_id": "number", "text": 5}, {"_id": "empty", "text": ""}])
    built(db.t, "ix", EMBEDDED)
    return db


def test_texts_are_embedded_and_searched_by_text(embedded: Database) -> None:
    assert by_text(embedded, "honey tea")[0] == 1
    assert by_text(embedded, {"text": "snow fox"}, limit=1) == [0]
    assert by_text(embedded, "fox", filter={"n": {"$gt": 0}})[0] == 2
    assert set(by_text(embedded, "fox", limit=10)) == {0, 1, 2}
    assert by_text(embedded, "fox", model="voyage-4-lite")
    embedded.t.update_one({"_id": 1}, {"$set": {"text": "completely different words"}})
    told(embedded, settle=True)
    assert by_text(embedded, "different words")[0] == 1


@pytest.mark.parametrize("more", [
    {"queryVector": [1.0] * 1024},
    {"query": ""},
    {"query": 5},
    {"model": "voyage-code-3"},
    {"path": "n"},
    {"filter": {"text": "a"}},
])  # fmt: skip
def test_what_embedded_fields_cannot_be_asked(embedded: Database, more: dict[str, object]) -> None:
    with pytest.raises(OperationFailure) as caught:
        by_text(embedded, "fox", **more)
    assert caught.value.code == 8


def test_over_the_rate_limit_of_the_model_the_query_fails(embedded: Database) -> None:
    told(embedded, embedLimited=True)
    with pytest.raises(OperationFailure, match="rate limit"):
        by_text(embedded, "fox")


def test_a_vector_index_is_not_searched_by_text(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    with pytest.raises(OperationFailure, match="not indexed as autoEmbed"):
        db.c.aggregate(
            [{"$vectorSearch": {"index": "ix", "path": "v", "query": "a", "limit": 1, "exact": True}}]
        )


def test_an_embedded_field_stays_as_it_is(embedded: Database) -> None:
    for other in (PLAIN, {"fields": [EMBEDDED["fields"][0] | {"model": "voyage-4-lite"}]}):
        with pytest.raises(OperationFailure, match="cannot be changed"):
            embedded.t.update_search_index("ix", other)
    embedded.t.update_search_index("ix", {"fields": EMBEDDED["fields"][:1]})
    ready(embedded.t, "ix", {"fields": EMBEDDED["fields"][:1]})
