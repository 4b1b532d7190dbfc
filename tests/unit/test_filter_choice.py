"""Which way a filtered search takes follows from sizes, shares and costs alone."""

from __future__ import annotations

import pytest

from svr_retrievers.filters.choice import Choice, Part, ScanCosts, choose, exact_cost, index_cost

COSTS = ScanCosts()


def chosen(*parts: Part, limit: int = 10) -> Choice:
    return choose(dict(enumerate(parts)), limit=limit, ef_search=40, most_visited=20_000, costs=COSTS)


@pytest.mark.parametrize(
    ("rows", "share", "way"),
    [
        # Measured on PostgreSQL 18, 384 dimensions: exact against graph, microseconds.
        (22_307, 0.01, "exact"),  # 199 against 19,762
        (22_307, 0.1, "exact"),  # 927 against 3,840
        (22_307, 0.3, "indexed"),  # 7,555 against 1,794
        (22_307, 0.9, "indexed"),  # 14,500 against 845
        (7_197, 0.1, "exact"),  # 336 against 2,299
        (7_197, 0.5, "indexed"),  # 1,607 against 852
        (3_198, 0.1, "exact"),  # 287 against 1,711
    ],
)
def test_the_cheaper_way_is_taken(rows: int, share: float, way: str) -> None:
    made = chosen(Part(rows, share, "hnsw"))
    assert getattr(made, way) == (0,)


def test_each_partition_has_its_own_way() -> None:
    """A value that fills one partition and is rare in another."""
    made = chosen(Part(20_000, 0.85, "hnsw"), Part(20_000, 0.004, "hnsw"), Part(900, 0.85, "none"))
    assert (made.exact, made.indexed) == ((1, 2), (0,))
    assert made.matches == pytest.approx(80 + 765)
    assert "2 partitions" in made.note
    assert "index of 1 partition" in made.note


def test_without_an_index_there_is_no_choice() -> None:
    assert chosen(Part(50_000, 1.0, "none")).exact == (0,)


def test_an_index_that_would_give_up_is_not_asked() -> None:
    """31 rows at 0.1 % lie among 31,000, of which the server visits 20,000."""
    part = Part(10_000_000, 0.001, "hnsw")
    assert index_cost(part, 31, 40, 20_000, COSTS) is None
    assert chosen(part).exact == (0,)
    assert index_cost(part, 31, 40, 40_000, COSTS) is not None


def test_more_hits_asked_for_make_the_exact_way_better() -> None:
    part = Part(22_307, 0.3, "hnsw")
    assert chosen(part).indexed == (0,)
    assert chosen(part, limit=200).exact == (0,)


def test_undeclared_fields_cost_a_look_at_each_document() -> None:
    rare = Part(5_000, 0.02, "hnsw", read=1.0)
    assert exact_cost(rare, COSTS) > exact_cost(Part(5_000, 0.02, "hnsw"), COSTS) + 5_000 * COSTS.document / 2
    narrowed = Part(5_000, 0.001, "hnsw", read=0.01)
    assert chosen(narrowed).exact == (0,)
    assert chosen(Part(20_000, 0.2, "hnsw", read=1.0)).indexed == (0,)


def test_the_first_lists_of_an_inverted_index_are_read_whole() -> None:
    few, many = (Part(100_000, 0.5, "ivfflat", list_rows=rows) for rows in (1_000, 10_000))
    assert index_cost(few, 31, 40, 20_000, COSTS) == pytest.approx(1_000 * COSTS.match)
    assert index_cost(many, 31, 40, 20_000, COSTS) == pytest.approx(10_000 * COSTS.match)


def test_costs_grow_with_the_vectors_and_survive_being_stored() -> None:
    long = ScanCosts.for_dimensions(1536)
    assert long.match > 2 * COSTS.match
    assert long.document == COSTS.document
    assert ScanCosts.for_dimensions(384) == COSTS
    assert ScanCosts.of_json({**ScanCosts(row=0.7).to_json(), "later": 1.0}) == ScanCosts(row=0.7)
