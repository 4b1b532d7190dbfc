"""Estimated shares follow the documented formulas, and come close to the truth on drawn data."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from svr_retrievers.filters import ALL, NOTHING, And, FieldType, evaluate, parse
from svr_retrievers.filters.selectivity import (
    EQUAL_UNKNOWN,
    INTERVAL_UNKNOWN,
    LIKE_UNKNOWN,
    MISSING_UNKNOWN,
    RANGE_UNKNOWN,
    FieldStatistics,
    FilterStatistics,
    compact,
    declared_part,
    estimates,
    fields_of,
    is_estimated,
    is_led_by_value,
    selectivity,
    share_in,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
TYPES = {
    "lang": FieldType.STR,
    "year": FieldType.INT,
    "when": FieldType.DATETIME,
    "tags": FieldType.LIST_STR,
    "draft": FieldType.BOOL,
    "price": FieldType.FLOAT,
}
KNOWN = {
    "lang": FieldStatistics(missing=0.1, distinct=12, common=(("en", 0.5), ("de", 0.2))),
    "year": FieldStatistics(distinct=100, bounds=(2000, 2010, 2020)),
    "when": FieldStatistics(bounds=(START, START + timedelta(days=10))),
    "tags": FieldStatistics(missing=0.2, distinct=50, common=(("a", 0.4), ("b", 0.1)), is_list=True),
    "draft": FieldStatistics(distinct=2, common=((False, 0.9), (True, 0.1))),
}


def share(filter: dict[str, object]) -> float:
    return selectivity(parse(filter, TYPES), KNOWN)


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, 1.0),
        ({"lang": "en"}, 0.5),
        ({"lang": "fr"}, 0.2 / 10),  # what is left, over the ten other values
        ({"lang": None}, 0.1),
        ({"lang": {"$ne": "en"}}, 0.5),
        ({"lang": {"$in": ["en", "de", "en"]}}, 0.7),
        ({"lang": {"$like": "d%"}}, 0.2 + 0.2 * LIKE_UNKNOWN),
        ({"lang": {"$exists": True}}, 0.9),
        ({"lang": "en", "draft": True}, 0.05),
        ({"$or": [{"lang": "en"}, {"draft": True}]}, 1 - 0.5 * 0.9),
        ({"year": {"$lt": 2005}}, 0.25),
        ({"year": {"$gte": 2005, "$lt": 2015}}, 0.5),
        ({"year": {"$gt": 2020}}, 0.0),
        ({"year": {"$gt": 1990}}, 1.0),
        ({"when": {"$gte": START + timedelta(days=4)}}, 0.6),
        ({"tags": "a"}, 0.4),
        ({"tags": {"$in": ["a", "b"]}}, 1 - 0.6 * 0.9),
        ({"tags": "rare"}, 0.05),  # half of the least common element
        ({"tags": ["a", "b"]}, 0.05),
        ({"draft": {"$in": []}}, 0.0),
        ({"lang": {"$gte": "de", "$lte": "en"}}, 0.7 + 0.2 * INTERVAL_UNKNOWN),
    ],
)
def test_each_operator_has_its_formula(filter: dict[str, object], expected: float) -> None:
    assert share(filter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"owner": "x"}, EQUAL_UNKNOWN),
        ({"owner": {"$in": ["x", "y"]}}, 2 * EQUAL_UNKNOWN),
        ({"owner": {"$gt": "x"}}, RANGE_UNKNOWN),
        ({"owner": {"$gt": "x", "$lt": "z"}}, INTERVAL_UNKNOWN),
        ({"owner": None}, MISSING_UNKNOWN),
        ({"owner": {"$exists": False}}, MISSING_UNKNOWN),
        ({"owner": {"$like": "x%"}}, LIKE_UNKNOWN),
        ({"price": {"$gt": 3}}, RANGE_UNKNOWN),
        ({"owner": {"$contains": "x"}}, EQUAL_UNKNOWN),
    ],
)
def test_fields_without_statistics_have_stated_defaults(filter: dict[str, object], expected: float) -> None:
    node = parse(filter, TYPES)
    assert selectivity(node, KNOWN) == pytest.approx(expected)
    assert not is_estimated(node, KNOWN)


def test_a_complete_list_of_values_leaves_nothing_for_others() -> None:
    assert (
        selectivity(parse({"k": 3}, {}), {"k": FieldStatistics(distinct=2, common=((1, 0.6), (2, 0.4)))}) == 0
    )


def test_undeclared_paths_are_looked_up_by_their_dotted_name() -> None:
    known = {"a.b": FieldStatistics(distinct=2, common=(("x", 0.3),))}
    assert selectivity(parse({"a.b": "x"}, {}), known) == 0.3
    assert is_estimated(parse({"$not": {"a.b": "x"}}, {}), known)
    assert selectivity(parse({"a\\.b": "x"}, {}), known) == EQUAL_UNKNOWN


def test_numbers_are_found_whatever_their_python_type() -> None:
    known = {"k": FieldStatistics(distinct=9, common=((1, 0.25), (True, 0.5)))}
    assert selectivity(parse({"k": 1.0}, {}), known) == 0.25
    assert selectivity(parse({"k": True}, {}), known) == 0.5


def test_everything_and_nothing() -> None:
    assert (selectivity(ALL, {}), selectivity(NOTHING, {})) == (1.0, 0.0)


def test_a_partition_falls_back_to_the_collection_field_by_field() -> None:
    own = FieldStatistics(distinct=1, common=(("en", 1.0),))
    known = FilterStatistics(KNOWN, {7: {"lang": own}})
    assert known.within(7) == {**KNOWN, "lang": own}
    assert known.within(8) is known.fields


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_estimates_come_close_to_the_truth_on_skewed_numbers(seed: int) -> None:
    """Statistics of a sample, cut down to what is kept for a partition, against all rows."""
    rng = np.random.default_rng(seed)
    values = [int(v) for v in rng.zipf(1.4, 20_000) if v < 500]
    known = {"n": compact(_measured(values), common=8, bounds=17)}
    filters = [{"n": 1}, {"n": 5}, {"n": {"$lt": 20}}, {"n": {"$gte": 3, "$lte": 40}}, {"n": {"$ne": 2}}]
    for asked in filters:
        node = parse(asked, {"n": FieldType.INT})
        truth = np.mean([evaluate(node, {"n": v}, {"n": v}) for v in values])
        assert selectivity(node, known) == pytest.approx(truth, abs=0.05), asked


def _measured(values: list[int]) -> FieldStatistics:
    counts = Counter(values)
    common = tuple((value, n / len(values)) for value, n in counts.most_common(100))
    return FieldStatistics(distinct=len(counts), common=common)


def test_what_is_cut_away_still_counts() -> None:
    full = FieldStatistics(distinct=5, common=(("a", 0.4), ("b", 0.2), ("c", 0.2), ("d", 0.1), ("e", 0.1)))
    cut = compact(full, common=2, bounds=3)
    assert cut.common == (("a", 0.4), ("b", 0.2))
    assert cut.rest == pytest.approx(0.4)
    assert selectivity(parse({"k": "d"}, {}), {"k": cut}) == pytest.approx(0.4 / 3)
    assert selectivity(parse({"k": {"$gt": "e"}}, {}), {"k": cut}) == pytest.approx(0.0)


def test_shares_are_remembered_by_filter_and_partition() -> None:
    own = FieldStatistics(distinct=2, common=(("en", 0.9), ("de", 0.1)))
    known = FilterStatistics(KNOWN, {7: {"lang": own}})
    english, german = parse({"lang": "en"}, TYPES), parse({"lang": "de"}, TYPES)
    for _ in range(2):
        assert [share_in(english, known, n) for n in (7, 8, 9)] == [0.9, 0.5, 0.5]
        assert share_in(german, known, 7) == 0.1
    assert estimates(english, known, [7, 9]).shares == {7: 0.9, 9: 0.5}
    assert [len(shares) for shares in known.memo.values()] == [2, 1]
    for n in range(2_000):
        share_in(parse({"year": n}, TYPES), known, 7)
    assert len(known.memo) < 1_000


def test_what_undeclared_conditions_make_a_search_read() -> None:
    known = FilterStatistics(KNOWN)
    mixed = parse({"lang": "en", "owner": "x"}, TYPES)
    assert declared_part(mixed) == And((parse({"lang": "en"}, TYPES),))
    assert estimates(mixed, known, [1]).reads == {1: 0.5}
    assert estimates(parse({"$or": [{"lang": "en"}, {"owner": "x"}]}, TYPES), known, [1]).reads == {1: 1.0}
    assert estimates(parse({"lang": "en"}, TYPES), known, [1]).reads == {}


@pytest.mark.parametrize(
    ("filter", "led"),
    [
        ({"lang": "fr"}, True),
        ({"lang": "en"}, False),  # half of all rows
        ({"lang": {"$in": ["fr", "it"]}, "draft": True}, True),
        ({"year": {"$gt": 2019}}, False),  # the server would assume a third of the rows
        ({"tags": "rare"}, False),
        ({"owner": "x"}, False),
        ({"$or": [{"lang": "fr"}, {"lang": "it"}]}, False),
    ],
)
def test_only_a_rare_value_of_a_declared_field_makes_any_plan_good(
    filter: dict[str, object], led: bool
) -> None:
    assert is_led_by_value(parse(filter, TYPES), KNOWN) is led


def test_fields_of_a_filter_are_named_wherever_they_stand() -> None:
    asked = {"$or": [{"lang": "x"}, {"$not": {"a.b": 1}}], "year": {"$gt": 1, "$lt": 2}}
    assert fields_of(parse(asked, TYPES)) == {"lang", "a.b", "year"}
