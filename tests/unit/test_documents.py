"""A batch is checked whole: each problem with its index, any numeric input, nothing that cannot be compared."""

from __future__ import annotations

from datetime import datetime

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from svr_retrievers import Document, by_field, by_hash, by_time
from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.documents import (
    as_documents,
    check_all,
    check_vectors,
    draft,
    given_vectors,
    one_vector,
    vector_fault,
)
from svr_retrievers.errors import BatchError, DimensionMismatch, InputError
from svr_retrievers.filters import FieldType
from svr_retrievers.model import Metric

FIELDS = {"year": FieldType.INT, "lang": FieldType.STR}
SCHEME = by_field("cat").then(by_hash(2, "user"))
CONFIG = CollectionConfig("c", 2, scheme=SCHEME, fields=FIELDS)
GOOD = [1.0, 2.0]


def checked(documents, *, vectors=None, config=CONFIG, embeds=False):
    return check_all(documents, vectors, config, "default", embeds=embeds)


def problems(documents, **options):
    with pytest.raises(BatchError) as caught:
        checked(documents, **options)
    assert "Nothing was written" in str(caught.value)
    return [(p.index, p.argument, p.message) for p in caught.value.problems]


BAD = [
    (Document("", vector=GOOD), "id", "empty"),
    (Document(5, vector=GOOD), "id", "must be text, not int"),
    (Document("x" * 1301, vector=GOOD), "id", "1301 bytes"),
    (Document("a\x00", vector=GOOD), "id", "NUL"),
    (Document("a", text=None, vector=GOOD), "text", "NoneType"),
    (Document("a", text="\ud800", vector=GOOD), "text", "surrogate"),
    (Document("a", namespace="", vector=GOOD), "namespace", "empty"),
    (Document("a", metadata={"k": {1}}, vector=GOOD), "metadata", "set"),
    (Document("a", metadata=None, vector=GOOD), "metadata", "null"),
    (Document("a", metadata={"k": float("nan")}, vector=GOOD), "metadata", "nan"),
    (Document("a", metadata={"year": "x"}, vector=GOOD), "metadata", "'year'"),
    (Document("a", metadata={"lang": "x" * 2000}, vector=GOOD), "metadata", "2000 bytes"),
    (Document("a", metadata={"cat": ["x"]}, vector=GOOD), "metadata", "'cat' holds a list"),
    (Document("a", metadata={"user": {}}, vector=GOOD), "metadata", "'user' holds a dict"),
    (Document("a", vector=[1.0]), "vector", "1 numbers"),
    (Document("a", vector=[1.0, 2.0, 3.0]), "vector", "3 numbers"),
    (Document("a", vector=[[1.0, 2.0]]), "vector", "2 dimensions"),
    (Document("a", vector=3.0), "vector", "0 dimensions"),
    (Document("a", vector="12"), "vector", "str"),
    (Document("a", vector=["x", "y"]), "vector", "flat sequence"),
    (Document("a", vector=[1.0, [2.0]]), "vector", "flat sequence"),
    (Document("a", vector=[10**400, 1]), "vector", "flat sequence"),
    (Document("a", vector={"x": 1}), "vector", "dict"),
    (Document("a", vector=[float("nan"), 1]), "vector", "NaN"),
    (Document("a", vector=[float("-inf"), 1]), "vector", "infinity"),
    (Document("a", vector=[1e300, 1]), "vector", "infinity"),
    (Document("a", vector=[0, 0]), "vector", "zero"),
    (Document("a", vector=[1e-30, 0]), "vector", "too small"),
    (Document("a", vector=[1e30, 1]), "vector", "too large"),
    (Document("a"), "vector", "no embedder"),
]


@pytest.mark.parametrize(
    ("document", "argument", "word"), BAD, ids=lambda v: None if isinstance(v, Document) else v
)
def test_one_bad_document_is_named_and_refuses_the_whole_batch(document, argument, word):
    before, after = Document("before", vector=GOOD), Document("after", vector=GOOD)
    ((index, where, message),) = problems([before, document, after])
    assert index == 1
    assert where == argument
    assert word in message


def test_all_problems_of_all_documents_come_at_once_and_in_order():
    documents = [
        Document(str(i), text=d.text, metadata=d.metadata, vector=d.vector) if d.id == "a" else d
        for i, (d, _, _) in enumerate(BAD)
        if d.namespace is None
    ]
    found = problems(documents)
    assert [index for index, _, _ in found] == list(range(len(documents)))


def test_a_document_with_two_faults_counts_once():
    with pytest.raises(BatchError, match=r"^1 document refused") as caught:
        checked([Document("", vector=[1.0])])
    assert len(caught.value.problems) == 2
    with pytest.raises(BatchError, match=r"^5 documents refused.*and 2 more") as caught:
        checked([Document("", vector=GOOD)] * 5)


def test_ids_twice_in_a_batch_name_the_first():
    same = [Document("a", vector=GOOD), Document("a", vector=GOOD, namespace="n"), Document("a", vector=GOOD)]
    ((index, argument, message),) = problems(same)
    assert (index, argument) == (2, "id")
    assert "document 0" in message
    with pytest.raises(BatchError) as caught:
        checked(same)
    problem = caught.value.problems[0]
    assert str(problem).startswith("document 2 (id 'a'): id:")


def test_a_good_batch_is_rows():
    when = datetime(2024, 1, 2)
    config = CollectionConfig("c", 2, scheme=by_time("when"), fields={"when": FieldType.DATETIME})
    documents = (Document(f"d{i}", f"t{i}", {"when": when}, GOOD, "n" if i else None) for i in range(3))
    made, vectors, missing = checked(as_documents(documents), config=config)
    batch = made.batch(vectors)
    assert len(batch) == 3
    assert batch.namespaces == ["default", "n", "n"]
    assert batch.metadatas[0] == {"when": "2024-01-02T00:00:00.000000Z"}
    assert batch.typed[0]["when"].year == 2024
    assert missing == []
    assert batch.vectors.dtype == np.float32


def test_what_is_missing_is_left_to_the_embedder():
    made, vectors, missing = checked([Document("a", "t"), Document("b", vector=GOOD)], embeds=True)
    assert missing == [0]
    assert vectors.tolist() == [[0, 0], GOOD]
    assert made.problems == []


@pytest.mark.parametrize(
    "vectors",
    [
        np.array([[1, 2], [3, 4]]),
        np.array([[1, 2], [3, 4]], dtype=np.float64),
        np.array([[1, 2], [3, 4]], dtype=np.float16),
        np.array([[1, 0, 2, 0], [3, 0, 4, 0]], dtype=np.float32)[:, ::2],
        np.asfortranarray(np.array([[1, 2], [3, 4]], dtype=np.float32)),
        np.array([[2, 1], [4, 3]], dtype=np.int8)[:, ::-1],
        [[1, 2], [3, 4]],
        ((1, 2), np.array([3, 4])),
        [[np.float64(1), 2], [3, np.int64(4)]],
    ],
)
def test_any_numeric_array_is_taken(vectors):
    array, missing = given_vectors([Document("a"), Document("b")], vectors, CONFIG, draft([], CONFIG, "n"))
    assert missing == []
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.tolist() == [[1, 2], [3, 4]]
    for row in vectors:
        assert one_vector(row, 2, "vector").dtype == np.float32


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        ([[1, 2]], InputError),
        ([1, 2], InputError),
        ([[[1, 2]], [[1, 2]]], InputError),
        ([[1, 2], [3]], InputError),
        ("ab", InputError),
        ([[10**400, 2], [3, 4]], InputError),
        (object(), InputError),
        ([[1, 2, 3], [4, 5, 6]], DimensionMismatch),
    ],
)
def test_an_array_of_the_wrong_shape_is_refused_as_a_whole(vectors, error):
    with pytest.raises(error, match="vectors"):
        checked([Document("a"), Document("b")], vectors=vectors)


def test_bad_rows_of_an_array_are_named():
    vectors = np.array([[1, 2], [np.nan, 1], [0, 0], [np.inf, 1], [1e30, 0], [3, 4]])
    found = problems([Document(str(i)) for i in range(6)], vectors=vectors)
    assert [index for index, _, _ in found] == [1, 2, 3, 4]
    config = CollectionConfig("c", 2, Metric.L2)
    found = problems([Document(str(i)) for i in range(6)], vectors=vectors, config=config)
    assert [index for index, _, _ in found] == [1, 3, 4]


@given(
    hnp.arrays(np.float32, (4, 3), elements=st.floats(width=32)),
    st.sampled_from(list(Metric)),
)
def test_the_batch_check_and_the_check_of_one_agree(vectors, metric):
    made = draft([], CONFIG, "n")
    config = CollectionConfig("c", vectors.shape[1], metric)
    check_vectors(vectors, list("abcd"), config, made)
    refused = {p.index for p in made.problems}
    assert refused == {i for i in range(4) if vector_fault(vectors[i], config) is not None}
    kept = vectors[[i for i in range(4) if i not in refused]]
    with np.errstate(all="raise", under="ignore"):
        distances = ((kept[:, None] - kept[None]) ** 2).sum(axis=-1)
    assert np.isfinite(distances).all()


@pytest.mark.parametrize("wrong", [Document("a"), "ab", b"ab", {"a": 1}, 5, None])
def test_what_is_no_iterable_of_documents(wrong):
    with pytest.raises(InputError, match="iterable of Document"):
        as_documents(wrong)


def test_an_item_that_is_no_document_is_named_by_position():
    with pytest.raises(InputError, match=r"documents\[1\] is a dict"):
        as_documents([Document("a"), {"id": "b"}])
