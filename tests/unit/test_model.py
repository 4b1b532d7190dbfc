"""The values that calls return: reprs, HTML that shows markup as text, sequences, equality, relevance."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from svr_retrievers import (
    AddResult,
    Document,
    Hit,
    Metric,
    SearchResult,
    SVRClient,
    maximal_marginal_relevance,
)
from svr_retrievers.errors import InputError
from svr_retrievers.model import (
    Explanation,
    Incomplete,
    Outcome,
    Partition,
    PartitionKey,
    PartitionMap,
    PartitionStats,
    Route,
    RoutedPartition,
    Timings,
)

EVIL = "<script>alert('&\"')</script>"


def hit(doc_id="a", text="text", partition="p", **more) -> Hit:
    return Hit(doc_id, 0.5, text, {}, partition, 0.5, 0.5, **more)


def route(count=2, considered=3) -> Route:
    parts = tuple(RoutedPartition(i, f"p{i}", "nothing rules it out") for i in range(count))
    return Route("fan_out", parts, considered, 7, 0.97)


distances = st.floats(-1e6, 1e6)


@given(distances, distances, st.sampled_from(list(Metric)))
def test_relevance_lies_between_0_and_1_and_falls_with_distance(one, other, metric):
    near, far = sorted((one, other))
    assert 0.0 <= metric.relevance(far) <= metric.relevance(near) <= 1.0
    assert metric.score(far) <= metric.score(near)
    assert isinstance(metric.relevance(near), float)


@pytest.mark.parametrize("extreme", [1e308, -1e308, float("inf"), float("-inf")])
@pytest.mark.parametrize("metric", list(Metric))
def test_relevance_of_extreme_distances(metric, extreme):
    assert 0.0 <= metric.relevance(extreme) <= 1.0


def test_known_scores():
    assert Metric.COSINE.score(0.25) == Metric.COSINE.relevance(0.25) == 0.75
    assert Metric.COSINE.relevance(1.5) == 0.0
    assert (Metric.L2.score(3.0), Metric.L2.relevance(3.0)) == (-3.0, 0.25)
    assert (Metric.INNER_PRODUCT.score(-2.0), Metric.INNER_PRODUCT.relevance(0.0)) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        (None, None, True),
        (None, [1.0], False),
        ([1.0], None, False),
        ([1.0, 2.0], np.array([1.0, 2.0]), True),
        (np.array([1, 2], dtype=np.float32), np.array([1.0, 2.0]), True),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0]), False),
        (np.array([1.0, 2.0]), np.array([1.0]), False),
    ],
)
def test_documents_are_compared_with_their_vectors(mine, theirs, same):
    assert (Document("a", vector=mine) == Document("a", vector=theirs)) is same
    assert (Document("a", vector=mine) != Document("a", vector=theirs)) is not same


def test_documents_differ_in_any_part():
    base = Document("a", "t", {"k": 1}, None, "n", 2)
    assert base == Document("a", "t", {"k": 1}, None, "n", 2)
    others = [
        Document("b", "t", {"k": 1}, None, "n", 2),
        Document("a", "u", {"k": 1}, None, "n", 2),
        Document("a", "t", {"k": 2}, None, "n", 2),
        Document("a", "t", {"k": 1}, None, "m", 2),
        Document("a", "t", {"k": 1}, None, "n", 3),
    ]
    assert all(base != other for other in others)
    assert base != "a"
    with pytest.raises(TypeError):
        hash(base)


def test_reprs_are_one_short_line():
    assert repr(Document("a", "q" * 100)).count("q") == 57
    assert repr(hit(text="y" * 100)).count("y") == 57
    assert repr(hit()) == "Hit('a', score=0.5000, partition='p', text='text')"
    known = PartitionMap(3, [Partition(1, "p", PartitionKey("all"), stats=PartitionStats(rows=4))])
    assert repr(known) == "PartitionMap(generation=3, partitions=1, rows=4)"
    assert repr(known.leaves[0]) == "Partition('p', rows=4, active)"
    assert repr(route(6, 9)) == "Route(fan_out: 6 of 9 partitions: p0, p1, p2, p3, ...)"
    assert repr(AddResult([Outcome("n", "a", "inserted", "p")])) == "AddResult(inserted=1, updated=0)"


def test_a_route_is_complete_when_nothing_was_left_out():
    assert route(3, 3).complete
    assert not route(2, 3).complete
    assert route().paths == ("p0", "p1")


def test_results_are_sequences():
    hits = [hit("a"), hit("b"), hit("c")]
    result = SearchResult(hits, limit=5, route=route(), incomplete=Incomplete("few_matches", "only 3"))
    assert list(result) == hits
    assert result.ids == ("a", "b", "c")
    assert (result[0], result[-1]) == (hits[0], hits[2])
    assert result[1:] == (hits[1], hits[2])
    assert hits[1] in result
    assert result.index(hits[2]) == 2
    assert list(reversed(result)) == hits[::-1]
    assert len(result) == 3
    assert result
    assert not SearchResult([], limit=1, route=route())
    with pytest.raises(IndexError):
        result[3]
    timed = result.with_timings(Timings(total_ms=2.5))
    assert (timed.hits, timed.limit, timed.route, timed.incomplete) == (
        result.hits,
        5,
        result.route,
        result.incomplete,
    )
    assert repr(timed) == "SearchResult(3 of 5 hits, fan_out, 2 of 3 partitions, 2.5 ms, incomplete: only 3)"


def test_what_an_add_did_is_a_sequence():
    outcomes = [Outcome("n", "a", "inserted", "p"), Outcome("n", "b", "updated", "q")]
    result = AddResult(outcomes)
    assert list(result) == outcomes
    assert (result.ids, result.inserted, result.updated) == (["a", "b"], 1, 1)
    assert result[:1] == (outcomes[0],)
    assert result[1] == outcomes[1]
    assert len(result) == 2


def test_html_shows_markup_as_text():
    result = SearchResult(
        [hit(EVIL, EVIL, EVIL)], limit=1, route=route(), incomplete=Incomplete("deadline", EVIL)
    )
    known = PartitionMap(
        1, [Partition(1, EVIL, PartitionKey("all"), stats=PartitionStats(rows=3, indexed=True))]
    )
    for shown in (result._repr_html_(), known._repr_html_(), PartitionMap(1, ())._repr_html_()):
        assert "<script" not in shown
        assert shown.count("<table>") == shown.count("</table>") == 1
    assert "&lt;script&gt;" in result._repr_html_()
    long = SearchResult([hit(text="z" * 500)], limit=1, route=route())._repr_html_()
    assert long.count("z") == 117


def test_an_explanation_reads_as_text():
    full = Explanation(route(25, 25), "memory", "Seq Scan", "year > 3", 0.5, None, ("note: one",))
    lines = str(full).splitlines()
    assert lines[0] == "route: fan_out, 25 of 25 partitions"
    assert "  ... and 5 more" in lines
    assert "estimated recall: 0.970" in lines
    assert "measured recall: 0.500" in lines
    assert "filter: year > 3" in lines
    assert lines[-3:] == ["note: one", "plan:", "Seq Scan"]
    bare = str(Explanation(Route("filter", (), 1, 1), "memory"))
    assert bare == "route: filter, 0 of 1 partitions"


def test_partition_keys_are_what_they_hold():
    assert PartitionKey("field", "n:1", "year=1") == PartitionKey("field", "n:1", "year=1.0")
    assert (
        len(
            {
                PartitionKey("field", "n:1", "a"),
                PartitionKey("field", "n:1", "b"),
                PartitionKey("hash", "n:1"),
            }
        )
        == 2
    )


@pytest.mark.parametrize("wrong", ["x", 5, None, "Cosine"])
def test_an_unknown_metric_is_named(wrong):
    with pytest.raises(InputError, match="'cosine', 'l2' or 'inner_product'"):
        Metric(wrong)


@pytest.mark.parametrize("wrong", [{"settings": 5}, {"path": 5}, {"path": "a\x00b"}])
def test_a_client_names_the_argument_it_cannot_use(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SVRClient(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": "3"},
        {"k": True},
        {"k": 1, "lambda_mult": "x"},
        {"k": 1, "query": ["a"]},
        {"k": 1, "vectors": [[1], [1, 2]]},
    ],
)
def test_mmr_names_what_it_cannot_use(wrong):
    with pytest.raises(InputError):
        maximal_marginal_relevance(**({"query": [1.0], "vectors": [[1.0]]} | wrong))
