"""Vectors as BinData of three kinds, and what the index's definition says of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from bson.binary import BinaryVectorDtype
from pymongo import MongoClient

from svr_retrievers import Document, SVRClient, flat, hnsw
from svr_retrievers.errors import BatchError, InputError
from svr_retrievers.model import Metric
from svr_retrievers.testing.data import nearest


@pytest.fixture
def client(mongodb_url: str) -> Iterator[SVRClient]:
    with SVRClient(mongodb_url) as client:
        yield client


@pytest.fixture
def raw(mongodb_url: str) -> Iterator[MongoClient]:
    with MongoClient(mongodb_url) as raw:
        yield raw


def definition(raw: MongoClient) -> list[dict]:
    database = raw.get_default_database()
    [name] = [n for n in database.list_collection_names() if ".documents." in n]
    [index] = list(database[name].list_search_indexes())
    return index["latestDefinition"]["fields"]


def stored(raw: MongoClient) -> list[object]:
    database = raw.get_default_database()
    [name] = [n for n in database.list_collection_names() if ".documents." in n]
    return [each["embedding"] for each in database[name].find()]


def test_floats_are_stored_as_float32(client: SVRClient, raw: MongoClient) -> None:
    made = client.create_collection("a", dimensions=3)
    made.add([Document("x", vector=[0.25, -1.5, 3.0])])
    [vector] = stored(raw)
    assert vector.subtype == 9
    assert vector.as_vector().dtype is BinaryVectorDtype.FLOAT32
    assert len(vector) == 2 + 4 * 3
    assert list(made.get(["x"], with_vectors=True)[0].vector) == [0.25, -1.5, 3.0]


@pytest.mark.parametrize("metric", list(Metric))
def test_int8_vectors_are_stored_as_such_and_compared(
    client: SVRClient, raw: MongoClient, metric: Metric
) -> None:
    rows = np.random.default_rng(3).integers(-128, 128, (200, 16)).astype(np.float32)
    made = client.create_collection("a", dimensions=16, metric=metric, index=hnsw(vectors="int8", min_rows=0))
    documents = [Document(f"{n:03d}", vector=row) for n, row in enumerate(rows)]
    made.add(documents)
    made.refresh()
    assert {v.as_vector().dtype for v in stored(raw)} == {BinaryVectorDtype.INT8}
    for query in rows[:5] + np.float32(0):
        found = made.search(vector=query, limit=10, exact=True)
        assert list(found.ids) == nearest(query, documents, metric, 10)
    assert np.array_equal(made.get(["007"], with_vectors=True)[0].vector, rows[7])


def test_bits_are_packed_and_compared_by_hamming(client: SVRClient, raw: MongoClient) -> None:
    rows = np.random.default_rng(4).integers(0, 2, (200, 64)).astype(np.float32)
    made = client.create_collection("a", dimensions=64, metric="l2", index=hnsw(vectors="bit", min_rows=0))
    documents = [Document(f"{n:03d}", vector=row) for n, row in enumerate(rows)]
    made.add(documents)
    made.refresh()
    assert {len(v) for v in stored(raw)} == {2 + 8}
    found = made.search(vector=rows[5], limit=10, exact=True)
    assert list(found.ids) == nearest(rows[5], documents, Metric.L2, 10)
    hamming = [int((rows[int(hit.id)] != rows[5]).sum()) for hit in found]
    assert [round(hit.distance**2) for hit in found] == hamming


def test_what_such_vectors_cannot_hold_is_refused_by_document(client: SVRClient) -> None:
    whole = client.create_collection("int8", dimensions=8, index=hnsw(vectors="int8"))
    with pytest.raises(BatchError) as caught:
        whole.add([
            Document("fine", vector=[1.0] * 8),
            Document("half", vector=[0.5] * 8),
            Document("large", vector=[128.0] * 8),
            Document("least", vector=[-128.0] * 8),
        ])  # fmt: skip
    assert [(p.id, p.argument) for p in caught.value.problems] == [("half", "vector"), ("large", "vector")]
    assert whole.count() == 0
    bits = client.create_collection("bits", dimensions=8, metric="l2", index=hnsw(vectors="bit"))
    with pytest.raises(BatchError, match="0 and 1"):
        bits.add([Document("two", vector=[2.0] * 8)])
    with pytest.raises(InputError, match="0 and 1"):
        bits.search(vector=[0.5] * 8)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dimensions": 9, "metric": "l2", "index": hnsw(vectors="bit")}, "multiples of 8"),
        ({"dimensions": 9, "index": hnsw(quantization="binary")}, "multiples of 8"),
        ({"dimensions": 8, "index": hnsw(vectors="bit")}, "metric 'l2'"),
        ({"dimensions": 8, "index": hnsw(m=8, ef_construction=100)}, "m from 16 to 64"),
        ({"dimensions": 8, "index": hnsw(quantization="half")}, "scalar"),
        ({"dimensions": 8, "index": hnsw(quantization="scalar", vectors="int8")}, "not quantized"),
        ({"dimensions": 8_193}, "8,192"),
    ],
    ids=str,
)
def test_an_index_that_cannot_be_is_refused_and_leaves_nothing(
    client: SVRClient, raw: MongoClient, options: dict, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        client.create_collection("a", **options)
    assert client.list_collections() == []
    assert [n for n in raw.get_default_database().list_collection_names() if ".documents." in n] == []


@pytest.mark.parametrize("url", ["memory://", "postgres"])
def test_what_only_mongodb_offers_is_refused_elsewhere(request: pytest.FixtureRequest, url: str) -> None:
    where = request.getfixturevalue("postgres_url") if url == "postgres" else url
    with SVRClient(where) as client:
        for index in (hnsw(vectors="int8"), hnsw(mode="views"), hnsw(quantization="scalar")):
            with pytest.raises(InputError, match="offers"):
                client.create_collection("a", dimensions=8, index=index)


def test_the_definition_says_what_was_asked_for(client: SVRClient, raw: MongoClient) -> None:
    client.create_collection(
        "a",
        dimensions=16,
        metric="l2",
        filter_fields={"year": int, "tags": list[str]},
        index=hnsw(m=32, ef_construction=200, quantization="scalar"),
    )
    fields = {field["path"]: field for field in definition(raw)}
    vector = fields.pop("embedding")
    assert {k: vector[k] for k in ("type", "numDimensions", "similarity", "quantization")} == {
        "type": "vector", "numDimensions": 16, "similarity": "euclidean", "quantization": "scalar",
    }  # fmt: skip
    assert vector["hnswOptions"] == {"maxEdges": 32, "numEdgeCandidates": 200}
    assert set(fields) == {"svr.n", "svr.p", "svr.w", "svr.z", "svr.f.f0_year", "svr.f.f1_tags"}
    assert {field["type"] for field in fields.values()} == {"filter"}


def test_a_flat_index_is_asked_for_where_there_is_no_graph(client: SVRClient, raw: MongoClient) -> None:
    made = client.create_collection("a", dimensions=16, index=flat())
    assert definition(raw)[0]["indexingMethod"] == "flat"
    made.add([Document("x", vector=[1.0] * 16)])
    assert '"exact": true' in made.explain(vector=[1.0] * 16).plan
