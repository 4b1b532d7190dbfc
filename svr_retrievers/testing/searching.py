"""Conformance: the order and the numbers of a search, its limits, and where it looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from svr_retrievers.errors import DeadlineExceeded, DimensionMismatch, InputError, PartitionNotFound, SVRError
from svr_retrievers.model import Document, Metric
from svr_retrievers.routing.schemes import by_cluster, by_field, by_hash
from svr_retrievers.testing.base import Make, Suite
from svr_retrievers.testing.data import distance, document, documents, nearest, topics, vector


class _Lengths:
    """An embedder whose vectors say how long the text is."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(len(text)), 1.0, 0.0]


class SearchingConformance(Suite):
    @pytest.mark.parametrize("metric", list(Metric))
    @pytest.mark.parametrize("exact", [False, True])
    def test_hits_come_in_order_with_the_metrics_numbers(
        self, make: Make, metric: Metric, exact: bool
    ) -> None:
        stored = documents(30)
        collection = make(metric=metric, partition_by=by_field("category"))
        collection.add(stored)
        by_id = {d.id: d for d in stored}
        for number in (0, 5, 17):
            query = vector(number)
            result = collection.search(vector=query, limit=12, exact=exact)
            best = nearest(query, stored, metric, 12)
            if exact:
                assert list(result.ids) == best
            assert [h.distance for h in result] == pytest.approx(
                [distance(query, by_id[i].vector or (), metric) for i in best], abs=1e-5
            )
            for hit in result:
                held = by_id[hit.id].vector
                assert held is not None
                expected = distance(query, held, metric)
                assert hit.distance == pytest.approx(expected, abs=1e-5)
                assert hit.score == pytest.approx(
                    1 - expected if metric is Metric.COSINE else -expected, abs=1e-5
                )
                assert hit.relevance == pytest.approx(_relevance(metric, expected), abs=1e-5)
                assert 0.0 <= hit.relevance <= 1.0
                assert (hit.namespace, hit.version, hit.vector) == ("default", 1, None)
                assert hit.text == by_id[hit.id].text

    @pytest.mark.parametrize("exact", [False, True])
    def test_ties_go_by_id_also_at_the_limit(self, make: Make, exact: bool) -> None:
        collection = make(metric="l2", partition_by=by_hash(3))
        collection.add([Document(f"t{n:02d}", vector=vector(1)) for n in range(30)][::-1])
        for limit in (1, 7, 30):
            found = collection.search(vector=vector(1), limit=limit, exact=exact)
            expected = [f"t{n:02d}" for n in range(limit)]
            if exact or limit == 30:
                assert list(found.ids) == expected
            assert list(found.ids) == sorted(found.ids)
            assert len(found) == limit

    def test_a_search_may_use_lists_tuples_and_arrays(self, make: Make) -> None:
        collection = make()
        collection.add(documents(5))
        whole = [int(x) for x in vector(3)]
        for form in (whole, tuple(whole), np.asarray(whole), np.asarray(whole, dtype=np.float16)):
            assert collection.search(vector=form)[0].id == "d003"  # type: ignore[arg-type]

    def test_fewer_matches_than_asked_for_are_explained(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        empty = collection.search(vector=vector(1))
        assert len(empty) == 0
        assert empty.incomplete is not None
        assert empty.incomplete.code == "few_matches"
        collection.add(documents(6))
        assert collection.search(vector=vector(1), limit=6).incomplete is None
        short = collection.search(vector=vector(1), limit=7)
        assert len(short) == 6
        assert short.incomplete is not None
        assert short.incomplete.code == "few_matches"
        assert "6" in str(short.incomplete)
        none = collection.search(vector=vector(1), filter={"category": "none such"})
        assert len(none) == 0
        assert none.incomplete is not None
        assert none.incomplete.code == "few_matches"

    def test_vectors_come_only_when_asked_for(self, make: Make) -> None:
        collection = make(filter_fields={"year": int}, partition_by=by_hash(2))
        collection.add(documents(5))
        for exact in (False, True):
            result = collection.search(vector=vector(2), limit=5, with_vectors=True, exact=exact)
            assert {h.id: list(h.vector) for h in result if h.vector is not None} == {
                f"d00{n}": vector(n) for n in range(5)
            }

    def test_text_is_embedded(self, make: Make) -> None:
        collection = make(dimensions=3, metric="l2", embedder=_Lengths())
        collection.add([Document(t, t) for t in ("a", "bbb", "ccccc")])
        assert collection.search(text="xxx", limit=1).ids == ("bbb",)
        assert collection.search(text="xxx", limit=1).timings.embed_ms > 0
        assert [
            list(d.vector) for d in collection.get(["bbb"], with_vectors=True) if d.vector is not None
        ] == [[3.0, 1.0, 0.0]]

    def test_text_without_an_embedder_is_refused(self, make: Make) -> None:
        with pytest.raises(InputError, match="embedder"):
            make().search(text="what")

    def test_named_partitions_are_the_only_ones_searched(self, make: Make) -> None:
        collection = make(partition_by=by_field("lang").then(by_field("category")))
        stored = documents(40)
        collection.add(stored)
        result = collection.search(
            vector=vector(3), limit=100, partitions=["lang=en/category=wiki", "lang=fr"]
        )
        assert result.route.step == "explicit"
        assert "lang=en/category=wiki" in result.route.paths
        expected = [
            d for d in stored
            if d.metadata["lang"] == "fr"
            or (d.metadata["lang"] == "en" and d.metadata.get("category") == "wiki")
        ]  # fmt: skip
        assert list(result.ids) == nearest(vector(3), expected, Metric.COSINE, 100)
        filtered = collection.search(
            vector=vector(3), partitions=["lang=fr"], filter={"year": 2020}, limit=50
        )
        assert set(filtered.ids) == {
            d.id for d in stored if d.metadata["lang"] == "fr" and d.metadata["year"] == 2020
        }

    def test_an_unknown_partition_is_named_with_those_that_are_near(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        with pytest.raises(PartitionNotFound, match="no partitions yet"):
            collection.search(vector=vector(1), partitions=["category=wiki"])
        collection.add(documents(6))
        for unknown in ("category=wikis", "'; drop table x; --", "🦊"):
            with pytest.raises(PartitionNotFound) as caught:
                collection.search(vector=vector(1), partitions=["category=wiki", unknown])
            assert repr(unknown) in caught.value.message
        with pytest.raises(PartitionNotFound, match="category=wiki"):
            collection.route(partitions=["category=wikis"])

    def test_the_route_says_which_step_decided_and_is_never_empty(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"), filter_fields={"year": int})
        collection.add(documents(40))
        wide = collection.search(vector=vector(1)).route
        assert (wide.step, len(wide.partitions), wide.complete) == ("fan_out", 4, True)
        narrow = collection.search(vector=vector(1), filter={"category": "wiki"}).route
        assert (narrow.step, narrow.paths) == ("filter", ("category=wiki",))
        two = collection.search(vector=vector(1), filter={"category": {"$in": ["wiki", "mail"]}}).route
        assert set(two.paths) == {"category=wiki", "category=mail"}
        rest = collection.search(vector=vector(1), filter={"category": None}).route
        assert rest.paths == ("(rest)",)
        other = collection.search(vector=vector(1), filter={"year": 2020}).route
        assert other.step == "fan_out"
        probed = collection.search(vector=vector(1), nprobe=2).route
        assert probed.step == "centroid"
        assert len(probed.partitions) == 2
        assert collection.search(vector=vector(1), filter={"category": "no such"}).route.partitions
        assert all(p.reason for r in (wide, narrow, probed) for p in r.partitions)

    def test_route_agrees_with_search_and_needs_no_vector(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(40))
        for options in ({"filter": {"category": "wiki"}}, {"nprobe": 1}, {"partitions": ["(rest)"]}, {}):
            planned = collection.route(vector=vector(1), **options)
            found = collection.search(vector=vector(1), limit=1, **options)
            assert planned == found.route
        assert collection.route(filter={"category": "wiki"}).paths == ("category=wiki",)
        assert len(collection.route().partitions) == 4

    def test_too_few_hits_in_the_closest_partitions_widen_the_search(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        stored = documents(40)
        collection.add(stored)
        wanted = [d for d in stored if d.metadata["year"] == 2019]
        result = collection.search(vector=vector(1), nprobe=1, filter={"year": 2019}, limit=len(wanted))
        assert sorted(result.ids) == sorted(d.id for d in wanted)
        assert result.route.widened
        assert result.incomplete is None

    @pytest.mark.parametrize("metric", list(Metric))
    def test_probing_every_partition_is_the_full_answer(self, make: Make, metric: Metric) -> None:
        rows = topics(400, 8, count=8, seed=1)
        collection = make(dimensions=8, metric=metric, partition_by=by_cluster(6))
        stored = [Document(f"{n:03d}", vector=row) for n, row in enumerate(rows)]
        collection.add(stored)
        assert len(collection.partitions.leaves) >= 6
        for query in topics(5, 8, count=8, seed=2):
            full = collection.search(vector=query, nprobe=1_000, exact=True)
            assert list(full.ids) == nearest(query, stored, metric, 10)
            part = collection.search(vector=query, nprobe=2)
            assert len(part) == 10
            assert {h.partition for h in part} <= set(part.route.paths)

    def test_a_deadline_that_has_passed_is_an_error(self, make: Make) -> None:
        collection = make(partition_by=by_hash(2))
        collection.add(documents(20))
        with pytest.raises(DeadlineExceeded, match="timeout_seconds"):
            collection.search(vector=vector(1), timeout_seconds=1e-9)
        assert len(collection.search(vector=vector(1), timeout_seconds=60)) == 10

    def test_explain_tells_the_route_and_measures_recall(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(30))
        told = collection.explain(vector=vector(1), filter={"category": "wiki", "year": 2020}, analyze=True)
        assert told.route.paths == ("category=wiki",)
        assert told.recall == 1.0
        assert told.result is not None
        assert (
            told.result.ids
            == collection.search(vector=vector(1), filter={"category": "wiki", "year": 2020}).ids
        )
        assert "category=wiki" in str(told)
        assert collection.explain(vector=vector(1)).result is None

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({}, "vector"),
            ({"vector": vector(1), "text": "x"}, "vector"),
            ({"vector": "1234"}, "vector"),
            ({"vector": {"a": 1}}, "vector"),
            ({"vector": [["a"]]}, "vector"),
            ({"vector": [vector(1)]}, "vector"),
            ({"limit": 0}, "limit"),
            ({"limit": -1}, "limit"),
            ({"limit": 10_001}, "limit"),
            ({"limit": "10"}, "limit"),
            ({"limit": True}, "limit"),
            ({"namespace": ""}, "namespace"),
            ({"namespace": None}, "namespace"),
            ({"namespace": "\x00"}, "namespace"),
            ({"partitions": "category=a"}, "partitions"),
            ({"partitions": []}, "partitions"),
            ({"partitions": [3]}, "partitions"),
            ({"filter": [1]}, "filter"),
            ({"filter": "year"}, "filter"),
            ({"nprobe": 0}, "nprobe"),
            ({"nprobe": 1.5}, "nprobe"),
            ({"recall_target": 0}, "recall_target"),
            ({"recall_target": 1.01}, "recall_target"),
            ({"recall_target": "high"}, "recall_target"),
            ({"ef_search": 0}, "ef_search"),
            ({"ef_search": 1001}, "ef_search"),
            ({"timeout_seconds": 0}, "timeout_seconds"),
            ({"timeout_seconds": float("nan")}, "timeout_seconds"),
            ({"timeout_seconds": "1"}, "timeout_seconds"),
            ({"on_failure": "ignore"}, "on_failure"),
        ],
        ids=str,
    )
    def test_a_wrong_argument_is_named(self, make: Make, options: dict[str, object], named: str) -> None:
        collection = make()
        collection.add([document(1)])
        if options and not {"vector", "text"} & set(options):
            options = {"vector": vector(1), **options}
        with pytest.raises(InputError, match=named):
            collection.search(**options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("bad", [[1.0], [1.0] * 5, []])
    def test_a_query_of_another_length_is_refused(self, make: Make, bad: Sequence[float]) -> None:
        collection = make()
        for call in (collection.search, collection.route, collection.explain):
            with pytest.raises(DimensionMismatch, match="vector"):
                call(vector=bad)

    def test_every_error_is_one_of_ours(self, make: Make) -> None:
        with pytest.raises(SVRError) as caught:
            make().search(vector=[1.0])
        assert caught.value.code == "dimensions"
        assert caught.value.hint


def _relevance(metric: Metric, expected: float) -> float:
    if metric is Metric.COSINE:
        return min(1.0, max(0.0, 1.0 - expected))
    return 1.0 / (1.0 + expected) if metric is Metric.L2 else float(1.0 / (1.0 + np.exp(expected)))
