"""What is decided without a server: marks, stamps, index definitions, groups of partitions, options of a URL."""

from __future__ import annotations

import pytest
from bson import Int64
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers import Settings, hnsw
from svr_retrievers.backends.mongodb import pipelines, targets
from svr_retrievers.backends.mongodb.connection import make_client
from svr_retrievers.backends.mongodb.freshness import Progress, marks_of, probes
from svr_retrievers.backends.mongodb.layouts import layout_of
from svr_retrievers.backends.mongodb.pipelines import Rows
from svr_retrievers.backends.mongodb.targets import Physical, Target
from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.control.mongodb_fence import SLOT_BITS, SLOTS, slot_of, stamp
from svr_retrievers.errors import ConfigError
from svr_retrievers.filters import FieldType

numbers = st.integers(1, 2**SLOT_BITS - 1)
stamps = st.builds(stamp, st.integers(0, SLOTS - 1), numbers)


@given(slot=st.integers(0, SLOTS - 1), number=numbers)
def test_a_stamp_is_read_back_and_exact_in_every_number_type(slot: int, number: int) -> None:
    made = stamp(slot, number)
    assert slot_of(made) == (slot, number)
    assert made == int(float(made)) == Int64(made)


@given(marks=st.dictionaries(st.integers(0, SLOTS - 1), numbers), written=stamps)
def test_a_row_is_fresh_exactly_above_its_slots_mark(marks: dict[int, int], written: int) -> None:
    slot, number = slot_of(written)
    ranges = [each["svr.w"] for each in pipelines.fresher(marks)]
    holding = [r for r in ranges if r["$gt"] < written < r["$lt"]]
    assert len(holding) == (1 if number > marks.get(slot, 0) else 0)


@given(waiting=st.lists(stamps, max_size=300))
def test_the_newest_of_each_slot_is_always_asked_for(waiting: list[int]) -> None:
    asked = probes(waiting)
    newest = {max(s for s in waiting if slot_of(s)[0] == slot) for slot in {slot_of(s)[0] for s in waiting}}
    assert newest <= set(asked) <= set(waiting)
    assert len(asked) <= SLOTS * 13
    assert marks_of(asked) == marks_of(waiting)


def test_marks_never_go_back() -> None:
    progress = Progress({0: 5, 1: 7})
    assert progress.raised({0: 4, 1: 9, 2: 1}) == {1: 9, 2: 1}
    assert progress.marks == {0: 5, 1: 9, 2: 1}


@pytest.mark.parametrize(
    ("limit", "ef_search", "expected"),
    [
        (10, None, 200),
        (10, 40, 40),
        (10, 5, 10),
        (1_000, None, 10_000),
        (10_000, None, 10_000),
        (10_000, 50, 10_000),
    ],
)
def test_candidates_stay_within_what_the_server_takes(
    limit: int, ef_search: int | None, expected: int
) -> None:
    assert pipelines.candidates_for(limit, ef_search) == expected


def config(**options: object) -> CollectionConfig:
    return CollectionConfig("c", 8, fields={"year": FieldType.INT}, **options)  # type: ignore[arg-type]


def test_the_filter_stands_beside_namespace_and_partition() -> None:
    hostile = {"$or": [{}, {"svr.n": "other"}]}
    rows = Rows("mine", (3,), hostile, exact=True, layout=layout_of(config(), "source"))
    condition = rows.condition()
    assert list(condition) == ["$and"]
    assert condition["$and"][1:] == [{"svr.p": {"$in": [3]}}, hostile]
    assert rows.condition({"a": 1})["$and"][0] == {"svr.n": "mine"}


def test_a_definition_is_met_by_one_with_defaults_and_more_but_not_by_another() -> None:
    made = config()
    wanted = targets.definition(made, layout_of(made, "source"))
    fields = wanted["fields"]
    richer = {
        "fields": [*({**f, "indexingMethod": "hnsw"} for f in fields), {"type": "filter", "path": "more"}]
    }
    assert targets.is_defined(richer, wanted)
    assert not targets.is_defined(None, wanted)
    assert not targets.is_defined({"fields": fields[:-1]}, wanted)
    other = [{**f, "similarity": "euclidean"} if f["type"] == "vector" else f for f in fields]
    assert not targets.is_defined({"fields": other}, wanted)


def test_older_servers_are_asked_without_settings_that_they_do_not_know() -> None:
    made = config(index=hnsw(m=32, ef_construction=200))
    wanted = targets.definition(made, layout_of(made, "source"))
    assert "hnswOptions" in wanted["fields"][0]
    assert "hnswOptions" not in targets.plain(wanted)["fields"][0]


def test_partitions_are_asked_together_by_index_and_apart_by_field() -> None:
    rest, own = Target("r", excluded=(2,)), Target("o", "view", 2)
    views = Physical("source", (rest, own))
    assert views.groups([1, 2, 3]) == [(1, 3), (2,)]
    assert Physical("fields", (rest,)).groups([1, 2]) == [(1,), (2,)]
    assert Physical.of_json(views.to_json()) == views


@pytest.mark.parametrize(
    ("url", "seconds", "pool"),
    [
        ("mongodb://127.0.0.1:1", 10.0, 10),
        ("mongodb://127.0.0.1:1/db", 10.0, 10),
        ("mongodb://127.0.0.1:1/db?serverselectiontimeoutms=250", 0.25, 10),
        ("mongodb://127.0.0.1:1/?maxPoolSize=3&w=majority", 10.0, 3),
    ],
)
async def test_what_the_url_sets_goes_before_the_settings(url: str, seconds: float, pool: int) -> None:
    client = make_client(url, Settings(url=None))
    try:
        assert client.options.server_selection_timeout == seconds
        assert client.options.pool_options.max_pool_size == pool
    finally:
        await client.close()


@pytest.mark.parametrize(
    "url", ["mongodb://", "mongodb://host:port/", "mongodb://h/?tls=yes", "mongodb://h/a b$c"]
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_client(url.replace("mongodb://", "mongodb://user:s3cret@"), Settings(url=None))
    assert "s3cret" not in str(caught.value)
