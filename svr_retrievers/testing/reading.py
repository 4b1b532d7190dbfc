"""Conformance: get, find, count, and what filters match."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
import pytest

from svr_retrievers.errors import FilterError, InputError
from svr_retrievers.model import Document
from svr_retrievers.routing.schemes import by_field, by_hash
from svr_retrievers.testing.base import Make, Suite
from svr_retrievers.testing.data import AWKWARD_TEXTS, document, documents, vector

Filter: TypeAlias = dict[str, object]

_FIELDS: dict[str, object] = {
    "year": int, "price": float, "lang": str, "sold": bool, "when": datetime,
    "labels": list[str], "sizes": list[int], "a.b": int,
}  # fmt: skip
_STORED: dict[str, dict[str, object]] = {
    "a": {"year": 2020, "price": 1.5, "lang": "en", "sold": True, "labels": ["x", "y"], "sizes": [1, 2]},
    "b": {
        "year": 2021,
        "price": 2,
        "lang": "de",
        "sold": False,
        "labels": [],
        "when": "2024-05-01T00:00:00Z",
    },
    "c": {"year": None, "lang": "EN", "when": datetime(2024, 6, 1, tzinfo=UTC), "free": 1, "a.b": 5},
    "d": {"free": 1.0, "deep": {"x": {"y": 1}}, "many": [{"k": 1}, {"k": 2}], "a": {"b": 7}},
    "e": {"free": True, "deep": {"x": None}, "many": [1, "two", None], "odd.key": "dot"},
    "f": {"free": "1", "deep": {"x": {"y": [1, 2]}}, "many": [], "when": "2024-05-31T23:59:59.999999+00:00"},
    "g": {"free": None, "many": [[1, 2], 3], "lang": "50%_\\", "quote'\"": "it's"},
    "h": {},
}
CASES: tuple[tuple[Filter, str], ...] = (
    ({}, "abcdefgh"),
    ({"year": 2020}, "a"),
    ({"year": {"$eq": 2020.0}}, "a"),
    ({"year": {"$ne": 2020}}, "bcdefgh"),
    ({"year": {"$gt": 2020}}, "b"),
    ({"year": {"$gte": 2020}}, "ab"),
    ({"year": {"$lt": 2021}}, "a"),
    ({"year": {"$lte": 2021, "$gt": 2020}}, "b"),
    ({"year": None}, "cdefgh"),
    ({"year": {"$ne": None}}, "ab"),
    ({"year": {"$exists": True}}, "abc"),
    ({"year": {"$exists": False}}, "defgh"),
    ({"year": {"$in": [2021, 1999]}}, "b"),
    ({"year": {"$in": [2021, None]}}, "bcdefgh"),
    ({"year": {"$in": []}}, ""),
    ({"year": {"$nin": []}}, "abcdefgh"),
    ({"year": {"$nin": [2020]}}, "bcdefgh"),
    ({"year": {"$not": {"$gt": 2020}}}, "acdefgh"),
    ({"price": 2}, "b"),
    ({"price": {"$lt": 2}}, "a"),
    ({"lang": "en"}, "a"),
    ({"lang": {"$ilike": "en"}}, "ac"),
    ({"lang": {"$like": "%n"}}, "a"),
    ({"lang": {"$like": "50\\%\\_\\\\"}}, "g"),
    ({"lang": {"$gte": "a"}}, "ab"),
    ({"sold": True}, "a"),
    ({"sold": False}, "b"),
    ({"sold": {"$ne": True}}, "bcdefgh"),
    ({"when": {"$gte": datetime(2024, 5, 31, tzinfo=UTC)}}, "cf"),
    ({"when": {"$lt": "2024-06-01"}}, "bf"),
    ({"when": "2024-05-01"}, "b"),
    ({"labels": "x"}, "a"),
    ({"labels": ["x", "y"]}, "a"),
    ({"labels": ["y", "x"]}, ""),
    ({"labels": []}, "b"),
    ({"labels": {"$contains": "y"}}, "a"),
    ({"labels": {"$all": ["x", "y"]}}, "a"),
    ({"labels": {"$all": ["x", "z"]}}, ""),
    ({"labels": {"$all": []}}, ""),
    ({"labels": {"$in": ["y", "q"]}}, "a"),
    ({"labels": {"$nin": ["y"]}}, "bcdefgh"),
    ({"sizes": {"$gt": 1}}, "a"),
    ({"sizes": {"$gt": 2}}, ""),
    ({"a.b": 5}, "c"),
    ({"free": 1}, "cd"),
    ({"free": True}, "e"),
    ({"free": "1"}, "f"),
    ({"free": None}, "abgh"),
    ({"free": {"$exists": True}}, "cdefg"),
    ({"free": {"$gt": 0}}, "cd"),
    ({"free": {"$gt": "0"}}, "f"),
    ({"deep.x.y": 1}, "df"),
    ({"deep.x": None}, "abcegh"),
    ({"deep.x": {"$exists": True}}, "def"),
    ({"many.k": 2}, "d"),
    ({"many": "two"}, "e"),
    ({"many": None}, "abceh"),
    ({"many": [1, 2]}, ""),
    ({"deep.x.y": [1, 2]}, "f"),
    ({"many": {"$contains": 3}}, "g"),
    ({"odd\\.key": "dot"}, "e"),
    ({"quote'\"": "it's"}, "g"),
    ({"$and": [{"year": {"$gte": 2020}}, {"sold": False}]}, "b"),
    ({"$or": [{"year": 2020}, {"free": 1}]}, "acd"),
    ({"$nor": [{"year": 2020}, {"free": 1}]}, "befgh"),
    ({"$not": {"year": 2020}}, "bcdefgh"),
    ({"year": 2020, "lang": "de"}, ""),
    ({"$or": [{"year": 2020, "lang": "de"}, {"$and": [{"lang": "EN"}, {"free": {"$ne": 2}}]}]}, "c"),
    ({"missing": {"$ne": 1}}, "abcdefgh"),
)
"""A filter and the ids it matches."""

BAD_FILTERS: tuple[tuple[Filter, str], ...] = (
    ({"year": {"$gte": "2020"}}, "year"),
    ({"year": "2020"}, "year"),
    ({"year": {"$foo": 1}}, r"\$foo"),
    ({"$foo": []}, r"\$foo"),
    ({"free": {"$gt": None}}, r"\$gt"),
    ({"free": {"$gt": True}}, r"\$gt"),
    ({"free": {"$in": 3}}, r"\$in"),
    ({"free": {"a": 1}}, "free"),
    ({"sold": 1}, "sold"),
    ({"when": "yesterday"}, "when"),
    ({"$or": {}}, r"\$or"),
)


class ReadingConformance(Suite):
    def test_get_follows_the_order_of_the_ids(self, make: Make) -> None:
        collection = make(partition_by=by_hash(3))
        collection.add(documents(6))
        assert [d.id for d in collection.get(["d004", "missing", "d001", "", "d003"])] == [
            "d004",
            "d001",
            "d003",
        ]
        assert [d.id for d in collection.get(("d002",))] == ["d002"]
        assert collection.get([]) == []

    def test_get_brings_vectors_only_when_asked(self, make: Make) -> None:
        collection = make(filter_fields={"year": int})
        collection.add([document(3)])
        [without] = collection.get(["d003"])
        [found] = collection.get(["d003"], with_vectors=True)
        assert without.vector is None
        assert found.vector is not None
        assert np.array_equal(np.asarray(found.vector), vector(3))

    def test_find_is_ordered_by_id_and_limited(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add([document(n) for n in (5, 3, 11, 1, 8)])
        assert [d.id for d in collection.find()] == ["d001", "d003", "d005", "d008", "d011"]
        assert [d.id for d in collection.find(limit=2)] == ["d001", "d003"]
        assert collection.find(limit=0) == []
        assert [d.id for d in collection.find(ids=["d011", "d003", "x"])] == ["d003", "d011"]
        assert [d.id for d in collection.find({"number": {"$gt": 4}}, ids=["d003", "d005"])] == ["d005"]
        assert collection.find({"number": 5}, ids=[]) == []

    def test_ids_are_ordered_by_code_point(self, make: Make) -> None:
        collection = make(partition_by=by_hash(3))
        collection.add([Document(i, vector=vector(1)) for i in AWKWARD_TEXTS])
        assert [d.id for d in collection.find()] == sorted(AWKWARD_TEXTS)
        assert list(collection.search(vector=vector(1), limit=50).ids) == sorted(AWKWARD_TEXTS)

    @pytest.mark.parametrize("partitioned", [False, True])
    def test_filters_match_what_they_should(self, make: Make, partitioned: bool) -> None:
        collection = make(partition_by=by_field("free") if partitioned else None, filter_fields=_FIELDS)
        collection.add(
            [Document(i, metadata=m, vector=vector(n)) for n, (i, m) in enumerate(_STORED.items())]
        )
        wrong = []
        for filter_, ids in CASES:
            answers = {
                "find": "".join(d.id for d in collection.find(filter_)),
                "count": collection.count(filter_),
                "search": "".join(sorted(collection.search(vector=vector(2), limit=20, filter=filter_).ids)),
                "exact": "".join(
                    sorted(collection.search(vector=vector(2), limit=20, filter=filter_, exact=True).ids)
                ),
            }
            if answers != {"find": ids, "count": len(ids), "search": ids, "exact": ids}:
                wrong.append((filter_, ids, answers))
        assert wrong == []

    def test_deleting_by_a_filter_deletes_what_it_matches(self, make: Make) -> None:
        collection = make(partition_by=by_field("free"), filter_fields=_FIELDS)
        stored = [Document(i, metadata=m, vector=vector(1)) for i, m in _STORED.items()]
        for filter_, ids in CASES[::4]:
            collection.add(stored)
            assert collection.delete(filter=filter_) == len(ids), filter_
            assert "".join(d.id for d in collection.find()) == "".join(i for i in _STORED if i not in ids)

    @pytest.mark.parametrize(("filter_", "named"), BAD_FILTERS)
    def test_a_filter_that_cannot_be_understood_is_refused(
        self, make: Make, filter_: Filter, named: str
    ) -> None:
        collection = make(filter_fields=_FIELDS)
        collection.add([Document("x", vector=vector(1))])
        for call in (
            lambda: collection.search(vector=vector(1), filter=filter_),
            lambda: collection.route(filter=filter_),
            lambda: collection.find(filter_),
            lambda: collection.count(filter_),
            lambda: collection.delete(filter=filter_),
        ):
            with pytest.raises(FilterError, match=named):
                call()
        assert collection.count() == 1

    def test_ids_must_be_a_list_of_text(self, make: Make) -> None:
        collection = make()
        for bad in ("d001", b"d001", [1], [None], 7, ["ok", 3]):
            for call in (
                lambda bad=bad: collection.get(bad),
                lambda bad=bad: collection.find(ids=bad),
                lambda bad=bad: collection.delete(bad),
            ):
                with pytest.raises(InputError, match="ids"):
                    call()

    def test_get_accepts_any_iterable_of_ids(self, make: Make) -> None:
        collection = make()
        collection.add(documents(3))
        assert [d.id for d in collection.get(f"d00{n}" for n in (2, 0))] == ["d002", "d000"]  # type: ignore[arg-type]
        assert [d.id for d in collection.get({"d001": None})] == ["d001"]  # type: ignore[arg-type]
