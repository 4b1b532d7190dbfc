"""Queries: modes, restrictions, options and scores, in both styles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import IndexNode, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode

from svr_retrievers import by_field, maximal_marginal_relevance
from svr_retrievers.errors import FilterError, InputError, PartitionNotFound


@pytest.fixture(params=["blocking", "awaitable"])
def ask(request: Any) -> Any:
    async def do(store: Any, query: VectorStoreQuery, **options: Any) -> Any:
        return (
            store.query(query, **options)
            if request.param == "blocking"
            else await store.aquery(query, **options)
        )

    return do


def asked(vector: Any, top_k: int = 4, **more: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=top_k, **more)


async def test_the_nearest_come_first_with_scores_that_are_higher_for_closer(
    animals: Any, ask: Any, embed: Any
) -> None:
    vector = embed("the cat on a sofa")
    result = await ask(animals, asked(vector))
    assert result.ids == [node.node_id for node in result.nodes]
    assert result.ids[0] == "cat"
    assert result.similarities == sorted(result.similarities, reverse=True)
    for node, score in zip(result.nodes, result.similarities, strict=True):
        other = np.array(embed(node.text))
        cosine = other @ vector / np.linalg.norm(other) / np.linalg.norm(vector)
        assert score == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_scores_are_higher_for_closer_under_every_metric(
    make_store: Any, make_node: Any, metric: str
) -> None:
    store = make_store(metric=metric)
    store.add([make_node("near", "a b c"), make_node("far", "x y z")])
    result = store.query(asked(make_node("q", "a b c").embedding))
    assert result.ids == ["near", "far"]
    assert result.similarities[0] > result.similarities[1]


async def test_an_empty_store_answers_with_empty_lists(store: Any, ask: Any) -> None:
    result = await ask(store, asked([1.0] * 48))
    assert (result.nodes, result.similarities, result.ids) == ([], [], [])


async def test_no_more_than_top_k_come_back_and_none_twice(store: Any, make_node: Any, ask: Any) -> None:
    for _ in range(2):
        store.add([make_node(str(i), "same text") for i in range(6)])
    result = await ask(store, asked(make_node("q", "same text").embedding, 5))
    assert len(result.ids) == len(set(result.ids)) == 5


async def test_doc_ids_restrict_to_these_source_documents(animals: Any, ask: Any, embed: Any) -> None:
    vector = embed("the cat on a sofa")
    assert set((await ask(animals, asked(vector, doc_ids=["farm"]))).ids) == {"hen", "cow"}
    assert len((await ask(animals, asked(vector, doc_ids=["farm", "pets"]))).ids) == 4
    assert (await ask(animals, asked(vector, doc_ids=[]))).ids == []
    four = MetadataFilters(filters=[MetadataFilter(key="legs", value=4)])
    assert (await ask(animals, asked(vector, doc_ids=["farm"], filters=four))).ids == ["cow"]


async def test_node_ids_as_an_option_restrict_to_these_nodes(animals: Any, ask: Any, embed: Any) -> None:
    vector = embed("the cat on a sofa")
    assert set((await ask(animals, asked(vector), node_ids=["hen", "dog", "unknown"])).ids) == {"hen", "dog"}
    assert (await ask(animals, asked(vector), node_ids=[])).ids == []


@pytest.mark.parametrize("node_ids", [[], ["pointer"]])
async def test_node_ids_that_the_index_fills_in_hide_no_text_nodes(
    animals: Any, ask: Any, embed: Any, node_ids: list[str]
) -> None:
    animals.add([IndexNode(id_="pointer", text="x", index_id="i", embedding=embed("x"))])
    assert len((await ask(animals, asked(embed("the cat"), 9, node_ids=node_ids))).ids) == 5


async def test_filters_restrict_and_still_fill_top_k(make_store: Any, make_node: Any, ask: Any) -> None:
    """One node in a hundred matches; all of them come back, in the exact order."""
    store = make_store(filter_fields={"group": int})
    store.add([make_node(str(i), f"word{i} text", group=i % 100) for i in range(1000)])
    only = MetadataFilters(filters=[MetadataFilter(key="group", value=7)])
    result = await ask(store, asked(make_node("q", "word7 text").embedding, 10, filters=only))
    assert result.ids[0] == "7"
    assert set(result.ids) == {str(i) for i in range(1000) if i % 100 == 7}


SUPPORTED = (Mode.DEFAULT, Mode.MMR, Mode.TEXT_SEARCH, Mode.HYBRID)


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode not in SUPPORTED])
async def test_a_mode_that_is_not_supported_is_refused_by_name(animals: Any, ask: Any, mode: Mode) -> None:
    query = VectorStoreQuery(query_str="cat", query_embedding=[1.0] * 48, mode=mode, alpha=0.0)
    with pytest.raises(InputError, match=rf"default, mmr, text_search, hybrid, not {mode.value}\."):
        await ask(animals, query)


async def test_a_query_without_embedding_is_refused(animals: Any, ask: Any) -> None:
    with pytest.raises(InputError, match="no embedding"):
        await ask(animals, VectorStoreQuery(query_str="cat"))


@pytest.mark.parametrize("unused", [{"output_fields": ["text"]}, {"embedding_field": "other"}])
async def test_a_query_field_that_is_not_used_is_refused(animals: Any, ask: Any, unused: Any) -> None:
    with pytest.raises(InputError, match=next(iter(unused))):
        await ask(animals, asked([1.0] * 48, **unused))


async def test_an_unknown_option_is_refused_with_the_known_ones(animals: Any, ask: Any) -> None:
    with pytest.raises(TypeError, match=r"probes; valid are partitions, exact, nprobe"):
        await ask(animals, asked([1.0] * 48), probes=3)


@pytest.fixture
def topics(make_store: Any, make_node: Any) -> Any:
    store = make_store(partition_by=by_field("topic"))
    store.add(
        [make_node(f"{topic}{i}", f"about {topic} {i}", topic=topic) for topic in "abc" for i in range(4)]
    )
    return store


async def test_options_reach_the_search(topics: Any, ask: Any, embed: Any) -> None:
    query = asked(embed("about a"), 12)
    assert {i[0] for i in (await ask(topics, query, partitions=["topic=b"])).ids} == {"b"}
    assert {i[0] for i in (await ask(topics, asked(embed("about a"), 4), nprobe=1)).ids} == {"a"}
    assert len((await ask(topics, query, exact=True)).ids) == 12
    assert len((await ask(topics, query, recall_target=1.0, ef_search=50, timeout_seconds=20)).ids) == 12


@pytest.mark.parametrize(
    "wrong", [{"nprobe": 0}, {"recall_target": 2.0}, {"timeout_seconds": -1}, {"ef_search": "x"}], ids=str
)
async def test_an_option_out_of_range_is_refused(topics: Any, ask: Any, wrong: Any) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        await ask(topics, asked([1.0] * 48), **wrong)


async def test_an_unknown_partition_is_refused(topics: Any, ask: Any) -> None:
    with pytest.raises(PartitionNotFound, match="topic=z"):
        await ask(topics, asked([1.0] * 48), partitions=["topic=z"])


async def test_a_filter_that_cannot_be_understood_is_refused(animals: Any, ask: Any) -> None:
    bad = MetadataFilters(filters=[MetadataFilter(key="k", value="a", operator="in")])
    with pytest.raises(FilterError, match="needs a list"):
        await ask(animals, asked([1.0] * 48, filters=bad))


@pytest.fixture
def crowd(store: Any) -> Any:
    """Twenty nodes close together near the question and ten scattered ones."""
    random = np.random.default_rng(5)
    near = np.eye(48)[0] + random.normal(0, 0.01, (20, 48))
    spread = np.eye(48)[0] + random.normal(0, 0.3, (10, 48))
    vectors = np.vstack([near, spread])
    store.add([TextNode(id_=f"{i:02}", text="t", embedding=v.tolist()) for i, v in enumerate(vectors)])
    return store


def selected(crowd: Any, k: int, fetched: int, threshold: float) -> list[str]:
    hits = crowd.open().search(vector=np.eye(48)[0], limit=fetched, with_vectors=True, exact=True)
    order = maximal_marginal_relevance(
        np.eye(48)[0], np.stack([h.vector for h in hits]), k=k, lambda_mult=threshold
    )
    return [hits[i].id for i in order]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
async def test_mmr_returns_top_k_in_the_order_of_selection(crowd: Any, ask: Any, threshold: float) -> None:
    query = asked(np.eye(48)[0].tolist(), 6, mode=Mode.MMR, mmr_threshold=threshold)
    result = await ask(crowd, query)
    assert result.ids == selected(crowd, 6, 24, threshold)
    plain = (await ask(crowd, asked(np.eye(48)[0].tolist(), 6))).ids
    assert (result.ids == plain) is (threshold == 1.0)


async def test_an_mmr_threshold_of_zero_is_not_taken_for_unset(crowd: Any, ask: Any) -> None:
    query = asked(np.eye(48)[0].tolist(), 6, mode=Mode.MMR)
    zero = await ask(crowd, query, mmr_threshold=0, mmr_prefetch_k=30)
    unset = await ask(crowd, query, mmr_prefetch_k=30)
    assert zero.ids == selected(crowd, 6, 30, 0.0) != unset.ids
    assert unset.ids == selected(crowd, 6, 30, 0.5)


async def test_mmr_chooses_from_as_many_as_asked_for_and_never_fewer_than_top_k(crowd: Any, ask: Any) -> None:
    query = asked(np.eye(48)[0].tolist(), 4, mode=Mode.MMR, mmr_threshold=0.2)
    for options, fetched in (
        ({"mmr_prefetch_factor": 1.5}, 6),
        ({"mmr_prefetch_factor": 7}, 28),
        ({"mmr_prefetch_k": 10}, 10),
        ({"mmr_prefetch_k": 1}, 4),
        ({}, 16),
    ):
        assert (await ask(crowd, query, **options)).ids == selected(crowd, 4, fetched, 0.2)


async def test_mmr_scores_are_the_similarities_of_its_nodes(crowd: Any, ask: Any) -> None:
    vector = np.eye(48)[0].tolist()
    scores = dict(zip(*attributes(await ask(crowd, asked(vector, 30))), strict=True))
    chosen = await ask(crowd, asked(vector, 30, mode=Mode.MMR, mmr_threshold=0.1))
    assert dict(zip(*attributes(chosen), strict=True)) == pytest.approx(scores)
    assert chosen.ids != list(scores)


def attributes(result: Any) -> tuple[list[str], list[float]]:
    return result.ids, result.similarities


async def test_mmr_options_need_mode_mmr_and_exclude_each_other(crowd: Any, ask: Any) -> None:
    with pytest.raises(TypeError, match=r'mmr_threshold needs.*"mmr"'):
        await ask(crowd, asked([1.0] * 48), mmr_threshold=0.5)
    with pytest.raises(TypeError, match="exclude each other"):
        await ask(crowd, asked([1.0] * 48, mode=Mode.MMR), mmr_prefetch_k=5, mmr_prefetch_factor=2)
    with pytest.raises(InputError, match=r"mmr_threshold.*between 0 and 1"):
        await ask(crowd, asked([1.0] * 48, mode=Mode.MMR), mmr_threshold=1.5)


async def test_mmr_on_an_empty_store_is_empty(store: Any, ask: Any) -> None:
    assert (await ask(store, asked([1.0] * 48, mode=Mode.MMR))).ids == []


async def test_returned_nodes_carry_no_embedding_and_no_extra_metadata(
    animals: Any, ask: Any, embed: Any
) -> None:
    for mode in (Mode.DEFAULT, Mode.MMR):
        [node] = (await ask(animals, asked(embed("hen egg"), 1, mode=mode))).nodes
        assert node.embedding is None
        assert node.metadata == {"kind": "farm", "legs": 2}


@pytest.mark.parametrize("top_k", [0, -1, "3"])
async def test_a_top_k_that_is_no_count_is_refused(animals: Any, ask: Any, top_k: Any) -> None:
    with pytest.raises(InputError, match="similarity_top_k"):
        await ask(animals, asked([1.0] * 48, top_k))
