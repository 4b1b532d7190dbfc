"""Documents of LangChain and LlamaIndex are taken in as they are."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaIndexDocument
from llama_index.core.schema import TextNode

from svr_retrievers import SVRClient
from svr_retrievers.errors import InputError
from svr_retrievers.ingest import IngestPipeline
from tests.ingest.test_ingest_crashes import Embedder

pytestmark = pytest.mark.ingest


@pytest.fixture
def collection():
    with SVRClient("memory://") as client:
        yield client.create_collection("c", dimensions=64, embedder=Embedder())


def test_their_documents_are_stored_with_text_metadata_and_vector(collection) -> None:
    given = [
        LangChainDocument("of the sea", id="a", metadata={"year": 1, "text": "kept"}),
        LlamaIndexDocument(text="of the night", id_="b", metadata={"year": 2}),
        TextNode(text="of the day", id_="n", embedding=[0.5] * 64),
    ]
    report = IngestPipeline(collection, progress=False).run(given)
    assert (report.written, report.embedded) == (3, 2)
    rows = {row.id: row for row in collection.find(with_vectors=True)}
    assert [rows[k].text for k in "abn"] == ["of the sea", "of the night", "of the day"]
    assert (rows["a"].metadata["year"], rows["a"].metadata["text"], rows["b"].metadata["year"]) == (
        1,
        "kept",
        2,
    )
    assert rows["n"].vector.tolist() == [0.5] * 64


def test_one_without_an_id_is_refused_with_its_place(collection) -> None:
    report = IngestPipeline(collection, progress=False).run([LangChainDocument("text"), object()])
    assert [(r.place, r.code) for r in report.refusals] == [("item 1", "input"), ("item 2", "input")]
    assert "LangChain document without an id" in report.refusals[0].message
    assert "LangChain or LlamaIndex" in report.refusals[1].message


def test_one_alone_is_no_source(collection) -> None:
    for alone in (LangChainDocument("text", id="a"), LlamaIndexDocument(text="text")):
        with pytest.raises(InputError, match="Wrap a single document"):
            IngestPipeline(collection, progress=False).run(alone)
