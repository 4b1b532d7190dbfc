"""Conformance: adding, replacing, moving and deleting documents."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pytest

from svr_retrievers.errors import BatchError, DimensionMismatch, InputError
from svr_retrievers.model import Document
from svr_retrievers.routing.schemes import by_field, by_hash, by_time
from svr_retrievers.testing.base import Make, Suite
from svr_retrievers.testing.data import AWKWARD_TEXTS, METADATA, document, documents, vector


class WritingConformance(Suite):
    def test_adding_says_what_happened_in_the_order_given(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        first = collection.add(documents(5))
        assert (first.inserted, first.updated, first.ids) == (5, 0, [f"d00{n}" for n in range(5)])
        second = collection.add([document(9), document(2), document(0)])
        assert [(o.id, o.action) for o in second] == [
            ("d009", "inserted"), ("d002", "updated"), ("d000", "updated"),
        ]  # fmt: skip
        assert [o.partition for o in second] == ["category=tickets", "category=mail", "category=tickets"]
        assert collection.count() == 6

    def test_adding_nothing_is_nothing(self, make: Make) -> None:
        collection = make()
        assert len(collection.add([])) == 0
        assert len(collection.add(iter(()))) == 0
        assert collection.count() == 0

    def test_a_generator_of_documents_will_do(self, make: Make) -> None:
        collection = make()
        assert collection.add(document(n) for n in range(4)).inserted == 4

    def test_an_added_document_reads_back_as_it_was(self, make: Make) -> None:
        collection = make(partition_by=by_hash(3), filter_fields={"int": int, "text": str})
        collection.add([Document("x", "Täxt\nof two lines 🦊", METADATA, vector(3))])
        [found] = collection.get(["x"], with_vectors=True)
        assert found.metadata == METADATA
        assert {k: type(v) for k, v in found.metadata.items()} == {k: type(v) for k, v in METADATA.items()}
        assert (found.text, found.namespace, found.version) == ("Täxt\nof two lines 🦊", "default", 1)
        assert np.array_equal(np.asarray(found.vector), vector(3))
        [hit] = collection.search(vector=vector(3))
        assert hit.metadata == METADATA

    def test_times_are_stored_as_text_in_utc(self, make: Make) -> None:
        collection = make()
        zone = timezone(timedelta(hours=2))
        collection.add([
            Document("x", metadata={
                "aware": datetime(2024, 5, 1, 1, 30, 0, 250, tzinfo=zone),
                "naive": datetime(2024, 5, 1, 1, 30),  # noqa: DTZ001 - what naive times mean is what is tested
                "day": date(2024, 5, 1),
            }, vector=vector(1)),
        ])  # fmt: skip
        [found] = collection.get(["x"])
        assert found.metadata == {
            "aware": "2024-04-30T23:30:00.000250Z",
            "naive": "2024-05-01T01:30:00.000000Z",
            "day": "2024-05-01",
        }

    def test_every_write_counts_the_version_up(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        for version in range(1, 5):
            collection.add([Document("x", f"v{version}", {"category": f"c{version % 2}"}, vector(version))])
            [found] = collection.get(["x"])
            assert (found.version, found.text) == (version, f"v{version}")
        [hit] = collection.search(vector=vector(4))
        assert (hit.version, hit.text) == (4, "v4")

    def test_a_replaced_document_leaves_nothing_of_itself(self, make: Make) -> None:
        collection = make()
        collection.add([Document("x", "old", {"a": 1, "b": 2}, vector(1))])
        collection.add([Document("x", "new", {"b": 3}, vector(6))])
        [found] = collection.find(with_vectors=True)
        assert (found.text, found.metadata) == ("new", {"b": 3})
        assert np.array_equal(np.asarray(found.vector), vector(6))
        assert collection.search(vector=vector(1)).ids == ("x",)

    def test_a_document_whose_key_changes_moves(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add([Document("x", metadata={"category": "a"}, vector=vector(1)), document(0)])
        [moved] = collection.add([Document("x", metadata={"category": "b"}, vector=vector(1))])
        assert (moved.action, moved.partition) == ("updated", "category=b")
        assert [
            (h.id, h.partition) for h in collection.search(vector=vector(1), filter={"category": "b"})
        ] == [("x", "category=b")]
        assert len(collection.search(vector=vector(1), filter={"category": "a"})) == 0
        assert len(collection.search(vector=vector(1), partitions=["category=a"])) == 0
        assert collection.count() == 2
        rows = {p.path: p.stats.rows for p in collection.refresh()}
        assert rows == {"category=a": 0, "category=b": 1, "category=tickets": 1}

    def test_one_batch_may_move_insert_and_replace(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(
            [Document(i, metadata={"category": c}, vector=vector(1)) for i, c in ("ax", "bx", "cy")]
        )
        made = collection.add(
            [Document(i, metadata={"category": c}, vector=vector(2)) for i, c in ("ay", "bx", "cx", "dz")]
        )
        assert (made.inserted, made.updated) == (1, 3)
        assert {h.id: h.partition for h in collection.search(vector=vector(2), limit=9)} == {
            "a": "category=y", "b": "category=x", "c": "category=x", "d": "category=z",
        }  # fmt: skip

    def test_ids_and_namespaces_are_any_text(self, make: Make) -> None:
        collection = make(partition_by=by_hash(2))
        for space in AWKWARD_TEXTS:
            collection.add(
                [Document(i, i, vector=vector(n)) for n, i in enumerate(AWKWARD_TEXTS)], namespace=space
            )
        for space in AWKWARD_TEXTS:
            found = collection.get(AWKWARD_TEXTS, namespace=space)
            assert [d.id for d in found] == list(AWKWARD_TEXTS)
            assert [d.text for d in found] == list(AWKWARD_TEXTS)
            assert {d.namespace for d in found} == {space}
            hits = collection.search(vector=vector(1), limit=100, namespace=space)
            assert sorted(hits.ids) == sorted(AWKWARD_TEXTS)

    def test_namespaces_do_not_see_one_another(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add([Document("x", "one", {"category": "a"}, vector(1))], namespace="one")
        collection.add([
            Document("x", "two", {"category": "a"}, vector(1), namespace="two"),
            Document("x", "three", {"category": "b"}, vector(1)),
        ], namespace="three")  # fmt: skip
        for space in ("one", "two", "three"):
            assert [h.text for h in collection.search(vector=vector(1), namespace=space)] == [space]
            assert [d.text for d in collection.find(namespace=space)] == [space]
            assert collection.count(namespace=space) == 1
        assert collection.count() == 0
        assert collection.delete(["x"], namespace="two") == 1
        assert collection.clear(namespace="three") == 1
        assert collection.count(namespace="one") == 1

    def test_a_refused_batch_names_each_problem_and_writes_nothing(self, make: Make) -> None:
        collection = make(partition_by=by_time("at"), filter_fields={"year": int})
        collection.add([document(0)])
        before = collection.find(with_vectors=True)
        good = vector(1)
        with pytest.raises(BatchError) as caught:
            collection.add([
                Document("fine", vector=good),
                Document("", vector=good),
                Document("nul\x00", vector=good),
                Document("x" * 2001, vector=good),
                Document("text", text=7, vector=good),  # type: ignore[arg-type]
                Document("set", metadata={"a": {1, 2}}, vector=good),
                Document("nan", metadata={"a": float("nan")}, vector=good),
                Document("year", metadata={"year": "soon"}, vector=good),
                Document("time", metadata={"at": 5}, vector=good),
                Document("short", vector=good[:-1]),
                Document("none"),
                Document("fine", vector=good),
                Document("d000", "replaced?", vector=good),
            ])  # fmt: skip
        assert [p.index for p in caught.value.problems] == list(range(1, 12))
        assert {p.index: p.argument for p in caught.value.problems} == {
            1: "id", 2: "id", 3: "id", 4: "text", 5: "metadata", 6: "metadata", 7: "metadata", 8: "metadata",
            9: "vector", 10: "vector", 11: "id",
        }  # fmt: skip
        assert all(p.message for p in caught.value.problems)
        assert collection.find(with_vectors=True) == before
        assert [p.path for p in collection.refresh()] == ["2024-01"]

    @pytest.mark.parametrize("bad", [[0.0] * 4, [float("nan")] * 4, [float("inf"), 1, 1, 1], [1e39, 0, 0, 0]])
    def test_a_vector_that_cannot_be_compared_is_refused(self, make: Make, bad: list[float]) -> None:
        collection = make()
        with pytest.raises(BatchError) as caught:
            collection.add([Document("good", vector=vector(1)), Document("bad", vector=bad)])
        assert [(p.index, p.id, p.argument) for p in caught.value.problems] == [(1, "bad", "vector")]
        with pytest.raises(InputError, match="vector"):
            collection.search(vector=bad)
        assert collection.count() == 0

    def test_a_zero_vector_is_fine_where_distance_is_defined(self, make: Make) -> None:
        collection = make(metric="l2")
        collection.add([Document("zero", vector=[0.0] * 4)])
        assert collection.search(vector=[0.0] * 4)[0].distance == 0.0

    def test_vectors_may_come_as_one_array(self, make: Make) -> None:
        collection = make()
        given = np.asarray([vector(n) for n in range(3)], dtype=np.float64)
        collection.add([Document(str(n), vector=[9.0] * 4) for n in range(3)], vectors=given)
        found = collection.get(["0", "1", "2"], with_vectors=True)
        assert np.array_equal(np.asarray([d.vector for d in found], dtype=np.float64), given)
        with pytest.raises(InputError, match="vectors"):
            collection.add([document(1)], vectors=given)
        with pytest.raises(DimensionMismatch, match="vectors"):
            collection.add([document(1)], vectors=np.ones((1, 3)))

    def test_what_is_returned_is_the_callers_own(self, make: Make) -> None:
        collection = make()
        given: dict[str, object] = {"list": [1], "object": {"a": 1}}
        sent = np.asarray(vector(1), dtype=np.float32)
        collection.add([Document("x", metadata=given, vector=sent)])
        sent[:] = 7.0
        given["list"] = "changed"
        for _ in range(2):
            [found] = collection.find(with_vectors=True)
            [hit] = collection.search(vector=vector(1), with_vectors=True)
            assert found.metadata == hit.metadata == {"list": [1], "object": {"a": 1}}
            assert np.array_equal(np.asarray(found.vector), vector(1))
            assert np.array_equal(np.asarray(hit.vector), vector(1))
            for held in (found.metadata, hit.metadata):
                held["list"].append(2)  # type: ignore[attr-defined]
            for row in (found.vector, hit.vector):
                row[0] = 99.0  # type: ignore[index]

    def test_delete_takes_ids_a_filter_or_both(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"), filter_fields={"year": int})
        collection.add(documents(24))
        assert collection.delete([]) == 0
        assert collection.delete([], filter={}) == 0
        assert collection.delete(["missing", "", "nul\x00"]) == 0
        assert collection.count() == 24
        assert collection.delete(["d000", "d001", "d001", "missing"]) == 2
        assert collection.delete(["d002", "d003"], filter={"year": 2020}) == 1
        assert collection.get(["d002", "d003"])[0].id == "d003"
        left = collection.count({"category": "wiki"})
        assert left > 0
        assert collection.delete(filter={"category": "wiki"}) == left
        assert collection.count({"category": "wiki"}) == 0
        assert "d001" not in collection.search(vector=vector(1), limit=50).ids
        assert collection.count() == 21 - left
        with pytest.raises(InputError, match="ids"):
            collection.delete()

    def test_clear_empties_a_namespace_and_leaves_it_usable(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(10))
        collection.add(documents(4), namespace="other")
        assert collection.clear() == 10
        assert collection.clear() == 0
        assert collection.count(namespace="other") == 4
        assert len(collection.search(vector=vector(1))) == 0
        assert collection.add([document(3)]).inserted == 1
        assert collection.get(["d003"])[0].version == 1
        assert collection.search(vector=vector(3)).ids == ("d003",)
