"""Every argument of every public call, given wrongly: a typed error that names it, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

import numpy as np
import pytest

from svr_retrievers import (
    Collection,
    Document,
    Settings,
    SVRClient,
    by_cluster,
    by_field,
    by_hash,
    by_time,
    errors,
    hnsw,
    ivfflat,
    maximal_marginal_relevance,
)
from svr_retrievers.testing.data import documents, vector

pytestmark = pytest.mark.postgres

Call = Callable[[SVRClient, Collection], object]
GOOD = vector(1)

WRONG: tuple[tuple[str, Call], ...] = (
    # create_collection
    ("name", lambda c, d: c.create_collection("", dimensions=2)),
    ("name", lambda c, d: c.create_collection(b"x", dimensions=2)),
    ("name", lambda c, d: c.create_collection("x" * 201, dimensions=2)),
    ("name", lambda c, d: c.collection("")),
    ("name", lambda c, d: c.collection(None)),
    ("name", lambda c, d: c.drop_collection("a\nb")),
    ("dimensions", lambda c, d: c.create_collection("new")),
    ("dimensions", lambda c, d: c.create_collection("new", dimensions=0)),
    ("dimensions", lambda c, d: c.create_collection("new", dimensions=16_001)),
    ("dimensions", lambda c, d: c.create_collection("new", dimensions="4")),
    ("dimensions", lambda c, d: c.create_collection("new", dimensions=4.0)),
    ("metric", lambda c, d: c.create_collection("new", dimensions=4, metric="euclid")),
    ("metric", lambda c, d: c.create_collection("new", dimensions=4, metric=None)),
    ("metric", lambda c, d: c.create_collection("new", dimensions=4, metric=[])),
    ("partition_by", lambda c, d: c.create_collection("new", dimensions=4, partition_by="category")),
    ("filter_fields", lambda c, d: c.create_collection("new", dimensions=4, filter_fields=["year"])),
    ("filter_fields", lambda c, d: c.create_collection("new", dimensions=4, filter_fields={1: int})),
    ("filter_fields", lambda c, d: c.create_collection("new", dimensions=4, filter_fields={"": int})),
    ("year", lambda c, d: c.create_collection("new", dimensions=4, filter_fields={"year": dict})),
    ("year", lambda c, d: c.create_collection("new", dimensions=4, filter_fields={"year": "integer!"})),
    ("year", lambda c, d: c.create_collection("new", dimensions=4, filter_fields={"year": list[bool]})),
    ("filter_fields", lambda c, d: c.create_collection(
        "new", dimensions=4, filter_fields={f"f{n}": int for n in range(201)})),
    ("at", lambda c, d: c.create_collection(
        "new", dimensions=4, filter_fields={"at": int}, partition_by=by_time("at"))),
    ("index", lambda c, d: c.create_collection("new", dimensions=4, index="hnsw")),
    ("embedder", lambda c, d: c.create_collection("new", dimensions=4, embedder="model")),
    ("if_exists", lambda c, d: c.create_collection("new", dimensions=4, if_exists="replace")),
    ("embedder", lambda c, d: c.collection("good", embedder=len)),
    # schemes and indexes
    ("field", lambda c, d: by_field("")),
    ("field", lambda c, d: by_field(3)),
    ("field", lambda c, d: by_field("a\x00")),
    ("max_partitions", lambda c, d: by_field("a", max_partitions=0)),
    ("max_partitions", lambda c, d: by_field("a", max_partitions="many")),
    ("unseen", lambda c, d: by_field("a", unseen="drop")),
    ("values", lambda c, d: by_field("a", values=[None])),
    ("values", lambda c, d: by_field("a", values="abc")),
    ("every", lambda c, d: by_time("a", every="decade")),
    ("n ", lambda c, d: by_hash(0)),
    ("n ", lambda c, d: by_hash(2.0)),
    ("field", lambda c, d: by_hash(2, "")),
    ("k ", lambda c, d: by_cluster(0)),
    ("then", lambda c, d: by_hash(2).then("x")),
    ("by_cluster", lambda c, d: by_cluster(2).then(by_hash(2))),
    ("m ", lambda c, d: hnsw(m=1)),
    ("m ", lambda c, d: hnsw(m="16")),
    ("ef_construction", lambda c, d: hnsw(ef_construction=1001)),
    ("ef_construction", lambda c, d: hnsw(m=40, ef_construction=64)),
    ("ef_search", lambda c, d: hnsw(ef_search=0)),
    ("min_rows", lambda c, d: hnsw(min_rows=-1)),
    ("lists", lambda c, d: ivfflat(lists=0)),
    ("probes", lambda c, d: ivfflat(probes=32_769)),
    # add
    ("documents", lambda c, d: d.add(Document("x", vector=GOOD))),
    ("documents", lambda c, d: d.add({"x": 1})),
    ("documents", lambda c, d: d.add("text")),
    ("documents", lambda c, d: d.add(None)),
    ("documents", lambda c, d: d.add([{"id": "x"}])),
    ("namespace", lambda c, d: d.add([Document("x", vector=GOOD)], namespace="")),
    ("namespace", lambda c, d: d.add([Document("x", vector=GOOD)], namespace=None)),
    ("namespace", lambda c, d: d.add([Document("x", vector=GOOD, namespace="\ud800")])),
    ("vectors", lambda c, d: d.add([Document("x")], vectors=[1.0, 2.0])),
    ("vectors", lambda c, d: d.add([Document("x")], vectors=[["a"] * 4])),
    ("vectors", lambda c, d: d.add([Document("x")], vectors=np.ones((2, 4)))),
    ("vector", lambda c, d: d.add([Document("x", vector=[1, 2, 3])])),
    ("vector", lambda c, d: d.add([Document("x", vector="1234")])),
    ("vector", lambda c, d: d.add([Document("x", vector=[None] * 4)])),
    ("vector", lambda c, d: d.add([Document("x", vector=[1j] * 4)])),
    ("vector", lambda c, d: d.add([Document("x")], vectors=np.zeros((1, 4)))),
    ("id", lambda c, d: d.add([Document(7, vector=GOOD)])),
    ("id", lambda c, d: d.add([Document("", vector=GOOD)])),
    ("text", lambda c, d: d.add([Document("x", text=None, vector=GOOD)])),
    ("text", lambda c, d: d.add([Document("x", text="a\x00", vector=GOOD)])),
    ("metadata", lambda c, d: d.add([Document("x", metadata=[1], vector=GOOD)])),
    ("metadata", lambda c, d: d.add([Document("x", metadata={1: 2}, vector=GOOD)])),
    ("metadata", lambda c, d: d.add([Document("x", metadata={"a": object()}, vector=GOOD)])),
    ("metadata", lambda c, d: d.add([Document("x", metadata={"a": float("inf")}, vector=GOOD)])),
    ("metadata", lambda c, d: d.add([Document("x", metadata={"a\x00": 1}, vector=GOOD)])),
    ("year", lambda c, d: d.add([Document("x", metadata={"year": "2020"}, vector=GOOD)])),
    ("year", lambda c, d: d.add([Document("x", metadata={"year": 2**63}, vector=GOOD)])),
    ("at", lambda c, d: d.add([Document("x", metadata={"at": "yesterday"}, vector=GOOD)])),
    ("category", lambda c, d: d.add([Document("x", metadata={"category": ["a"]}, vector=GOOD)])),
    ("category", lambda c, d: d.add([Document("x", metadata={"category": {"a": 1}}, vector=GOOD)])),
    # reading and deleting
    ("ids", lambda c, d: d.get("d001")),
    ("ids", lambda c, d: d.get(None)),
    ("ids", lambda c, d: d.get([1])),
    ("namespace", lambda c, d: d.get(["a"], namespace=3)),
    ("ids", lambda c, d: d.find(ids="d001")),
    ("limit", lambda c, d: d.find(limit=-1)),
    ("limit", lambda c, d: d.find(limit="3")),
    ("filter", lambda c, d: d.find("year")),
    ("filter", lambda c, d: d.find([("year", 1)])),
    ("year", lambda c, d: d.count({"year": "x"})),
    ("namespace", lambda c, d: d.count(namespace="")),
    ("ids", lambda c, d: d.delete()),
    ("ids", lambda c, d: d.delete("d001")),
    ("filter", lambda c, d: d.delete(filter="all")),
    ("namespace", lambda c, d: d.delete(["d001"], namespace="")),
    ("namespace", lambda c, d: d.clear(namespace=None)),
    # searching
    ("vector", lambda c, d: d.search()),
    ("vector", lambda c, d: d.search(vector=GOOD, text="a")),
    ("vector", lambda c, d: d.explain()),
    ("vector", lambda c, d: d.route(vector=[1])),
    ("text", lambda c, d: d.search(text=3)),
    ("embedder", lambda c, d: d.search(text="a")),
    ("limit", lambda c, d: d.explain(vector=GOOD, limit=0)),
    ("nprobe", lambda c, d: d.route(nprobe=0)),
    ("recall_target", lambda c, d: d.route(recall_target=2)),
    ("partitions", lambda c, d: d.route(partitions="category=wiki")),
    ("namespace", lambda c, d: d.route(namespace=1)),
    # everything else
    ("lambda_mult", lambda c, d: maximal_marginal_relevance([1.0], [[1.0]], k=1, lambda_mult=2)),
    ("url", lambda c, d: SVRClient(7)),
    ("preset", lambda c, d: Settings.load(preset="huge")),
)  # fmt: skip


@pytest.fixture(scope="module", params=["memory", "postgres"])
def client(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[SVRClient]:
    with SVRClient("memory://" if request.param == "memory" else postgres_url) as client:
        yield client


@pytest.fixture(scope="module")
def collection(client: SVRClient) -> Collection:
    made = client.create_collection(
        "good", dimensions=4, partition_by=by_field("category"), filter_fields={"year": int, "at": datetime}
    )
    made.add(documents(8))
    return made


@pytest.mark.parametrize(
    ("argument", "call"), WRONG, ids=[f"{n}-{named.strip()}" for n, (named, _) in enumerate(WRONG)]
)
def test_a_wrong_argument_is_named_and_nothing_happens(
    client: SVRClient, collection: Collection, argument: str, call: Call
) -> None:
    before = collection.find(with_vectors=True), client.list_collections(), len(collection.partitions)
    with pytest.raises((errors.InputError, errors.ConfigError)) as caught:
        call(client, collection)
    assert argument in str(caught.value)
    assert caught.value.code
    assert (
        collection.find(with_vectors=True),
        client.list_collections(),
        len(collection.refresh()),
    ) == before


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("mysql://user:s3cret@host/db", errors.ConfigError),
        ("postgresql+psycopg://user:s3cret@host/db", errors.ConfigError),
        ("user:s3cret@host/db", errors.ConfigError),
        ("postgresql://user:s3cret%@host/db", errors.ConfigError),
        ("postgresql://user:s3cret@host/db?nonsense=1", errors.ConfigError),
        ("postgresql://user:s3cret@host:port/db", errors.ConnectionFailed),
        ("", errors.ConfigError),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        SVRClient(url)
    assert "s3cret" not in f"{caught.value!r} {caught.value}"


def test_collections_of_different_dimensions_live_side_by_side(client: SVRClient) -> None:
    for size in (1, 2, 3, 5, 1000):
        made = client.create_collection(f"size {size}", dimensions=size, metric="l2")
        made.add([Document("one", vector=[1.0] * size), Document("two", vector=[2.0] * size)])
    for size in (1, 2, 3, 5, 1000):
        found = client.collection(f"size {size}")
        assert found.search(vector=[1.9] * size).ids == ("two", "one")
        with pytest.raises(errors.DimensionMismatch):
            found.search(vector=[1.0] * (size + 1))
        with pytest.raises(errors.CollectionMismatch):
            client.create_collection(f"size {size}", dimensions=size + 1, if_exists="open")


def test_names_that_nearly_clash_are_different_names(client: SVRClient) -> None:
    names = [
        "Case",
        "case",
        "CASE",
        "\u00e9tude",
        "e\u0301tude",
        " case",
        "case ",
        "🦊",
        "🦊🦊",
        "n" * 199,
        "n" * 200,
    ]
    for number, name in enumerate(names):
        made = client.create_collection(name, dimensions=2, filter_fields={name: int, f"{name}.x": int})
        made.add([Document("x", metadata={name: number}, vector=[1.0, number])])
    for number, name in enumerate(names):
        found = client.collection(name)
        assert found.find()[0].metadata == {name: number}
        if not name.startswith("n") and "." not in name:
            assert found.count({name: number}) == 1
    assert set(names) <= set(client.list_collections())


class _Broken:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def embed_documents(self, texts: list[str]) -> object:
        return self._given()

    def embed_query(self, text: str) -> object:
        return self._given()

    def _given(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("no model"),
        None,
        "text",
        [],
        [[1.0]],
        [[1.0, 2.0]],
        [[float("nan")] * 4],
        [["a"] * 4],
        [[1.0] * 4] * 3,
    ],
    ids=repr,
)
def test_an_embedder_that_fails_is_told_and_nothing_is_written(
    client: SVRClient, collection: Collection, answer: object
) -> None:
    held = client.collection("good", embedder=_Broken(answer))
    before = held.count()
    with pytest.raises((errors.EmbeddingFailed, errors.InputError)):
        held.add([Document("new", "text"), Document("newer", "text")])
    with pytest.raises((errors.EmbeddingFailed, errors.InputError)):
        held.search(text="question")
    assert held.count() == before
