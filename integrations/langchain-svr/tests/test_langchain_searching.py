"""Searching: scores, relevance, filters, options, diversity, ids, in both styles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from svr_retrievers import by_field
from svr_retrievers.errors import FilterError, InputError


def ids(documents: list[Document]) -> list[str | None]:
    return [d.id for d in documents]


async def test_every_search_on_a_missing_collection_is_empty(store: Any) -> None:
    vector = [1.0] * 48
    for name in ("similarity_search", "similarity_search_with_score", "max_marginal_relevance_search",
                 "similarity_search_with_relevance_scores"):  # fmt: skip
        assert getattr(store, name)("x") == []
        assert await getattr(store, f"a{name}")("x") == []
    for name in ("similarity_search_by_vector", "similarity_search_with_score_by_vector",
                 "max_marginal_relevance_search_by_vector"):  # fmt: skip
        assert getattr(store, name)(vector) == []
        assert await getattr(store, f"a{name}")(vector) == []
    assert store.get_by_ids(["x"]) == await store.aget_by_ids(["x"]) == []
    assert store.delete(["x"]) is await store.adelete() is True
    assert store.collection is None


async def test_all_ways_of_asking_agree(animals: Any, embedding: Any) -> None:
    vector = embedding.embed_query("milk cow")
    answers = [
        animals.similarity_search("milk cow", k=2),
        await animals.asimilarity_search("milk cow", k=2),
        animals.similarity_search_by_vector(vector, k=2),
        await animals.asimilarity_search_by_vector(np.array(vector), k=2),
        *(
            [d for d, _ in pairs]
            for pairs in (
                animals.similarity_search_with_score("milk cow", 2),
                await animals.asimilarity_search_with_score("milk cow", 2),
                animals.similarity_search_with_score_by_vector(vector, 2),
                await animals.asimilarity_search_with_score_by_vector(vector, 2),
                animals.similarity_search_with_relevance_scores("milk cow", 2),
                await animals.asimilarity_search_with_relevance_scores("milk cow", 2),
            )
        ),
        animals.search("milk cow", "similarity", k=2),
        await animals.asearch("milk cow", "similarity", k=2),
        animals.max_marginal_relevance_search("milk cow", k=2, lambda_mult=1.0),
    ]
    assert ids(answers[0])[0] == "cow"
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
async def test_scores_are_higher_for_closer_and_relevance_lies_between_0_and_1(
    make_store: Any, metric: str
) -> None:
    store = make_store(metric=metric)
    vectors = [[3.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-1.0, 0.1]]
    store.add_embeddings(zip("abcd", vectors, strict=True), ids=list("abcd"))
    store.embeddings.embed_query = lambda _: [1.0, 0.0]
    scored = store.similarity_search_with_score("q", k=4)
    scores = [score for _, score in scored]
    assert scores == sorted(scores, reverse=True)
    expected = {"cosine": 1.0, "l2": -2.0, "inner_product": 3.0}[metric]
    assert {d.id: score for d, score in scored}["a"] == pytest.approx(expected, abs=1e-5)
    relevant = store.similarity_search_with_relevance_scores("q", k=4)
    assert all(0.0 <= r <= 1.0 for _, r in relevant)
    to_relevance = store._select_relevance_score_fn()
    assert [r for _, r in relevant] == pytest.approx([to_relevance(s) for s in scores], abs=1e-5)


def test_the_best_document_has_the_highest_relevance(animals: Any) -> None:
    scored = animals.similarity_search_with_relevance_scores("the cow gives milk", k=4)
    values = [value for _, value in scored]
    assert scored[0][0].id == "cow"
    assert values[0] == pytest.approx(1.0, abs=1e-5)
    assert values == sorted(values, reverse=True)


def test_score_threshold_cuts_by_relevance(animals: Any) -> None:
    scored = animals.similarity_search_with_relevance_scores("the cow gives milk", k=4, score_threshold=0.99)
    assert [d.id for d, _ in scored] == ["cow"]


def test_filters_select_by_metadata(animals: Any) -> None:
    assert ids(animals.similarity_search("the", k=4, filter={"kind": "farm", "legs": {"$gte": 4}})) == ["cow"]
    assert ids(animals.similarity_search("the", 4, {"legs": 2})) == ["hen"]
    assert animals.similarity_search("the", filter={"kind": {"$in": []}}) == []


def test_a_filter_is_data_whatever_it_holds(animals: Any) -> None:
    animals.add_texts(["tricky"], [{"name": "O'Brien", "with space": "zz' OR '1'='1", "n": "x"}], ids=["t"])
    assert ids(animals.similarity_search("x", filter={"name": "O'Brien"})) == ["t"]
    assert animals.similarity_search("x", filter={"name": "zz' OR '1'='1"}) == []
    assert ids(animals.similarity_search("x", filter={"with space": "zz' OR '1'='1"})) == ["t"]
    animals.add_texts(["number"], [{"n": 5}], ids=["five"])
    assert ids(animals.similarity_search("x", filter={"n": {"$gte": 1, "$lt": 9}})) == ["five"]


def test_an_unknown_operator_is_an_error_and_not_an_empty_answer(animals: Any) -> None:
    with pytest.raises(FilterError, match="gtee"):
        animals.similarity_search("x", filter={"legs": {"$gtee": 1}})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("filtr", r"did you mean 'filter'\? It takes "),
        ("nprob", "did you mean 'nprobe'"),
        ("score_threshold", "similarity_search_with_relevance_scores"),
        ("fetch_k", "max_marginal_relevance_search"),
        ("pre_filter", r"`filter`\. It takes "),
        ("zzz", "It takes .*filter.*recall_target"),
    ],
)
async def test_an_unknown_search_option_is_refused_and_the_right_one_named(
    animals: Any, name: str, hint: str
) -> None:
    with pytest.raises(TypeError, match=hint):
        animals.similarity_search("x", **{name: 1})
    with pytest.raises(TypeError, match=hint):
        await animals.asimilarity_search_with_score("x", **{name: 1})


_WITH_RERANKER = "; with a reranker also fetch_k, rerank_timeout_seconds."


@pytest.mark.parametrize(
    ("method", "name", "rest"),
    [
        (
            "similarity_search",
            "zzz",
            f"recall_target, reranker, timeout_seconds, with_details{_WITH_RERANKER}",
        ),
        ("hybrid_search", "nprobe", f"reranker, timeout_seconds, weights, with_details{_WITH_RERANKER}"),
        (
            "keyword_search",
            "weights",
            "to hybrid_search. It takes filter, k, namespace, partitions, timeout_",
        ),
        (
            "max_marginal_relevance_search",
            "lamda_mult",
            "'lambda_mult'? It takes ef_search, exact, fetch_k, ",
        ),
        ("max_marginal_relevance_search", "reranker", "similarity and hybrid searches by text"),
        ("similarity_search_by_vector", "reranker", "similarity and hybrid searches by text"),
    ],
)
def test_the_error_lists_all_that_a_search_takes(animals: Any, method: str, name: str, rest: str) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(animals, method)([1.0] if "by_vector" in method else "x", **{name: (1, 1)})
    assert rest in str(caught.value)


def test_the_frameworks_own_arguments_pass(animals: Any) -> None:
    assert len(animals.as_retriever(search_kwargs={"k": 2}).invoke("cat", verbose=False)) == 2


@pytest.mark.parametrize("k", [0, -3, 1.5, True, "4"])
async def test_a_senseless_k_is_a_typed_error(store: Any, k: Any) -> None:
    with pytest.raises(InputError, match="k must be"):
        store.similarity_search("x", k=k)
    with pytest.raises(ValueError, match="k must be"):
        await store.asimilarity_search_with_relevance_scores("x", k=k)
    with pytest.raises(InputError, match="k must be"):
        store.max_marginal_relevance_search("x", k=k)
    with pytest.raises(InputError, match="fetch_k must be"):
        await store.amax_marginal_relevance_search("x", k=1, fetch_k=k)


def test_k_beyond_the_collection_returns_everything_and_the_log_says_why(animals: Any, caplog: Any) -> None:
    with caplog.at_level("INFO", "langchain_svr"):
        animals.similarity_search("cat", k=100)
    assert not caplog.records
    with caplog.at_level("DEBUG", "langchain_svr"):
        assert len(animals.similarity_search("cat", k=100)) == 4
    assert "4 of 100 documents" in caplog.text
    assert len(animals.similarity_search("cat", k=np.int64(2))) == 2


def test_routing_options_reach_the_search(make_store: Any) -> None:
    store = make_store(partition_by=by_field("kind"), filter_fields={"kind": str})
    store.add_texts(["a b", "a c"], [{"kind": "x"}, {"kind": "y"}], ids=["1", "2"])
    paths = [p.path for p in store.collection.partitions]
    [path] = [p for p in paths if p.endswith("y")]
    assert ids(store.similarity_search("a", k=2, partitions=[path])) == ["2"]
    options = {"exact": True, "recall_target": 0.9, "timeout_seconds": 30, "on_failure": "partial"}
    assert ids(store.similarity_search("a b", k=2, **options)) == ["1", "2"]
    assert ids(store.similarity_search("a b", k=2, nprobe=2, ef_search=50)) == ["1", "2"]
    with pytest.raises(ValueError, match="recall_target"):
        store.similarity_search("a", recall_target=7)


def test_details_are_added_only_on_request_and_are_not_stored(make_store: Any) -> None:
    store = make_store(partition_by=by_field("kind"))
    store.add_texts(["a cat"], [{"kind": "pet"}], ids=["1"])
    assert store.similarity_search("a cat")[0].metadata == {"kind": "pet"}
    found = store.similarity_search("a cat", with_details=True)[0].metadata
    assert set(found) == {"kind", "svr_score", "svr_relevance", "svr_distance", "svr_partition"}
    assert found["svr_score"] == pytest.approx(1.0, abs=1e-5)
    assert "pet" in found["svr_partition"]
    assert store.max_marginal_relevance_search("a cat", with_details=True)[0].metadata == found
    assert store.get_by_ids(["1"])[0].metadata == {"kind": "pet"}


def test_get_by_ids_keeps_order_and_skips_what_is_missing(animals: Any) -> None:
    assert ids(animals.get_by_ids(["hen", "unicorn", "cat"])) == ["hen", "cat"]
    assert animals.get_by_ids([]) == []
    assert animals.get_by_ids(["nul\x00", "", "x" * 5000]) == []


def test_namespaces_are_separate(make_store: Any) -> None:
    mine, theirs = make_store(namespace="mine"), make_store(namespace="theirs")
    mine.add_texts(["my secret"], ids=["1"])
    theirs.add_texts(["their secret"], ids=["1"])
    assert [d.page_content for d in mine.similarity_search("secret", k=9)] == ["my secret"]
    assert mine.similarity_search("secret", k=9, namespace="theirs")[0].page_content == "their secret"
    for wrong in (
        lambda: mine.similarity_search("secret", namespace=""),
        lambda: mine.get_by_ids(["1"], namespace=""),
        lambda: mine.add_texts(["x"], namespace=""),
        lambda: mine.delete(namespace=""),
    ):
        with pytest.raises(InputError, match="namespace"):
            wrong()
    mine.delete()
    assert theirs.get_by_ids(["1"])[0].page_content == "their secret"


# Six vectors: a tight bundle around the query, and two that point elsewhere.
BUNDLE = {
    "a": [1.0, 0.0, 0.0], "b": [0.99, 0.01, 0.0], "c": [0.98, 0.02, 0.0], "d": [0.97, 0.03, 0.0],
    "e": [0.6, 0.8, 0.0], "f": [0.5, 0.0, 0.85],
}  # fmt: skip
QUERY = [1.0, 0.0, 0.0]


@pytest.fixture
def bundle(make_store: Any) -> Any:
    store = make_store()
    store.add_embeddings(BUNDLE.items(), ids=list(BUNDLE))

    async def aembed_query(_: str) -> list[float]:
        return QUERY

    store.embeddings.embed_query = lambda _: QUERY
    store.embeddings.aembed_query = aembed_query
    return store


async def mmr(store: Any, **options: Any) -> list[str | None]:
    """The answer, which each of the four methods must give."""
    answers = [
        store.max_marginal_relevance_search("q", **options),
        await store.amax_marginal_relevance_search("q", **options),
        store.max_marginal_relevance_search_by_vector(QUERY, **options),
        await store.amax_marginal_relevance_search_by_vector(np.array(QUERY), **options),
    ]
    assert all(answer == answers[0] for answer in answers)
    return ids(answers[0])


async def test_mmr_looks_beyond_the_k_closest(bundle: Any) -> None:
    assert set(await mmr(bundle, k=3, lambda_mult=0.4)) == {"a", "e", "f"}
    assert ids(bundle.similarity_search("q", k=3)) == ["a", "b", "c"]


async def test_mmr_returns_the_order_of_selection(bundle: Any) -> None:
    chosen = await mmr(bundle, k=4, lambda_mult=0.3)
    assert chosen[0] == "a"
    assert set(chosen[1:3]) == {"e", "f"}
    assert chosen != sorted(chosen, key=list(BUNDLE).index)


async def test_mmr_honours_a_lambda_of_zero(bundle: Any) -> None:
    assert await mmr(bundle, k=2, lambda_mult=0.0) == ["a", "f"]
    assert await mmr(bundle, k=3, lambda_mult=1.0) == ["a", "b", "c"]


async def test_mmr_never_fetches_fewer_than_k(bundle: Any) -> None:
    assert len(await mmr(bundle, k=5, fetch_k=2)) == 5
    assert len(bundle.as_retriever(search_type="mmr", search_kwargs={"k": 6}).invoke("q")) == 6


async def test_mmr_honours_fetch_k(bundle: Any) -> None:
    assert set(await mmr(bundle, k=3, fetch_k=3)) == {"a", "b", "c"}


async def test_mmr_leaves_no_vector_in_the_metadata_and_honours_filters(bundle: Any) -> None:
    assert bundle.max_marginal_relevance_search("q", k=1)[0].metadata == {}
    assert bundle.max_marginal_relevance_search("q", k=1, filter={"no": "such"}) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
async def test_mmr_refuses_a_senseless_lambda(bundle: Any, wrong: float) -> None:
    with pytest.raises(InputError, match="lambda_mult"):
        bundle.max_marginal_relevance_search("q", lambda_mult=wrong)


def test_each_query_is_answered_for_itself(animals: Any) -> None:
    """No state of one search is left for the next."""
    first = animals.similarity_search("cat sofa", k=1)
    assert ids(animals.similarity_search("hen egg", k=1)) == ["hen"]
    assert animals.similarity_search("cat sofa", k=1) == first
