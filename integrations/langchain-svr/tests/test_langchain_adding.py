"""Adding: what comes in is stored once, whole, under the right id, and nothing given is changed."""

from __future__ import annotations

import copy
import uuid
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from svr_retrievers.errors import InputError, SVRError

TEXTS = ["red apple", "green pear", "yellow banana"]


def test_add_texts_takes_a_generator(store: Any) -> None:
    ids = store.add_texts(text for text in TEXTS)
    assert len(ids) == 3
    assert [d.page_content for d in store.get_by_ids(ids)] == TEXTS


async def test_aadd_texts_takes_generators_for_everything(store: Any) -> None:
    ids = await store.aadd_texts(
        (t for t in TEXTS), ({"n": i} for i in range(3)), ids=(str(i) for i in range(3))
    )
    assert ids == ["0", "1", "2"]
    assert [d.metadata for d in await store.aget_by_ids(ids)] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_ids_need_not_be_uuids(store: Any) -> None:
    assert store.add_texts(TEXTS, ids=["1", "two", "Ünï/3"]) == ["1", "two", "Ünï/3"]
    assert [d.id for d in store.get_by_ids(["Ünï/3", "1"])] == ["Ünï/3", "1"]


def test_generated_ids_are_distinct_uuids(store: Any) -> None:
    ids = store.add_texts(TEXTS)
    assert len({uuid.UUID(id_) for id_ in ids}) == 3


def test_ids_may_hold_none(store: Any) -> None:
    first, second, third = store.add_texts(TEXTS, ids=["a", None, "c"])
    assert (first, third) == ("a", "c")
    assert uuid.UUID(second)
    assert store.get_by_ids([second])[0].page_content == "green pear"


def test_the_ids_keyword_wins_over_a_documents_id_and_none_leaves_it(store: Any) -> None:
    documents = [Document("x", id="own"), Document("y", id="kept")]
    assert store.add_documents(documents, ids=["given", None]) == ["given", "kept"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"metadatas": [{"a": 1}]},
        {"ids": ["1"]},
        {"ids": ["1", "2", "3", "4"]},
        {"metadatas": []},
        {"ids": "abc"},
    ],
)
async def test_a_length_mismatch_is_a_value_error_and_writes_nothing(store: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        store.add_texts(TEXTS, **wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await store.aadd_texts(TEXTS, **wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        store.add_embeddings([(t, [1.0, 2.0]) for t in TEXTS], **wrong)
    assert store.similarity_search("apple") == []


def test_one_string_is_not_a_list_of_texts(store: Any) -> None:
    with pytest.raises(InputError, match="one string"):
        store.add_texts("hello")


def test_a_text_that_is_no_string_is_refused_before_it_is_embedded(store: Any, embedding: Any) -> None:
    with pytest.raises(InputError, match="int"):
        store.add_texts(["fine", 3])
    assert embedding.calls == []


def test_nothing_to_add_is_no_error_and_embeds_nothing(store: Any, embedding: Any) -> None:
    assert store.add_texts([]) == store.add_documents([]) == store.add_embeddings([]) == []
    assert embedding.calls == []


def test_documents_and_metadatas_are_not_changed(store: Any) -> None:
    documents = [Document("x", metadata={"nested": {"list": [1]}, "id": 7})]
    metadatas = [{"a": {"b": [1, 2]}}]
    before = copy.deepcopy((documents, metadatas))
    store.add_documents(documents)
    store.add_texts(["y"], metadatas)
    assert (documents, metadatas) == before
    assert documents[0].id is None


def test_changing_a_document_afterwards_changes_nothing_stored(store: Any) -> None:
    metadata = {"tags": ["a"]}
    [id_] = store.add_texts(["x"], [metadata])
    metadata["tags"].append("b")
    found = store.similarity_search("x")[0]
    assert found.metadata == {"tags": ["a"]}
    found.metadata["tags"].append("c")
    assert store.get_by_ids([id_])[0].metadata == {"tags": ["a"]}


def test_metadata_makes_the_round_trip_exactly(store: Any) -> None:
    metadata = {
        "id": 7, "score": None, "text": True, "float": 1.5, "big": 2**53 + 1, "list": [1, "a", None],
        "nested": {"deep": {"er": []}}, "": "empty key", "a.b": "dot", "with space": "O'Brien", "$x": 1,
        "Ünïcode": "日本 🦊",
    }  # fmt: skip
    [id_] = store.add_texts(["x"], [metadata])
    for found in (store.get_by_ids([id_])[0], store.similarity_search("x")[0]):
        assert found.metadata == metadata
        assert type(found.metadata["id"]) is int
        assert type(found.metadata["text"]) is bool


def test_metadata_may_be_missing(store: Any) -> None:
    ids = store.add_texts(["x", "y"], [None, {"a": 1}])
    assert [d.metadata for d in store.get_by_ids(ids)] == [{}, {"a": 1}]


def test_adding_an_id_again_replaces_it(store: Any) -> None:
    store.add_texts(["old text"], [{"old": 1}], ids=["a"])
    store.add_texts(["new text"], [{"new": 2}], ids=["a"])
    assert store.similarity_search("text", k=5) == [Document("new text", id="a", metadata={"new": 2})]


def test_batch_size_is_honoured(store: Any, embedding: Any) -> None:
    ids = store.add_texts([f"text {i}" for i in range(7)], batch_size=3)
    assert embedding.calls == ["embed_documents"] * 3
    assert [d.page_content for d in store.get_by_ids(ids)] == [f"text {i}" for i in range(7)]


def test_a_generator_is_read_a_batch_at_a_time(store: Any) -> None:
    seen: list[int] = []

    def source() -> Any:
        for i in range(4):
            seen.append(len(store.similarity_search("text", k=100)))
            yield f"text {i}"

    store.add_documents((Document(text) for text in source()), batch_size=2)
    store.add_texts(source(), batch_size=2)
    assert seen == [0, 0, 2, 2, 4, 4, 6, 6]


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
async def test_a_senseless_batch_size_is_refused(store: Any, size: Any) -> None:
    with pytest.raises(InputError, match="batch_size"):
        store.add_texts(TEXTS, batch_size=size)
    with pytest.raises(InputError, match="batch_size"):
        await store.aadd_documents([Document("x")], batch_size=size)
    with pytest.raises(InputError, match="batch_size"):
        store.add_embeddings([("x", [1.0])], batch_size=size)


def test_a_bad_row_leaves_no_row_behind(store: Any) -> None:
    store.add_texts(["first"], ids=["0"])
    with pytest.raises(SVRError):
        store.add_texts(TEXTS, [{}, {}, {"bad": object()}], ids=["1", "2", "3"])
    assert store.get_by_ids(["0", "1", "2", "3"]) == [Document("first", id="0")]


def test_an_argument_for_other_stores_is_tolerated_aloud(store: Any) -> None:
    with pytest.warns(UserWarning, match="'refresh_indices'") as caught:
        assert len(store.add_texts(["x"], refresh_indices=True)) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["id", "batchsize", "metadata", "name_space", "filter", "partitions"])
async def test_a_misspelt_option_is_refused_when_adding(store: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}'"):
        store.add_texts(["x"], **{name: ["1"]})
    with pytest.raises(TypeError, match=f"'{name}'"):
        await store.aadd_documents([Document("x")], **{name: ["1"]})
    assert store.similarity_search("x") == []


def test_add_embeddings_takes_lists_and_numpy_rows(store: Any, embedding: Any) -> None:
    matrix = np.eye(3, 5)
    assert store.add_embeddings(zip(TEXTS, matrix, strict=True), ids=["a", "b", "c"]) == ["a", "b", "c"]
    store.add_embeddings([("plum", [0, 0, 0, 1, 0])], [{"n": 1}], ["d"])
    assert embedding.calls == []
    assert store.similarity_search_by_vector(matrix[1], k=1)[0].id == "b"
    assert store.similarity_search_by_vector([0, 0, 0, 1, 0], k=1)[0].metadata == {"n": 1}


def test_add_embeddings_keeps_vectors_and_texts_together_across_batches(store: Any) -> None:
    matrix = np.eye(5, dtype=np.float32)
    store.add_embeddings(zip("abcde", matrix, strict=True), ids=list("abcde"), batch_size=2)
    assert [store.similarity_search_by_vector(row, k=1)[0].id for row in matrix] == list("abcde")


async def test_aadd_embeddings_does_the_same(store: Any) -> None:
    pairs = zip("abcde", np.eye(5, dtype=np.float16), strict=True)
    assert await store.aadd_embeddings(pairs, ids=iter("abcde"), batch_size=2) == list("abcde")
    [found] = await store.asimilarity_search_by_vector([0, 0, 0, 1, 0], k=1)
    assert found == Document("d", id="d")


@pytest.mark.parametrize("vectors", [[[1.0, 2.0], [1.0]], [np.ones(2), np.ones(3)], [1.0, 2.0], ["a", "b"]])
def test_vectors_that_make_no_matrix_are_refused(store: Any, vectors: Any) -> None:
    with pytest.raises(InputError):
        store.add_embeddings(zip("ab", vectors, strict=True))


def test_an_embedding_that_loses_a_text_is_noticed(make_store: Any, embedding: Any) -> None:
    embedding.embed_documents = lambda texts: [[1.0, 2.0]] * (len(texts) - 1)
    with pytest.raises(SVRError, match="Expected 3 vectors"):
        make_store().add_texts(TEXTS)


def test_an_error_of_the_embedding_reaches_the_caller_as_it_is(make_store: Any, embedding: Any) -> None:
    def fail(texts: list[str]) -> None:
        raise ConnectionResetError("model is away")

    embedding.embed_documents = fail
    with pytest.raises(ConnectionResetError, match="model is away"):
        make_store().add_texts(TEXTS)


async def test_each_style_uses_its_own_half_of_the_embedding(store: Any, embedding: Any) -> None:
    store.add_texts(["x"])
    store.similarity_search("x")
    await store.aadd_texts(["y"])
    await store.asimilarity_search("y")
    assert embedding.calls == ["embed_documents", "embed_query", "aembed_documents", "aembed_query"]


def test_another_dimension_than_the_collection_has_is_refused(store: Any) -> None:
    store.add_embeddings([("x", [1.0, 2.0])])
    with pytest.raises(SVRError, match="2"):
        store.add_embeddings([("y", [1.0, 2.0, 3.0])])
    with pytest.raises(SVRError, match="2"):
        store.similarity_search_by_vector([1.0, 2.0, 3.0])


def test_an_id_that_stands_twice_in_one_call_is_refused(store: Any) -> None:
    with pytest.raises(ValueError, match="twice"):
        store.add_texts(["one", "two"], ids=["1", "1"])
    assert store.get_by_ids(["1"]) == []


def test_many_rows_fit_into_one_call(store: Any) -> None:
    count = 14_000
    matrix = np.stack([np.cos(np.arange(count)), np.sin(np.arange(count))], axis=1)
    ids = store.add_embeddings(zip(map(str, range(count)), matrix, strict=True))
    assert len(set(ids)) == store.collection.count() == count
