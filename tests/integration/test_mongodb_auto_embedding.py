"""Collections whose texts the server embeds: what they answer, refuse, and say of rows that wait."""

from __future__ import annotations

from collections.abc import Iterator

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
    by_cluster,
    by_field,
    errors,
    hnsw,
)
from svr_retrievers.testing.mongodb.hashing import hash_embed
from svr_retrievers.testing.mongodb.waiting import counted, told, until

pytestmark = pytest.mark.mongodb

EMBEDDING = AtlasEmbedding("voyage-4", dimensions=256)
TEXTS = {
    "cat": "the cat sleeps on the warm sofa",
    "dog": "the dog runs across the green field",
    "tax": "how to file a tax return in spring",
    "law": "the law on income tax and its exceptions",
}


class Words:
    """An embedder of this process, to compare with."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [
            [float(x) for x in row]
            for row in hash_embed(texts, model="voyage-4", purpose="document", dimensions=256)
        ]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture
def client(mongodb_url: str) -> Iterator[SVRClient]:
    with SVRClient(mongodb_url) as opened:
        yield opened


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Database[dict[str, object]]]:
    with MongoClient[dict[str, object]](mongodb_url) as opened:
        yield opened.get_default_database()


def documents() -> list[Document]:
    return [
        Document(name, text, {"topic": "home" if at < 2 else "money", "year": 2020 + at})
        for at, (name, text) in enumerate(TEXTS.items())
    ]


@pytest.fixture
def collection(client: SVRClient) -> Collection:
    made = client.create_collection("texts", embedder=EMBEDDING, filter_fields={"year": int})
    made.add(documents())
    made.refresh()
    return made


def test_the_server_embeds_documents_and_queries(
    collection: Collection, database: Database[dict[str, object]]
) -> None:
    found = collection.search(text="tax return", limit=2)

    assert found.ids == ("tax", "law")
    assert found.incomplete is None
    assert (collection.dimensions, collection.metric.value) == (256, "cosine")
    kept = database["svr.documents.1"].find_one({"_id.i": "tax"})
    assert kept is not None
    assert "embedding" not in kept


def test_hits_and_distances_are_those_of_the_same_vectors_compared_here(
    client: SVRClient, collection: Collection
) -> None:
    here = client.create_collection("here", embedder=Words())
    here.add(documents())
    for query in ("a warm cat", "income tax", "green law of the field", "nothing of these"):
        mine, theirs = here.search(text=query, limit=4), collection.search(text=query, limit=4)
        assert mine.ids == theirs.ids
        assert [h.distance for h in theirs] == pytest.approx([h.distance for h in mine], abs=1e-5)
        assert [h.score for h in theirs] == pytest.approx([h.score for h in mine], abs=1e-5)


def test_bits_are_read_by_their_own_scores(client: SVRClient) -> None:
    made = client.create_collection("bits", embedder=AtlasEmbedding("voyage-4", 256, "binary"))
    made.add(documents())
    made.refresh()
    here = client.create_collection("here", embedder=Words())
    here.add(documents())

    mine, theirs = (c.search(text="income tax", limit=4) for c in (here, made))
    assert mine.ids == theirs.ids
    assert [h.distance for h in theirs] == pytest.approx([h.distance for h in mine], abs=1e-4)


def test_it_is_remembered_how_a_collection_is_embedded(mongodb_url: str, collection: Collection) -> None:
    with SVRClient(mongodb_url) as other:
        opened = other.collection("texts")
        assert opened.embedder == EMBEDDING
        assert opened.search(text="tax return", limit=1).ids == ("tax",)
        assert other.create_collection("texts", embedder=EMBEDDING, if_exists="open").count() == 4


@pytest.mark.parametrize("embedder", [AtlasEmbedding("voyage-4-large", 256), Words()])
def test_no_other_embedder_is_taken(client: SVRClient, collection: Collection, embedder: object) -> None:
    with pytest.raises(errors.CollectionMismatch, match="voyage-4"):
        client.collection(collection.name, embedder=embedder)  # type: ignore[arg-type]


def test_a_collection_of_vectors_is_not_embedded_later(client: SVRClient) -> None:
    client.create_collection("vectors", dimensions=256)
    with pytest.raises(errors.CollectionMismatch, match="vectors of its own"):
        client.collection("vectors", embedder=EMBEDDING)
    with pytest.raises(errors.CollectionMismatch, match="vectors of its own"):
        client.create_collection("vectors", embedder=EMBEDDING, if_exists="open")


@pytest.mark.parametrize(
    "given",
    [
        {"vector": [0.1] * 256},
        {"text": "tax", "with_vectors": True},
        {"text": "tax", "nprobe": 2},
        {"text": "tax", "recall_target": 0.9},
    ],
)
def test_what_needs_vectors_is_refused(collection: Collection, given: dict[str, object]) -> None:
    with pytest.raises(errors.InputError, match="server"):
        collection.search(**given)  # type: ignore[arg-type]


def test_reading_vectors_and_measuring_recall_are_refused(collection: Collection) -> None:
    with pytest.raises(errors.InputError, match="with_vectors"):
        collection.get(["cat"], with_vectors=True)
    with pytest.raises(errors.InputError, match="check_recall"):
        collection.check_recall()


def test_documents_with_vectors_are_refused_before_anything_is_written(collection: Collection) -> None:
    with pytest.raises(errors.BatchError, match="leave the vector out") as refused:
        collection.add([Document("new", "text"), Document("odd", "text", vector=[1.0] * 256)])
    assert [p.id for p in refused.value.problems] == ["odd"]
    with pytest.raises(errors.InputError, match="no vectors"):
        collection.add([Document("new", "text")], vectors=np.ones((1, 256)))
    assert collection.count() == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"partition_by": by_cluster(4)}, "by_cluster"),
        ({"partition_by": by_field("topic").then(by_cluster(2))}, "by_cluster"),
        ({"metric": "l2"}, "cosine"),
        ({"dimensions": 512}, "512"),
        ({"index": hnsw(mode="fields")}, "fields"),
        ({"index": hnsw(quantization="scalar")}, "quantization"),
    ],
)
def test_what_cannot_be_embedded_by_the_server_is_refused(
    client: SVRClient, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(errors.InputError, match=said):
        client.create_collection("odd", embedder=EMBEDDING, **arguments)  # type: ignore[arg-type]
    assert client.list_collections() == []


def test_a_declaration_is_checked_where_it_is_made() -> None:
    for odd in (
        {"model": ""},
        {"model": "voyage-4", "dimensions": 300},
        {"model": "v", "quantization": "half"},
    ):
        with pytest.raises(errors.InputError):
            AtlasEmbedding(**odd)  # type: ignore[arg-type]


def test_other_backends_refuse_it() -> None:
    with SVRClient("memory://") as memory, pytest.raises(errors.ConfigError, match="memory"):
        memory.create_collection("texts", embedder=EMBEDDING)


def test_filters_and_partitions_narrow_the_search(client: SVRClient) -> None:
    made = client.create_collection(
        "parts", embedder=EMBEDDING, partition_by=by_field("topic"), filter_fields={"year": int}
    )
    made.add(documents())
    made.add([Document("tax", TEXTS["tax"], {"topic": "money", "year": 1999})], namespace="other")
    made.refresh()

    assert set(made.search(text="tax", filter={"topic": "home"}).ids) == {"cat", "dog"}
    assert made.search(text="tax", filter={"topic": "home"}).route.step == "filter"
    assert set(made.search(text="cat", partitions=["topic=money"]).ids) == {"tax", "law"}
    assert made.search(text="cat", filter={"year": {"$gt": 2022}}).ids == ("law",)
    assert made.search(text="cat", filter={"topic": {"$like": "mon%"}, "year": 2022}).ids == ("tax",)
    assert made.search(text="cat", namespace="other").ids == ("tax",)
    assert made.search(text="anything").route.step == "fan_out"
    assert made.route(text="cat").considered == 2


def test_never_fewer_than_asked_for_when_the_filter_is_applied_here(client: SVRClient) -> None:
    """A field that is not declared is filtered after the index has named its candidates."""
    made = client.create_collection("late", embedder=EMBEDDING)
    near = [Document(f"n{i:03}", f"tax return {i}", {"kind": "near"}) for i in range(150)]
    far = [Document(f"f{i}", f"words that have little in common {i}", {"kind": "far"}) for i in range(5)]
    made.add(near + far)
    made.refresh()

    found = made.search(text="tax return", limit=5, filter={"kind": "far"})
    assert set(found.ids) == {f"f{i}" for i in range(5)}
    assert found.incomplete is None
    more = made.search(text="tax return", limit=6, filter={"kind": "far"})
    assert len(more) == 5
    assert more.incomplete is not None
    assert more.incomplete.code == "few_matches"


def test_equal_distances_are_ordered_by_id(client: SVRClient) -> None:
    made = client.create_collection("same", embedder=EMBEDDING)
    made.add([Document(f"d{i:02}", "the very same text") for i in reversed(range(40))])
    made.refresh()

    assert made.search(text="the very same text", limit=7).ids == tuple(f"d{i:02}" for i in range(7))


def test_rows_that_wait_are_told(
    client: SVRClient, collection: Collection, database: Database[dict[str, object]]
) -> None:
    told(database, paused=True)
    collection.add([Document("new", "a new text on tax", {"year": 2030}), Document("void", "")])
    found = collection.search(text="tax", limit=2)
    assert set(found.ids) == {"law", "tax"}
    assert found.incomplete is not None
    assert found.incomplete.code == "not_indexed"
    assert found.incomplete.message.startswith("1 matching document waits")
    assert collection.search(text="tax", filter={"year": 2020}, limit=1).incomplete is None

    told(database, paused=False)
    collection.refresh()
    after = collection.search(text="new text tax", limit=1)
    assert after.ids == ("new",)
    assert after.incomplete is None


def test_a_replaced_text_is_never_ranked_by_its_former_one(
    collection: Collection, database: Database[dict[str, object]]
) -> None:
    told(database, paused=True)
    collection.add([Document("cat", "an essay on tax returns")])
    found = collection.search(text=TEXTS["cat"], limit=4)
    assert "cat" not in found.ids
    assert found.incomplete is not None
    assert found.incomplete.code == "not_indexed"
    told(database, paused=False)
    collection.refresh()
    assert collection.search(text="essay on returns", limit=1).ids == ("cat",)


def test_an_index_that_is_being_built_is_told(
    client: SVRClient, database: Database[dict[str, object]]
) -> None:
    told(database, build=30)
    made = client.create_collection("slow", embedder=EMBEDDING)
    made.add(documents())
    found = made.search(text="tax")
    assert found.ids == ()
    assert found.incomplete is not None
    assert found.incomplete.message.startswith("4 matching documents wait")


def test_an_index_that_failed_is_an_error(client: SVRClient, database: Database[dict[str, object]]) -> None:
    told(database, failNextBuild="no key for the model")
    made = client.create_collection("failed", embedder=EMBEDDING)
    made.add(documents())
    with pytest.raises(errors.IndexFailed, match="no key"):
        made.refresh()
    with pytest.raises(errors.IndexFailed):
        made.search(text="tax")


def test_empty_texts_are_kept_and_never_found(collection: Collection) -> None:
    collection.add([Document("void", "", {"year": 2024})])
    collection.refresh()
    assert collection.get(["void"])[0].metadata == {"year": 2024}
    found = collection.search(text="tax", limit=10)
    assert "void" not in found.ids
    assert len(found) == 4
    assert found.incomplete is not None
    assert found.incomplete.code == "few_matches"


def test_too_many_questions_are_a_typed_error(
    collection: Collection, database: Database[dict[str, object]]
) -> None:
    told(database, embedLimited=True)
    with pytest.raises(errors.EmbeddingLimited, match="no more requests"):
        collection.search(text="tax")
    told(database, embedLimited=False)
    assert len(collection.search(text="tax")) == 4


def test_deleted_documents_are_not_found(collection: Collection) -> None:
    assert collection.delete(["tax"]) == 1
    assert "tax" not in collection.search(text="tax return").ids
    assert collection.clear() == 3
    assert collection.search(text="tax return").ids == ()


def test_one_round_trip_a_search(collection: Collection, database: Database[dict[str, object]]) -> None:
    collection.search(text="tax", limit=2)
    before = counted(database, "aggregate")
    collection.search(text="tax", limit=2)
    assert counted(database, "aggregate") == before + 1


def test_explaining_shows_the_question(collection: Collection) -> None:
    told_ = collection.explain(text="tax return", limit=2, analyze=True)
    assert '"query": "tax return"' in told_.plan
    assert told_.recall == 1.0
    assert told_.result is not None


def test_analyzing_needs_no_vectors(collection: Collection) -> None:
    assert collection.analyze() is not None


def test_writes_make_no_needless_generations(client: SVRClient) -> None:
    made = client.create_collection("many", embedder=EMBEDDING, partition_by=by_field("topic"))
    made.add(documents())
    before = made.partitions.generation
    for at in range(5):
        made.add([Document(f"{at}-{name}", text, {"topic": "home"}) for name, text in TEXTS.items()])
    assert made.partitions.generation == before


async def test_the_asynchronous_form(mongodb_url: str) -> None:
    async with AsyncSVRClient(mongodb_url) as client:
        made = await client.create_collection("texts", embedder=EMBEDDING)
        await made.add(documents())
        await made.refresh()
        assert (await made.search(text="tax return", limit=1)).ids == ("tax",)


def test_rows_become_searchable_without_a_refresh(collection: Collection) -> None:
    collection.add([Document("new", "a brand new zebra")])
    until(lambda: collection.search(text="zebra", limit=1).ids == ("new",), seconds=20)


FILTERS: list[dict[str, object]] = [
    {"year": {"$gte": 2022}},
    {"year": {"$ne": 2021}},
    {"topic": "home"},
    {"topic": {"$like": "%ney"}},
    {"$or": [{"topic": "home"}, {"year": 2023}]},
    {"$not": {"year": {"$in": [2020, 2023]}}},
    {"year": {"$lt": 1900}},
    {"nothing": {"$exists": False}},
]


@pytest.mark.parametrize("filter_", FILTERS, ids=str)
def test_a_search_finds_exactly_what_a_listing_does(
    collection: Collection, filter_: dict[str, object]
) -> None:
    found = collection.search(text="cat or tax", limit=10, filter=filter_)
    assert sorted(found.ids) == sorted(d.id for d in collection.find(filter_))
    assert found.incomplete is not None
    assert found.incomplete.code == "few_matches"


def test_over_an_index_that_is_always_late_results_are_short_only_with_the_reason(
    client: SVRClient, database: Database[dict[str, object]]
) -> None:
    made = client.create_collection("late", embedder=EMBEDDING)
    made.refresh()
    told(database, refresh=0.3)
    for at in range(6):
        made.add([Document(f"{name}{at}", text) for name, text in TEXTS.items()])
        found = made.search(text="tax", limit=1_000)
        assert len(found) <= 4 * (at + 1)
        assert found.incomplete is not None
        assert (found.incomplete.code == "few_matches") == (len(found) == 4 * (at + 1))
    made.refresh()
    assert len(made.search(text="tax", limit=1_000)) == 24


def test_approximate_searches_ask_the_graph(client: SVRClient) -> None:
    made = client.create_collection("graph", embedder=EMBEDDING, index=hnsw(min_rows=0))
    made.add([Document(f"d{i:03}", f"text number {i} of many") for i in range(120)])
    made.refresh()
    assert '"numCandidates"' in made.explain(text="text number 7", limit=5).plan
    found = made.search(text="text number 7 of many", limit=5, ef_search=100)
    assert found.ids[0] == "d007"
    assert found.ids == made.search(text="text number 7 of many", limit=5, exact=True).ids


def test_a_search_beyond_the_candidates_of_the_graph_gives_all(client: SVRClient) -> None:
    made = client.create_collection("all", embedder=EMBEDDING, index=hnsw(min_rows=0))
    made.add([Document(f"d{i:03}", f"text number {i} of many") for i in range(300)])
    made.refresh()
    assert len(made.search(text="text", limit=300)) == 300
    assert made.search(text="text", limit=300).incomplete is None


def test_postgres_refuses_it(svr_client: SVRClient) -> None:
    with pytest.raises(errors.ConfigError, match="MongoDB Atlas"):
        svr_client.create_collection("texts", embedder=EMBEDDING)
