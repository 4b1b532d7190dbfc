"""Conformance: reading everything some documents at a time, while others write."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest

from svr_retrievers.blocking import Collection
from svr_retrievers.errors import FilterError, InputError
from svr_retrievers.model import Document
from svr_retrievers.routing.schemes import by_field
from svr_retrievers.testing.base import Make, Suite
from svr_retrievers.testing.data import document, documents, vector


class ScanningConformance(Suite):
    @pytest.mark.parametrize("batch_size", [1, 7, 40, 41, 1_000])
    def test_every_document_comes_once_ordered_by_id(self, make: Make, batch_size: int) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(40)[::-1])
        scanned = list(collection.scan(batch_size=batch_size))
        assert scanned == collection.find()
        assert len(scanned) == 40
        assert all(each.vector is None and each.version == 1 for each in scanned)

    def test_an_empty_collection_yields_nothing(self, make: Make) -> None:
        assert list(make().scan()) == []

    def test_filters_hold(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"), filter_fields={"year": int})
        collection.add(documents(40))
        for wanted in ({"year": {"$gte": 2020}}, {"category": "c1"}, {"category": "none such"}, {}):
            assert list(collection.scan(wanted, batch_size=3)) == collection.find(wanted)

    def test_namespaces_are_scanned_apart(self, make: Make) -> None:
        collection = make()
        collection.add(documents(5))
        collection.add(documents(3), namespace="theirs")
        assert [each.id for each in collection.scan(namespace="theirs", batch_size=2)] == [
            "d000",
            "d001",
            "d002",
        ]
        assert {each.namespace for each in collection.scan(batch_size=2)} == {"default"}

    def test_scanned_documents_have_vectors_only_when_asked_for(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(9))
        scanned = list(collection.scan(with_vectors=True, batch_size=4))
        assert scanned == collection.find(with_vectors=True)
        assert all(each.vector is not None for each in scanned)

    def test_ids_go_by_code_point(self, make: Make) -> None:
        collection = make()
        ids = ["a", "B", "é", "z", "Z", "10", "9", "東", "a b", "\U0001f600", "~", "'", "\\", "%"]
        collection.add([Document(each, vector=vector(1)) for each in ids])
        assert [each.id for each in collection.scan(batch_size=2)] == sorted(ids)

    def test_writes_meanwhile_neither_hide_nor_repeat_what_stays(self, make: Make) -> None:
        """What is before the reader comes or goes unseen; what is behind is seen as it is then."""
        collection = make(partition_by=by_field("category"))
        collection.add(documents(30))
        scan = collection.scan(batch_size=5)
        seen = [each.id for each in islice(scan, 10)]
        collection.add([Document("d000x", metadata={"category": "new"}, vector=vector(1))])
        collection.add([Document("d020x", metadata={"category": "new"}, vector=vector(1))])
        collection.add([Document("d003", metadata={"category": "moved"}, vector=vector(1))])
        collection.add([Document("d025", metadata={"category": "moved"}, vector=vector(1))])
        collection.delete(["d004", "d022"])
        collection.refresh()
        rest = list(scan)
        expected = {document(n).id for n in range(30)} - {"d022"} | {"d020x"}
        assert sorted([*seen, *(each.id for each in rest)]) == sorted(expected)
        assert next(each for each in rest if each.id == "d025").metadata == {"category": "moved"}

    def test_a_scan_may_be_left_and_begun_anew(self, make: Make) -> None:
        collection = make()
        collection.add(documents(12))
        for _ in range(3):
            assert [each.id for each in islice(collection.scan(batch_size=4), 5)][-1] == "d004"
        assert len(list(collection.scan(batch_size=4))) == 12

    def test_it_may_be_awaited_on_any_loop(self, make: Make) -> None:
        collection = make()
        collection.add(documents(12))

        async def ids(of: Collection) -> list[str]:
            return [each.id async for each in of.aio.scan(batch_size=5)]

        assert asyncio.run(ids(collection)) == [each.id for each in collection.find()]

    def test_arguments_that_cannot_be_used_are_named_at_once(self, make: Make) -> None:
        collection = make(filter_fields={"year": int})
        for size in (0, -1, 10_001, 1.5, True, "2"):
            with pytest.raises(InputError, match="batch_size"):
                collection.scan(batch_size=size)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="with_vectors"):
            collection.scan(with_vectors=1)  # type: ignore[arg-type]
        with pytest.raises(FilterError, match="year"):
            collection.scan({"year": "x"})
        with pytest.raises(InputError, match="namespace"):
            collection.scan(namespace="")
