"""Deleting: exactly what was named, and never more."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document

from svr_retrievers.errors import FilterError, InputError


def left(store: Any) -> set[str | None]:
    return {d.id for d in store.get_by_ids(["cat", "dog", "hen", "cow"])}


async def test_an_empty_id_list_deletes_nothing(animals: Any) -> None:
    assert animals.delete([]) is True
    assert await animals.adelete([]) is True
    assert animals.delete([], filter={"kind": "pet"}) is True
    assert len(left(animals)) == 4


async def test_deleting_without_arguments_deletes_the_namespace(animals: Any) -> None:
    assert animals.delete() is True
    assert left(animals) == set()
    await animals.aadd_documents([Document("x", id="cat")])
    assert await animals.adelete(None) is True
    assert left(animals) == set()


async def test_deleting_by_filter(animals: Any) -> None:
    assert animals.delete(filter={"legs": 2}) is True
    assert left(animals) == {"cat", "dog", "cow"}
    assert await animals.adelete(filter={"kind": "pet"}) is True
    assert left(animals) == {"cow"}


async def test_ids_and_filter_must_both_hold(animals: Any) -> None:
    animals.delete(["cat", "hen"], filter={"kind": "pet"})
    assert left(animals) == {"dog", "hen", "cow"}
    await animals.adelete(["dog", "cow"], filter={"kind": "farm"})
    assert left(animals) == {"dog", "hen"}


def test_unknown_ids_are_no_error(animals: Any) -> None:
    assert animals.delete(["unicorn", "cat"]) is True
    assert left(animals) == {"dog", "hen", "cow"}


async def test_a_misspelt_delete_argument_deletes_nothing(animals: Any) -> None:
    for wrong in ({"idss": ["cat"]}, {"filters": {"kind": "pet"}}, {"delete_all": True}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            animals.delete(**wrong)
        with pytest.raises(TypeError, match=next(iter(wrong))):
            await animals.adelete(**wrong)
    assert len(left(animals)) == 4


def test_one_string_is_not_a_list_of_ids(animals: Any) -> None:
    with pytest.raises(InputError, match="one string"):
        animals.delete("cat")
    with pytest.raises(FilterError):
        animals.delete(filter={"kind": {"$nope": 1}})
    assert len(left(animals)) == 4


async def test_a_dropped_collection_is_empty_and_comes_back_with_the_next_write(make_store: Any) -> None:
    store = make_store()
    store.add_embeddings([("x", [1.0, 2.0])])
    store.delete_collection()
    assert store.similarity_search("x") == []
    assert store.collection is None
    store.add_texts(["now with another dimension"])
    await store.adelete_collection()
    assert await store.asimilarity_search("x") == []
    await store.adelete_collection()


async def test_a_collection_dropped_by_another_store_is_looked_up_again(make_store: Any) -> None:
    mine, theirs = make_store(), make_store()
    for again in range(2):
        mine.add_texts(["x"], ids=["1"])
        assert len(theirs.similarity_search("x")) == len(await theirs.asimilarity_search("x")) == 1
        mine.delete_collection()
        if again:
            assert theirs.similarity_search("x") == await theirs.asimilarity_search("x") == []
            assert theirs.get_by_ids(["1"]) == []
            assert theirs.delete(["1"]) is True
        theirs.add_texts(["y"], ids=["2"])
        assert [d.id for d in await mine.asimilarity_search("x")] == ["2"]
        await theirs.adelete_collection()
        await mine.aadd_texts(["z"], ids=["3"])
        await mine.adelete_collection()
