"""Conformance: what each scheme makes of documents, and what its partitions mean for searches."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from svr_retrievers.blocking import Collection
from svr_retrievers.errors import BatchError
from svr_retrievers.model import Document, Metric
from svr_retrievers.routing.schemes import Scheme, by_cluster, by_field, by_hash, by_namespace, by_time
from svr_retrievers.testing.base import Make, MakeClient, Suite
from svr_retrievers.testing.data import document, documents, nearest, topics, vector

SCHEMES: tuple[Scheme | None, ...] = (
    None,
    by_field("category"),
    by_field("author.name"),
    by_field("category", values=["wiki"]),
    by_field("number", max_partitions=3),
    by_field("sold"),
    by_time("at", every="month"),
    by_hash(4),
    by_hash(3, "lang"),
    by_cluster(3),
    by_namespace(),
    by_field("category").then(by_time("at", every="quarter")),
    by_namespace().then(by_field("lang")).then(by_hash(2)),
    by_field("sold").then(by_cluster(2)),
)


class PartitioningConformance(Suite):
    @pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
    def test_partitioning_changes_no_answer(self, make: Make, scheme: Scheme | None) -> None:
        collection = make(metric="l2", partition_by=scheme, filter_fields={"year": int})
        stored = documents(120)
        collection.add(stored[:50])
        collection.add(stored[50:])
        assert sum(p.stats.rows for p in collection.refresh()) == 120
        assert [d.id for d in collection.find()] == [d.id for d in stored]
        for filter_ in _FILTERS:
            allowed = {d.id for d in collection.find(filter_)}
            assert collection.count(filter_) == len(allowed)
            result = collection.search(vector=vector(9), limit=200, filter=filter_)
            expected = nearest(vector(9), [d for d in stored if d.id in allowed], Metric.L2, 200)
            assert list(result.ids) == expected, filter_
        moved = [Document(d.id, d.text, {"category": "new"}, d.vector) for d in stored[::3]]
        collection.add(moved)
        assert collection.count() == 120
        assert collection.count({"category": "new"}) == len(moved)
        assert len(collection.search(vector=vector(9), limit=200)) == 120
        assert collection.delete(filter={"category": "new"}) == len(moved)
        assert len(collection.search(vector=vector(9), limit=200)) == 120 - len(moved)

    def test_a_field_gets_a_partition_a_value(self, make: Make) -> None:
        collection = make(partition_by=by_field("v"))
        values: list[object] = [1, 1.0, True, "1", "true", 1.5, "", None, "a/b", "(rest)", 2**70, -0.0, 0]
        _add_values(collection, values)
        groups = Counter(_where(collection).values())
        assert sorted(groups.values()) == [1] * 9 + [2, 2]
        for value in values:
            hits = collection.search(vector=vector(1), filter={"v": value}, limit=50)
            assert len(hits.route.partitions) <= 2
            assert len(hits) == collection.count({"v": value}) >= 1

    def test_null_and_missing_share_the_catch_all(self, make: Make) -> None:
        collection = make(partition_by=by_field("a.b"))
        collection.add([
            Document("null", metadata={"a": {"b": None}}, vector=vector(1)),
            Document("missing", metadata={"a": {}}, vector=vector(1)),
            Document("nothing", vector=vector(1)),
            Document("no object", metadata={"a": 3}, vector=vector(1)),
            Document("there", metadata={"a": {"b": 1}}, vector=vector(1)),
        ])  # fmt: skip
        places = _where(collection)
        assert places.pop("there") != "(rest)"
        assert set(places.values()) == {"(rest)"}
        assert set(collection.search(vector=vector(1), filter={"a.b": None}).ids) == set(places)

    def test_unlisted_values_go_to_the_catch_all(self, make: Make) -> None:
        collection = make(partition_by=by_field("category", values=["wiki", "mail"]))
        collection.add(documents(40))
        assert {p.path for p in collection.partitions} == {"category=wiki", "category=mail", "(rest)"}
        tickets = collection.search(vector=vector(1), filter={"category": "tickets"}, limit=50)
        assert tickets.route.paths == ("(rest)",)
        assert len(tickets) == collection.count({"category": "tickets"}) > 0

    def test_values_beyond_the_allowed_number_go_to_the_catch_all(self, make: Make) -> None:
        collection = make(partition_by=by_field("number", max_partitions=4))
        collection.add(documents(10))
        collection.add([document(n) for n in range(9, 20)])
        assert len(collection.partitions) == 5
        for number in (0, 3, 4, 15):
            assert collection.search(vector=vector(1), filter={"number": number}).ids == (f"d{number:03d}",)

    def test_a_field_of_lists_is_refused(self, make: Make) -> None:
        collection = make(partition_by=by_field("tags"))
        with pytest.raises(BatchError, match="tags"):
            collection.add(documents(2))
        assert collection.count() == 0
        assert len(collection.partitions) == 0

    @pytest.mark.parametrize(
        ("every", "paths"),
        [
            ("day", ["2023-12-31", "2024-01-01", "2024-02-29", "2024-03-01"]),
            ("week", ["2023-W52", "2024-W01", "2024-W09"]),
            ("month", ["2023-12", "2024-01", "2024-02", "2024-03"]),
            ("quarter", ["2023-Q4", "2024-Q1"]),
            ("year", ["2023", "2024"]),
        ],
    )
    def test_time_is_cut_by_the_calendar_in_utc(self, make: Make, every: str, paths: list[str]) -> None:
        collection = make(partition_by=by_time("at", every=every))  # type: ignore[arg-type]
        assert collection.filter_fields == {"at": datetime}
        moments = [
            datetime(2023, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            "2024-01-01T01:00:00+01:00",
            datetime(2024, 2, 29, 12, tzinfo=UTC),
            "2024-03-01",
        ]
        collection.add(
            [Document(f"{n}", metadata={"at": m}, vector=vector(1)) for n, m in enumerate(moments)]
        )
        collection.add([Document("none", vector=vector(1))])
        assert sorted(p.path for p in collection.partitions) == ["(rest)", *paths]
        start = datetime(2024, 1, 1, tzinfo=UTC)
        late = collection.search(vector=vector(1), filter={"at": {"$gte": start}})
        assert set(late.ids) == {"1", "2", "3"}
        assert "(rest)" not in late.route.paths
        early = collection.search(vector=vector(1), filter={"at": {"$lt": start}})
        assert early.ids == ("0",)
        assert early.route.paths == (paths[0],)

    def test_hashes_spread_documents_and_find_them_again(self, make: Make) -> None:
        collection = make(partition_by=by_hash(4))
        collection.add(documents(80))
        assert {p.path for p in collection.partitions} == {f"hash-{n}" for n in range(4)}
        assert all(p.stats.rows >= 8 for p in collection.refresh())

    def test_hashing_a_field_keeps_equal_values_together(self, make: Make) -> None:
        collection = make(partition_by=by_hash(8, "lang"))
        collection.add(documents(40))
        for lang in ("en", "de", "ja"):
            hits = collection.search(vector=vector(1), filter={"lang": lang}, limit=50)
            assert len(hits.route.partitions) == 1
            assert len(hits) == collection.count({"lang": lang})

    def test_namespaces_have_partitions_of_their_own(self, make: Make) -> None:
        collection = make(partition_by=by_namespace())
        for space in ("one", "two", "drei/🦊"):
            collection.add(documents(5), namespace=space)
        hits = collection.search(vector=vector(1), namespace="two")
        assert hits.route.paths == ("namespace=two",)
        assert len(hits) == 5
        assert len(collection.search(vector=vector(1), namespace="nobody")) == 0
        assert collection.clear(namespace="drei/🦊") == 5

    def test_clusters_wait_for_enough_vectors(self, make: Make) -> None:
        collection = make(dimensions=8, partition_by=by_cluster(4))
        rows = topics(300, 8, count=4, spread=0.2, seed=3)
        stored = [Document(f"{n:03d}", vector=row) for n, row in enumerate(rows)]
        collection.add(stored[:50])
        assert [p.path for p in collection.partitions] == ["(rest)"]
        collection.add(stored[50:90])
        assert {p.path for p in collection.partitions if p.stats.rows} == {f"cluster-{n}" for n in range(4)}
        collection.add(stored[90:])
        assert sum(p.stats.rows for p in collection.refresh()) == 300
        for query in rows[::60]:
            assert list(collection.search(vector=query).ids) == nearest(query, stored, Metric.COSINE, 10)
            assert collection.search(vector=query, nprobe=1).route.step == "centroid"

    def test_nested_schemes_make_one_path_a_document(self, make: Make) -> None:
        collection = make(partition_by=by_field("lang").then(by_time("at", every="year")))
        made = collection.add(documents(40))
        for outcome, stored in zip(made, documents(40), strict=True):
            moment = stored.metadata["at"]
            assert isinstance(moment, datetime)
            assert outcome.partition == f"lang={stored.metadata['lang']}/{moment:%Y}"
        both = collection.search(
            vector=vector(1), filter={"lang": "de", "at": {"$gte": "2025-01-01"}}, limit=50
        )
        assert both.route.paths == ("lang=de/2025",)
        assert {h.partition for h in both} == {"lang=de/2025"}

    def test_long_values_that_look_alike_stay_apart(
        self, make: Make, make_client: MakeClient, name: str
    ) -> None:
        collection = make(partition_by=by_field("v"))
        alike = "x" * 100
        collection.add([Document("a", metadata={"v": alike + "a"}, vector=vector(1))])
        if self.persistent:
            with make_client() as other:
                held = other.collection(name)
                collection.add([Document("b", metadata={"v": alike + "b"}, vector=vector(1))])
                held.add([Document("c", metadata={"v": alike + "c"}, vector=vector(1))])
        else:
            collection.add([Document(i, metadata={"v": alike + i}, vector=vector(1)) for i in "bc"])
        paths = [p.path for p in collection.refresh()]
        assert len(set(paths)) == 3
        for path in paths:
            assert len(collection.search(vector=vector(1), partitions=[path])) == 1

    def test_a_very_long_value_is_a_value(self, make: Make) -> None:
        collection = make(partition_by=by_field("v"))
        long = "".join(chr(0x4E00 + n) for n in range(12_000))
        collection.add([Document("long", metadata={"v": long}, vector=vector(1))])
        assert collection.search(vector=vector(1), filter={"v": long}).ids == ("long",)

    def test_the_map_counts_rows_and_only_grows_in_generation(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        generations = []
        for number in range(12):
            collection.add([document(number)])
            generations.append(collection.refresh().generation)
        assert generations == sorted(generations)
        stored = Counter(h.partition for h in collection.search(vector=vector(1), limit=100))
        assert {p.path: p.stats.rows for p in collection.partitions} == dict(stored)


_FILTERS: tuple[dict[str, object], ...] = (
    {},
    {"category": "wiki"},
    {"category": {"$ne": "wiki"}},
    {"category": None},
    {"category": {"$in": ["wiki", "none"]}},
    {"number": {"$lt": 30}},
    {"number": 2},
    {"author.name": "Author 2"},
    {"sold": True, "lang": "en"},
    {"$or": [{"sold": False}, {"year": 2020}]},
    {"at": {"$gte": "2025-01-01", "$lt": "2026-02-03"}},
    {"$not": {"lang": {"$in": ["en", "de"]}}},
)


def _add_values(collection: Collection, values: list[object]) -> None:
    collection.add([Document(f"{n:02d}", metadata={"v": v}, vector=vector(1)) for n, v in enumerate(values)])


def _where(collection: Collection) -> dict[str, str]:
    return {h.id: h.partition for h in collection.search(vector=vector(1), limit=100)}
