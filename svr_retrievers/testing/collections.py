"""Conformance: creating, opening, listing and dropping collections."""

from __future__ import annotations

from datetime import datetime

import pytest

from svr_retrievers.blocking import SVRClient
from svr_retrievers.errors import (
    CollectionExists,
    CollectionMismatch,
    CollectionNotFound,
    InputError,
    InvalidName,
)
from svr_retrievers.model import Metric
from svr_retrievers.routing.schemes import by_field, by_hash, by_time
from svr_retrievers.testing.base import Make, MakeClient, Suite
from svr_retrievers.testing.data import AWKWARD_TEXTS, DIMENSIONS, document, documents, nearest, vector


class CollectionsConformance(Suite):
    def test_a_created_collection_says_what_it_is(self, make: Make, name: str) -> None:
        made = make(
            metric="l2", partition_by=by_field("category"), filter_fields={"year": int, "tags": list[str]}
        )
        assert (made.name, made.dimensions, made.metric) == (name, DIMENSIONS, Metric.L2)
        assert made.partition_by == by_field("category")
        assert made.filter_fields == {"year": int, "tags": list[str]}
        assert name in repr(made)

    def test_it_is_listed_until_it_is_dropped(self, client: SVRClient, make: Make, name: str) -> None:
        assert name not in client.list_collections()
        make()
        listed = client.list_collections()
        assert name in listed
        assert listed == sorted(listed)
        client.drop_collection(name)
        assert name not in client.list_collections()

    def test_creating_it_again_is_refused_or_opens_it(self, client: SVRClient, make: Make, name: str) -> None:
        make(filter_fields={"year": int}).add(documents(3))
        with pytest.raises(CollectionExists):
            client.create_collection(name, dimensions=DIMENSIONS)
        again = client.create_collection(name, dimensions=DIMENSIONS, if_exists="open")
        assert again.count() == 3
        assert again.filter_fields == {"year": int}

    def test_opening_with_other_settings_names_what_differs(
        self, client: SVRClient, make: Make, name: str
    ) -> None:
        make(partition_by=by_field("category"), filter_fields={"year": int})
        with pytest.raises(CollectionMismatch, match="dimensions"):
            client.create_collection(name, dimensions=DIMENSIONS + 1, if_exists="open")
        with pytest.raises(CollectionMismatch, match="metric"):
            client.create_collection(name, dimensions=DIMENSIONS, metric="l2", if_exists="open")
        with pytest.raises(CollectionMismatch, match="partition_by"):
            client.create_collection(name, dimensions=DIMENSIONS, partition_by=by_hash(2), if_exists="open")
        with pytest.raises(CollectionMismatch, match="filter_fields"):
            client.create_collection(
                name, dimensions=DIMENSIONS, filter_fields={"year": float}, if_exists="open"
            )

    def test_an_unknown_collection_is_not_found(self, client: SVRClient, name: str) -> None:
        with pytest.raises(CollectionNotFound, match=name):
            client.collection(name)
        with pytest.raises(CollectionNotFound):
            client.drop_collection(name)
        client.drop_collection(name, missing_ok=True)

    def test_a_dropped_collection_is_not_found_by_those_who_hold_it(
        self, client: SVRClient, make: Make, name: str
    ) -> None:
        held = make(partition_by=by_field("category"))
        held.add(documents(6))
        client.drop_collection(name)
        for call in (
            lambda: held.search(vector=vector(1)),
            lambda: held.add([document(1)]),
            lambda: held.get(["d001"]),
            held.find,
            held.count,
            lambda: held.delete(["d001"]),
            held.clear,
            held.refresh,
            lambda: held.route(vector=vector(1)),
        ):
            with pytest.raises(CollectionNotFound, match=name):
                call()

    def test_an_empty_dropped_collection_is_not_found_either(
        self, client: SVRClient, make: Make, name: str
    ) -> None:
        held = make()
        client.drop_collection(name)
        with pytest.raises(CollectionNotFound):
            held.search(vector=vector(1))

    def test_a_collection_made_anew_is_another_one(self, client: SVRClient, make: Make, name: str) -> None:
        held = make()
        held.add(documents(3))
        client.drop_collection(name)
        anew = client.create_collection(name, dimensions=DIMENSIONS + 1)
        assert anew.count() == 0
        with pytest.raises(CollectionNotFound):
            held.add([document(1)])
        assert anew.count() == 0

    def test_names_may_be_any_printable_text(self, client: SVRClient) -> None:
        names = [f"{text[:150]} conformance" for text in AWKWARD_TEXTS if "\n" not in text]
        try:
            for number, name in enumerate(names, start=1):
                client.create_collection(name, dimensions=number).add([])
            assert set(names) <= set(client.list_collections())
            for number, name in enumerate(names, start=1):
                assert client.collection(name).dimensions == number
        finally:
            for name in names:
                client.drop_collection(name, missing_ok=True)

    @pytest.mark.parametrize("bad", ["", "   ", "a\nb", "a\x00b", "x" * 201, "\ud800", 7, None])
    def test_what_cannot_be_a_name_is_refused(self, client: SVRClient, bad: str) -> None:
        with pytest.raises(InvalidName, match="name"):
            client.create_collection(bad, dimensions=2)

    @pytest.mark.parametrize("bad", [0, -1, 10**9, 2.5, "3", True, None])
    def test_what_cannot_be_dimensions_is_refused(self, client: SVRClient, name: str, bad: int) -> None:
        with pytest.raises(InputError, match="dimensions"):
            client.create_collection(name, dimensions=bad)
        assert name not in client.list_collections()

    def test_what_it_was_made_with_outlives_the_client(
        self, make: Make, name: str, make_client: MakeClient
    ) -> None:
        if not self.persistent:
            pytest.skip("this backend forgets")
        scheme = by_field("category", max_partitions=7).then(by_time("at", every="quarter"))
        stored = documents(20)
        held = make(metric="l2", partition_by=scheme, filter_fields={"year": int})
        held.add(stored)
        with make_client() as other:
            opened = other.collection(name)
            assert opened.metric is Metric.L2
            assert opened.partition_by == scheme
            assert opened.filter_fields == {"year": int, "at": datetime}
            found = opened.search(vector=vector(3), limit=5, exact=True)
            assert list(found.ids) == nearest(vector(3), stored, Metric.L2, 5)
            assert opened.find() == held.find()

    def test_what_another_client_writes_is_seen(self, make: Make, name: str, make_client: MakeClient) -> None:
        if not self.persistent:
            pytest.skip("each client has a store of its own")
        make(partition_by=by_field("category"))
        with make_client() as one, make_client() as two:
            here, there = one.collection(name), two.collection(name)
            assert len(there.search(vector=vector(0))) == 0
            for number in range(12):
                writer, reader = (here, there) if number % 2 else (there, here)
                writer.add([document(number)])
                assert len(reader.search(vector=vector(0), limit=100)) == number + 1
                assert reader.count() == number + 1
            assert here.delete(filter={}) == 12
            assert len(there.search(vector=vector(0))) == 0
