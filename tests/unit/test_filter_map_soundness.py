"""Properties of the filter step: it never loses a match, and the residual filter never changes one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings

from svr_retrievers import by_field, by_hash, by_namespace, by_time
from svr_retrievers.backends.protocol import Batch, CollectionConfig
from svr_retrievers.documents import draft
from svr_retrievers.errors import FilterError
from svr_retrievers.filters import ALL, FieldType, evaluate, parse
from svr_retrievers.model import Document, Metric, Partition, PartitionKey, PartitionMap, PartitionState
from svr_retrievers.placing import next_level
from svr_retrievers.routing.filter_map import matching, residual
from svr_retrievers.routing.place import place
from svr_retrievers.routing.schemes import Scheme, TimeLevel

FIELDS = {
    "when": FieldType.DATETIME,
    "size": FieldType.FLOAT,
    "year": FieldType.INT,
    "lang": FieldType.STR,
    "flag": FieldType.BOOL,
    "dot.ted": FieldType.STR,
}
NAMESPACES = ("default", "n1", "n2")
EPOCH = datetime(2024, 2, 27, tzinfo=UTC)

numbers = st.sampled_from(
    [0, 1, 1.0, 2, 2.5, -0.0, -1, 10**23, 1e23, 2**53, 2**53 + 1, float(2**53), 2**80, float(2**80), 1e300]
)
texts = st.sampled_from(["a", "b", "A", "1", "true", "null", "", "a%", "s:a", "/"])
scalars = st.one_of(numbers, texts, st.booleans(), st.none())
lists = st.lists(scalars, max_size=2)
moments = st.one_of(
    st.integers(0, 6).map(lambda days: EPOCH + timedelta(days=days)),
    st.integers(0, 800).map(lambda days: EPOCH + timedelta(days=days, microseconds=-1)),
    st.sampled_from([datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]),
)
TYPED = {
    "when": moments,
    "size": numbers,
    "year": st.one_of(st.sampled_from([0, 1, 1.0, 2020, 2**60]), st.just(2)),
    "lang": texts,
    "flag": st.booleans(),
    "dot.ted": texts,
}
inner = st.one_of(
    scalars,
    st.fixed_dictionaries({}, optional={"b": scalars, "c": scalars}),
    st.lists(st.fixed_dictionaries({"b": scalars}), max_size=2),
)
metadatas = st.fixed_dictionaries(
    {},
    optional={
        "cat": scalars,
        "a": inner,
        "a.b": scalars,
        **{name: st.one_of(st.none(), values) for name, values in TYPED.items()},
    },
)


def _operators(values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    some = st.lists(values, max_size=3)
    leaf = st.one_of(
        st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]).flatmap(
            lambda op: values.map(lambda v: {op: v})
        ),
        st.sampled_from(["$in", "$nin", "$all"]).flatmap(lambda op: some.map(lambda v: {op: v})),
        st.booleans().map(lambda v: {"$exists": v}),
        values.map(lambda v: {"$contains": v}),
        some.map(lambda v: {"$eq": v}),
        st.sampled_from(["$like", "$ilike"]).flatmap(
            lambda op: st.sampled_from(["a", "%", "_", "A%", "\\%"]).map(lambda v: {op: v})
        ),
    )
    return st.one_of(leaf, leaf.map(lambda c: {"$not": c}), st.tuples(leaf, leaf).map(lambda t: t[0] | t[1]))


def _condition(name: str) -> st.SearchStrategy[dict[str, object]]:
    values = TYPED.get(name, scalars)
    optional = st.one_of(values, st.none()) if name in TYPED else values
    return st.one_of(optional, _operators(values)).map(lambda c: {name: c})


KEYS = ("cat", "a.b", "a\\.b", "a.c", "a", *TYPED)
leaves = st.sampled_from(KEYS).flatmap(_condition)
filters = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.sampled_from(["$and", "$or", "$nor"]).flatmap(
            lambda op: st.lists(below, min_size=1, max_size=3).map(lambda c: {op: c})
        ),
        below.map(lambda c: {"$not": c}),
    ),
    max_leaves=5,
)
field_names = st.sampled_from(["cat", "a.b", "a", "size", "year", "lang", "flag", "dot.ted"])


def _listed(values: Sequence[object]) -> list[object]:
    return [v for v in values if v is not None]


single = st.one_of(
    st.builds(by_field, field_names, max_partitions=st.sampled_from([1, 2, 1000])),
    st.builds(
        lambda f, v, u: by_field(f, values=v, unseen=u),
        field_names,
        st.lists(scalars, min_size=1, max_size=4).map(_listed).filter(bool),
        st.sampled_from([None, "create", "rest"]),
    ),
    st.builds(by_time, st.just("when"), every=st.sampled_from(["day", "week", "month", "quarter", "year"])),
    st.builds(by_hash, st.integers(1, 5), st.one_of(st.none(), field_names)),
    st.builds(by_namespace),
)
schemes = st.lists(single, min_size=1, max_size=3).map(
    lambda parts: parts[0] if len(parts) == 1 else Scheme(tuple(lv for p in parts for lv in p.levels))
)


def grow(scheme: Scheme, known: PartitionMap, batch: Batch) -> tuple[PartitionMap, list[int]]:
    """What a write does to the map: creates missing partitions level by level, then places every row."""
    for _ in range(len(scheme.levels) + 2):
        places, missing = place(scheme, known, batch, Metric.COSINE)
        if not missing:
            return known, [int(p) for p in places]
        made = [
            Partition(len(known.partitions) + 1 + i, new.path, new.key, new.parent)
            for i, new in enumerate(next_level(known, missing, depth=len(scheme.levels)))
        ]
        assert made
        known = PartitionMap(known.generation + 1, (*known.partitions, *made))
    raise AssertionError("the map never became complete")


def batch_of(scheme: Scheme, rows: Sequence[tuple[str, dict[str, object]]], first: int) -> Batch:
    config = CollectionConfig("c", 1, scheme=scheme, fields=FIELDS)
    documents = [
        Document(f"d{first + i}", metadata=metadata, namespace=namespace)
        for i, (namespace, metadata) in enumerate(rows)
    ]
    good = [d for d in documents if not draft([d], config, "default").problems]
    return draft(good, config, "default").batch(np.ones((len(good), 1), dtype=np.float32))


rows_of = st.lists(st.tuples(st.sampled_from(NAMESPACES), metadatas), max_size=8)


def understood(query: dict[str, object]) -> dict[str, object]:
    """The filter itself, or another example where the language refuses it."""
    try:
        parse(query, FIELDS)
    except FilterError:
        reject()
    return query


def check(scheme: Scheme, batches: Sequence[Batch], query: dict[str, object], namespace: str) -> None:
    node = parse(query, FIELDS)
    known = PartitionMap(1, ())
    placed: list[tuple[Batch, list[int]]] = []
    for batch in batches:
        known, places = grow(scheme, known, batch)
        placed.append((batch, places))
    leaf_ids = {leaf.id for leaf in known.leaves}
    assert all(p in leaf_ids for _, places in placed for p in places)
    found = matching(scheme, known, node, namespace)
    if found is None:
        return
    ids = [leaf.id for leaf, _ in found]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= leaf_ids
    left = residual(node, [facts for _, facts in found]) if found else node
    for batch, places in placed:
        for i, where in enumerate(places):
            matches = evaluate(node, batch.metadatas[i], batch.typed[i])
            if matches and batch.namespaces[i] == namespace:
                assert where in ids, (batch.metadatas[i], known.get(where))
            if where in ids:
                assert evaluate(left, batch.metadatas[i], batch.typed[i]) == matches, (
                    batch.metadatas[i],
                    left,
                )


quick = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@quick
@given(schemes, rows_of, rows_of, filters, st.sampled_from(NAMESPACES))
def test_every_match_lies_in_a_leaf_that_the_filter_step_returned(scheme, first, second, query, namespace):
    batches = [batch_of(scheme, first, 0), batch_of(scheme, second, len(first))]
    check(scheme, batches, understood(query), namespace)


@quick
@given(st.data(), field_names, st.sampled_from(["field", "hash", "listed"]), st.booleans())
def test_filters_on_the_partition_field_itself_are_sound(data, name, kind, negated):
    """The same property where every filter is about the field that decides placement."""
    values = TYPED.get(name, scalars)
    scheme = {
        "field": by_field(name, max_partitions=data.draw(st.sampled_from([1, 3, 1000]))),
        "hash": by_hash(3, name),
        "listed": by_field(name, values=["a", 1, True]),
    }[kind]
    one = metadatas if name.startswith("a") else st.fixed_dictionaries({name: st.one_of(values, st.none())})
    rows = data.draw(st.lists(st.tuples(st.just("default"), one), max_size=8))
    query = understood(data.draw(_condition(name)))
    check(scheme, [batch_of(scheme, rows, 0)], {"$not": query} if negated else query, "default")


@quick
@given(
    st.lists(moments, max_size=8),
    _condition("when"),
    st.sampled_from(["day", "week", "month", "quarter", "year"]),
)
def test_filters_on_time_are_sound(times, query, every):
    scheme = by_time("when", every=every)
    rows = [("default", {"when": t}) for t in times] + [("default", {})]
    check(scheme, [batch_of(scheme, rows, 0)], understood(query), "default")


def test_an_operand_beyond_every_float_rules_out_without_failing():
    """2**1024 - 1 is more than a float holds; the declared float field compares it as infinity."""
    scheme = by_field("size")
    batch = batch_of(scheme, [("default", {"size": 1.0})], 0)
    for query in ({"size": 2**1024 - 1}, {"size": {"$in": [2**1024 - 1, 1]}}, {"size": {"$lt": 2**1024 - 1}}):
        check(scheme, [batch], query, "default")


def test_a_large_float_is_found_by_its_own_value():
    """1e23 as JSON writes it is 10**23, though the float's binary value is another integer."""
    scheme = by_field("cat")
    batch = batch_of(scheme, [("default", {"cat": 1e23}), ("default", {"cat": 10**23})], 0)
    known, places = grow(scheme, PartitionMap(1, ()), batch)
    assert len(set(places)) == 1
    check(scheme, [batch], {"cat": 1e23}, "default")
    check(scheme, [batch], {"cat": 10**23}, "default")
    assert len(known) == 1


def test_a_nested_field_inside_a_list_is_refused_like_a_list_itself():
    scheme = by_field("a.b")
    config = CollectionConfig("c", 1, scheme=scheme)
    problems = draft([Document("1", metadata={"a": [{"b": "x"}]})], config, "default").problems
    assert len(problems) == 1
    assert "list" in problems[0].message


def test_equality_reaches_one_leaf_and_needs_no_row_filter():
    scheme = by_field("cat").then(by_hash(2))
    rows = [("default", {"cat": f"v{i % 5}"}) for i in range(40)] + [("default", {})]
    known, _ = grow(scheme, PartitionMap(1, ()), batch_of(scheme, rows, 0))
    node = parse({"cat": "v3"}, {})
    found = matching(scheme, known, node, "default")
    assert found is not None
    assert {leaf.path.split("/")[0] for leaf, _ in found if leaf.path != "(rest)"} == {"cat=v3"}
    assert residual(node, [facts for leaf, facts in found]) == ALL
    null = matching(scheme, known, parse({"cat": None}, {}), "default")
    assert null is not None
    assert {leaf.path.split("/")[0] for leaf, _ in null} == {"(rest)"}


def test_equality_on_a_value_beyond_the_limit_reaches_the_catch_all():
    scheme = by_field("cat", max_partitions=1)
    batch = batch_of(scheme, [("default", {"cat": c}) for c in "abc"], 0)
    known, places = grow(scheme, PartitionMap(1, ()), batch)
    rest = known.child(None, PartitionKey("rest"))
    assert rest is not None
    assert places[1:] == [rest.id, rest.id]
    found = matching(scheme, known, parse({"cat": "b"}, {}), "default")
    assert found is not None
    assert [leaf.id for leaf, _ in found] == [rest.id]
    own = matching(scheme, known, parse({"cat": "a"}, {}), "default")
    assert own is not None
    assert [leaf.path for leaf, _ in own] == ["cat=a"]


def test_a_range_over_time_reads_only_its_buckets():
    scheme = by_time("when", every="month")
    rows = [("default", {"when": datetime(2023, month, 15, tzinfo=UTC)}) for month in range(1, 13)]
    known, _ = grow(scheme, PartitionMap(1, ()), batch_of(scheme, rows, 0))
    query = {"when": {"$gte": datetime(2023, 3, 1), "$lt": datetime(2023, 5, 1)}}
    node = parse(query, FIELDS)
    found = matching(scheme, known, node, "default")
    assert found is not None
    assert [leaf.path for leaf, _ in found] == ["2023-03", "2023-04"]
    assert residual(node, [facts for _, facts in found]) == ALL


def test_a_namespace_reads_its_own_partition_only():
    scheme = by_namespace().then(by_field("cat"))
    rows = [(ns, {"cat": c}) for ns in NAMESPACES for c in "xy"]
    known, _ = grow(scheme, PartitionMap(1, ()), batch_of(scheme, rows, 0))
    found = matching(scheme, known, ALL, "n1")
    assert found is not None
    assert sorted(leaf.path for leaf, _ in found) == ["namespace=n1/cat=x", "namespace=n1/cat=y"]
    assert matching(scheme, known, ALL, "unknown") == []


@pytest.mark.parametrize("query", [{}, {"other": 1}, {"$or": [{"other": 1}, {"x": 2}]}])
def test_filters_on_other_fields_rule_nothing_out(query):
    scheme = by_field("cat")
    known, _ = grow(scheme, PartitionMap(1, ()), batch_of(scheme, [("default", {"cat": "a"})], 0))
    assert matching(scheme, known, parse(query, {}), "default") is None
    assert matching(None, known, parse(query, {}), "default") is None


@pytest.mark.parametrize("state", [PartitionState.HIDDEN, PartitionState.BUILDING])
def test_rows_stay_reachable_in_the_catch_all_while_their_own_partition_is_built(state):
    """Until a partition is live its rows are still in the catch-all, so the catch-all must be read."""
    known = PartitionMap(
        7,
        [
            Partition(1, "(rest)", PartitionKey("rest")),
            Partition(2, "cat=a", PartitionKey("field", "s:a"), state=state),
        ],
    )
    found = matching(by_field("cat"), known, parse({"cat": "a"}, {}), "default")
    assert found is not None
    assert [leaf.id for leaf, _ in found] == [1]


def test_a_time_scheme_on_an_undeclared_operand_keeps_every_bucket():
    """A filter tree made without the declared type says nothing about time; nothing may be lost."""
    scheme = Scheme((TimeLevel("when"),))
    rows = [("default", {"when": EPOCH}), ("default", {"when": EPOCH + timedelta(days=40)})]
    batch = batch_of(scheme, rows, 0)
    known, _ = grow(scheme, PartitionMap(1, ()), batch)
    for query in ({"when": "2024"}, {"when": {"$in": ["2024"]}}, {"when": {"$like": "2024%"}}):
        found = matching(scheme, known, parse(query, {}), "default")
        assert found is not None
        assert len(found) == 2
