"""Collections that others made, used where they are: nothing copied, nothing lost, given back as they were."""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import bson
import numpy as np
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.binary import BinaryVectorDtype
from pymongo import MongoClient, ReplaceOne
from pymongo.collection import Collection as Theirs
from pymongo.database import Database
from pymongo.operations import SearchIndexModel

from svr_retrievers import (
    AsyncSVRClient,
    Collection,
    Document,
    Settings,
    SVRClient,
    by_cluster,
    by_field,
    errors,
    hnsw,
)
from svr_retrievers.backends.mongodb import adopting
from svr_retrievers.backends.sources import Source
from svr_retrievers.errors import (
    BatchError,
    CollectionExists,
    CollectionMismatch,
    CollectionNotFound,
    ConfigError,
    IndexLimitReached,
    InputError,
)
from svr_retrievers.testing.mongodb.waiting import told

pytestmark = pytest.mark.mongodb

DIMENSIONS = 8
Row = dict[str, object]


def vectors(count: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)


def numbers(vector: np.ndarray) -> list[float]:
    return [float(each) for each in vector]


def chain_rows(count: int) -> list[Row]:
    """As langchain-mongodb writes them: flat metadata, vectors as lists of doubles, ObjectIds."""
    return [
        {
            "_id": ObjectId(f"{at + 1:024x}"),
            "text": f"text {at}",
            "embedding": numbers(vector),
            "year": 2000 + at,
            "kind": "abc"[at % 3],
            "source": {"page": at, "tags": ["x", "y"][: at % 3]},
        }
        for at, vector in enumerate(vectors(count))
    ]


def index_rows(count: int) -> list[Row]:
    """As LlamaIndex's store writes them: metadata in a field of their own, ids of text."""
    return [
        {
            "_id": str(uuid.UUID(int=at)),
            "text": f"node {at}",
            "embedding": numbers(vector),
            "metadata": {"year": 2000 + at, "ref_doc_id": f"doc{at % 2}", "_node_type": "TextNode"},
            "extra": {"theirs": at},
        }
        for at, vector in enumerate(vectors(count))
    ]


def hex_id(at: int) -> str:
    return f"{at + 1:024x}"


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Database[Row]]:
    with MongoClient[Row](mongodb_url, tz_aware=True) as opened:
        yield opened.get_default_database()


@pytest.fixture
def theirs(database: Database[Row]) -> Theirs[Row]:
    """What an application that knows nothing of SVR has."""
    found = database["docs"]
    found.insert_many(chain_rows(12))
    return found


@pytest.fixture
def client(mongodb_url: str) -> Iterator[SVRClient]:
    with SVRClient(mongodb_url) as opened:
        yield opened


@pytest.fixture
def adopted(client: SVRClient, theirs: Theirs[Row]) -> Collection:
    return client.adopt_collection("mine", theirs.name, filter_fields={"year": int})


def raw(collection: Theirs[Row]) -> dict[bytes, bytes]:
    """Every document's bytes, by the bytes of its key."""
    found = b"".join(collection.find_raw_batches({}))
    return {bson.encode({"": each["_id"]}): bson.encode(each) for each in bson.decode_all(found)}


def unmarked(collection: Theirs[Row]) -> list[bytes]:
    return [
        bson.encode({k: v for k, v in each.items() if k != "svr"}) for each in collection.find().sort("_id")
    ]


def closest(rows: list[Row], query: np.ndarray, count: int) -> list[str]:
    """The ids of the rows closest by cosine, compared one by one."""
    held = np.array([row["embedding"] for row in rows])
    near = held @ query / np.linalg.norm(held, axis=1)
    return [str(rows[at]["_id"]) for at in np.argsort(-near)[:count]]


# Taking in


def test_documents_of_langchain_are_searched_as_they_lie(adopted: Collection, theirs: Theirs[Row]) -> None:
    query = vectors(1, seed=3)[0]

    found = adopted.search(vector=query, limit=5)

    assert adopted.adopted is not None
    assert (adopted.adopted.taken, adopted.adopted.refused) == (12, 0)
    assert list(found.ids) == closest(chain_rows(12), query, 5)
    assert found[0].text == f"text {int(found[0].id, 16) - 1}"
    assert "embedding" not in found[0].metadata
    assert "svr" not in found[0].metadata


def test_nothing_but_one_field_is_added(client: SVRClient, theirs: Theirs[Row]) -> None:
    before = unmarked(theirs)

    client.adopt_collection("mine", "docs", filter_fields={"year": int})

    assert unmarked(theirs) == before
    assert all(list(row)[-1] == "svr" for row in theirs.find())
    own = theirs.find_one({"year": 2003}, {"svr": 1})
    assert own is not None
    assert own["svr"]["f"] == {"f0_year": 2003}  # type: ignore[index]
    assert own["svr"]["i"] == hex_id(3)  # type: ignore[index]


def test_all_other_fields_are_metadata(adopted: Collection) -> None:
    found = adopted.get([hex_id(4)], with_vectors=True)[0]

    assert found.metadata == {"year": 2004, "kind": "b", "source": {"page": 4, "tags": ["x"]}}
    assert found.text == "text 4"
    assert found.version == 1
    np.testing.assert_array_equal(np.asarray(found.vector, dtype=np.float32), vectors(12)[4])


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ({"year": {"$gte": 2010}}, [10, 11]),
        ({"kind": "a"}, [0, 3, 6, 9]),
        ({"source.page": {"$lt": 2}}, [0, 1]),
        ({"source.tags": {"$contains": "y"}}, [2, 5, 8, 11]),
        ({"year": {"$lt": 2005}, "kind": {"$ne": "a"}}, [1, 2, 4]),
        ({"year": None}, []),
        ({"nothing": {"$exists": False}, "year": {"$in": [2001, 2002]}}, [1, 2]),
        ({"text": "text 1"}, []),
        ({"_id": {"$exists": True}}, []),
        ({"svr.i": hex_id(1)}, []),
        ({"embedding": {"$exists": True}}, []),
        ({"svr": None, "year": 2004}, [4]),
        ({"text": {"$ne": "text 1"}, "year": 2001}, [1]),
    ],
    ids=str,
)
def test_filters(adopted: Collection, filter_: dict[str, object], expected: list[int]) -> None:
    ids = [hex_id(at) for at in expected]

    assert [each.id for each in adopted.find(filter_)] == ids
    assert adopted.count(filter_) == len(ids)
    assert sorted(adopted.search(vector=vectors(1)[0], filter=filter_, limit=20).ids) == ids


def test_progress_is_told(client: SVRClient, theirs: Theirs[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopting, "_AT_ONCE", 5)
    heard: list[tuple[int, int]] = []

    client.adopt_collection("mine", "docs", progress=lambda done, of: heard.append((done, of)))

    assert heard == [(5, 12), (10, 12), (12, 12)]


def test_adopting_again_takes_in_what_is_new(
    client: SVRClient, adopted: Collection, theirs: Theirs[Row]
) -> None:
    before = raw(theirs)
    theirs.insert_many(chain_rows(15)[12:])

    again = client.adopt_collection("mine", "docs", filter_fields={"year": int})

    assert again.adopted is not None
    assert again.adopted.taken == 3
    assert again.count() == 15
    assert before.items() <= raw(theirs).items()
    assert client.list_collections() == ["mine"]


def test_an_interrupted_adoption_goes_on(
    client: SVRClient, theirs: Theirs[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopting, "_AT_ONCE", 5)

    def interrupt(done: int, of: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        client.adopt_collection("mine", "docs", progress=interrupt)
    assert client.collection("mine").count() == 5

    resumed = client.adopt_collection("mine", "docs")

    assert resumed.adopted is not None
    assert resumed.adopted.taken == 7
    assert resumed.count() == 12
    assert resumed.refresh().rows == 12


def test_another_client_opens_it_by_name(adopted: Collection, mongodb_url: str) -> None:
    with SVRClient(mongodb_url) as other:
        opened = other.collection("mine")

        assert opened.adopted is None
        assert opened.filter_fields == {"year": int}
        assert [each.id for each in opened.find({"year": 2005})] == [hex_id(5)]
        with pytest.raises(InputError, match="one namespace"):
            opened.count(namespace="other")


def test_two_at_once_take_in_each_document_once(mongodb_url: str, theirs: Theirs[Row]) -> None:
    theirs.insert_many(chain_rows(300)[12:])
    together = threading.Barrier(3)
    ends: list[object] = []

    def adopt() -> None:
        with SVRClient(mongodb_url) as opened:
            together.wait()
            try:
                ends.append(opened.adopt_collection("mine", "docs", partition_by=by_field("kind")).adopted)
            except errors.SVRError as error:
                ends.append(error)

    threads = [threading.Thread(target=adopt) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(each.taken for each in ends) == 300, ends  # type: ignore[attr-defined]
    with SVRClient(mongodb_url) as opened:
        found = opened.collection("mine")
        assert found.partitions.rows == found.count() == 300


def test_of_two_names_at_once_one_wins(mongodb_url: str, theirs: Theirs[Row]) -> None:
    together = threading.Barrier(2)
    ends: list[object] = []

    def adopt(name: str) -> None:
        with SVRClient(mongodb_url) as opened:
            together.wait()
            try:
                ends.append(opened.adopt_collection(name, "docs").name)
            except ConfigError as error:
                ends.append(error)

    threads = [threading.Thread(target=adopt, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    names = [each for each in ends if isinstance(each, str)]
    with SVRClient(mongodb_url) as opened:
        assert opened.list_collections() == names
        assert len(names) == 1, ends
        assert opened.collection(names[0]).count() == 12
    assert len(list(theirs.list_search_indexes())) == 1


# What cannot be taken in


def test_what_cannot_be_taken_in_is_told_and_left(client: SVRClient, database: Database[Row]) -> None:
    good = numbers(vectors(1)[0])
    odd: dict[object, Row] = {
        "none": {"text": "no vector"},
        "short": {"embedding": good[:3]},
        "words": {"embedding": ["a"] * DIMENSIONS},
        "zero": {"embedding": [0.0] * DIMENSIONS},
        "endless": {"embedding": [float("inf")] * DIMENSIONS},
        "binary": {"embedding": Binary.from_vector(good, BinaryVectorDtype.FLOAT32)},
        "typed": {"embedding": good, "year": "twenty"},
        "": {"embedding": good},
        "x" * 1400: {"embedding": good},
        7: {"embedding": good, "year": 1},
        "7": {"embedding": good, "year": 2},
        ObjectId("0" * 24): {"embedding": good, "huge": "a\0b"},
    }
    theirs = database["docs"]
    theirs.insert_many([{"_id": "good", "text": "t", "embedding": good, "year": 2000}])
    theirs.insert_many([{"_id": key, **row} for key, row in odd.items()])
    before = raw(theirs)

    found = client.adopt_collection("mine", "docs", filter_fields={"year": int})

    assert found.adopted is not None
    reasons = {problem.id: (problem.argument, problem.message) for problem in found.adopted.problems}
    assert (found.adopted.taken, found.adopted.refused) == (2, 11)
    assert sorted(each.id for each in found.find()) == ["7", "good"]
    assert reasons.keys() == {str(key) for key in odd}
    assert "holds nothing" in reasons["none"][1]
    assert "3 numbers" in reasons["short"][1]
    assert "float32" in reasons["binary"][1]
    assert "zero" in reasons["zero"][1]
    assert "declared int" in reasons["typed"][1]
    assert {reasons[key][0] for key in ("none", "short", "words", "zero", "endless", "binary")} == {"vector"}
    marked = {bson.encode({"": each["_id"]}) for each in theirs.find({"svr": {"$exists": True}})}
    assert len(marked) == 2
    assert {key: body for key, body in raw(theirs).items() if key not in marked} == {
        key: body for key, body in before.items() if key not in marked
    }


def test_a_vector_that_its_owner_mends_is_taken_in_then(client: SVRClient, theirs: Theirs[Row]) -> None:
    theirs.insert_one({"_id": "late", "text": "t", "embedding": [1.0]})
    first = client.adopt_collection("mine", "docs")
    theirs.update_one({"_id": "late"}, {"$set": {"embedding": numbers(vectors(1)[0])}})

    again = client.adopt_collection("mine", "docs")

    assert first.adopted is not None
    assert again.adopted is not None
    assert (first.adopted.refused, again.adopted.taken, again.adopted.refused) == (1, 1, 0)


def test_it_fails_at_the_first_where_told_to(client: SVRClient, theirs: Theirs[Row]) -> None:
    theirs.insert_one({"_id": "odd", "text": "t", "embedding": [1.0]})

    with pytest.raises(BatchError) as caught:
        client.adopt_collection("mine", "docs", on_problem="fail")

    assert [problem.id for problem in caught.value.problems] == ["odd"]
    assert "adopt again" in caught.value.hint
    assert theirs.count_documents({"svr": {"$exists": True}}) == 0
    with pytest.raises(InputError, match="on_problem"):
        client.adopt_collection("mine", "docs", on_problem="ignore")  # type: ignore[arg-type]


def test_dates_of_odd_types_and_keys_of_any_type(client: SVRClient, database: Database[Row]) -> None:
    key = uuid.UUID(int=5)
    rows: list[Row] = [
        {"_id": 5},
        {"_id": 2.5},
        {"_id": True},
        {"_id": None},
        {"_id": {"a": 1, "b": ObjectId("1" * 24)}},
        {"_id": Binary.from_uuid(key)},
        {"_id": datetime(2024, 1, 2, tzinfo=UTC)},
    ]
    theirs = database["docs"]
    theirs.insert_many([{**row, "embedding": numbers(vectors(1)[0])} for row in rows])

    found = client.adopt_collection("mine", "docs")

    expected = {"5", "2.5", "true", "null", '{"a": 1, "b": "111111111111111111111111"}', str(key)}
    assert {each.id for each in found.find()} == expected | {"2024-01-02T00:00:00.000000Z"}
    assert found.delete(["5", "null", str(key)]) == 3
    assert [each["_id"] for each in theirs.find({"_id": {"$in": [5, None]}})] == []
    assert found.count() == 4


def test_what_json_cannot_hold_is_read_as_json(client: SVRClient, database: Database[Row]) -> None:
    theirs = database["docs"]
    given: Row = {
        "at": datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        "ref": ObjectId("a" * 24),
        "price": Decimal128("9.99"),
        "whole": Decimal128("12"),
        "fine": Decimal128("0.1000000000000000000000000001"),
        "bytes": b"\x00\xff",
        "uuid": Binary.from_uuid(uuid.UUID(int=1)),
        "pattern": Regex("a+", "i"),
        "lost": float("nan"),
        "long": Int64(2**60),
        "list": [ObjectId("b" * 24), {"deep": Decimal128("1.5")}],
        "small": 1,
    }
    theirs.insert_one({"_id": "a", "text": 17, "embedding": numbers(vectors(1)[0]), **given})
    theirs.database.command(
        "insert",
        "docs",
        documents=[{"_id": "far", "embedding": numbers(vectors(1)[0]), "at": bson.DatetimeMS(2**60)}],
    )

    found = client.adopt_collection("mine", "docs", filter_fields={"price": float, "small": int})

    assert found.get(["a"])[0].metadata == {
        "at": "2024-01-02T03:04:05.678000Z",
        "ref": "a" * 24,
        "price": 9.99,
        "whole": 12,
        "fine": "0.1000000000000000000000000001",
        "bytes": base64.b64encode(b"\x00\xff").decode(),
        "uuid": str(uuid.UUID(int=1)),
        "pattern": "a+",
        "lost": "NaN",
        "long": 2**60,
        "list": ["b" * 24, {"deep": 1.5}],
        "small": 1,
    }
    assert found.get(["a"])[0].text == "17"
    assert found.get(["far"])[0].metadata["at"] == str(2**60)
    assert found.count({"price": {"$lt": 10}}) == 1
    assert found.count({"at": {"$gte": datetime(2024, 1, 2)}}) == 1
    assert found.count({"ref": "a" * 24}) == 1
    assert found.count({"ref": {"$ne": "a" * 24}}) == 1
    assert found.count({"whole": {"$gt": 11.5}}) == 1
    assert found.count({"list": {"$contains": "b" * 24}}) == 1
    assert found.count({"bytes": {"$like": "AP%"}}) == 1


# Writing


def test_new_documents_look_like_theirs(adopted: Collection, theirs: Theirs[Row]) -> None:
    new = ObjectId()
    vector = vectors(1, seed=9)[0]

    done = adopted.add(
        [
            Document(str(new), "added", {"year": 1999, "kind": "z"}, vector),
            Document("by name", "added too", {"year": 1998, "big": 2**70}, vector),
        ]
    )

    assert done.inserted == 2
    row = theirs.find_one({"_id": new}, {"svr": 0})
    assert row == {"_id": new, "text": "added", "embedding": numbers(vector), "year": 1999, "kind": "z"}
    named = theirs.find_one({"_id": "by name"})
    assert named is not None
    assert named["year"] == 1998
    assert adopted.get(["by name"])[0].metadata["big"] == 2**70
    assert adopted.search(vector=vector, limit=2, filter={"year": {"$lt": 2000}}).ids == (str(new), "by name")


def test_a_document_is_replaced_where_it_lies(adopted: Collection, theirs: Theirs[Row]) -> None:
    vector = vectors(1, seed=9)[0]

    done = adopted.add([Document(hex_id(2), "new text", {"year": 1990}, vector)])

    assert (done.inserted, done.updated) == (0, 1)
    assert theirs.find_one({"_id": ObjectId(hex_id(2))}, {"svr": 0}) == {
        "_id": ObjectId(hex_id(2)),
        "text": "new text",
        "embedding": numbers(vector),
        "year": 1990,
    }
    assert theirs.count_documents({}) == 12
    assert adopted.get([hex_id(2)])[0].version == 2
    assert adopted.count() == adopted.partitions.rows == 12


def test_a_document_that_nobody_took_in_yet_is_replaced_too(adopted: Collection, theirs: Theirs[Row]) -> None:
    theirs.insert_one({"_id": "theirs", "text": "t", "embedding": numbers(vectors(1)[0])})

    done = adopted.add([Document("theirs", "ours", {}, vectors(1)[0])])

    assert done.updated == 1
    assert theirs.count_documents({"_id": "theirs", "text": "ours"}) == 1
    assert adopted.count() == 13
    assert adopted.refresh().rows == 13
    assert adopted.get(["theirs"])[0].version == 1


@pytest.mark.parametrize("key", ["_id", "text", "embedding", "svr", "$set"])
def test_metadata_cannot_overwrite_what_is_no_metadata(
    adopted: Collection, theirs: Theirs[Row], key: str
) -> None:
    before = raw(theirs)

    with pytest.raises(BatchError, match="means something else"):
        adopted.add([Document(hex_id(1), "x", {key: "y"}, vectors(1)[0])])

    assert raw(theirs) == before


def test_deleting_deletes_the_document(adopted: Collection, theirs: Theirs[Row]) -> None:
    theirs.insert_one({"_id": "untaken", "text": "t", "year": 2000})

    assert adopted.delete([hex_id(0), "untaken", "missing"]) == 1
    assert adopted.delete(filter={"year": {"$gte": 2009}}) == 3
    assert adopted.delete([]) == 0
    assert theirs.count_documents({}) == 9
    assert adopted.clear() == 8
    assert [row["_id"] for row in theirs.find()] == ["untaken"]


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.search(vector=vectors(1)[0], namespace="b"),
        lambda c: c.route(vector=vectors(1)[0], namespace="b"),
        lambda c: c.find(namespace="b"),
        lambda c: c.get(["a"], namespace="b"),
        lambda c: c.count(namespace="b"),
        lambda c: c.delete(["a"], namespace="b"),
        lambda c: c.clear(namespace="b"),
        lambda c: c.add([Document("a", "x", {}, vectors(1)[0])], namespace="b"),
        lambda c: c.add([Document("a", "x", {}, vectors(1)[0], namespace="b")]),
    ],
    ids=["search", "route", "find", "get", "count", "delete", "clear", "add", "document"],
)
def test_there_is_one_namespace(
    adopted: Collection, theirs: Theirs[Row], call: Callable[[Collection], object]
) -> None:
    before = raw(theirs)

    with pytest.raises(InputError, match="one namespace, 'default'; there is no 'b'"):
        call(adopted)

    assert raw(theirs) == before


def test_the_namespace_may_have_any_name(client: SVRClient, theirs: Theirs[Row]) -> None:
    found = client.adopt_collection("mine", "docs", namespace="tenant 1")

    assert found.count(namespace="tenant 1") == 12
    assert {hit.namespace for hit in found.search(vector=vectors(1)[0], namespace="tenant 1")} == {"tenant 1"}
    with pytest.raises(InputError):
        found.count()


# Partitions


def test_partitions_are_labels_and_documents_move_between_them(
    client: SVRClient, theirs: Theirs[Row]
) -> None:
    before = unmarked(theirs)
    found = client.adopt_collection("mine", "docs", partition_by=by_field("kind"))

    assert unmarked(theirs) == before
    assert {p.path: p.stats.rows for p in found.partitions} == {"kind=a": 4, "kind=b": 4, "kind=c": 4} or {
        p.path: p.stats.rows for p in found.partitions
    } == {"a": 4, "b": 4, "c": 4}
    result = found.search(vector=vectors(1)[0], filter={"kind": "a"}, limit=20)
    assert result.route.step == "filter"
    assert len(result) == 4

    found.add([Document(hex_id(0), "moved", {"kind": "c"}, vectors(1)[0])])

    assert sorted(p.stats.rows for p in found.partitions) == [3, 4, 5]
    assert len(found.search(vector=vectors(1)[0], filter={"kind": "c"}, limit=20)) == 5


def test_clusters(client: SVRClient, database: Database[Row]) -> None:
    rows = chain_rows(300)
    database["docs"].insert_many(rows)
    found = client.adopt_collection("mine", "docs", partition_by=by_cluster(2))
    found.refresh()

    assert len([p for p in found.partitions if p.key.kind == "cluster"]) == 2
    query = vectors(1, seed=4)[0]
    assert list(found.search(vector=query, limit=5, exact=True).ids) == closest(rows, query, 5)
    assert sum(p.stats.rows for p in found.partitions) == 300


def test_views_over_the_source(client: SVRClient, database: Database[Row]) -> None:
    rows = chain_rows(60)
    database["docs"].insert_many(rows)
    found = client.adopt_collection(
        "mine", "docs", partition_by=by_field("kind"), index=hnsw(min_rows=1, mode="views")
    )
    found.refresh()
    database["docs"].insert_one({"_id": "untaken", "embedding": numbers(vectors(1)[0])})

    query = vectors(1, seed=4)[0]
    assert "over svr.view." in found.explain(vector=query).plan
    assert list(found.search(vector=query, limit=5).ids) == closest(rows, query, 5)
    client.drop_collection("mine")
    assert sorted(database.list_collection_names(filter={"type": "view"})) == []
    assert database["docs"].count_documents({"svr": {"$exists": True}}) == 0


def test_the_graph_is_asked_where_there_is_one(client: SVRClient, database: Database[Row]) -> None:
    rows = chain_rows(60)
    database["docs"].insert_many(rows)
    found = client.adopt_collection("mine", "docs", filter_fields={"year": int}, index=hnsw(min_rows=0))
    found.refresh()
    query = vectors(1, seed=4)[0]

    plan = found.explain(vector=query, filter={"year": {"$gte": 2030}}).plan
    assert "(ready) over the documents" in plan
    assert "numCandidates" in plan
    assert list(found.search(vector=query, limit=5).ids) == closest(rows, query, 5)
    assert list(found.search(vector=query, limit=5, filter={"year": {"$gte": 2030}}).ids) == closest(
        rows[30:], query, 5
    )
    assert list(found.search(vector=query, limit=5, filter={"kind": "a"}).ids) == closest(rows[::3], query, 5)
    assert found.check_recall(samples=5)[0].measured == 1.0
    assert found.analyze()


def test_words_and_vectors_are_searched_together(client: SVRClient, theirs: Theirs[Row]) -> None:
    found = client.adopt_collection("mine", "docs", filter_fields={"year": int})
    query = vectors(1, seed=3)[0]
    found.hybrid(text="7", vector=query)
    found.refresh()

    hits = found.hybrid(text="7", vector=query, limit=8, filter={"year": {"$gte": 2004}})

    assert hits.incomplete is None
    assert {hit.id for hit in hits if hit.legs is not None and hit.legs.keyword} == {hex_id(7)}
    assert len(hits) == 8
    client.drop_collection("mine")
    assert list(theirs.list_search_indexes()) == []


def test_changes_are_told(client: SVRClient, adopted: Collection, theirs: Theirs[Row]) -> None:
    theirs.insert_one({"_id": "late", "embedding": numbers(vectors(1)[0])})
    with adopted.watch() as changes:
        client.adopt_collection("mine", "docs")
        adopted.delete([hex_id(0)])
        client.drop_collection("mine")
        heard = list(changes)

    counts = [p.counts for change in heard if change.kind == "rows" for p in change.partitions]
    assert sum(each.inserted for each in counts) == 1
    assert sum(each.deleted for each in counts) == 1
    assert heard[-1].kind == "dropped"


# The former owner goes on


def test_their_code_goes_on_reading_and_writing(client: SVRClient, theirs: Theirs[Row]) -> None:
    """The aggregate and the writes are those of langchain-mongodb."""
    definition = {"type": "vector", "path": "embedding", "numDimensions": DIMENSIONS, "similarity": "cosine"}
    theirs.create_search_index(SearchIndexModel({"fields": [definition]}, "vector_index", "vectorSearch"))
    found = client.adopt_collection("mine", "docs", filter_fields={"year": int})
    query = vectors(1, seed=3)[0]
    asked = {"index": "vector_index", "path": "embedding", "queryVector": numbers(query), "limit": 4}

    def similar() -> list[Row]:
        stages = [
            {"$vectorSearch": {**asked, "numCandidates": 40}},
            {"$set": {"score": {"$meta": "vectorSearchScore"}}},
            {"$project": {"embedding": 0}},
        ]
        return list(theirs.aggregate(stages))

    assert [str(row["_id"]) for row in similar()] == closest(chain_rows(12), query, 4)
    row = {"text": "theirs", "embedding": numbers(query), "year": 2050}
    theirs.bulk_write([ReplaceOne({"_id": ObjectId(hex_id(3))}, row, upsert=True)])
    theirs.insert_one({"_id": "more", **row})
    found.refresh()

    assert found.count() == 11
    assert client.adopt_collection("mine", "docs").adopted.taken == 2  # type: ignore[union-attr]
    assert found.search(vector=query, limit=1).ids == (hex_id(3),)
    assert found.count({"year": 2050}) == 2
    theirs.delete_one({"_id": "more"})
    assert found.refresh().rows == 12


def test_changes_of_theirs_are_seen_at_once_but_in_declared_fields(
    adopted: Collection, theirs: Theirs[Row]
) -> None:
    vector = vectors(1, seed=9)[0]
    change = {"text": "changed", "kind": "new", "year": 3000, "embedding": numbers(vector)}
    theirs.update_one({"_id": ObjectId(hex_id(1))}, {"$set": change})

    found = adopted.search(vector=vector, limit=1, exact=True)[0]

    assert (found.id, found.text, found.metadata["kind"], found.metadata["year"]) == (
        hex_id(1), "changed", "new", 3000,
    )  # fmt: skip
    assert adopted.count({"kind": "new"}) == 1
    assert adopted.count({"year": 2001}) == 1, "declared fields are as they were when it was taken in"


def test_a_vector_that_others_spoilt_stops_no_search(adopted: Collection, theirs: Theirs[Row]) -> None:
    theirs.update_one({"_id": ObjectId(hex_id(1))}, {"$set": {"embedding": None}})
    theirs.update_one({"_id": ObjectId(hex_id(2))}, {"$set": {"embedding": [1.0, 2.0]}})
    theirs.update_one({"_id": ObjectId(hex_id(3))}, {"$set": {"year": "two thousand"}})
    query = vectors(1)[0]

    assert len(adopted.search(vector=query, limit=20)) == 10
    assert len(adopted.search(vector=query, limit=20, exact=True, filter={"source.page": {"$gte": 0}})) == 10
    assert adopted.count() == 12
    adopted.refresh()


# Other layouts


def test_documents_of_llama_index(client: SVRClient, database: Database[Row]) -> None:
    theirs = database["nodes"]
    rows = index_rows(10)
    theirs.insert_many(rows)
    found = client.adopt_collection("mine", "nodes", metadata_field="metadata", filter_fields={"year": int})
    query = vectors(1, seed=3)[0]

    assert list(found.search(vector=query, limit=3).ids) == closest(rows, query, 3)
    assert found.find({"ref_doc_id": "doc1", "year": {"$gt": 2006}})[0].metadata == rows[7]["metadata"]
    assert found.count({"extra": {"$exists": True}}) == 0
    assert found.count({"text": {"$exists": True}}) == 0

    node = str(uuid.UUID(int=1))
    found.add(
        [Document(node, "new", {"year": 1, "text": "allowed here"}, query), Document("n", "x", {}, query)]
    )

    assert theirs.find_one({"_id": node}, {"svr": 0}) == {
        "_id": node,
        "text": "new",
        "embedding": numbers(query),
        "metadata": {"year": 1, "text": "allowed here"},
        "extra": {"theirs": 1},
    }
    assert theirs.find_one({"_id": "n"}, {"svr": 0}) == {
        "_id": "n", "text": "x", "embedding": numbers(query), "metadata": {},
    }  # fmt: skip
    theirs.insert_one({"_id": "bad", "embedding": numbers(query), "metadata": ["list"]})
    again = client.adopt_collection("mine", "nodes", metadata_field="metadata")
    assert [problem.argument for problem in again.adopted.problems] == ["metadata"]  # type: ignore[union-attr]


def test_fields_inside_of_fields(client: SVRClient, database: Database[Row]) -> None:
    theirs = database["pages"]
    theirs.insert_many(
        [
            {
                "_id": at,
                "page": {"body": f"b{at}", "lang": "de"},
                "ai": {"v": numbers(v)},
                "meta": {"info": {"n": at}},
            }
            for at, v in enumerate(vectors(5))
        ]
    )
    found = client.adopt_collection(
        "mine", "pages", text_field="page.body", vector_field="ai.v", metadata_field="meta.info"
    )

    hit = found.search(vector=vectors(5)[2], limit=1)[0]
    assert (hit.id, hit.text, hit.metadata) == ("2", "b2", {"n": 2})
    found.add([Document("2", "new", {"n": 20}, vectors(5)[2]), Document("x", "y", {}, vectors(5)[2])])
    changed = theirs.find_one({"_id": 2})
    assert changed is not None
    assert (changed["page"], changed["meta"]) == ({"body": "new", "lang": "de"}, {"info": {"n": 20}})
    assert theirs.find_one({"_id": "x"}, {"page": 1, "meta": 1}) == {
        "_id": "x", "page": {"body": "y"}, "meta": {"info": {}},
    }  # fmt: skip
    assert found.count({"n": {"$gte": 3}}) == 3


@pytest.mark.parametrize("dtype", list(BinaryVectorDtype), ids=lambda dtype: dtype.name.lower())
def test_vectors_of_bson_stay_what_they_are(
    client: SVRClient, database: Database[Row], dtype: BinaryVectorDtype
) -> None:
    bits = dtype is BinaryVectorDtype.PACKED_BIT
    made = np.rint(vectors(20) * 20).clip(-127, 127) if dtype is BinaryVectorDtype.INT8 else vectors(20)
    made = (made > 0).astype(np.float32) if bits else made
    made[:, 0] = 1
    stored = [
        Binary.from_vector([int(np.packbits(v > 0)[0])], dtype)
        if bits
        else Binary.from_vector([int(x) if dtype is BinaryVectorDtype.INT8 else float(x) for x in v], dtype)
        for v in made
    ]
    theirs = database["docs"]
    theirs.insert_many([{"_id": f"{at:02}", "text": "t", "embedding": v} for at, v in enumerate(stored)])
    metric = "l2" if bits else "cosine"

    found = client.adopt_collection("mine", "docs", metric=metric, index=hnsw(min_rows=0))
    found.add([Document("new", "x", {}, made[5])])
    found.refresh()

    assert found.adopted == type(found.adopted)(20, 0)  # type: ignore[misc]
    assert found.dimensions == DIMENSIONS
    hits = found.search(vector=made[5], limit=2)
    assert hits[0].distance == pytest.approx(0, abs=1e-6)
    assert "new" in found.search(vector=made[5], limit=21).ids
    new = theirs.find_one({"_id": "new"})
    assert new is not None
    assert new["embedding"] == stored[5]
    assert len(found.search(vector=made[5], limit=30)) == 21


def test_an_empty_collection_is_adopted_where_its_dimensions_are_told(
    client: SVRClient, database: Database[Row]
) -> None:
    theirs = database.create_collection("docs")
    with pytest.raises(InputError, match="dimensions is missing"):
        client.adopt_collection("mine", "docs")

    found = client.adopt_collection("mine", "docs", dimensions=DIMENSIONS)
    found.add([Document("a", "x", {}, vectors(1)[0])])

    assert theirs.find_one()["embedding"] == numbers(vectors(1)[0])  # type: ignore[index]
    assert found.search(vector=vectors(1)[0]).ids == ("a",)


# Giving back


def test_dropping_leaves_every_byte_as_it_was(client: SVRClient, theirs: Theirs[Row]) -> None:
    theirs.create_index("year")
    before, indexes = raw(theirs), list(theirs.list_indexes())
    found = client.adopt_collection(
        "mine", "docs", filter_fields={"year": int}, partition_by=by_field("kind")
    )
    found.search(vector=vectors(1)[0])
    found.refresh()

    client.drop_collection("mine")

    assert raw(theirs) == before
    assert list(theirs.list_indexes()) == indexes
    assert list(theirs.list_search_indexes()) == []
    names = theirs.database.list_collection_names()
    left = {
        n for n in names if n.startswith("svr_metadata.") and theirs.database[n].find_one({"collection": 1})
    }
    assert left == set()
    with pytest.raises(CollectionNotFound):
        found.add([Document("x", "x", {}, vectors(1)[0])])
    assert client.adopt_collection("again", "docs").count() == 12


def test_an_interrupted_drop_is_repeated(
    client: SVRClient, adopted: Collection, theirs: Theirs[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(documents: object) -> None:
        raise errors.BackendError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(adopting, "_drop_own_indexes", broken)
        with pytest.raises(errors.BackendError):
            client.drop_collection("mine")
    assert client.list_collections() == ["mine"]

    client.drop_collection("mine")

    assert client.list_collections() == []
    assert [index["name"] for index in theirs.list_indexes()] == ["_id_"]
    assert theirs.count_documents({"svr": {"$exists": True}}) == 0


# Their search index


THEIRS = {
    "fields": [
        {"type": "vector", "path": "embedding", "numDimensions": DIMENSIONS, "similarity": "cosine"},
        {"type": "filter", "path": "kind"},
    ]
}


def test_their_index_is_extended_where_there_is_room_for_no_other(
    client: SVRClient, database: Database[Row], theirs: Theirs[Row]
) -> None:
    theirs.create_search_index(SearchIndexModel(THEIRS, "vector_index", "vectorSearch"))
    told(database, maxIndexes=1)
    before = raw(theirs)
    with pytest.raises(IndexLimitReached):
        client.adopt_collection("mine", "docs")
    assert client.list_collections() == []
    assert raw(theirs) == before

    found = client.adopt_collection("mine", "docs", filter_fields={"year": int}, search_index="vector_index")
    found.refresh()

    definition = _definition(theirs)
    assert definition["fields"][:2] == THEIRS["fields"]
    assert {"type": "filter", "path": "svr.f.f0_year"} in definition["fields"]
    query = vectors(1, seed=3)[0]
    plan = found.explain(vector=query, filter={"year": 2003}).plan
    assert "index vector_index (ready)" in plan
    assert found.search(vector=query, filter={"year": 2003}).ids == (hex_id(3),)
    with pytest.raises(CollectionMismatch, match="uses the search index"):
        client.adopt_collection("mine", "docs", search_index="other")
    client.drop_collection("mine")
    assert _definition(theirs) == THEIRS
    assert raw(theirs) == before


def _definition(theirs: Theirs[Row]) -> dict[str, list[Row]]:
    return next(iter(theirs.list_search_indexes("vector_index")))["latestDefinition"]  # type: ignore[no-any-return]


def test_an_index_that_its_owner_set_back_is_mended(client: SVRClient, theirs: Theirs[Row]) -> None:
    theirs.create_search_index(SearchIndexModel(THEIRS, "vector_index", "vectorSearch"))
    found = client.adopt_collection("mine", "docs", search_index="vector_index", index=hnsw(min_rows=0))
    found.refresh()
    query = vectors(1, seed=3)[0]
    expected = tuple(closest(chain_rows(12), query, 5))
    assert found.search(vector=query, limit=5).ids == expected

    theirs.update_search_index("vector_index", THEIRS)
    for _ in range(3):
        assert found.search(vector=query, limit=5).ids == expected
    found.refresh()

    assert "svr.p" in str(_definition(theirs))
    assert found.search(vector=query, limit=5).ids == expected


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("missing", {}, "does not exist"),
        ("vector_index", {"numDimensions": 16}, "has numDimensions 16"),
        ("vector_index", {"similarity": "euclidean"}, "has similarity 'euclidean'"),
        ("vector_index", {"path": "other"}, "holds no vectors of 'embedding'"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    client: SVRClient, theirs: Theirs[Row], name: str, change: Row, reason: str
) -> None:
    definition = {"fields": [{**THEIRS["fields"][0], **change}]}
    theirs.create_search_index(SearchIndexModel(definition, "vector_index", "vectorSearch"))

    with pytest.raises(ConfigError, match=reason):
        client.adopt_collection("mine", "docs", search_index=name)

    assert client.list_collections() == []
    assert _definition(theirs) == definition


# What is refused


def test_sources_that_cannot_be_adopted(
    client: SVRClient, database: Database[Row], theirs: Theirs[Row]
) -> None:
    database.create_collection("view", viewOn="docs", pipeline=[])
    database.create_collection("capped", capped=True, size=4096)
    database.create_collection("german", collation={"locale": "de"})
    database["own"].insert_one({"svr": {"n": "theirs"}, "embedding": [1.0]})

    with pytest.raises(CollectionNotFound, match="no MongoDB collection 'nothing'"):
        client.adopt_collection("mine", "nothing")
    for name, reason in [
        ("view", "is a view"), ("capped", "capped"), ("german", "collation"), ("own", "a field 'svr'"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=reason):
            client.adopt_collection("mine", name, dimensions=DIMENSIONS)
    made = client.create_collection("made", dimensions=3)
    made.add([Document("a", "x", {}, [1, 2, 3])])
    for own in ("svr.documents.1", "svr_metadata.collections", "svr_metadata.fences"):
        with pytest.raises(InputError, match="SVR itself"):
            client.adopt_collection("mine", own)
    assert client.list_collections() == ["made"]
    assert database["own"].find_one({}, {"_id": 0, "svr": 1}) == {"svr": {"n": "theirs"}}


def test_a_source_is_adopted_once(
    client: SVRClient, adopted: Collection, theirs: Theirs[Row], mongodb_url: str
) -> None:
    client.create_collection("taken", dimensions=3)
    theirs.database["other"].insert_many(chain_rows(2))

    with pytest.raises(ConfigError, match="adopted already, as 'mine'"):
        client.adopt_collection("second", "docs")
    with pytest.raises(CollectionExists, match="documents of its own"):
        client.adopt_collection("taken", "docs")
    with pytest.raises(CollectionExists, match="over 'docs'"):
        client.adopt_collection("mine", "other")
    for change in ({"vector_field": "v"}, {"metadata_field": "m"}, {"namespace": "n"}, {"metric": "l2"}):
        with pytest.raises(CollectionMismatch):
            client.adopt_collection("mine", "docs", **change)  # type: ignore[arg-type]
    with pytest.raises(CollectionMismatch, match="filter_fields"):
        client.adopt_collection("mine", "docs", filter_fields={"kind": str})
    with SVRClient(mongodb_url, settings=Settings(db_schema="other")) as other:  # noqa: SIM117
        with pytest.raises(ConfigError, match="adopted already"):
            other.adopt_collection("mine", "docs")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"text_field": ""}, "text_field"),
        ({"text_field": "_id"}, "text_field"),
        ({"vector_field": "svr.x"}, "vector_field"),
        ({"vector_field": "$where"}, "vector_field"),
        ({"vector_field": "a.b"}, "metadata_field='metadata'"),
        ({"text_field": "embedding"}, "lies inside"),
        ({"text_field": "a.b", "metadata_field": "a"}, "lies inside"),
        ({"metadata_field": "a..b"}, "metadata_field"),
        ({"metadata_field": 3}, "metadata_field"),
        ({"filter_fields": {"text": str}}, "no metadata"),
        ({"index": hnsw(mode="fields")}, "fields"),
        ({"index": hnsw(vectors="int8")}, "stores vectors as float32"),
        ({"dimensions": 0}, "dimensions"),
        ({"metric": "far"}, "metric"),
        ({"namespace": ""}, "namespace"),
    ],
    ids=str,
)
def test_arguments_are_checked(
    client: SVRClient, theirs: Theirs[Row], given: dict[str, object], reason: str
) -> None:
    before = raw(theirs)

    with pytest.raises(InputError) as caught:
        client.adopt_collection("mine", "docs", **given)  # type: ignore[arg-type]

    assert reason in str(caught.value) + caught.value.hint
    assert client.list_collections() == []
    assert raw(theirs) == before


def test_other_backends_cannot() -> None:
    with SVRClient("memory://") as memory, pytest.raises(ConfigError, match="memory backend cannot adopt"):
        memory.adopt_collection("mine", "docs")


def test_what_is_recorded_is_what_was_said() -> None:
    source = Source("docs", "body", "v", "meta.info", "n", lists=True)

    assert Source.of_json(source.to_json()) == source


# Elsewhere


def test_it_is_awaited_as_well(mongodb_url: str, theirs: Theirs[Row]) -> None:
    async def use() -> tuple[str, ...]:
        async with AsyncSVRClient(mongodb_url) as client:
            found = await client.adopt_collection("mine", "docs")
            assert found.adopted is not None
            assert found.adopted.taken == 12
            return (await found.search(vector=vectors(1)[0], limit=2)).ids

    assert asyncio.run(use()) == tuple(closest(chain_rows(12), vectors(1)[0], 2))
    with SVRClient(mongodb_url) as blocking:
        assert asyncio.run(_count(blocking.aio)) == 12


async def _count(client: AsyncSVRClient) -> int:
    return await (await client.adopt_collection("mine", "docs")).count()


def test_texts_are_searched_with_an_embedder(client: SVRClient, theirs: Theirs[Row]) -> None:
    class Fixed:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [numbers(vectors(12)[len(text)]) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return numbers(vectors(12)[len(text)])

    found = client.adopt_collection("mine", "docs", embedder=Fixed())

    assert found.search(text="four", limit=1).ids == (hex_id(4),)
    found.add([Document("new", "sixsix", {})])
    assert set(found.search(text="sixsix", limit=2).ids) == {hex_id(6), "new"}
