"""Ingests on databases: the same on PostgreSQL and MongoDB, also where the server embeds; and interrupted ones."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from svr_retrievers import AtlasEmbedding, Document, SVRClient, by_field
from svr_retrievers.ingest import IngestPipeline, MarkdownChunker
from tests.ingest.test_ingest_crashes import Embedder, Lines

pytestmark = pytest.mark.ingest


@pytest.fixture(params=["postgres", "mongodb"])
def client(request) -> Iterator[SVRClient]:
    with SVRClient(request.getfixturevalue(f"{request.param}_url")) as made:
        yield made


def test_documents_grow_shrink_move_and_change_their_form(client) -> None:
    embedder = Embedder()
    collection = client.create_collection(
        "c", dimensions=64, embedder=embedder, partition_by=by_field("kind")
    )
    run = IngestPipeline(collection, chunker=Lines(), batch_size=4, progress=False).run
    versions = [
        [
            Document("a", "1\n2\n3\n4\n5\n6", {"kind": "x"}),
            Document("b", "one\ntwo", {"kind": "y", "n": 2**60}),
        ],
        [Document("a", "0\n1\n2", {"kind": "y"}), Document("b", "one\ntwo\nthree", {"kind": "y", "n": 2.5})],
        [Document("a", "", {"kind": "y"}), Document("b", "two", {"kind": None, "t": "é😀\u2028"})],
    ]
    for documents in versions:
        run(documents)
        wanted = [line for document in documents for line in document.text.split("\n") if line]
        assert [row.text for row in collection.find()] == wanted
        assert run(documents).written == 0
    assert sorted(embedder.texts) == sorted(["1", "2", "3", "4", "5", "6", "one", "two", "0", "three"])


def test_where_the_server_embeds_no_vector_is_made_or_taken(mongodb_url) -> None:
    with SVRClient(mongodb_url) as client:
        made = client.create_collection("texts", embedder=AtlasEmbedding("voyage-4", dimensions=256))
        run = IngestPipeline(made, chunker=MarkdownChunker(20), progress=False).run
        text = "# Sea\n\nIt is cold.\n\n# Rose\n\nIt blooms."
        report = run([Document("a", text), Document("b", "x", {}, [1.0] * 256)])
        assert [refusal.id for refusal in report.refusals] == ["b"]
        assert (report.written, report.embedded) == (made.count(), 0)
        assert run([Document("a", text)]).written == 0
        assert run([Document("a", "# Sea")]).deleted == report.written - 1


def test_an_interrupted_run_stops_reading(postgres_url) -> None:
    closed = threading.Event()

    def endless() -> Iterator[Document]:
        number = 0
        try:
            while True:
                number += 1
                yield Document(f"d{number}", f"t{number}")
        finally:
            closed.set()

    def interrupt(report) -> None:
        if report.written == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with SVRClient(postgres_url) as client:
        collection = client.create_collection("interrupted", dimensions=64, embedder=Embedder())
        pipeline = IngestPipeline(collection, batch_size=10, progress=interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(endless())
        assert closed.wait(30)
        assert collection.count() >= 20


def test_a_source_may_use_the_client_that_it_is_written_with(postgres_url) -> None:
    with SVRClient(postgres_url) as client:
        one = client.create_collection("one", dimensions=64, embedder=Embedder())
        two = client.create_collection("two", dimensions=64)
        IngestPipeline(one, chunker=Lines(), progress=False).run([Document("a", "x\ny"), Document("b", "z")])
        copied = IngestPipeline(two, progress=False).run(row for row in one.find(with_vectors=True))
        assert (copied.written, copied.refused) == (3, 0)
        assert [row.metadata["svr_ingest"]["document"] for row in two.find()] == ["a#0", "a#1", "b#0"]
        client.drop_collection("one")
        client.drop_collection("two")
