"""What a pipeline does with documents: what it embeds, refuses, leaves, deletes, and tells."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from svr_retrievers import AsyncSVRClient, Document, SVRClient, by_field
from svr_retrievers.errors import (
    EmbeddingFailed,
    IngestFailed,
    InputError,
    MissingExtra,
    SpaceMismatch,
    UsageError,
)
from svr_retrievers.ingest import (
    Chunk,
    IngestPipeline,
    IngestReport,
    RecursiveChunker,
    read_folder,
    read_jsonl,
    replay,
)
from svr_retrievers.spaces import VectorSpace
from tests.ingest.ingest_corpus import vector_of
from tests.ingest.test_ingest_crashes import Embedder, Lines

pytestmark = pytest.mark.ingest


@pytest.fixture
def client():
    with SVRClient("memory://") as made:
        yield made


@pytest.fixture
def embedder():
    return Embedder()


@pytest.fixture
def collection(client, embedder):
    return client.create_collection("c", dimensions=64, embedder=embedder)


def pipeline(collection, **options) -> IngestPipeline:
    return IngestPipeline(collection, **{"progress": False, "batch_size": 3, **options})


def doc(doc_id: str, text: str = "some text", **metadata) -> Document:
    return Document(doc_id, text, metadata)


def upper(document: Document) -> Document:
    return Document(document.id, document.text.upper())


def ids(collection) -> list[str]:
    return [row.id for row in collection.find()]


class TestWhatIsNew:
    def test_a_second_run_embeds_and_writes_nothing(self, collection, embedder) -> None:
        documents = [doc(f"d{n}", f"a {n}\nb {n}", n=n) for n in range(5)]
        first = pipeline(collection, chunker=Lines()).run(documents)
        second = pipeline(collection, chunker=Lines()).run(iter(documents))
        assert (first.read, first.written, first.embedded, first.replaced) == (5, 10, 10, 0)
        assert (second.read, second.written, second.embedded, second.unchanged) == (5, 0, 0, 10)
        assert len(embedder.texts) == 10
        assert {row.version for row in collection.find()} == {1}

    def test_only_new_text_is_embedded_wherever_it_stands(self, collection, embedder) -> None:
        pipeline(collection, chunker=Lines()).run([doc("d", "one\ntwo\nthree\nfour\nfive\nsix")])
        embedder.texts.clear()
        report = pipeline(collection, chunker=Lines(), batch_size=10).run(
            [doc("d", "zero\none\ntwo\nfour\nfive\nsix")]
        )
        assert embedder.texts == ["zero"]
        assert (report.embedded, report.reused, report.unchanged) == (1, 2, 3)
        assert [row.text for row in collection.find()] == ["zero", "one", "two", "four", "five", "six"]
        assert all(np.array_equal(r.vector, vector_of(r.text)) for r in collection.find(with_vectors=True))

    def test_what_moves_up_from_a_part_that_goes_keeps_its_vector(self, collection, embedder) -> None:
        pipeline(collection, chunker=Lines()).run([doc("d", "one\ntwo\nthree\nfour")])
        embedder.texts.clear()
        report = pipeline(collection, chunker=Lines()).run([doc("d", "three\nfour")])
        assert (embedder.texts, report.reused, report.deleted) == ([], 2, 2)
        assert [row.text for row in collection.find()] == ["three", "four"]

    def test_new_metadata_alone_keeps_the_vectors(self, collection, embedder) -> None:
        pipeline(collection).run([doc("d", year=1)])
        report = pipeline(collection).run([doc("d", year=2)])
        assert (report.replaced, report.embedded, report.reused) == (1, 0, 1)
        assert collection.get(["d"])[0].metadata["year"] == 2

    def test_the_same_text_is_embedded_once_a_batch(self, collection, embedder) -> None:
        report = pipeline(collection).run([doc("a"), doc("b"), doc("c")])
        assert (report.written, report.embedded, embedder.texts) == (3, 1, ["some text"])

    def test_given_vectors_are_stored_and_compared(self, collection, embedder) -> None:
        one, two = vector_of("1"), vector_of("2")
        run = lambda vector: pipeline(collection, chunker=Lines()).run([Document("d", "x\ny", {}, vector)])
        assert run(one).written == 1
        assert run(one.astype(float).tolist()).unchanged == 1
        assert run(two).replaced == 1
        assert embedder.texts == []
        assert np.array_equal(collection.get(["d"], with_vectors=True)[0].vector, two)

    def test_a_vector_that_was_given_does_not_stand_for_the_text(self, collection, embedder) -> None:
        pipeline(collection).run([Document("d", "x", {}, vector_of("other"))])
        report = pipeline(collection).run([Document("d", "x")])
        assert (report.reused, embedder.texts) == (0, ["x"])

    def test_rows_that_others_changed_are_set_right(self, collection, embedder) -> None:
        pipeline(collection, chunker=Lines()).run([doc("d", "x\ny")])
        row = collection.get(["d#1"])[0]
        collection.add([Document("d#1", "tampered", row.metadata, vector_of("tampered"))])
        pipeline(collection, chunker=Lines()).run([doc("d", "x\ny")])
        assert collection.get(["d#1"])[0].text == "y"
        assert np.array_equal(collection.get(["d#1"], with_vectors=True)[0].vector, vector_of("y"))

    @pytest.mark.parametrize("changed", [{"year": 9}, {}, {"year": 1, "more": True}])
    def test_metadata_that_others_changed_is_set_right(self, collection, embedder, changed) -> None:
        pipeline(collection, chunker=Lines()).run([doc("d", "x\ny", year=1, tags=["a"], of={"b": 1.5})])
        before, row = embedder.texts[:], collection.get(["d#1"], with_vectors=True)[0]
        mark = {"svr_ingest": row.metadata["svr_ingest"]}
        collection.add([Document(row.id, row.text, {**changed, **mark}, row.vector)])
        run = lambda: pipeline(collection, chunker=Lines()).run(
            [doc("d", "x\ny", year=1, tags=["a"], of={"b": 1.5})]
        )
        report = run()
        assert (report.written, report.reused, report.unchanged) == (1, 1, 1)
        assert collection.get(["d#1"])[0].metadata == row.metadata
        assert (run().unchanged, embedder.texts) == (2, before)

    def test_chunks_without_visible_text_are_none(self, collection, embedder) -> None:
        class Blank:
            def cut(self, text: str) -> list[Chunk]:
                return [Chunk(piece) for piece in ("", "a", " \n", "\u3000", "b", "\t")]

        class Nothing:
            def cut(self, text: str) -> list[Chunk]:
                return [Chunk(" ")]

        chunker = lambda document: Blank() if document.id == "d" else Nothing()
        report = pipeline(collection, chunker=chunker).run([doc("d"), doc("e")])
        assert [row.text for row in collection.find()] == ["a", "b"]
        assert (ids(collection), embedder.texts, report.empty) == (["d#0", "d#1"], ["a", "b"], 1)

    def test_a_document_refused_late_keeps_what_earlier_batches_wrote(self, client) -> None:
        collection = client.create_collection("c", dimensions=64, embedder=Fails("request", {"bad"}))
        text = "\n".join([*"abcdefghijkl", "bad", "m"])
        report = pipeline(collection, chunker=Lines(), batch_size=2, concurrency=1).run([doc("d", text)])
        assert report.refused == 1
        assert 0 < report.written == collection.count() < 14
        pipeline(collection, chunker=Lines()).run([doc("d", "a\nb")])
        assert ids(collection) == ["d#0", "d#1"]

    def test_a_lost_chunk_comes_back(self, collection) -> None:
        pipeline(collection, chunker=Lines()).run([doc("d", "x\ny\nz")])
        collection.delete(["d#1"])
        report = pipeline(collection, chunker=Lines()).run([doc("d", "x\ny\nz")])
        assert (report.written, report.unchanged) == (1, 2)

    def test_an_emptied_document_is_gone(self, collection) -> None:
        pipeline(collection, chunker=Lines()).run([doc("a", "x\ny"), doc("b", "z")])
        pipeline(collection).run([doc("w")])
        report = pipeline(collection, chunker=Lines()).run([doc("a", " \n"), doc("w", "")])
        assert (report.empty, report.deleted, ids(collection)) == (2, 3, ["b#0"])

    def test_a_document_changes_between_whole_and_cut(self, collection, embedder) -> None:
        text = "\n".join("abcdefg")
        for chunker in (None, Lines(), None, Lines()):
            pipeline(collection, chunker=chunker).run([doc("d", text)])
            expected = ["d"] if chunker is None else [f"d#{n}" for n in range(7)]
            assert ids(collection) == expected

    def test_rows_of_another_making_are_replaced_but_not_mistaken_for_chunks(self, collection) -> None:
        collection.add(
            [Document("d", "mine", {}, vector_of("m")), Document("e#0", "mine", {}, vector_of("m"))]
        )
        report = pipeline(collection).run([doc("d")])
        assert report.replaced == 1
        report = pipeline(collection, chunker=Lines()).run([doc("e")])
        assert [(r.code, r.id) for r in report.refusals] == [("taken", "e")]
        assert collection.get(["e#0"])[0].text == "mine"

    def test_a_row_of_another_making_is_not_deleted_with_the_chunks(self, collection) -> None:
        """Not even where a document that was refused for it left chunks of earlier batches behind."""
        mine = Document("e#4", "mine", {}, vector_of("m"))
        collection.add([mine])
        report = pipeline(collection, chunker=Lines(), batch_size=2).run([doc("e", "a\nb\nc\nd\ne")])
        assert [(r.code, r.id) for r in report.refusals] == [("taken", "e")]
        pipeline(collection, chunker=Lines()).run([doc("e", "a")])
        assert ids(collection) == ["e#0", "e#4"]
        pipeline(collection, chunker=Lines()).run([doc("e", "a\nb\nc")])
        collection.add([Document("e#1", "mine", {}, vector_of("m"))])
        report = pipeline(collection).run([doc("e", "whole")])
        assert (ids(collection), report.deleted) == (["e", "e#1", "e#4"], 2)

    @pytest.mark.parametrize(
        "chunks",
        [
            ["text"],
            "text",
            None,
            [Chunk(5)],
            [Chunk("text", None)],
            [Chunk("text", {"a": object()})],
            (1 // 0 for _ in range(1)),
        ],
        ids=["texts", "text", "none", "number", "no metadata", "metadata", "late"],
    )
    def test_what_is_no_chunk_refuses_its_document_alone(self, collection, chunks) -> None:
        class Wrong:
            def cut(self, text: str) -> object:
                return chunks

        chunker = lambda document: Wrong() if document.id == "a" else Lines()
        report = pipeline(collection, chunker=chunker).run([doc("a"), doc("b")])
        assert ([r.id for r in report.refusals], ids(collection)) == (["a"], ["b#0"])

    def test_numbers_of_numpy_in_a_chunks_metadata_are_numbers(self, collection) -> None:
        class Numbered:
            def cut(self, text: str) -> list[Chunk]:
                return [Chunk(text, {"page": np.int64(3)})]

        pipeline(collection, chunker=Numbered()).run([doc("a")])
        assert collection.get(["a#0"])[0].metadata["page"] == 3

    @pytest.mark.parametrize("order", [("a", "a#0"), ("a#0", "a")])
    @pytest.mark.parametrize("batch_size", [1, 10])
    def test_a_document_named_like_anothers_chunk_is_refused(self, collection, order, batch_size) -> None:
        chunker = lambda document: Lines() if document.id == "a" else None
        report = pipeline(collection, chunker=chunker, batch_size=batch_size).run([doc(i) for i in order])
        assert [(r.code, r.id) for r in report.refusals] == [("taken", order[1])]
        assert collection.count() == 1

    @pytest.mark.parametrize("concurrency", [1, 4])
    @pytest.mark.parametrize("batch_size", [1, 2, 50])
    def test_of_a_document_that_comes_twice_the_last_one_stays(
        self, collection, batch_size, concurrency
    ) -> None:
        documents = [doc("d", "a\nb\nc\nd"), doc("x"), doc("d", "e\nb"), doc("y"), doc("d", "f")]
        options = {"batch_size": batch_size, "concurrency": concurrency}
        report = pipeline(collection, chunker=Lines(), **options).run(documents)
        assert ids(collection) == ["d#0", "x#0", "y#0"]
        assert collection.get(["d#0"])[0].text == "f"
        assert (report.read, report.refused, report.deleted) == (5, 0, 3)

    def test_namespaces_are_kept_apart(self, collection) -> None:
        documents = [Document("d", "a\nb"), Document("d", "c", namespace="other")]
        pipeline(collection, chunker=Lines(), namespace="mine").run(documents)
        pipeline(collection, chunker=Lines(), namespace="mine").run([Document("d", "a")])
        assert collection.count(namespace="mine") == collection.count(namespace="other") == 1
        assert collection.count() == 0

    def test_chunks_carry_the_documents_metadata_and_the_chunkers(self, collection) -> None:
        class Numbered:
            def cut(self, text: str) -> list[Chunk]:
                return [Chunk(line, {"line": n, "kind": "chunk"}) for n, line in enumerate(text.split("\n"))]

        pipeline(collection, chunker=Numbered()).run([doc("d", "x\ny", kind="document", svr_ingest="mine")])
        metadata = dict(collection.get(["d#1"])[0].metadata)
        assert metadata.pop("svr_ingest")["document"] == "d"
        assert metadata == {"line": 1, "kind": "document"}
        assert collection.count({"svr_ingest.document": "d"}) == 2


class TestInsert:
    def test_what_is_there_is_left_alone(self, collection, embedder) -> None:
        pipeline(collection, chunker=Lines()).run([doc("d", "a\nb\nc")])
        report = pipeline(collection, chunker=Lines(), mode="insert").run(
            [doc("d", "a"), doc("e", "x"), doc("f", ""), doc("d", "a\nb\nc", year=1)]
        )
        assert [(r.id, r.code) for r in report.refusals] == [("d", "exists"), ("d", "exists")]
        assert (report.written, report.deleted, report.replaced) == (1, 0, 0)
        assert [row.text for row in collection.find()] == ["a", "b", "c", "x"]

    def test_the_same_again_is_unchanged_so_that_a_run_can_be_resumed(self, collection) -> None:
        pipeline(collection, chunker=Lines()).run([doc("d", "a\nb\nc")])
        collection.delete(["d#2"])
        report = pipeline(collection, chunker=Lines(), mode="insert").run([doc("d", "a\nb\nc")])
        assert (report.refused, report.unchanged, report.written) == (0, 2, 1)

    def test_another_form_of_what_is_there_is_refused(self, collection) -> None:
        pipeline(collection).run([doc("w")])
        pipeline(collection, chunker=Lines()).run([doc("c", "a\nb")])
        assert pipeline(collection, chunker=Lines(), mode="insert").run([doc("w")]).refused == 1
        assert pipeline(collection, mode="insert").run([doc("c")]).refused == 1
        assert ids(collection) == ["c#0", "c#1", "w"]


class TestRefusals:
    def test_one_bad_document_fails_alone(self, collection, tmp_path) -> None:
        letters = tmp_path / "refused.jsonl"
        bad = [
            Document("", "x"),
            Document("nul", "a\0b"),
            Document("set", "x", {"v": {1, 2}}),
            Document("short", "x", {}, [1.0]),
            Document("nan", "x", {}, [float("nan")] * 64),
            {"text": "no id"},
            {"id": "notext"},
            {"id": 1.5, "text": "x"},
            17,
        ]
        good = [doc(f"d{n}") for n in range(8)]
        mixed = [item for pair in zip(good, bad, strict=False) for item in pair] + bad[8:]
        report = pipeline(collection, dead_letters=letters).run(mixed)
        assert (report.read, report.refused, report.written) == (17, 9, 8)
        assert ids(collection) == [f"d{n}" for n in range(8)]
        lines = [json.loads(line) for line in letters.read_text().splitlines()]
        assert len(lines) == 9
        assert {line["place"] for line in lines} == {f"item {n}" for n in (2, 4, 6, 8, 10, 12, 14, 16, 17)}
        assert all(line["message"] and line["code"] and line["time"] for line in lines)
        assert oct(letters.stat().st_mode)[-3:] == "600"

    def test_mended_letters_are_replayed(self, collection, tmp_path) -> None:
        letters = tmp_path / "refused.jsonl"
        run = pipeline(collection, dead_letters=letters).run
        run([doc("a", "x\0"), doc("b"), {"id": "c"}])
        run([doc("a", "x\0")])
        assert run(replay(letters)).read == 2
        letters.write_text(letters.read_text().replace("\\u0000", ""))
        report = run(replay(letters))
        assert (report.written, report.read) == (1, 2)
        assert ids(collection) == ["a", "b"]

    def test_a_declared_field_of_another_type_is_the_documents_own_fault(self, client, embedder) -> None:
        typed = client.create_collection("t", dimensions=64, embedder=embedder, filter_fields={"year": int})
        report = pipeline(typed, chunker=Lines()).run(
            [doc("a", "x\ny", year=1), doc("b", "z\nw", year="1999")]
        )
        assert [r.id for r in report.refusals] == ["b"]
        assert "year" in report.refusals[0].message
        assert embedder.texts == ["x", "y"]

    def test_a_refused_document_keeps_what_is_stored_of_it(self, client, embedder) -> None:
        typed = client.create_collection("t", dimensions=64, embedder=embedder, filter_fields={"year": int})
        pipeline(typed, chunker=Lines()).run([doc("a", "x\ny\nz", year=1)])
        pipeline(typed, chunker=Lines()).run([doc("a", "x", year="?")])
        assert ids(typed) == ["a#0", "a#1", "a#2"]

    def test_without_vector_and_embedder(self, client) -> None:
        bare = client.create_collection("bare", dimensions=64)
        report = pipeline(bare).run([doc("a"), Document("b", "x", {}, vector_of("x"))])
        assert [(r.id, r.code) for r in report.refusals] == [("a", "vector")]
        assert pipeline(bare, embedder=Embedder()).run([doc("a")]).written == 1

    def test_the_first_one_may_end_the_run(self, collection, tmp_path) -> None:
        letters = tmp_path / "refused.jsonl"
        with pytest.raises(IngestFailed, match="half of a surrogate") as caught:
            pipeline(collection, on_error="fail", dead_letters=letters).run([doc("a", "x\ud800")])
        assert caught.value.written == 0
        assert 'on_error="skip"' in (caught.value.hint or "")
        assert "goes on" not in (caught.value.hint or "")
        assert len(letters.read_text().splitlines()) == 1

    def test_what_the_store_refuses_after_all_is_left_out(self, collection, monkeypatch) -> None:
        from svr_retrievers.errors import BatchError, DocumentProblem
        from svr_retrievers.ingest.target import Target

        add, calls = Target.add, []

        async def picky(self, documents, vectors):
            calls.append(len(documents))
            for at, document in enumerate(documents):
                if document.text == "b":
                    raise BatchError([DocumentProblem(at, document.id, "text", "not this one")])
            return await add(self, documents, vectors)

        monkeypatch.setattr(Target, "add", picky)
        report = pipeline(collection, chunker=Lines(), batch_size=9).run([doc("d", "a\nb"), doc("e", "c\nd")])
        assert (calls, report.written, report.refused) == ([4, 2], 2, 1)
        assert ids(collection) == ["e#0", "e#1"]

    def test_functions_of_the_callers_that_fail(self, collection) -> None:
        def choose(document: Document):
            return Lines() if document.id == "a" else 1 / 0

        class Bad:
            def cut(self, text: str):
                raise KeyError("oops")

        assert [r.id for r in pipeline(collection, chunker=choose).run([doc("a"), doc("b")]).refusals] == [
            "b"
        ]
        assert "KeyError" in pipeline(collection, chunker=Bad()).run([doc("c")]).refusals[0].message
        assert pipeline(collection, partition=lambda d: 7).run([doc("c")]).refused == 1


class Fails(Embedder):
    """Refuses batches with certain texts, for a reason."""

    def __init__(self, reason: str, bad: set[str]) -> None:
        super().__init__()
        self.reason, self.bad, self.calls = reason, bad, 0

    def embed_documents(self, texts: list[str]) -> list[np.ndarray]:
        self.calls += 1
        if self.bad.intersection(texts):
            raise EmbeddingFailed("no", reason=self.reason)
        return super().embed_documents(texts)


class TestEmbedding:
    def test_the_text_that_the_provider_refuses_is_found(self, client) -> None:
        embedder = Fails("request", {"t3", "t40"})
        collection = client.create_collection("c", dimensions=64, embedder=embedder)
        report = pipeline(collection, batch_size=64).run([doc(f"d{n}", f"t{n}") for n in range(64)])
        assert sorted(r.id for r in report.refusals) == ["d3", "d40"]
        assert {r.code for r in report.refusals} == {"embedding"}
        assert (report.written, report.embedded) == (62, 62)
        assert sorted(embedder.texts) == sorted(f"t{n}" for n in range(64) if n not in {3, 40})
        assert embedder.calls < 30

    def test_if_it_refuses_every_text_the_run_stops(self, client) -> None:
        texts = [f"t{n}" for n in range(100)]
        embedder = Fails("request", set(texts))
        collection = client.create_collection("c", dimensions=64, embedder=embedder)
        with pytest.raises(IngestFailed):
            pipeline(collection, batch_size=50, concurrency=1).run([doc(t, t) for t in texts])
        assert embedder.calls < 60

    @pytest.mark.parametrize("reason", ["limited", "unavailable", "timeout", "key", "answer", "failed"])
    def test_other_failures_stop_the_run_and_the_next_goes_on(self, client, reason) -> None:
        embedder = Fails(reason, {"t7"})
        collection = client.create_collection("c", dimensions=64, embedder=embedder)
        documents = [doc(f"d{n}", f"t{n}") for n in range(12)]
        with pytest.raises(IngestFailed, match="Run it again") as caught:
            pipeline(collection, concurrency=1).run(documents)
        assert isinstance(caught.value.__cause__, EmbeddingFailed)
        assert caught.value.written == collection.count() == 6
        embedder.bad.clear()
        assert pipeline(collection).run(documents).embedded == 6
        assert len(embedder.texts) == 12

    def test_another_length_of_vectors_stops_the_run(self, client) -> None:
        collection = client.create_collection("c", dimensions=3, embedder=Embedder())
        with pytest.raises(IngestFailed, match="64 numbers"):
            pipeline(collection).run([doc("a")])

    def test_another_vector_space_is_refused_at_once(self, client) -> None:
        one, two = Embedder(), Embedder()
        one.space, two.space = VectorSpace("a", "m", 64), VectorSpace("b", "m", 64)
        collection = client.create_collection("c", dimensions=64, embedder=one)
        with pytest.raises(SpaceMismatch):
            IngestPipeline(collection, embedder=two)

    def test_a_vector_that_cannot_be_stored_is_its_documents_own_fault(self, client) -> None:
        class Zero(Embedder):
            def embed_documents(self, texts):
                return [np.zeros(64) if text == "b" else vector_of(text) for text in texts]

        collection = client.create_collection("c", dimensions=64, embedder=Zero())
        report = pipeline(collection).run([doc("a", "a"), doc("b", "b")])
        assert [r.id for r in report.refusals] == ["b"]
        assert ids(collection) == ["a"]


class TestSources:
    async def test_asynchronous_clients_and_sources(self) -> None:
        async def stream() -> AsyncIterator[Document]:
            for n in range(10):
                yield doc(f"d{n}")

        async with AsyncSVRClient("memory://") as client:
            collection = await client.create_collection("c", dimensions=64, embedder=Embedder())
            made = pipeline(collection)
            assert (await made.arun(stream())).written == 10
            assert (await made.arun([doc("x")])).written == 1
            with pytest.raises(UsageError, match="arun"):
                made.run([doc("x")])

    async def test_a_blocking_collection_awaited_from_another_loop(self, collection) -> None:
        async def stream() -> AsyncIterator[dict]:
            yield {"id": 1, "text": "x", "metadata": {"year": 1}, "lang": "en"}

        assert (await pipeline(collection).arun(stream())).written == 1
        assert pipeline(collection).run(stream()).unchanged == 1
        assert (await pipeline(collection.aio).arun(stream())).unchanged == 1
        metadata = dict(collection.get(["1"])[0].metadata)
        del metadata["svr_ingest"]
        assert metadata == {"year": 1, "lang": "en"}

    @pytest.mark.parametrize("bad", ["text", b"x", 7, doc("d"), {"id": "x"}, None])
    def test_what_is_no_source(self, collection, bad) -> None:
        with pytest.raises(InputError, match="source must be an iterable"):
            pipeline(collection).run(bad)

    def test_what_came_before_a_source_broke_is_stored(self, collection) -> None:
        def breaks() -> Iterator[Document]:
            yield from (doc(f"d{n}") for n in range(7))
            raise ConnectionError("gone")

        with pytest.raises(IngestFailed, match="gone") as caught:
            pipeline(collection).run(breaks())
        assert caught.value.written == collection.count() == 7
        assert isinstance(caught.value.__cause__, ConnectionError)

    def test_a_source_is_not_read_far_ahead_and_is_closed(self, client) -> None:
        read, closed = [], threading.Event()

        def many() -> Iterator[Document]:
            try:
                for n in range(10_000):
                    read.append(n)
                    yield doc(f"d{n}", f"t{n}")
            finally:
                closed.set()

        collection = client.create_collection("c", dimensions=64, embedder=Fails("key", {"t50"}))
        with pytest.raises(IngestFailed):
            pipeline(collection, batch_size=10, concurrency=2).run(many())
        assert len(read) <= 50 + 10 * 5
        assert closed.is_set()

    def test_missing_packages_are_named(self, collection) -> None:
        def needs() -> Iterator[Document]:
            raise MissingExtra("x")
            yield

        with pytest.raises(MissingExtra):
            pipeline(collection).run(needs())


class TestTelling:
    def test_progress_after_each_batch_from_where_the_client_may_be_used(self, collection) -> None:
        seen: list[tuple[int, int]] = []
        report = pipeline(collection, progress=lambda r: seen.append((r.written, collection.count()))).run(
            [doc(f"d{n}", f"t{n}") for n in range(7)]
        )
        assert seen == [(3, 3), (6, 6), (7, 7), (7, 7)]
        assert report.written == 7

    def test_the_report_reads_well(self, collection) -> None:
        report = pipeline(collection).run([doc("a"), doc("b", "<script>\0")])
        assert repr(report).startswith("IngestReport(read=2, refused=1, written=1, embedded=1, ")
        assert "<script>" not in report._repr_html_()
        assert "unchanged" in report._repr_html_()
        assert "b (item 2): text holds a NUL" in report._repr_html_()
        assert IngestReport().rate == 0.0
        assert "RecursiveChunker(size=9" in repr(pipeline(collection, chunker=RecursiveChunker(9)))

    @pytest.mark.parametrize(
        "options",
        [
            {"mode": "replace"},
            {"on_error": "ignore"},
            {"batch_size": 0},
            {"batch_size": 10**6},
            {"concurrency": True},
            {"chunker": 7},
            {"partition": 7},
            {"namespace": ""},
            {"progress": "yes"},
            {"embedder": 7},
            {"dead_letters": "/nowhere/at/all.jsonl"},
        ],
        ids=lambda o: next(iter(o)),
    )
    def test_options_that_cannot_be(self, collection, options) -> None:
        with pytest.raises(InputError):
            pipeline(collection, **options).run([])

    def test_no_collection_at_all(self) -> None:
        with pytest.raises(InputError, match="Collection"):
            IngestPipeline("name")


class TestCheckpoint:
    def test_a_resumed_run_skips_what_it_vouches_for(self, client, tmp_path) -> None:
        file, records = tmp_path / "at", tmp_path / "r.jsonl"
        embedder = Fails("key", {"t7"})
        collection = client.create_collection("c", dimensions=64, embedder=embedder)
        records.write_text("".join(json.dumps({"id": f"d{n}", "text": f"t{n}"}) + "\n" for n in range(12)))
        with pytest.raises(IngestFailed):
            pipeline(collection, concurrency=1, checkpoint=file).run(read_jsonl(records))
        embedder.bad.clear()
        report = pipeline(collection, checkpoint=file).run(read_jsonl(records))
        assert (report.skipped, report.read, report.written) == (6, 6, 6)
        assert not file.exists()
        assert collection.count() == 12

    @pytest.mark.parametrize("source", [[doc("x")], iter([doc("x")]), {doc("x").id: 1}.keys()])
    def test_sources_that_do_not_tell_whether_they_are_the_same_are_refused(
        self, collection, tmp_path, source
    ) -> None:
        with pytest.raises(InputError, match="Leave checkpoint out"):
            pipeline(collection, checkpoint=tmp_path / "at").run(source)

    def test_a_change_of_every_document_makes_another_source(self, tmp_path) -> None:
        records = tmp_path / "r.jsonl"
        records.write_text("")
        reader = read_jsonl(records)
        prints = [reader, reader.map(upper), reader.map(lambda document: document)]
        assert len({each.fingerprint for each in prints}) == 3
        assert reader.map(upper).fingerprint == read_jsonl(records).map(upper).fingerprint

    def test_it_vouches_for_nothing_else(self, client, tmp_path) -> None:
        file, records = tmp_path / "at", tmp_path / "r.jsonl"
        embedder = Fails("key", {"t3"})
        collection = client.create_collection("c", dimensions=64, embedder=embedder)
        write = lambda: records.write_text(
            "".join(json.dumps({"id": n, "text": f"t{n}"}) + "\n" for n in range(6))
        )
        write()
        with pytest.raises(IngestFailed):
            pipeline(collection, concurrency=1, checkpoint=file).run(read_jsonl(records))
        embedder.bad.clear()
        records.write_text('{"id": "new", "text": "new"}\n' + records.read_text())
        assert pipeline(collection, checkpoint=file).run(read_jsonl(records)).skipped == 0
        assert collection.count() == 7
        with pytest.raises(InputError, match="another order"):
            pipeline(collection, checkpoint=file).run(read_folder(tmp_path))
        file.write_text("{damaged")
        assert pipeline(collection, checkpoint=file).run(read_jsonl(records)).skipped == 0


class TestPartitions:
    @pytest.fixture
    def parted(self, client, embedder):
        return client.create_collection(
            "p", dimensions=64, embedder=embedder, partition_by=by_field("kind").then(by_field("year")),
            filter_fields={"year": int},
        )  # fmt: skip

    def test_a_path_fills_in_what_metadata_lacks(self, parted) -> None:
        report = pipeline(parted, partition="kind=tickets/year=2024", chunker=Lines()).run(
            [
                doc("a", "x\ny"),
                doc("b", "z", kind="tickets"),
                doc("c", "w", kind="other"),
                doc("d", "v", year=1),
            ]
        )
        assert [(r.id, r.code) for r in report.refusals] == [("c", "document"), ("d", "document")]
        assert "belongs to 'kind=other/year=2024'" in report.refusals[0].message
        assert parted.get(["a#1"])[0].metadata["year"] == 2024
        assert [p.path for p in parted.partitions.leaves] == ["kind=tickets/year=2024"]

    def test_the_beginning_of_a_path_and_a_function(self, parted) -> None:
        assert pipeline(parted, partition="kind=a").run([doc("a", year=1), doc("b", year=2)]).written == 2
        report = pipeline(parted, partition=lambda d: f"kind={d.id}" if d.id != "free" else None).run(
            [doc("x"), doc("y", kind="z"), doc("free", kind="f")]
        )
        assert [r.id for r in report.refusals] == ["y"]

    def test_a_number_that_is_none(self, parted) -> None:
        report = pipeline(parted, partition="kind=a/year=soon").run([doc("a")])
        assert "declared int" in report.refusals[0].message

    def test_schemes_that_choose_themselves(self, client, embedder) -> None:
        from svr_retrievers import by_cluster, by_hash

        hashed = client.create_collection("h", dimensions=64, embedder=embedder, partition_by=by_hash(2))
        report = pipeline(hashed, partition="hash-0").run([doc(f"d{n}") for n in range(20)])
        assert 0 < report.refused < 20
        assert {p.path for p in hashed.partitions.leaves if p.stats.rows} == {"hash-0"}
        near = client.create_collection(
            "n", dimensions=64, embedder=embedder, partition_by=by_field("k").then(by_cluster(2))
        )
        assert pipeline(near, partition="k=a").run([doc("a"), doc("b", k="b")]).refused == 1
        assert (
            "chosen by the vectors"
            in pipeline(near, partition="k=a/cluster-1").run([doc("c")]).refusals[0].message
        )
        plain = client.create_collection("plain", dimensions=64, embedder=embedder)
        with pytest.raises(InputError, match="not partitioned"):
            pipeline(plain, partition="k=a")
        assert pipeline(plain, partition="(all)").run([doc("c")]).written == 1
        report = pipeline(plain, partition=lambda _: "k=a").run([doc("c")])
        assert "not partitioned" in report.refusals[0].message

    @pytest.mark.parametrize("path", ["team=a", "kind", "kind=a/month=3", "year=2024", ""])
    def test_a_path_of_another_scheme_is_refused_at_once(self, parted, path) -> None:
        with pytest.raises(InputError, match=r"by_field\('kind'\)"):
            pipeline(parted, partition=path)

    @pytest.mark.parametrize("path", ["kind=a/b", "kind=a/b/c=d", "(rest)", "kind=a/(rest)"])
    def test_a_path_that_could_be_is_left_to_the_documents(self, parted, path) -> None:
        assert pipeline(parted, partition=path).run([]).read == 0

    def test_documents_that_did_not_change_are_checked_too(self, parted) -> None:
        documents = [doc("a", "x\ny", kind="k", year=1), doc("b", "z", kind="other", year=1)]
        pipeline(parted, chunker=Lines()).run(documents)
        report = pipeline(parted, chunker=Lines(), partition="kind=k").run(documents)
        assert [(r.id, r.code) for r in report.refusals] == [("b", "document")]
        assert (report.unchanged, report.written, parted.count()) == (2, 0, 3)


def ending(error: BaseException) -> Iterator[Document]:
    yield doc("a")
    raise error


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt()])
def test_a_source_that_would_end_the_program_ends_its_run_alone(collection, error) -> None:
    with pytest.raises(IngestFailed):
        pipeline(collection).run(ending(error))
    assert pipeline(collection).run([doc("b")]).written == 1


@pytest.mark.parametrize("error", [SystemExit(2), asyncio.CancelledError()])
def test_an_embedder_that_gives_up_is_no_end_of_the_source(client, error) -> None:
    class GivesUp:
        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            raise error

        async def aembed_query(self, text: str) -> list[float]:
            raise error

    given = client.create_collection("g", dimensions=64, embedder=GivesUp())
    with pytest.raises(IngestFailed) as raised:
        pipeline(given).run([doc("a")])
    assert isinstance(raised.value.__cause__, EmbeddingFailed)
    assert given.count() == 0
