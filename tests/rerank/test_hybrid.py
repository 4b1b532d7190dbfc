"""Hybrid searches with a reranker: it reads what both rankings found, and costs nothing but the better order."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from svr_retrievers import Collection, Document, SVRClient, by_field, errors
from svr_retrievers.testing.mongodb.hashing import hash_embed

pytest.importorskip("bm25s")
pytestmark = [pytest.mark.rerank, pytest.mark.hybrid]

WORDS = ["apple", "banana", "cherry", "damson", "elder", "fig", "grape", "hazel", "iris", "juniper"]
COUNT = 80


class Embedder:
    """Texts by their words, in 16 dimensions."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        made = hash_embed(texts, model="m", purpose="document", dimensions=16)
        return [[float(x) for x in row] for row in made]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class ByNumber:
    """Prefers the text with the highest number at its end; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.append((query, list(texts)))
        return [float(number(text)) for text in texts]


class Broken:
    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        raise OSError


def number(text: str) -> int:
    return int(text.rsplit(" ", 1)[1])


def documents() -> list[Document]:
    rng = np.random.default_rng(5)
    return [
        Document(
            f"d{at:03}",
            f"{' '.join(rng.choice(WORDS, size=4))} {(at * 37) % COUNT}",
            {"topic": "even" if at % 2 == 0 else "odd", "at": at},
        )
        for at in range(COUNT)
    ]


@contextlib.contextmanager
def of_its_own(server: str) -> Iterator[str]:
    """The URL of a MongoDB database for this module."""
    from pymongo import MongoClient

    name = f"svr_rerank_{secrets.token_hex(6)}"
    hosts, mark, options = server.partition("?")
    yield f"{hosts.rstrip('/')}/{name}{mark}{options}"
    with MongoClient[dict[str, object]](server) as client:
        client.drop_database(name)


@pytest.fixture(
    scope="module",
    params=[
        "memory",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mongodb", marks=pytest.mark.mongodb),
    ],
)
def collection(request: pytest.FixtureRequest) -> Iterator[Collection]:
    """80 texts on each backend, only read, with an index of words that holds them all."""
    with contextlib.ExitStack() as stack:
        if request.param == "mongodb":
            url = stack.enter_context(of_its_own(request.getfixturevalue("mongodb_server")))
        else:
            url = "memory://" if request.param == "memory" else request.getfixturevalue("postgres_url")
        client = stack.enter_context(SVRClient(url))
        made = client.create_collection(
            "fruit",
            embedder=Embedder(),
            filter_fields={"topic": str, "at": int},
            partition_by=by_field("topic"),
        )
        made.add(documents())
        made.hybrid(text="apple")
        made.refresh()
        yield made


def test_the_best_of_both_rankings_are_answered_in_the_order_of_the_reranker(collection: Collection) -> None:
    reranker = ByNumber()
    seen = collection.hybrid(text="apple fig", limit=50)
    found = collection.hybrid(text="apple fig", limit=10, reranker=reranker)

    assert found.reranked
    assert found.incomplete is None
    assert reranker.asked == [("apple fig", [hit.text for hit in seen])]
    assert [number(hit.text) for hit in found] == sorted((number(h.text) for h in seen), reverse=True)[:10]
    assert [hit.rerank_score for hit in found] == [float(number(hit.text)) for hit in found]
    known = {hit.id: hit for hit in seen}
    assert all((hit.score, hit.legs) == (known[hit.id].score, known[hit.id].legs) for hit in found)
    assert found.timings.total_ms >= found.timings.rerank_ms > 0


@pytest.mark.parametrize(
    "given",
    [
        {"filter": {"topic": "odd"}},
        {"filter": {"at": {"$lt": 30}}, "with_vectors": True},
        {"partitions": ["topic=even"], "weights": (1.0, 0.5)},
        {"vector": [1.0] * 16, "rerank_query": "which?"},
    ],
    ids=str,
)
def test_what_a_hybrid_search_can_be_asked_holds_for_the_candidates(
    collection: Collection, given: dict[str, object]
) -> None:
    plain = {name: value for name, value in given.items() if name != "rerank_query"}
    everything = collection.hybrid(text="apple fig", limit=COUNT, **plain)  # type: ignore[arg-type]
    found = collection.hybrid(text="apple fig", limit=5, fetch_k=COUNT, reranker=ByNumber(), **given)  # type: ignore[arg-type]

    assert [number(h.text) for h in found] == sorted((number(h.text) for h in everything), reverse=True)[:5]
    assert found.reranked
    assert all((hit.vector is not None) == ("with_vectors" in given) for hit in found)


def test_a_reranker_loses_no_document(collection: Collection) -> None:
    found = collection.hybrid(text="apple fig", limit=COUNT, reranker=ByNumber())

    assert set(found.ids) == {document.id for document in documents()}


def test_a_broken_reranker_leaves_the_fused_order(collection: Collection) -> None:
    found = collection.hybrid(text="apple fig", limit=50, reranker=Broken(), fetch_k=50)

    assert found.ids == collection.hybrid(text="apple fig", limit=50).ids
    assert not found.reranked
    assert found.notes == ("the reranker Broken failed: OSError; the merged order stands",)


def test_the_reason_for_fewer_hits_stays(collection: Collection) -> None:
    plain = collection.hybrid(text="apple fig", limit=10, filter={"at": {"$lt": 4}})
    found = collection.hybrid(text="apple fig", limit=10, filter={"at": {"$lt": 4}}, reranker=ByNumber())
    enough = collection.hybrid(text="apple fig", limit=3, filter={"at": {"$lt": 4}}, reranker=ByNumber())

    assert len(found) == 4
    assert found.incomplete is not None
    assert plain.incomplete is not None
    assert found.incomplete.code == plain.incomplete.code
    assert (len(enough), enough.incomplete) == (3, None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fetch_k": 20}, "there is none"),
        ({"reranker": ByNumber(), "fetch_k": 3}, "limit asks for 10"),
        ({"reranker": ByNumber}, "not the class"),
        ({"reranker": ByNumber(), "rerank_timeout_seconds": -1}, "rerank_timeout_seconds"),
    ],
)
def test_wrong_arguments_are_refused_by_name(given: dict[str, object], told: str) -> None:
    with SVRClient("memory://") as client:
        collection = client.create_collection("fruit", embedder=Embedder())
        with pytest.raises(errors.InputError, match=told):
            collection.hybrid(text="apple", **given)  # type: ignore[arg-type]
