"""Hybrid searches on MongoDB: two rankings, the same answer from every server version, and their gaps told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from pymongo import MongoClient
from pymongo.database import Database

from svr_retrievers import (
    AsyncSVRClient,
    AtlasEmbedding,
    Collection,
    Document,
    SVRClient,
    by_field,
    errors,
    hnsw,
)
from svr_retrievers.backends.mongodb import MongoBackend
from svr_retrievers.model import Legs, SearchResult
from svr_retrievers.testing.data import topics
from svr_retrievers.testing.mongodb.hashing import hash_embed
from svr_retrievers.testing.mongodb.waiting import counted, told, until

pytestmark = pytest.mark.mongodb

WORDS = [
    "apple",
    "banana",
    "cherry",
    "damson",
    "elder",
    "fig",
    "grape",
    "hazel",
    "iris",
    "juniper",
    "kiwi",
    "lemon",
    "mango",
    "nutmeg",
    "olive",
]
Db = Database[dict[str, object]]


class Embedder:
    """Texts by their words."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [
            [float(x) for x in row] for row in hash_embed(texts, model="m", purpose="document", dimensions=16)
        ]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture
def client(mongodb_url: str) -> Iterator[SVRClient]:
    with SVRClient(mongodb_url) as opened:
        yield opened


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Db]:
    with MongoClient[dict[str, object]](mongodb_url) as opened:
        yield opened.get_default_database()


def documents(count: int = 60) -> list[Document]:
    rng = np.random.default_rng(3)
    return [
        Document(
            f"d{at:03}",
            " ".join(rng.choice(WORDS, size=3 + at % 5)),
            {
                "topic": "even" if at % 2 == 0 else "odd",
                "year": 2000 + at % 10,
                "price": at / 4,
                "open": at % 3 == 0,
                "tags": [WORDS[at % 15], WORDS[at % 7]],
                "seen": datetime(2024, 1, 1 + at % 28, tzinfo=UTC).isoformat(),
                "free": at % 4,
            },
            vector=[float(x) for x in rng.normal(size=16)],
        )
        for at in range(count)
    ]


FIELDS = {"topic": str, "year": int, "price": float, "open": bool, "tags": list[str], "seen": datetime}


def made(client: SVRClient, name: str = "fruit", **options: object) -> Collection:
    collection = client.create_collection(name, embedder=Embedder(), filter_fields=FIELDS, **options)  # type: ignore[arg-type]
    collection.add(documents())
    indexed(collection)
    return collection


def indexed(collection: Collection) -> None:
    """With an index of words that holds everything."""
    collection.hybrid(text="anything")
    collection.refresh()


@pytest.fixture
def collection(client: SVRClient) -> Collection:
    return made(client)


def by_words(collection: Collection, text: str, **given: object) -> list[str]:
    """Documents that hold a word of the text."""
    found = collection.find(given.get("filter"))  # type: ignore[arg-type]
    return [d.id for d in found if set(d.text.split()) & set(text.split())]


def test_both_rankings_decide(collection: Collection) -> None:
    found = collection.hybrid(text="kiwi lemon", vector=documents()[7].vector, limit=5)

    assert len(found) == 5
    assert found.incomplete is None
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < hit.relevance <= 1 for hit in found)
    for hit in found:
        assert hit.legs is not None
        parts = [1 / (60 + rank) for rank in (hit.legs.vector, hit.legs.keyword) if rank is not None]
        assert hit.score == pytest.approx(sum(parts))
    everything = collection.hybrid(text="kiwi lemon", vector=documents()[7].vector, limit=60)
    assert {hit.legs.vector for hit in everything if hit.legs} >= {1, 2, 3}
    assert any(hit.legs and hit.legs.keyword == 1 for hit in everything)


def test_the_vector_ranks_are_those_of_a_search(collection: Collection) -> None:
    vector = documents()[11].vector
    near = collection.search(vector=vector, limit=60)
    found = collection.hybrid(text="mango", vector=vector, limit=60)

    assert {hit.id: hit.legs.vector for hit in found if hit.legs} == {
        doc_id: rank for rank, doc_id in enumerate(near.ids, start=1)
    }
    assert {h.id: h.distance for h in found} == pytest.approx({h.id: h.distance for h in near})


def test_the_keyword_ranks_are_of_texts_that_hold_a_word(collection: Collection) -> None:
    found = collection.hybrid(text="mango olive", vector=documents()[11].vector, limit=60)
    ranked = {hit.id for hit in found if hit.legs and hit.legs.keyword is not None}

    assert ranked == set(by_words(collection, "mango olive"))
    best = next(hit for hit in found if hit.legs and hit.legs.keyword == 1)
    assert {"mango", "olive"} & set(best.text.split())


def test_the_text_is_embedded_where_no_vector_is_given(collection: Collection) -> None:
    mine = collection.hybrid(text="fig grape", vector=Embedder().embed_query("fig grape"), limit=8)
    assert collection.hybrid(text="fig grape", limit=8).ids == mine.ids


def test_weights(collection: Collection) -> None:
    vector = documents()[20].vector
    near = collection.search(vector=vector, limit=3).ids
    assert collection.hybrid(text="olive", vector=vector, limit=3, weights=(1.0, 0.0)).ids == near
    words = collection.hybrid(text="olive", vector=vector, limit=3, weights=(0.0, 1.0))
    assert {hit.legs.keyword for hit in words if hit.legs} <= {1, 2, 3}


FILTERS: list[dict[str, object]] = [
    {"topic": "odd"},
    {"year": {"$gte": 2003, "$lt": 2006}},
    {"price": {"$lte": 4.5}},
    {"open": True},
    {"open": {"$ne": True}},
    {"tags": {"$contains": "kiwi"}},
    {"year": {"$in": [2001, 2002]}},
    {"$or": [{"topic": "odd"}, {"year": 2004}]},
    {"$not": {"$or": [{"topic": "odd"}, {"year": 2004}]}},
    {"seen": {"$gt": datetime(2024, 1, 10, tzinfo=UTC)}},
    {"free": 3},
    {"topic": {"$like": "o%"}, "free": {"$gt": 1}},
    {"year": {"$nin": [2001, 2002, 2003]}},
]


@pytest.mark.parametrize("filter_", FILTERS, ids=str)
def test_filters_hold_in_both_rankings(collection: Collection, filter_: dict[str, object]) -> None:
    matching = {d.id for d in collection.find(filter_)}
    found = collection.hybrid(text="mango olive fig", vector=documents()[1].vector, limit=100, filter=filter_)

    assert set(found.ids) == matching
    ranked = {hit.id for hit in found if hit.legs and hit.legs.keyword is not None}
    assert ranked == set(by_words(collection, "mango olive fig", filter=filter_))


def test_a_filter_that_matches_nothing(collection: Collection) -> None:
    found = collection.hybrid(text="mango", filter={"year": 1900})
    assert found.ids == ()
    assert found.incomplete is not None
    assert found.incomplete.code == "few_matches"


def test_namespaces_and_partitions_hold_in_both_rankings(client: SVRClient) -> None:
    collection = made(client, partition_by=by_field("topic"))
    collection.add(
        [Document("other", "mango mango mango", {"topic": "odd"}, vector=[1.0] * 16)], namespace="b"
    )
    indexed(collection)

    assert collection.hybrid(text="mango", limit=100, namespace="b").ids == ("other",)
    odd = collection.hybrid(text="mango", limit=100, partitions=["topic=odd"])
    assert {hit.partition for hit in odd} == {"topic=odd"}
    assert len(odd) == 30
    assert "other" not in odd.ids
    assert collection.hybrid(text="mango", limit=3, filter={"topic": "even"}).route.step == "filter"


def test_every_server_version_gives_the_same_answer(
    mongodb_url: str, client: SVRClient, database: Db
) -> None:
    collection = made(client, "same")
    collection.add([Document(f"e{d.id}", d.text, d.metadata, d.vector) for d in documents()])
    collection.refresh()
    told(database, paused=True)
    collection.add([Document("d001", "mango and nothing else", {"topic": "even"}, vector=[0.5] * 16)])
    told(database, serverVersion="7.0.0")
    with SVRClient(mongodb_url) as older:
        before = older.collection("same", embedder=Embedder())
        for text in ("mango", "fig olive", "unknown words"):
            for filter_ in (None, *FILTERS):
                for limit in (3, 29):
                    mine = collection.hybrid(text=text, limit=limit, filter=filter_)
                    theirs = before.hybrid(text=text, limit=limit, filter=filter_)
                    assert _shown(mine) == _shown(theirs)
                    assert mine.incomplete == theirs.incomplete

    assert counted(database, "$rankFusion") > 0
    told(database, paused=False)


def test_partitions_with_indexes_of_their_own(client: SVRClient) -> None:
    """Vectors over views, words over all documents."""
    collection = made(client, "own", index=hnsw(min_rows=1, mode="views"), partition_by=by_field("topic"))
    plain = made(client, "plain")
    for limit in (4, 60):
        mine, theirs = (c.hybrid(text="mango fig", limit=limit) for c in (collection, plain))
        assert [(h.id, h.legs) for h in mine] == [(h.id, h.legs) for h in theirs]
    assert "(ready) over svr.view." in collection.explain(vector=documents()[0].vector).plan


def _shown(found: SearchResult) -> list[tuple[object, ...]]:
    return [(h.id, h.score, h.distance, h.legs, h.partition, h.text, h.version) for h in found]


def test_one_round_trip_where_the_server_fuses(collection: Collection, database: Db) -> None:
    collection.add([Document(f"e{d.id}", d.text, d.metadata, d.vector) for d in documents()])
    collection.refresh()
    collection.hybrid(text="mango", limit=3)
    before = counted(database, "aggregate"), counted(database, "$rankFusion")
    assert collection.hybrid(text="mango", limit=3).incomplete is None
    assert (counted(database, "aggregate"), counted(database, "$rankFusion")) == (
        before[0] + 1,
        before[1] + 1,
    )


def test_a_fresh_row_is_found_by_its_vector_and_its_words_are_told_to_wait(
    collection: Collection, database: Db
) -> None:
    told(database, paused=True)
    collection.add(
        [Document("new", "a mango of today", {"year": 2001}, vector=Embedder().embed_query("mango"))]
    )
    found = collection.hybrid(text="mango", limit=61)

    new = next(hit for hit in found if hit.id == "new")
    assert new.legs == Legs(1, None)
    assert found.incomplete is not None
    assert found.incomplete.code == "not_indexed"
    assert found.incomplete.message.startswith("1 document with these words")
    assert collection.hybrid(text="cherry", limit=5).incomplete is None

    told(database, paused=False)
    collection.refresh()
    after = collection.hybrid(text="mango", limit=5)
    assert after.incomplete is None
    ranks = next(hit for hit in after if hit.id == "new").legs
    assert ranks is not None
    assert ranks.keyword is not None


def test_a_replaced_text_is_not_found_by_its_former_words(collection: Collection, database: Db) -> None:
    told(database, paused=True)
    gone = by_words(collection, "mango")[0]
    collection.add([Document(gone, "words of another kind", vector=[1.0] * 16)])
    found = collection.hybrid(text="mango", limit=100)

    hit = next(hit for hit in found if hit.id == gone)
    assert hit.legs is not None
    assert hit.legs.keyword is None
    assert hit.text == "words of another kind"
    told(database, paused=False)


def test_a_deleted_document_is_in_no_ranking(collection: Collection) -> None:
    gone = by_words(collection, "mango")[:2]
    collection.delete(gone)
    assert set(gone).isdisjoint(collection.hybrid(text="mango", limit=100).ids)


def test_until_the_index_of_words_is_built_vectors_decide(client: SVRClient, database: Db) -> None:
    collection = client.create_collection("early", embedder=Embedder())
    collection.add(documents())
    collection.refresh()
    told(database, build=60)
    found = collection.hybrid(text="mango", limit=5)

    assert found.ids == collection.search(text="mango", limit=5).ids
    assert found.incomplete is not None
    assert found.incomplete.code == "not_indexed"


def test_a_dead_ranking_is_told(collection: Collection, database: Db) -> None:
    index = next(
        i["name"] for i in database["svr.documents.1"].list_search_indexes() if i["type"] == "search"
    )
    database["svr.documents.1"].drop_search_index(index)
    told(database, failNextBuild="no room")
    until(lambda: bool(collection.hybrid(text="mango", limit=5)) and _failed(database), seconds=10)
    found = collection.hybrid(text="mango", limit=5)

    assert found.ids == collection.search(text="mango", limit=5).ids
    assert found.incomplete is not None
    assert found.incomplete.code == "leg_failed"
    assert "words failed" in found.incomplete.message


def _failed(database: Db) -> bool:
    found = [i for i in database["svr.documents.1"].list_search_indexes() if i["type"] == "search"]
    return bool(found) and found[0]["status"] == "FAILED"


def test_both_dead_is_an_error_and_never_nothing(collection: Collection, database: Db) -> None:
    told(database, searchDelay=3.0)
    with pytest.raises(errors.DeadlineExceeded):
        collection.hybrid(text="mango", timeout_seconds=0.3)
    told(database, searchDelay=0.0)
    assert len(collection.hybrid(text="mango")) == 10


def _broken(*names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise errors.BackendError("the server says no")

    for name in names:
        monkeypatch.setattr(MongoBackend, name, fails)


def test_without_the_fusing_stage_each_ranking_is_asked_for_itself(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = collection.hybrid(text="mango", limit=5)
    _broken("both", monkeypatch=monkeypatch)
    after = collection.hybrid(text="mango", limit=5)
    assert _shown(after) == _shown(before)
    assert after.incomplete is None


def test_words_decide_alone_where_vectors_fail(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken("both", "search", monkeypatch=monkeypatch)
    found = collection.hybrid(text="mango", limit=100)
    assert set(found.ids) == set(by_words(collection, "mango"))
    assert {hit.legs.vector for hit in found if hit.legs} == {None}
    assert found.incomplete is not None
    assert found.incomplete.code == "leg_failed"
    assert "vectors failed" in found.incomplete.message


def test_the_error_of_the_first_is_raised_where_both_fail(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken("both", "search", "keywords", monkeypatch=monkeypatch)
    with pytest.raises(errors.BackendError, match="says no"):
        collection.hybrid(text="mango")


def test_a_full_tier_is_a_typed_error(client: SVRClient, database: Db) -> None:
    collection = client.create_collection("full", embedder=Embedder())
    collection.add(documents())
    collection.refresh()
    told(database, maxIndexes=1)
    found = collection.hybrid(text="mango")
    assert found.incomplete is not None
    assert found.incomplete.code == "leg_failed"
    assert "search index" in found.incomplete.message


def test_texts_that_the_server_embeds(client: SVRClient) -> None:
    collection = client.create_collection("auto", embedder=AtlasEmbedding("voyage-4", 256))
    collection.add([Document(d.id, d.text, d.metadata) for d in documents()])
    indexed(collection)
    found = collection.hybrid(text="mango olive", limit=10)

    assert found.incomplete is None
    assert len(found) == 10
    assert {hit.id for hit in found if hit.legs and hit.legs.keyword} <= set(
        by_words(collection, "mango olive")
    )
    assert not any(math.isnan(hit.distance) for hit in found if hit.legs and hit.legs.vector)
    with pytest.raises(errors.InputError, match="vector"):
        collection.hybrid(text="mango", vector=[1.0] * 256)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": ""}, "empty"),
        ({"text": "   "}, "empty"),
        ({"text": "a\x00b"}, "text"),
        ({"text": "mango", "weights": (0, 0)}, "weights"),
        ({"text": "mango", "limit": 0}, "limit"),
        ({"text": "mango", "vector": [1.0] * 3}, "3 numbers"),
        ({"text": "mango", "filter": {"year": {"$near": 1}}}, "near"),
    ],
)
def test_wrong_arguments_are_refused(collection: Collection, given: dict[str, object], said: str) -> None:
    with pytest.raises(errors.InputError, match=said):
        collection.hybrid(**given)  # type: ignore[arg-type]


def test_an_unknown_partition_is_refused(collection: Collection) -> None:
    with pytest.raises(errors.PartitionNotFound):
        collection.hybrid(text="mango", partitions=["nowhere"])


def test_a_collection_without_embedder_needs_a_vector(client: SVRClient) -> None:
    plain = client.create_collection("plain", dimensions=16)
    plain.add(documents())
    with pytest.raises(errors.InputError, match="embedder"):
        plain.hybrid(text="mango")
    assert len(plain.hybrid(text="mango", vector=documents()[0].vector)) == 10


def test_vectors_come_with_the_hits_when_asked_for(collection: Collection) -> None:
    found = collection.hybrid(text="mango", limit=20, with_vectors=True)
    by_id = {d.id: d.vector for d in documents()}
    for hit in found:
        assert hit.vector is not None
        assert hit.vector.tolist() == pytest.approx(by_id[hit.id], rel=1e-6)


def test_an_empty_collection(client: SVRClient) -> None:
    empty = client.create_collection("empty", embedder=Embedder())
    found = empty.hybrid(text="mango")
    assert found.ids == ()
    assert found.incomplete is not None


def test_dropping_a_collection_takes_the_index_of_words_along(
    collection: Collection, client: SVRClient, database: Db
) -> None:
    client.drop_collection(collection.name)
    again = client.create_collection(collection.name, dimensions=16)
    assert again.count() == 0
    assert database.list_collection_names(filter={"name": {"$regex": "documents.1$"}}) == []


def test_a_limit_beyond_the_depth_gives_every_match(collection: Collection) -> None:
    found = collection.hybrid(text="mango", limit=500)
    assert len(found) == 60
    assert found.incomplete is not None
    assert found.incomplete.code == "few_matches"


async def test_the_asynchronous_form(mongodb_url: str, collection: Collection) -> None:
    async with AsyncSVRClient(mongodb_url) as client:
        opened = await client.collection(collection.name, embedder=Embedder())
        found = await opened.hybrid(text="mango", limit=4)
        assert found.ids == (await collection.aio.hybrid(text="mango", limit=4)).ids


@pytest.mark.parametrize("mode", ["fields", "source"])
def test_every_way_of_indexing_gives_the_same_ranks(client: SVRClient, mode: str) -> None:
    collection = made(
        client,
        mode,
        index=hnsw(min_rows=0, mode=mode),
        partition_by=by_field("topic"),  # type: ignore[arg-type]
    )
    plain = made(client, "plain")
    for filter_ in (None, {"year": {"$gte": 2003}}, {"free": 1}):
        mine, theirs = (c.hybrid(text="mango fig", limit=60, filter=filter_) for c in (collection, plain))
        assert [(h.id, h.legs, h.distance) for h in mine] == [(h.id, h.legs, h.distance) for h in theirs]


def test_numbers_beyond_what_floats_hold_are_filtered_exactly(client: SVRClient) -> None:
    collection = client.create_collection("large", dimensions=2, filter_fields={"n": int})
    near = 2**60
    collection.add([Document(f"d{i}", "mango", {"n": near + i}, vector=[1.0, i]) for i in range(5)])
    for _ in range(2):
        collection.hybrid(text="mango", vector=[1.0, 0.0])
        collection.refresh()
    found = collection.hybrid(text="mango", vector=[1.0, 0.0], filter={"n": {"$gt": near + 2}})
    assert {hit.id: hit.legs and hit.legs.keyword for hit in found} == {"d3": 1, "d4": 1}


def test_adopted_documents_are_searched_by_their_own_texts(client: SVRClient, database: Db) -> None:
    database["theirs"].insert_many(
        [{"_id": d.id, "body": d.text, "vec": d.vector, "kind": d.metadata["topic"]} for d in documents()]
    )
    collection = client.adopt_collection("theirs", "theirs", text_field="body", vector_field="vec")
    collection.refresh()
    vector = documents()[3].vector
    collection.hybrid(text="mango", vector=vector)
    collection.refresh()
    found = collection.hybrid(text="mango", vector=vector, limit=60, filter={"kind": "odd"})

    assert found.incomplete is not None
    assert found.incomplete.code == "few_matches"
    ranked = {hit.id for hit in found if hit.legs and hit.legs.keyword}
    assert ranked == {d.id for d in documents() if "mango" in d.text.split() and d.metadata["topic"] == "odd"}


def test_hostile_words_are_only_words(collection: Collection) -> None:
    for text in ('"} ]', "$where: 1", "mango* AND (olive", "\\", "a" * 20_000, "🥭 mango"):
        assert len(collection.hybrid(text=text, limit=5)) == 5


async def test_many_at_once(mongodb_url: str, collection: Collection) -> None:
    async with AsyncSVRClient(mongodb_url) as client:
        opened = await client.collection(collection.name, embedder=Embedder())
        found = await asyncio.gather(*(opened.hybrid(text=word, limit=5) for word in WORDS * 2))
        for word, result in zip(WORDS * 2, found, strict=True):
            assert result.ids == (await opened.hybrid(text=word, limit=5)).ids


def test_a_map_that_moves_on_is_read_again(mongodb_url: str, client: SVRClient) -> None:
    collection = made(client, "moving", partition_by=by_field("topic"))
    with SVRClient(mongodb_url) as other:
        behind = other.collection("moving", embedder=Embedder())
        collection.add([Document("new", "mango", {"topic": "third"}, vector=[1.0] * 16)])
        assert len(behind.hybrid(text="mango", limit=100)) == 61


def test_postgres_embeds_nothing_by_itself(svr_client: SVRClient) -> None:
    with pytest.raises(errors.ConfigError, match="postgres"):
        svr_client.create_collection("auto", embedder=AtlasEmbedding("voyage-4", 256))


def test_a_word_that_all_texts_hold_does_not_bury_the_rare_one(client: SVRClient) -> None:
    rows = topics(1_500, 16, seed=4)
    made = client.create_collection("bills", dimensions=16, index=hnsw(min_rows=0))
    made.add([Document(f"d{n}", f"invoice {n}", vector=row) for n, row in enumerate(rows)])
    made.hybrid(text="invoice", vector=rows[0])
    made.refresh()
    found = made.hybrid(text="invoice 1234", vector=rows[0], limit=3)
    assert "d1234" in found.ids[:2]
    assert found[found.ids.index("d1234")].legs.keyword == 1
    assert all(hit.legs.keyword is None for hit in found if hit.id != "d1234")
    common = made.hybrid(text="invoice", vector=rows[0], limit=3)
    assert common.ids == made.search(vector=rows[0], limit=3).ids
