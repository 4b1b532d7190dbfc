"""Schemes: bucket boundaries, keys, labels, JSON, reprs, and what they refuse."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import hypothesis.strategies as st
import pytest
from hypothesis import given

import svr_retrievers
from svr_retrievers import by_cluster, by_field, by_hash, by_namespace, by_time
from svr_retrievers.errors import ConfigError, InputError
from svr_retrievers.routing.schemes import (
    REST,
    HashLevel,
    NamespaceLevel,
    Scheme,
    TimeLevel,
    bucket_end,
    bucket_start,
    canonical,
    from_canonical,
)

EVERY = ("day", "week", "month", "quarter", "year")


@pytest.mark.parametrize(
    ("every", "moment", "start", "end", "label"),
    [
        ("day", datetime(2024, 2, 29, 23, 59, 59, 999999), (2024, 2, 29), (2024, 3, 1), "2024-02-29"),
        ("day", datetime(2023, 2, 28, 12), (2023, 2, 28), (2023, 3, 1), "2023-02-28"),
        ("week", datetime(2024, 12, 31), (2024, 12, 30), (2025, 1, 6), "2025-W01"),
        ("week", datetime(2021, 1, 3), (2020, 12, 28), (2021, 1, 4), "2020-W53"),
        ("week", datetime(2024, 3, 4), (2024, 3, 4), (2024, 3, 11), "2024-W10"),
        ("month", datetime(2024, 12, 31), (2024, 12, 1), (2025, 1, 1), "2024-12"),
        ("month", datetime(2024, 2, 29), (2024, 2, 1), (2024, 3, 1), "2024-02"),
        ("quarter", datetime(2024, 3, 31), (2024, 1, 1), (2024, 4, 1), "2024-Q1"),
        ("quarter", datetime(2024, 11, 5), (2024, 10, 1), (2025, 1, 1), "2024-Q4"),
        ("year", datetime(2024, 1, 1), (2024, 1, 1), (2025, 1, 1), "2024"),
        ("month", datetime(1, 1, 1), (1, 1, 1), (1, 2, 1), "0001-01"),
        ("year", datetime(1, 1, 1), (1, 1, 1), (2, 1, 1), "0001"),
        ("week", datetime(1, 1, 1), (1, 1, 1), (1, 1, 8), "0001-W01"),
        ("quarter", datetime(1, 1, 1), (1, 1, 1), (1, 4, 1), "0001-Q1"),
    ],
)
def test_buckets_begin_and_end_where_the_calendar_says(every, moment, start, end, label):
    level = TimeLevel("when", every)
    key = level.key(moment.replace(tzinfo=UTC))
    assert level.interval(key) == (datetime(*start, tzinfo=UTC), datetime(*end, tzinfo=UTC))
    assert key.label == label


@pytest.mark.parametrize("every", EVERY)
def test_the_last_bucket_of_the_calendar_ends_with_it(every):
    last = datetime.max.replace(tzinfo=UTC)
    start, end = TimeLevel("when", every).interval(TimeLevel("when", every).key(last))
    assert start <= last == end


@given(st.datetimes(timezones=st.sampled_from([UTC])), st.sampled_from(EVERY))
def test_every_moment_lies_in_its_bucket_and_the_next_bucket_begins_at_its_end(moment, every):
    level = TimeLevel("when", every)
    key = level.key(moment)
    start, end = level.interval(key)
    assert start <= moment
    assert moment < end or end == datetime.max.replace(tzinfo=UTC)
    assert level.key(start) == key
    assert bucket_end(bucket_start(start, every), every) == end
    if end != datetime.max.replace(tzinfo=UTC):
        assert level.key(end).value == end.date().isoformat()
        assert level.key(end - timedelta(microseconds=1)) == key


def test_buckets_are_in_utc_whatever_the_zone_of_the_moment():
    late = datetime(2024, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    assert TimeLevel("when", "year").key(late).label == "2025"


def test_null_lives_in_the_catch_all_and_a_text_is_no_time():
    assert TimeLevel("when").key(None) is REST
    with pytest.raises(InputError, match="'when' holds a str, not a time"):
        TimeLevel("when").key("2024-01-01")


@given(
    st.one_of(st.booleans(), st.text(), st.integers(), st.floats(allow_nan=False)),
    st.one_of(
        st.booleans(), st.text(), st.integers(-3, 3), st.floats(-3, 3), st.sampled_from(["1", "true", "n:1"])
    ),
)
def test_canonical_text_is_the_same_exactly_for_equal_values(one, other):
    assert from_canonical(canonical(one)) == one or canonical(from_canonical(canonical(one))) == canonical(
        one
    )
    same_class = isinstance(one, bool) is isinstance(other, bool) and isinstance(one, str) is isinstance(
        other, str
    )
    assert (canonical(one) == canonical(other)) == (same_class and one == other)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "n:1"),
        (1.0, "n:1"),
        (-0.0, "n:0"),
        (True, "b:true"),
        ("1", "s:1"),
        (2.5, "n:2.5"),
        (1e23, f"n:{10**23}"),
    ],
)
def test_canonical_text_of_known_values(value, text):
    assert canonical(value) == text


def test_infinity_has_a_canonical_text_since_an_operand_can_become_it():
    assert from_canonical(canonical(math.inf)) == math.inf


def test_hash_levels_spread_and_tell_classes_apart():
    level = HashLevel(16, "f")
    assert level.field_text(None) == "null"
    assert level.field_text(1) == level.field_text(1.0) != level.field_text(True) != level.field_text("1")
    assert {level.key(str(i)).value for i in range(300)} == {str(i) for i in range(16)}
    with pytest.raises(InputError, match="it must hold one value"):
        level.field_text(["a"])


def test_hash_buckets_are_the_same_in_every_release():
    """Documents are looked for where they were put, so these numbers must never change."""
    assert [HashLevel(1000).key(t).value for t in ("", "a", "default\x00doc-1")] == ["876", "343", "178"]


SCHEMES = [
    by_field("category"),
    by_field("category", max_partitions=5),
    by_field("category", values=["a", 1, 2.5, True]),
    by_field("category", values=["a"], unseen="create", max_partitions=7),
    by_time("when"),
    by_time("when", every="week"),
    by_hash(4),
    by_hash(4, "user"),
    by_cluster(8),
    by_namespace(),
    by_namespace().then(by_field("it's")).then(by_time("when", every="day")).then(by_cluster(2)),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_schemes_survive_json_and_their_repr_rebuilds_them(scheme):
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme
    assert eval(repr(scheme), vars(svr_retrievers).copy()) == scheme
    assert hash(scheme) == hash(Scheme.from_json(scheme.to_json()))


def test_schemes_differ_when_any_setting_differs():
    assert len({repr(s) for s in SCHEMES}) == len(SCHEMES)
    assert len(set(SCHEMES)) == len(SCHEMES)


def test_fields_are_those_that_decide():
    scheme = by_field("a").then(by_time("b")).then(by_hash(2, "c")).then(by_hash(2)).then(by_namespace())
    assert scheme.fields == ("a", "b", "c")
    assert scheme.time_fields == ("b",)


@pytest.mark.parametrize(
    "make",
    [
        lambda: by_field(""),
        lambda: by_field(3),
        lambda: by_field("a\x00"),
        lambda: by_field("a", max_partitions=0),
        lambda: by_field("a", max_partitions=True),
        lambda: by_field("a", max_partitions=100_001),
        lambda: by_field("a", unseen="maybe"),
        lambda: by_field("a", unseen="rest"),
        lambda: by_field("a", values=[None]),
        lambda: by_field("a", values=[[1]]),
        lambda: by_field("a", values="tickets"),
        lambda: by_field("a", values=5),
        lambda: by_field("a", values=[math.nan]),
        lambda: by_field("a", values=[math.inf]),
        lambda: by_time("a", every="hour"),
        lambda: by_time("a", every=None),
        lambda: by_time(None),
        lambda: by_hash(0),
        lambda: by_hash(10_001),
        lambda: by_hash(2.0),
        lambda: by_hash("4"),
        lambda: by_hash(4, ""),
        lambda: by_cluster(0),
        lambda: by_cluster(True),
        lambda: by_field("a").then("b"),
        lambda: by_cluster(2).then(by_hash(2)),
        lambda: by_namespace().then(by_cluster(2)).then(by_namespace()),
    ],
)
def test_bad_arguments_are_input_errors(make):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.code == "input"


def test_a_scheme_of_a_newer_release_is_named():
    with pytest.raises(ConfigError, match=r"'spiral'.*upgrade"):
        Scheme.from_json([{"kind": "spiral"}])


def test_labels_are_cut_but_values_are_not():
    key = by_field("category").levels[0].key("x" * 500)
    assert len(key.label) == 60
    assert key.value == "s:" + "x" * 500
    assert len(NamespaceLevel.key("n" * 500).label) == 60
