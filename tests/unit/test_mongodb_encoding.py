"""What is stored in MongoDB comes back as it was: metadata, filter fields, vectors. On a real server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest
from bson import Binary, DBRef, Decimal128, Int64, ObjectId, decode, encode
from bson.binary import BinaryVectorDtype
from hypothesis import given
from hypothesis import strategies as st
from pymongo import InsertOne, MongoClient, ReplaceOne
from pymongo.collection import Collection

from svr_retrievers.backends.mongodb.encoding import (
    decode_metadata,
    decode_vector,
    encode_metadata,
    encode_typed,
    encode_vectors,
)
from svr_retrievers.errors import BackendError
from svr_retrievers.filters import FieldType

METADATA = {
    "plain": {"a": 1, "b": "text", "c": [1, "x", None, True, {"d": 0.5}]},
    "floats": {"two": 2.0, "minus": -0.0, "huge": 1e23, "tiny": 5e-324, "whole": [1.0, 2**53 * 1.0]},
    "int64": {"a": 2**53 + 1, "b": -(2**63), "c": 2**63 - 1, "d": 2**31},
    "beyond": {"a": 2**63, "b": [-(2**63) - 1, {"c": 2**70}], "d": 2**1024 - 1, "e": 1e23},
    "dots": {"a.b": {"c.d": 1, ".": 2, "": {"": 3}}},
    "dollars": {"$a": 1, "$set": {"a": 1}, "a": {"$where": "x", "$": 0, "$numberLong": "1"}},
    "reference": {"$ref": "x", "$id": 1, "z": 3},
    "references": {"a": [{"$ref": "x", "$id": {"b": 1}, "$db": "y"}, {"$ref": 1, "$id": 2}, {"$ref": "x"}]},
    "reference without its order": {"a": {"$db": None, "z": 0, "$id": 1, "$ref": "x"}},
    "ids": {"_id": 1, "a": {"b": 1, "_id": {"_id": 2}}, "__proto__": None},
    "digits": {"0": {"1": [{"2": 3}]}},
    "texts": {"a": "", "é": "\U0001f600", "line\nbreak": "\ufeff\u2028", "k" * 1000: "v" * 10_000},
    "deep": {"a": [[[[{"b": [[[]]]}]]]], "c": {}},
    "empty": {},
}


@pytest.fixture(scope="module")
def collection(mongodb_server: str) -> Iterator[Collection]:
    with MongoClient(mongodb_server) as client:
        name = f"svr_test_{secrets.token_hex(6)}"
        yield client.get_database(name).create_collection("documents")
        client.drop_database(name)


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_come_back_exactly(collection: Collection, metadata: dict) -> None:
    body, original = encode_metadata(metadata)
    for write in (
        InsertOne({"_id": 1, "metadata": body, "m": original}),
        ReplaceOne({"_id": 1}, {"metadata": body, "m": original}),
        ReplaceOne({"_id": 2}, {"metadata": body, "m": original}, upsert=True),
    ):
        with collection.database.client.start_session() as session, session.start_transaction():
            collection.bulk_write([write], session=session)
    rows = collection.find().to_list()
    collection.delete_many({})
    for row in rows:
        assert exactly(decode_metadata(row["metadata"], row["m"])) == exactly(metadata)
    assert len(rows) == 2


def exactly(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("levels", [10, 99])
def test_metadata_of_the_deepest_kind_can_be_stored(collection: Collection, levels: int) -> None:
    metadata: dict = {"a": 2**70}
    for _ in range(levels):
        metadata = {"a": metadata}
    body, original = encode_metadata(metadata)
    with collection.database.client.start_session() as session, session.start_transaction():
        collection.bulk_write([InsertOne({"_id": 1, "metadata": body, "m": original})], session=session)
    row = collection.find_one_and_delete({"_id": 1})
    assert row is not None
    assert decode_metadata(row["metadata"], row["m"]) == metadata


def test_the_text_is_kept_only_where_it_is_needed() -> None:
    needed = {name for name, metadata in METADATA.items() if encode_metadata(metadata)[1] is not None}
    assert needed == {"beyond", "reference", "references", "reference without its order"}


def test_numbers_and_classes_are_plain_after_reading() -> None:
    read = decode(encode({"a": 2**40, "b": [Int64(1), {"c": Int64(2)}]}))
    made = decode_metadata(read, None)
    assert [type(made["a"]), type(made["b"][0]), type(made["b"][1]["c"])] == [int, int, int]


def test_what_others_stored_is_read_as_json() -> None:
    made = decode_metadata(
        {
            "at": datetime(2024, 1, 2, 3, 4, 5),
            "id": ObjectId("0123456789abcdef01234567"),
            "whole": Decimal128("1E+40"),
            "part": Decimal128("0.10"),
            "none": Decimal128("NaN"),
            "bytes": b"\x00\xff",
            "uuid": UUID(int=1),
            "ref": DBRef("x", ObjectId("0123456789abcdef01234567")),
        },
        None,
    )
    assert json.loads(json.dumps(made)) == {
        "at": "2024-01-02T03:04:05.000000Z",
        "id": "0123456789abcdef01234567",
        "whole": 10**40,
        "part": "0.10",
        "none": "NaN",
        "bytes": "AP8=",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "ref": {"$ref": "x", "$id": "0123456789abcdef01234567"},
    }


def test_filter_fields_have_one_class_each() -> None:
    assert encode_typed(FieldType.INT, 1) == Int64(1)
    assert isinstance(encode_typed(FieldType.INT, 1), Int64)
    assert [type(each) for each in encode_typed(FieldType.LIST_INT, [1, 2**40])] == [Int64, Int64]
    assert str(encode_typed(FieldType.FLOAT, -0.0)) == "0.0"
    assert [str(each) for each in encode_typed(FieldType.LIST_FLOAT, [-0.0, 2])] == ["0.0", "2.0"]
    assert encode_typed(FieldType.BOOL, True) is True
    assert encode_typed(FieldType.LIST_STR, ("a",)) == ["a"]
    assert encode_typed(FieldType.STR, None) is None


@given(st.datetimes(timezones=st.just(UTC)))
def test_moments_keep_their_microseconds_and_their_order(moment: datetime) -> None:
    stored = encode_typed(FieldType.DATETIME, moment)
    assert isinstance(stored, Int64)
    assert Decimal(int(stored)) == Decimal(
        (moment - datetime(1970, 1, 1, tzinfo=UTC)).days
    ) * 86_400_000_000 + (
        ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1_000_000 + moment.microsecond
    )


ROWS = np.random.default_rng(1).standard_normal((50, 24)).astype(np.float32)


def test_float_vectors_are_as_the_driver_writes_and_reads_them() -> None:
    stored = encode_vectors(ROWS, "float32")
    assert stored == [Binary.from_vector(row.tolist(), BinaryVectorDtype.FLOAT32) for row in ROWS]
    assert all(each.subtype == 9 for each in stored)
    assert np.array_equal([decode_vector(each, 24) for each in stored], ROWS)
    assert np.array_equal(decode_vector(ROWS[0].astype(float).tolist(), 24), ROWS[0])


def test_int8_vectors_of_whole_numbers_stay_as_they_are() -> None:
    rows = np.array([[1, 0, -3, 127], [0, 0, 0, 0], [-128, 1, 1, 1]], np.float32)
    assert [each.as_vector().data for each in encode_vectors(rows, "int8")] == rows.astype(int).tolist()


@pytest.mark.parametrize("dimensions", [24, 21])
def test_bits_are_packed_and_read_as_they_were(dimensions: int) -> None:
    rows = (ROWS[:, :dimensions] > 0).astype(np.float32)
    stored = encode_vectors(rows, "bit")
    assert stored[0].as_vector().dtype is BinaryVectorDtype.PACKED_BIT
    assert stored[0].as_vector().padding == -dimensions % 8
    assert np.array_equal([decode_vector(each, dimensions) for each in stored], rows)


def test_rows_may_be_views_of_any_order() -> None:
    for rows in (ROWS[::-1], np.asfortranarray(ROWS), ROWS[:, ::2], ROWS[:0]):
        assert [decode_vector(each, rows.shape[1]).tolist() for each in encode_vectors(rows)] == rows.tolist()


def test_a_vector_that_is_read_can_be_changed() -> None:
    decode_vector(encode_vectors(ROWS, "float32")[0], 24)[0] = 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        3,
        [1.0],
        ["a"] * 4,
        [None] * 4,
        b"",
        b"\x27\x00abc",
        b"\x99\x00abcd",
        Binary(b"\x03\x00a", 9),
    ],
    ids=repr,
)
def test_what_is_no_vector_of_that_length_is_refused(value: object) -> None:
    with pytest.raises(BackendError, match="the collection has 4"):
        decode_vector(value, 4)
