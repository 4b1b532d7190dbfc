"""The Atlas stand-in: the life of indexes, what a definition may say, views, limits and stored source."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from bson.binary import Binary, BinaryVectorDtype
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

VECTOR = {"type": "vector", "path": "v", "numDimensions": 2, "similarity": "cosine"}
PLAIN = {"fields": [VECTOR]}
FILTERED = {"fields": [VECTOR, {"type": "filter", "path": "n"}]}
CLUSTERED = {"fields": [{"type": "autoEmbed", "path": "text", "modality": "text", "model": "voyage-4"}]}


@pytest.fixture
def db(mongodb_url: str) -> Iterator[Database]:
    with MongoClient(mongodb_url) as client:
        db = client.get_default_database()
        db.c.insert_many([{"_id": n, "v": [1.0, float(n)], "n": n} for n in range(3)])
        yield db


def create(coll: Collection, definition: object = PLAIN, name: str = "ix", kind: str = "vectorSearch") -> str:
    return coll.create_search_index(SearchIndexModel(definition, name, kind))


def ids(coll: Collection, *, index: str = "ix", **more: object) -> list[object]:
    asked = {"index": index, "path": "v", "queryVector": [1.0, 0.0], "limit": 100, "exact": True} | more
    return [each["_id"] for each in coll.aggregate([{"$vectorSearch": asked}])]


def refused(code: int, said: str = "") -> object:
    class Caught:
        def __enter__(self) -> None:
            self.inner = pytest.raises(OperationFailure)
            self.caught = self.inner.__enter__()

        def __exit__(self, *error: object) -> bool:
            handled = self.inner.__exit__(*error)
            assert self.caught.value.code == code, self.caught.value
            assert said in str(self.caught.value)
            return handled

    return Caught()


def entry(coll: Collection, name: str = "ix") -> dict:
    return coll.list_search_indexes(name).to_list()[0]


def test_an_index_goes_from_pending_over_building_to_ready(db: Database) -> None:
    told(db, pending=3600, build=3600)
    assert create(db.c) == "ix"
    assert (entry(db.c)["status"], entry(db.c)["queryable"]) == ("PENDING", False)
    with refused(8, "while in state NOT_STARTED"):
        ids(db.c)
    told(db, pending=0)
    until(lambda: status(db.c, "ix") == "BUILDING")
    assert entry(db.c)["queryable"] is False
    with refused(8, "while in state INITIAL_SYNC"):
        ids(db.c)
    told(db, build=0)
    until(lambda: status(db.c, "ix") == "READY")
    assert entry(db.c)["queryable"] is True
    assert ids(db.c) == [0, 1, 2]


def test_an_entry_says_what_atlas_says(db: Database) -> None:
    built(db.c, "ix", FILTERED)
    shown = entry(db.c)
    assert shown.keys() == {
        "id", "name", "type", "status", "queryable", "latestDefinitionVersion", "latestDefinition", "statusDetail",
    }  # fmt: skip
    assert (shown["name"], shown["type"], shown["latestDefinition"]) == ("ix", "vectorSearch", FILTERED)
    assert shown["latestDefinitionVersion"].keys() == {"version", "createdAt"}
    [host] = shown["statusDetail"]
    assert host["mainIndex"]["definition"] == FILTERED
    assert "stagedIndex" not in host


def test_indexes_are_listed_by_name_or_id_and_entries_can_be_reshaped(db: Database) -> None:
    built(db.c, "a", PLAIN)
    built(db.c, "b", PLAIN)
    by_id = db.c.aggregate([{"$listSearchIndexes": {"id": entry(db.c, "a")["id"]}}]).to_list()
    assert [each["name"] for each in by_id] == ["a"]
    assert sorted(each["name"] for each in db.c.list_search_indexes()) == ["a", "b"]
    assert db.c.list_search_indexes("none").to_list() == []
    assert db.other.list_search_indexes().to_list() == []
    names = db.c.aggregate(
        [{"$listSearchIndexes": {}}, {"$sort": {"name": -1}}, {"$project": {"_id": 0, "name": 1}}]
    )
    assert names.to_list() == [{"name": "b"}, {"name": "a"}]
    with refused(2):
        db.c.aggregate([{"$listSearchIndexes": {"id": "a", "name": "b"}}])
    with refused(9):
        db.c.aggregate([{"$listSearchIndexes": {"nme": "b"}}])


def test_definitions_with_dollars_and_dots_are_listed_as_given(db: Database) -> None:
    definition = {"fields": [VECTOR, {"type": "filter", "path": "a.$b.c"}]}
    built(db.c, "ix", definition)
    assert entry(db.c)["latestDefinition"] == definition


def test_the_old_version_answers_while_the_new_one_is_built(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    told(db, build=3600)
    db.c.update_search_index("ix", FILTERED)
    until(lambda: status(db.c, "ix") == "BUILDING")
    shown = entry(db.c)
    assert (shown["queryable"], shown["latestDefinition"]) == (True, FILTERED)
    [host] = shown["statusDetail"]
    assert (host["mainIndex"]["definition"], host["stagedIndex"]["definition"]) == (PLAIN, FILTERED)
    assert ids(db.c) == [0, 1, 2]
    with refused(8, "needs to be indexed"):
        ids(db.c, filter={"n": 1})
    db.c.insert_one({"_id": 9, "v": [1.0, 0.0]})
    told(db, settle=True)
    assert status(db.c, "ix") == "BUILDING"
    assert ids(db.c) == [0, 9, 1, 2]
    told(db, build=0)
    ready(db.c, "ix", FILTERED)
    assert ids(db.c, filter={"n": 1}) == [1]
    assert entry(db.c)["latestDefinitionVersion"]["version"] == 1


def test_a_list_may_show_for_a_while_what_was_before(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    told(db, listingLag=3600)
    db.c.update_search_index("ix", FILTERED)
    shown = entry(db.c)
    assert (shown["status"], shown["latestDefinition"]) == ("READY", PLAIN)
    create(db.c, name="new")
    assert status(db.c, "new") is None
    told(db, listingLag=0)
    ready(db.c, "ix", FILTERED)
    ready(db.c, "new", PLAIN)


def test_waiting_for_replication_does_not_wait_where_it_is_halted(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    db.c.insert_one({"_id": 9, "v": [1.0, 0.0]})
    assert told(db, paused=True, settle=True)["ok"] == 1


def test_a_build_can_be_made_to_fail(db: Database) -> None:
    told(db, failNextBuild="out of disk")
    create(db.c)
    until(lambda: status(db.c, "ix") == "FAILED")
    shown = entry(db.c)
    assert shown["queryable"] is False
    assert shown["statusDetail"][0]["mainIndex"]["message"] == "out of disk"
    with refused(8, "while in state FAILED"):
        ids(db.c)
    db.c.update_search_index("ix", FILTERED)
    ready(db.c, "ix", FILTERED)


def test_a_stale_index_answers_with_old_data_until_it_is_rebuilt(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    told(db, stale="ix")
    assert (entry(db.c)["status"], entry(db.c)["queryable"]) == ("STALE", True)
    db.c.delete_one({"_id": 1})
    db.c.insert_one({"_id": 9, "v": [1.0, 0.0]})
    told(db, settle=True)
    assert ids(db.c) == [0, 2]
    told(db, rebuild="ix")
    ready(db.c, "ix", PLAIN)
    assert ids(db.c) == [0, 9, 2]
    with refused(27):
        told(db, stale="none")


def test_a_dropped_index_is_listed_as_deleting_for_a_while(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    told(db, deleting=3600)
    db.c.drop_search_index("ix")
    assert status(db.c, "ix") == "DELETING"
    assert ids(db.c) == []
    with refused(68):
        create(db.c)
    with refused(27):
        db.command({"dropSearchIndex": "c", "name": "ix"})
    told(db, deleting=0)
    until(lambda: status(db.c, "ix") is None)
    built(db.c, "ix", FILTERED)


def test_the_same_definition_again_is_no_error_and_another_is(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    before = entry(db.c)["id"]
    create(db.c)
    assert entry(db.c)["id"] == before
    with refused(68, "already exists"):
        create(db.c, FILTERED)
    with refused(2):
        db.c.create_search_indexes([SearchIndexModel(PLAIN, "x", "vectorSearch")] * 2)
    assert status(db.c, "x") is None


def test_what_is_not_there_is_named(db: Database) -> None:
    with refused(26):
        create(db.nowhere)
    with refused(27):
        db.c.update_search_index("none", PLAIN)
    with refused(27):
        db.command({"dropSearchIndex": "c", "name": "none"})
    with refused(2):
        db.command({"dropSearchIndex": "c"})
    db.nowhere.drop_search_index("none")  # the driver passes over a missing collection


def test_indexes_can_be_named_by_id(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    db.command({"updateSearchIndex": "c", "id": entry(db.c)["id"], "definition": FILTERED})
    ready(db.c, "ix", FILTERED)
    db.command({"dropSearchIndex": "c", "id": entry(db.c)["id"]})
    assert status(db.c, "ix") is None


def field(**more: object) -> dict[str, object]:
    return {"fields": [{k: v for k, v in (VECTOR | more).items() if v is not ...}]}


@pytest.mark.parametrize(("definition", "said"), [
    ({}, "required"),
    ({"fields": []}, "cannot be empty"),
    ({"fields": [1]}, "must be one of [autoEmbed, filter, vector]"),
    ({"fields": [{"type": "filter", "path": "n"}]}, "must contain a vector"),
    ({"fields": [VECTOR, VECTOR]}, "distinct paths"),
    ({"fields": [VECTOR, {"type": "filter", "path": "v"}]}, "distinct paths"),
    ({"fields": [VECTOR, *CLUSTERED["fields"]]}, "cannot mix"),
    ({"fields": [VECTOR, {"type": "filter", "path": "n", "extra": 1}]}, "extra"),
    (PLAIN | {"surprise": 1}, "surprise"),
    (PLAIN | {"nestedRoot": "a"}, "nestedRoot"),
    (PLAIN | {"storedSource": True}, "not allowed for vector indexes"),
    (PLAIN | {"storedSource": {"include": [], "exclude": []}}, "storedSource"),
    (field(numDimensions=0), "within bounds [1, 8192]"),
    (field(numDimensions=8193), "within bounds [1, 8192]"),
    (field(numDimensions=...), "numDimensions"),
    (field(similarity="l2"), "must be one of [cosine, dotProduct, euclidean]"),
    (field(similarity=...), "similarity"),
    (field(path=...), "path"),
    (field(path=""), "path"),
    (field(quantization="float"), "must be one of [binary, none, scalar]"),
    (field(quantization="binary", numDimensions=12), "multiple of 8"),
    (field(indexingMethod="tree"), "flat"),
    (field(hnswOptions={"maxEdges": 8}), "within bounds [16, 64]"),
    (field(hnswOptions={"edges": 8}), "edges"),
    ({"fields": [CLUSTERED["fields"][0] | {"model": "mine"}]}, "model"),
    ({"fields": [CLUSTERED["fields"][0] | {"modality": "image"}]}, "modality"),
    ({"fields": [CLUSTERED["fields"][0] | {"numDimensions": 100}]}, "numDimensions"),
])  # fmt: skip
def test_a_definition_that_atlas_refuses_is_refused(db: Database, definition: dict, said: str) -> None:
    with refused(2, said):
        create(db.c, definition)
    assert db.c.list_search_indexes().to_list() == []


def test_a_definition_with_everything_is_taken(db: Database) -> None:
    full = field(
        quantization="scalar", indexingMethod="flat", hnswOptions={"maxEdges": 32, "numEdgeCandidates": 200}
    )
    built(db.c, "ix", full | {"storedSource": {"include": ["n"]}, "numPartitions": 2})
    assert ids(db.c) == [0, 1, 2]


def test_the_type_of_an_index_stays(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    with refused(197):
        db.command({"updateSearchIndex": "c", "name": "ix", "type": "search", "definition": {}})


def test_a_small_tier_holds_few_indexes(db: Database) -> None:
    told(db, tier="M0")
    for name in "abc":
        create(db.c, name=name)
    create(db.c, name="a")
    with refused(125, "maximum number"):
        create(db.c, name="d")
    db.c.drop_search_index("a")
    create(db.c, name="d")
    told(db, maxIndexes=4)
    create(db.c, name="a")
    with refused(9):
        told(db, tier="M99")


def test_changes_show_eventually_and_in_order(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    told(db, paused=True)
    db.c.insert_one({"_id": 9, "v": [1.0, 0.0]})
    db.c.update_one({"_id": 0}, {"$set": {"v": [-1.0, 0.0]}})
    db.c.delete_one({"_id": 1})
    db.c.update_one({"_id": 2}, {"$unset": {"v": 1}})
    assert ids(db.c) == [0, 2]  # what is gone from the collection cannot be looked up any more
    told(db, paused=False, settle=True)
    assert ids(db.c) == [9, 0]
    db.c.replace_one({"_id": 2}, {"v": [1.0, 0.0]})
    told(db, settle=True)
    assert ids(db.c) == [2, 9, 0] or ids(db.c) == [9, 2, 0]


def test_a_refresh_takes_its_time(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    told(db, refresh=3600)
    db.c.insert_one({"_id": 9, "v": [1.0, 0.0]})
    assert 9 not in ids(db.c)
    told(db, refresh=0.1)
    until(lambda: 9 in ids(db.c))


def test_writes_during_a_build_are_all_found_after_it(db: Database) -> None:
    told(db, build=3600)
    db.c.insert_many([{"_id": n, "v": [1.0, 0.0]} for n in range(100, 2600)])
    create(db.c)
    for n in range(100, 200):
        db.c.delete_one({"_id": n})
        db.c.insert_one({"_id": -n, "v": [1.0, 0.0]})
    told(db, build=0)
    ready(db.c, "ix", PLAIN)
    told(db, settle=True)
    expected = {*range(3), *range(200, 2600), *(-n for n in range(100, 200))}
    assert set(ids(db.c, limit=5000)) == expected


def test_an_index_goes_with_its_collection(db: Database) -> None:
    built(db.c, "ix", PLAIN)
    db.c.drop()
    assert db.c.list_search_indexes().to_list() == []
    db.c.insert_one({"_id": 7, "v": [1.0, 0.0]})
    built(db.c, "ix", PLAIN)
    assert ids(db.c) == [7]
    db.client.drop_database(db.name)
    assert db.c.list_search_indexes().to_list() == []


def test_twenty_thousand_documents_are_indexed_and_searched_quickly(db: Database) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    vectors = [Binary.from_vector(row.tolist(), BinaryVectorDtype.FLOAT32) for row in rows]
    db.c.insert_many([{"_id": 100 + n, "v": each, "n": n % 10} for n, each in enumerate(vectors)])
    wide = {"fields": [VECTOR | {"numDimensions": 64}, {"type": "filter", "path": "n"}]}
    built(db.c, "ix", wide)
    stage = {"index": "ix", "path": "v", "queryVector": vectors[5], "limit": 10, "numCandidates": 200}
    filtered = stage | {"filter": {"n": {"$in": [5, 6]}}}
    assert db.c.aggregate([{"$vectorSearch": filtered}]).to_list()[0]["_id"] == 105

    def milliseconds() -> float:
        plan = db.command(
            "explain", {"aggregate": "c", "pipeline": [{"$vectorSearch": filtered}], "cursor": {}}
        )
        assert plan["ok"] == 1
        return float(told(db)["searchMillis"])

    assert min(milliseconds() for _ in range(9)) < 20


def test_stored_source_answers_from_the_index(db: Database) -> None:
    told(db, serverVersion="8.2.0")
    built(db.c, "ix", PLAIN | {"storedSource": {"include": ["n"]}})
    built(db.c, "rest", PLAIN | {"storedSource": {"exclude": ["v"]}})
    built(db.c, "none", PLAIN)
    told(db, paused=True)
    db.c.update_many({}, {"$inc": {"n": 10}})

    def stored(index: str) -> list[dict]:
        asked = {"index": index, "path": "v", "queryVector": [1.0, 0.0], "limit": 1, "exact": True}
        stages = [
            {"$vectorSearch": asked | {"returnStoredSource": True}},
            {"$set": {"s": {"$meta": "vectorSearchScore"}}},
        ]
        return db.c.aggregate(stages).to_list()

    assert stored("ix") == [{"_id": 0, "n": 0, "s": 1.0}]
    assert stored("rest") == [{"_id": 0, "n": 0, "s": 1.0}]
    with refused(8, "storedSource is not configured"):
        stored("none")


def test_the_version_of_the_server_is_what_was_told(db: Database) -> None:
    assert told(db, serverVersion="8.0.4")["settings"]["serverVersion"] == "8.0.4"
    info = db.command("buildInfo")
    assert (info["version"], info["versionArray"]) == ("8.0.4", [8, 0, 4, 0])
    assert db.client.server_info()["version"] == "8.1.0"
    assert db.client.admin.command("hello")["maxWireVersion"] == 17
    with refused(9):
        told(db, serverVersion="new")
    with refused(9, "knows no setting"):
        told(db, bild=1)
    with refused(9):
        told(db, build=-1)
