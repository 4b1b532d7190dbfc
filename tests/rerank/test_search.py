"""Searches with a reranker, on every backend: what it sees, what is answered, and that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from svr_retrievers import (
    AsyncSVRClient,
    Collection,
    Document,
    SearchResult,
    SVRClient,
    by_field,
    errors,
    maximal_marginal_relevance,
)
from svr_retrievers.search.rerank import rerank, reranking
from svr_retrievers.testing.mongodb.hashing import hash_embed

pytestmark = pytest.mark.rerank

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
    """Prefers the text with the highest number at its end, whatever the query; remembers what it was asked."""

    name = "by number"

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.append((query, list(texts)))
        return [float(text.rsplit(" ", 1)[1]) for text in texts]


def documents(count: int = COUNT) -> list[Document]:
    rng = np.random.default_rng(5)
    return [
        Document(
            f"d{at:03}",
            f"{' '.join(rng.choice(WORDS, size=4))} {(at * 37) % count}",
            {"topic": "even" if at % 2 == 0 else "odd", "at": at},
        )
        for at in range(count)
    ]


def number(text: str) -> int:
    return int(text.rsplit(" ", 1)[1])


@pytest.fixture(
    scope="module",
    params=[
        "memory",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mongodb", marks=pytest.mark.mongodb),
    ],
)
def collection(request: pytest.FixtureRequest) -> Iterator[Collection]:
    """80 texts on each backend, only read; its server is started by the first test that needs it."""
    with contextlib.ExitStack() as stack:
        if request.param == "mongodb":
            url = stack.enter_context(_of_its_own(request.getfixturevalue("mongodb_server")))
        else:
            url = "memory://" if request.param == "memory" else request.getfixturevalue("postgres_url")
        yield made(stack.enter_context(SVRClient(url)))


@contextlib.contextmanager
def _of_its_own(server: str) -> Iterator[str]:
    """The URL of a MongoDB database for this module."""
    from pymongo import MongoClient

    name = f"svr_rerank_{secrets.token_hex(6)}"
    hosts, mark, options = server.partition("?")
    yield f"{hosts.rstrip('/')}/{name}{mark}{options}"
    with MongoClient[dict[str, object]](server) as client:
        client.drop_database(name)


@pytest.fixture
def memory() -> Iterator[SVRClient]:
    with SVRClient("memory://") as opened:
        yield opened


def made(client: SVRClient, given: list[Document] | None = None, *, split: bool = True) -> Collection:
    scheme = {"partition_by": by_field("topic")} if split else {}
    collection = client.create_collection(
        "fruit",
        embedder=Embedder(),
        filter_fields={"topic": str, "at": int},
        **scheme,  # type: ignore[arg-type]
    )
    collection.add(documents() if given is None else given)
    collection.refresh()
    return collection


def without_reranker(collection: Collection, limit: int, **given: object) -> SearchResult:
    return collection.search(text="apple fig", limit=limit, **given)  # type: ignore[arg-type]


# What is answered


def test_the_best_of_the_candidates_are_answered_in_the_order_of_the_reranker(collection: Collection) -> None:
    seen = without_reranker(collection, 50)
    found = collection.search(text="apple fig", limit=10, reranker=ByNumber())

    assert found.reranked
    assert found.notes == ()
    assert found.incomplete is None
    assert [number(hit.text) for hit in found] == sorted((number(h.text) for h in seen), reverse=True)[:10]
    assert [hit.rerank_score for hit in found] == [float(number(hit.text)) for hit in found]
    assert {hit.id: hit.score for hit in found}.items() <= {hit.id: hit.score for hit in seen}.items()
    assert found.timings.rerank_ms > 0
    assert found.timings.total_ms >= found.timings.rerank_ms + found.timings.search_ms


def test_the_reranker_is_asked_once_with_the_text_and_every_candidate(collection: Collection) -> None:
    reranker = ByNumber()
    collection.search(text="apple fig", limit=3, fetch_k=20, reranker=reranker)

    assert reranker.asked == [("apple fig", [hit.text for hit in without_reranker(collection, 20)])]


@pytest.mark.parametrize(("limit", "sees"), [(1, 50), (12, 50), (13, 52), (30, 80)])
def test_it_sees_four_candidates_a_hit_and_at_least_fifty(memory: SVRClient, limit: int, sees: int) -> None:
    reranker = ByNumber()
    made(memory).search(text="apple", limit=limit, reranker=reranker)

    assert len(reranker.asked[0][1]) == sees


def test_a_search_by_vector_gives_the_reranker_a_question_of_its_own(collection: Collection) -> None:
    vector = Embedder().embed_query("apple fig")
    reranker = ByNumber()
    found = collection.search(vector=vector, limit=5, reranker=reranker, rerank_query="which number?")

    assert reranker.asked[0][0] == "which number?"
    assert found.ids == collection.search(text="apple fig", limit=5, reranker=ByNumber()).ids


def test_a_question_of_its_own_takes_the_place_of_the_text(memory: SVRClient) -> None:
    reranker = ByNumber()
    made(memory).search(text="apple", reranker=reranker, rerank_query="Prefer fruit. apple")

    assert reranker.asked[0][0] == "Prefer fruit. apple"


@pytest.mark.parametrize(
    "given",
    [
        {"filter": {"topic": "odd"}},
        {"filter": {"at": {"$lt": 40}}},
        {"filter": {"topic": "even", "at": {"$gte": 20}}, "exact": True},
        {"exact": True},
        {"partitions": ["topic=odd"]},
        {"on_failure": "partial"},
        {"timeout_seconds": 20.0},
    ],
    ids=str,
)
def test_what_a_search_can_be_asked_holds_for_the_candidates(
    collection: Collection, given: dict[str, object]
) -> None:
    everything = {hit.id: hit.text for hit in without_reranker(collection, COUNT, **given)}
    found = without_reranker(collection, 10, fetch_k=COUNT, reranker=ByNumber(), **given)

    assert [number(hit.text) for hit in found] == sorted(map(number, everything.values()), reverse=True)[:10]
    assert found.reranked


def test_vectors_come_along_for_a_later_choice_of_different_hits(collection: Collection) -> None:
    found = collection.search(text="apple fig", limit=10, reranker=ByNumber(), with_vectors=True)
    vectors = [hit.vector for hit in found if hit.vector is not None]
    chosen = maximal_marginal_relevance(Embedder().embed_query("apple"), np.array(vectors), k=5)

    assert len(vectors) == 10
    assert len(set(chosen)) == 5


def test_equal_scores_keep_the_order_of_the_search(collection: Collection) -> None:
    found = collection.search(text="apple fig", limit=20, reranker=Says(lambda texts: [1.0] * len(texts)))

    assert found.ids == without_reranker(collection, 20).ids
    assert found.reranked


def test_a_reranker_changes_the_order_and_loses_no_document(collection: Collection) -> None:
    found = collection.search(text="apple fig", limit=COUNT, reranker=ByNumber())

    assert set(found.ids) == {document.id for document in documents()}
    assert found.ids != without_reranker(collection, COUNT).ids


# Too few, too late, broken


def test_where_fewer_match_than_asked_for_the_reason_stays(collection: Collection) -> None:
    plain = without_reranker(collection, 10, filter={"at": {"$lt": 4}})
    found = collection.search(text="apple fig", limit=10, filter={"at": {"$lt": 4}}, reranker=ByNumber())

    assert len(found) == len(plain) == 4
    assert found.reranked
    assert found.incomplete == plain.incomplete is not None


def test_too_few_candidates_are_no_shortfall_of_the_answer(collection: Collection) -> None:
    found = collection.search(text="apple fig", limit=3, filter={"at": {"$lt": 4}}, reranker=ByNumber())

    assert len(found) == 3
    assert found.incomplete is None


def test_nothing_to_rerank_is_said_by_the_search_alone(memory: SVRClient) -> None:
    reranker = ByNumber()
    found = made(memory, []).search(text="apple", reranker=reranker)

    assert (len(found), found.reranked, found.notes, reranker.asked) == (0, False, (), [])
    assert found.incomplete is not None


def test_hits_without_text_stand_last_in_the_order_found(memory: SVRClient) -> None:
    rows = documents(8)
    empty = [Document(f"e{n}", " " * n, {"topic": "odd"}, vector=[1.0, n, *[0.0] * 14]) for n in range(3)]
    collection = made(memory, rows + empty)
    asked = {"vector": [1.0, *[0.0] * 15], "limit": 11}
    found = collection.search(**asked, reranker=ByNumber(), rerank_query="q")  # type: ignore[arg-type]
    plain = collection.search(**asked)  # type: ignore[arg-type]

    assert [number(hit.text) for hit in found[:8]] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert list(found.ids[8:]) == [i for i in plain.ids if i[0] == "e"]
    assert [hit.rerank_score for hit in found[8:]] == [None] * 3
    assert found.notes == ("3 hits have no text and stand last",)
    assert found.reranked


def test_hits_without_any_text_are_not_reranked(memory: SVRClient) -> None:
    collection = made(memory, [Document("e", "", {"topic": "odd"}, vector=[1.0] * 16)])
    found = collection.search(vector=[1.0] * 16, reranker=ByNumber(), rerank_query="q")

    assert found.ids == ("e",)
    assert not found.reranked
    assert found.notes == ("no hit has a text to rerank; the merged order stands",)


class Says:
    """Answers what a function of the texts does."""

    name = "says"

    def __init__(self, answer: Callable[[list[str]], object]) -> None:
        self.answer = answer

    def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        return self.answer(list(texts))  # type: ignore[return-value]


def _raises(error: Exception) -> Callable[[list[str]], object]:
    def answer(texts: list[str]) -> object:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda texts: [1.0] * (len(texts) - 1), "the reranker says answered 49 scores for 50 texts"),
        (lambda texts: [1.0] * (len(texts) + 1), "the reranker says answered 51 scores for 50 texts"),
        (lambda texts: [float("nan")] * len(texts), "the reranker says answered scores that are not finite"),
        (lambda texts: [*range(len(texts) - 1), float("inf")], "not finite numbers; the merged order stands"),
        (lambda texts: None, "the reranker says answered an array of 0 dimensions"),
        (
            _raises(ZeroDivisionError()),
            "the reranker says failed: ZeroDivisionError; the merged order stands",
        ),
        (
            _raises(errors.InputError("Too long.")),
            "the reranker says failed: Too long; the merged order stands",
        ),
        (_raises(errors.RerankFailed("Voyage is away.")), "Voyage is away; the merged order stands"),
    ],
)
def test_a_broken_reranker_costs_the_better_order_and_no_hit(
    collection: Collection, answer: Callable[[list[str]], object], told: str
) -> None:
    found = collection.search(text="apple fig", limit=10, reranker=Says(answer))
    plain = without_reranker(collection, 10)

    assert found.hits == plain.hits
    assert not found.reranked
    assert len(found.notes) == 1
    assert told in found.notes[0]
    assert all(hit.rerank_score is None for hit in found)


def test_a_late_reranker_leaves_the_merged_order(collection: Collection) -> None:
    free = threading.Event()

    def waits(texts: list[str]) -> list[float]:
        assert free.wait(30)
        return [0.0] * len(texts)

    try:
        found = collection.search(text="apple fig", reranker=Says(waits), rerank_timeout_seconds=0.02)
    finally:
        free.set()

    assert found.hits == without_reranker(collection, 10).hits
    assert not found.reranked
    assert found.notes == ("the reranker says did not answer within 0.02 s; the merged order stands",)


def test_the_reranker_has_no_more_time_than_the_search(memory: SVRClient) -> None:
    free = threading.Event()
    collection = made(memory)

    def waits(texts: list[str]) -> list[float]:
        assert free.wait(30)
        return [0.0] * len(texts)

    try:
        found = collection.search(
            text="apple", reranker=Says(waits), rerank_timeout_seconds=3600, timeout_seconds=0.05
        )
    finally:
        free.set()

    assert len(found) == 10
    assert "did not answer within 0.0" in found.notes[0]


async def test_a_search_that_took_all_its_time_leaves_the_reranker_none(memory: SVRClient) -> None:
    collection, reranker = made(memory), ByNumber()
    asked = reranking(reranker, "q", 10, None, None)
    found = await rerank(collection.search(text="apple", limit=50), asked, -0.1)

    assert found.ids == collection.search(text="apple", limit=10).ids
    assert found.notes == ("the search's timeout_seconds left the reranker no time; the merged order stands",)
    assert reranker.asked == []


# Wrong arguments


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"text": "a", "fetch_k": 20}, "there is none"),
        ({"text": "a", "rerank_timeout_seconds": 1}, "there is none"),
        ({"text": "a", "rerank_query": "b"}, "there is none"),
        ({"vector": [1.0] * 16, "reranker": ByNumber()}, "only a vector"),
        ({"text": "a", "reranker": ByNumber}, "not the class ByNumber"),
        ({"text": "a", "reranker": "rerank-2.5"}, "not str"),
        ({"text": "a", "reranker": ByNumber(), "fetch_k": 9}, "fetch_k is 9, but limit asks for 10"),
        ({"text": "a", "reranker": ByNumber(), "fetch_k": 0}, "fetch_k must lie between"),
        ({"text": "a", "reranker": ByNumber(), "fetch_k": 10_001}, "fetch_k must lie between"),
        ({"text": "a", "reranker": ByNumber(), "fetch_k": 20.0}, "fetch_k must be a whole number"),
        ({"text": "a", "reranker": ByNumber(), "fetch_k": True}, "fetch_k must be a whole number"),
        (
            {"text": "a", "reranker": ByNumber(), "rerank_timeout_seconds": 0},
            "rerank_timeout_seconds must be",
        ),
        ({"text": "a", "reranker": ByNumber(), "rerank_timeout_seconds": float("nan")}, "must be a number"),
        ({"text": "a", "reranker": ByNumber(), "rerank_query": 7}, "rerank_query must be text"),
        ({"text": "a", "reranker": ByNumber(), "rerank_query": " "}, "not empty"),
        ({"text": " ", "reranker": ByNumber()}, "not empty"),
        ({"text": "a", "reranker": ByNumber(), "limit": 0}, "limit must lie between"),
        ({"text": "a", "reranker": ByNumber(), "limit": "ten"}, "limit must be a whole number"),
        ({"reranker": ByNumber()}, "needs a vector or text"),
    ],
)
def test_wrong_arguments_are_refused_by_name(memory: SVRClient, given: dict[str, object], told: str) -> None:
    with pytest.raises(errors.InputError, match=told):
        made(memory).search(**given)  # type: ignore[arg-type]


# Who sees what


def test_the_result_shows_what_happened(memory: SVRClient) -> None:
    collection = made(memory)
    done = collection.search(text="apple", limit=2, reranker=ByNumber())
    failed = collection.search(text="apple", limit=2, reranker=Says(_raises(OSError())))
    plain = collection.search(text="apple", limit=2)

    assert "ms, reranked)" in repr(done)
    assert "rerank_score=79.0000" in repr(done[0])
    assert "<th>rerank score</th>" in done._repr_html_()
    assert "<td>79.0000</td>" in done._repr_html_()
    assert "note: the reranker says failed: OSError" in repr(failed)
    assert "failed: OSError" in failed._repr_html_()
    for one in (plain, failed):
        assert "reranked" not in repr(one)
        assert "rerank score" not in one._repr_html_()
        assert "rerank_score" not in repr(one[0])


def test_timings_may_be_replaced_without_losing_the_rest(memory: SVRClient) -> None:
    found = made(memory).search(text="apple", reranker=ByNumber())
    again = found.with_timings(found.timings)

    assert (again.reranked, again.notes, again.hits) == (True, (), found.hits)


def test_a_search_without_a_reranker_says_that_none_was_at_work(collection: Collection) -> None:
    found = without_reranker(collection, 5)

    assert not found.reranked
    assert found.notes == ()
    assert found.timings.rerank_ms == 0.0
    assert [hit.rerank_score for hit in found] == [None] * 5


# Asynchronous, and from many threads


class Waits:
    """Waits to be let go, and remembers how that ended."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.ended = ""

    async def arerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        raise AssertionError


async def test_a_cancelled_search_cancels_the_reranker_and_leaves_nothing_behind() -> None:
    async with AsyncSVRClient("memory://") as client:
        collection = await client.create_collection("fruit", embedder=Embedder())
        await collection.add(documents())
        reranker = Waits()
        task = asyncio.create_task(collection.search(text="apple", reranker=reranker))
        await reranker.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert reranker.ended == "cancelled"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert len(await collection.search(text="apple", reranker=ByNumber())) == 10


async def test_the_time_of_an_awaited_reranker_is_bounded_too() -> None:
    async with AsyncSVRClient("memory://") as client:
        collection = await client.create_collection("fruit", embedder=Embedder())
        await collection.add(documents())
        reranker = Waits()
        found = await collection.search(text="apple", reranker=reranker, rerank_timeout_seconds=0.02)

        assert len(found) == 10
        assert found.notes == ("the reranker Waits did not answer within 0.02 s; the merged order stands",)
        assert reranker.ended == "cancelled"


async def test_from_any_event_loop(collection: Collection) -> None:
    found = await collection.aio.search(text="apple fig", reranker=ByNumber())

    assert found.ids == collection.search(text="apple fig", reranker=ByNumber()).ids


def test_many_threads_share_a_reranker(collection: Collection) -> None:
    reranker = ByNumber()
    expected = collection.search(text="apple fig", reranker=reranker).ids

    def ask(_: int) -> tuple[str, ...]:
        return collection.search(text="apple fig", reranker=reranker).ids

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(40)))

    assert set(answers) == {expected}
    assert len(reranker.asked) == 41


def test_explaining_knows_no_reranker(memory: SVRClient) -> None:
    explained = made(memory).explain(text="apple", analyze=True)

    assert explained.result is not None
    assert not explained.result.reranked
