"""Maps after splits and merges: old references lead to the rows, nothing is read twice, nothing half-built is seen."""

from __future__ import annotations

from datetime import datetime

import pytest

from svr_retrievers import by_cluster, by_field, by_hash
from svr_retrievers.errors import PartitionNotFound
from svr_retrievers.filters import ALL, FieldType, parse
from svr_retrievers.model import Partition, PartitionKey, PartitionMap, PartitionState, PartitionStats
from svr_retrievers.routing.filter_map import matching
from svr_retrievers.routing.plan import Wish, plan

RETIRED, HIDDEN = PartitionState.RETIRED, PartitionState.HIDDEN
SCHEME = by_field("cat")


def part(number, path, kind, value="", parent=None, state=PartitionState.ACTIVE, rows=1) -> Partition:
    return Partition(number, path, PartitionKey(kind, value), parent, state, PartitionStats(rows=rows))


def split(kind, values=("0", "1"), state=PartitionState.ACTIVE) -> PartitionMap:
    """`cat=a` was split into two children of that kind; `cat=b` was not."""
    return PartitionMap(
        5,
        [
            part(
                1,
                "cat=a",
                "field",
                "s:a",
                state=RETIRED if state is PartitionState.ACTIVE else PartitionState.ACTIVE,
            ),
            part(2, "cat=b", "field", "s:b"),
            part(3, "cat=a/0", kind, values[0], 1, state),
            part(4, "cat=a/1", kind, values[1], 1, state),
            part(5, "(rest)", "rest"),
        ],
    )


def routed(known, query=None, **wish):
    node = parse(query, {"when": FieldType.DATETIME}) if query is not None else ALL
    return plan(Wish(filter=node, **wish), SCHEME, known).route


KINDS = [
    ("hash", ("0", "1")),
    ("time", ("2024-01-01", "2024-02-01")),
    ("cluster", ("0", "1")),
    ("field", ("s:x", "n:1")),
    ("rest", ("", "x")),
]


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_every_way_to_a_split_partition_reaches_its_children_once(kind, values):
    known = split(kind, values)
    assert [p.path for p in known.leaves_under(1)] == ["cat=a/0", "cat=a/1"]
    assert routed(known, partitions=["cat=a"]).paths == ("cat=a/0", "cat=a/1")
    assert set(routed(known, {"cat": "a"}).paths) - {"(rest)"} == {"cat=a/0", "cat=a/1"}
    assert routed(known, {"cat": {"$in": ["a", "b"]}}).paths == ("cat=a/0", "cat=a/1", "cat=b")
    everywhere = routed(known)
    assert everywhere.step == "fan_out"
    assert sorted(everywhere.paths) == ["(rest)", "cat=a/0", "cat=a/1", "cat=b"]
    assert len(known) == 4
    assert "cat=a" not in everywhere.paths


def test_a_parent_and_its_child_named_together_are_read_once():
    route = routed(split("hash"), partitions=["cat=a", "cat=a/1", "cat=a"])
    assert route.paths == ("cat=a/0", "cat=a/1")
    assert route.partitions[0].reason == "asked for as cat=a"
    assert route.complete


@pytest.mark.parametrize("state", [HIDDEN, PartitionState.BUILDING])
def test_children_under_construction_are_invisible(state):
    known = split("hash", state=state)
    assert [p.path for p in known.leaves_under(1)] == ["cat=a"]
    assert known.leaves_under(3) == ()
    assert routed(known, {"cat": "a"}).paths == ("cat=a",)
    assert routed(known, partitions=["cat=a"]).paths == ("cat=a",)
    assert sorted(routed(known).paths) == ["(rest)", "cat=a", "cat=b"]
    with pytest.raises(PartitionNotFound):
        routed(known, partitions=["cat=a/0"])


def test_a_retiring_partition_still_answers():
    known = PartitionMap(1, [part(1, "cat=a", "field", "s:a", state=PartitionState.RETIRING)])
    assert routed(known, {"cat": "a"}).paths == ("cat=a",)


def test_a_split_of_a_split_is_followed_to_the_end():
    known = split("hash")
    grand = [
        part(6, "cat=a/0/x", "time", "2024-01-01", 3),
        part(7, "cat=a/0/y", "time", "2024-02-01", 3),
    ]
    older = [
        part(p.id, p.path, p.key.kind, p.key.value, p.parent, RETIRED) if p.id == 3 else p
        for p in known.partitions
    ]
    deep = PartitionMap(6, [*older, *grand])
    assert routed(deep, partitions=["cat=a"]).paths == ("cat=a/0/x", "cat=a/0/y", "cat=a/1")
    assert routed(deep, {"cat": "a"}).paths == ("cat=a/0/x", "cat=a/0/y", "cat=a/1")
    assert routed(deep, partitions=["cat=a/0"]).paths == ("cat=a/0/x", "cat=a/0/y")


def test_a_parent_with_children_of_two_kinds_is_read_whole():
    """A level of the scheme below a partition that was also split in place: no key may be skipped."""
    scheme = by_field("cat").then(by_field("lang"))
    known = PartitionMap(
        3,
        [
            part(1, "cat=a", "field", "s:a"),
            part(2, "cat=a/lang=en", "field", "s:en", 1),
            part(3, "cat=a/hash-0", "hash", "0", 1),
        ],
    )
    assert known.kinds(1) == {"field", "hash"}
    assert known.kinds(None) == {"field"}
    found = matching(scheme, known, parse({"cat": "a", "lang": "de"}, {}), "default")
    assert found is not None
    assert [leaf.path for leaf, _ in found] == ["cat=a/hash-0"]


def test_children_of_another_kind_than_the_scheme_says_are_not_looked_up_by_its_keys():
    scheme = by_field("cat").then(by_field("lang"))
    known = PartitionMap(
        3,
        [
            part(1, "cat=a", "field", "s:a", state=RETIRED),
            part(2, "cat=a/hash-0", "hash", "0", 1),
            part(3, "cat=a/hash-1", "hash", "1", 1),
        ],
    )
    found = matching(scheme, known, parse({"lang": "de"}, {}), "default")
    assert found is not None
    assert [leaf.path for leaf, _ in found] == ["cat=a/hash-0", "cat=a/hash-1"]


def test_a_partition_that_was_merged_away_does_not_hide_its_parent():
    """Children folded back into their parent are retired and hold nothing; the parent's rows are found again."""
    known = PartitionMap(
        8,
        [
            part(1, "cat=a", "field", "s:a"),
            part(2, "cat=a/0", "hash", "0", 1, RETIRED),
            part(3, "cat=a/1", "hash", "1", 1, RETIRED),
        ],
    )
    assert [p.path for p in known] == ["cat=a"]
    assert [p.path for p in known.leaves_under(1)] == ["cat=a"]
    assert routed(known, {"cat": "a"}).paths == ("cat=a",)


def test_a_partition_that_was_folded_into_the_catch_all_is_found_there():
    known = PartitionMap(
        8,
        [
            part(1, "cat=a", "field", "s:a", state=RETIRED),
            part(2, "(rest)", "rest"),
            part(3, "cat=b", "field", "s:b"),
        ],
    )
    assert routed(known, {"cat": "a"}).paths == ("(rest)",)
    assert routed(known, {"cat": "b"}).paths == ("cat=b",)


def test_filters_on_time_read_all_children_of_a_split_by_time():
    """The scheme does not know what the split was made by, so its children are all read."""
    known = split("time", ("2024-01-01", "2024-02-01"))
    route = routed(known, {"cat": "a", "when": {"$lt": datetime(2024, 1, 15)}})
    assert route.paths == ("cat=a/0", "cat=a/1")


def test_clusters_replace_their_waiting_room_without_hiding_it():
    known = PartitionMap(
        2,
        [
            part(1, "(rest)", "rest"),
            part(2, "cluster-0", "cluster", "0"),
            part(3, "cluster-1", "cluster", "1"),
        ],
    )
    assert matching(by_cluster(2), known, parse({"cat": "a"}, {}), "default") is None
    assert len(known) == 3
    assert known.kinds(None) == {"cluster"}


def test_lookups_of_what_is_not_there():
    known = split("hash")
    assert known.get(99) is None
    assert known.by_path("nowhere") is None
    assert known.leaves_under(99) == ()
    assert known.children(99) == ()
    assert known.child(None, PartitionKey("field", "s:zzz")) is None
    assert known.kinds(99) == frozenset()
    assert not known.is_leaf(1)


def test_newer_counts_keep_the_generation_and_the_order():
    known = split("hash").with_rows({3: 50, 99: 1})
    assert known.generation == 5
    assert known.rows == 50 + 3
    assert [p.id for p in known] == [2, 3, 4, 5]


def test_a_hash_below_the_retired_parent_does_not_count_as_the_schemes_own():
    scheme = by_field("cat").then(by_hash(2, "user"))
    known = PartitionMap(
        4,
        [
            part(1, "cat=a", "field", "s:a"),
            part(2, "cat=a/hash-0", "hash", "0", 1),
            part(3, "cat=a/hash-1", "hash", "1", 1),
        ],
    )
    found = matching(scheme, known, parse({"user": "u1"}, {}), "default")
    assert found is not None
    assert len(found) == 1
