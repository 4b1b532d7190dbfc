"""Filters mean what LlamaIndex's own reference function says, wherever that says something."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from llama_index.vector_stores.svr.filters import to_svr_filter

from svr_retrievers import SVRClient, by_field
from svr_retrievers.errors import FilterError

Op = FilterOperator
VALUES: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "blank": "",
    "red": "red",
    "red wine": "red wine",
    "RED": "RED",
    "100%": "100%_\\x",
    "quote": "O'Brien' OR '1'='1",
    "digit": "1",
    "zero": 0,
    "one": 1,
    "one float": 1.0,
    "half": 1.5,
    "twelve": 12,
    "yes": True,
    "no": False,
    "no tags": [],
    "red tag": ["red"],
    "two tags": ["red", "blue"],
    "long tags": ["red wine", "blue"],
    "blank tag": [""],
    "null tag": [None],
    "numbers": [1, 2],
    "booleans": [True],
    "nested": {"red": 1, "k": "red"},
}
FILTERS: list[tuple[Op, Any]] = [
    *((op, v) for op in (Op.EQ, Op.NE) for v in ("red", "", "1", 1, 1.0, 0, 12, "zz' OR '1'='1", "100%_\\x")),
    *((op, v) for op in (Op.EQ, Op.NE) for v in (["red"], ["red", "blue"], [1, 2])),
    *((op, v) for op in (Op.IN, Op.NIN) for v in (["red", "blue"], [1], [0], [], ["1", ""], [1, 12])),
    *((op, v) for op in (Op.GT, Op.GTE, Op.LT, Op.LTE) for v in (1, 1.2, 12, "red", "", "1")),
    *(
        (op, v)
        for op in (Op.ANY, Op.ALL)
        for v in (["red"], ["red", "blue"], [1], [2, 1], [0], [], [""], ["%"])
    ),
    *((Op.CONTAINS, v) for v in ("red", "wine", 1, 1.0, 0, "", "%", "_", "\\", "O'B")),
    *(
        (op, v)
        for op in (Op.TEXT_MATCH, Op.TEXT_MATCH_INSENSITIVE)
        for v in ("red", "ED", "", "%", "_\\", "O'B")
    ),
    (Op.IS_EMPTY, None),
    (Op.IS_EMPTY, "ignored"),
]


def reference(filters: MetadataFilters, metadata: dict[str, Any]) -> bool | None:
    """What LlamaIndex's own function answers; None where it fails on the value's type."""
    try:
        return build_metadata_filter_fn(lambda _: metadata, filters)("n")
    except TypeError:
        return None


def one(operator: Op, value: Any, key: str = "k") -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


@pytest.fixture(
    scope="module",
    params=[
        "memory",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mongodb", marks=pytest.mark.mongodb),
    ],
)
def module_client(request: pytest.FixtureRequest) -> Any:
    urls = {"postgres": "postgres_url", "mongodb": "mongodb_database"}
    url = request.getfixturevalue(urls[request.param]) if request.param in urls else "memory://"
    with SVRClient(url) as client:
        yield client


@pytest.fixture(scope="module")
def shelf(module_client: SVRClient) -> Any:
    """One node for each kind of value under the key `k`."""
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.svr import SVRVectorStore

    store = SVRVectorStore(client=module_client, dimensions=2, collection="filter_values")
    store.add([
        TextNode(id_=name, text=name, metadata={} if value is ... else {"k": value}, embedding=[1.0, 1.0])
        for name, value in VALUES.items()
    ])  # fmt: skip
    return store


def matches(store: Any, filters: MetadataFilters) -> set[str]:
    return {document.id for document in store.open().find(to_svr_filter(filters, store.open().filter_fields))}


@pytest.mark.parametrize(("operator", "value"), FILTERS, ids=str)
def test_each_operator_agrees_with_the_reference(shelf: Any, operator: Op, value: Any) -> None:
    filters = one(operator, value)
    found = matches(shelf, filters)
    for name, held in VALUES.items():
        expected = reference(filters, {} if held is ... else {"k": held})
        if expected is not None and not documented_difference(operator, value, held):
            assert (name in found) is expected, (operator, value, held)
    assert {node.node_id for node in shelf.get_nodes(filters=filters)} == found


def documented_difference(operator: Op, value: Any, held: Any) -> bool:
    """Booleans have no order, objects no keys that `contains` sees: the README's table says so."""
    ordered = operator in {Op.GT, Op.GTE, Op.LT, Op.LTE}
    return (ordered and isinstance(held, bool)) or isinstance(held, dict)


@pytest.mark.parametrize("operator", [Op.GT, Op.LTE])
def test_a_range_meets_values_of_other_types_without_failing(shelf: Any, operator: Op) -> None:
    numbers, texts = matches(shelf, one(operator, 1)), matches(shelf, one(operator, "red"))
    assert not {"red", "digit", "missing", "null", "yes", "nested"} & numbers
    assert not {"one", "twelve", "missing", "null", "yes", "nested"} & texts
    assert "numbers" in numbers
    assert ("two tags" in texts) is (operator is Op.LTE)


def test_text_match_looks_into_lists_and_ignores_other_types(shelf: Any) -> None:
    assert matches(shelf, one(Op.TEXT_MATCH, "wine")) == {"red wine", "long tags"}


def test_not_equal_one_leaves_rows_with_text_alone(shelf: Any) -> None:
    """`== 1` on a field with text in some rows neither fails nor casts."""
    assert matches(shelf, one(Op.EQ, 1)) == {"one", "one float", "yes"}
    assert matches(shelf, one(Op.EQ, "1")) == {"digit"}


def test_an_injected_value_matches_only_itself(shelf: Any) -> None:
    assert matches(shelf, one(Op.EQ, "zz' OR '1'='1")) == set()
    assert matches(shelf, one(Op.EQ, VALUES["quote"])) == {"quote"}
    assert matches(shelf, one(Op.EQ, "x", key="k' = 'red' OR '1'='1")) == set()
    assert matches(shelf, one(Op.EQ, "x", key="k'); drop table documents; --")) == set()
    assert matches(shelf, one(Op.CONTAINS, "O'Brien")) == {"quote"}


def test_an_empty_in_matches_nothing_and_an_empty_nin_everything(shelf: Any) -> None:
    assert matches(shelf, one(Op.IN, [])) == set()
    assert matches(shelf, one(Op.NIN, [])) == set(VALUES)


def test_not_negates_and_is_never_dropped(shelf: Any) -> None:
    red, blank = one(Op.EQ, "red"), one(Op.IS_EMPTY, None)
    for filters in ([*red.filters], [*red.filters, *blank.filters]):
        neither = MetadataFilters(filters=filters, condition=FilterCondition.NOT)
        either = MetadataFilters(filters=filters, condition=FilterCondition.OR)
        assert matches(shelf, neither) == set(VALUES) - matches(shelf, either) != set(VALUES)


def test_conditions_nest_to_any_depth(shelf: Any) -> None:
    one_of = MetadataFilters(
        filters=[one(Op.EQ, "red"), one(Op.EQ, 12), one(Op.IS_EMPTY, None)], condition=FilterCondition.OR
    )
    not_red = MetadataFilters(filters=[one(Op.EQ, "red")], condition=FilterCondition.NOT)
    both = MetadataFilters(filters=[one_of, MetadataFilters(filters=[not_red, not_red])])
    assert matches(shelf, both) == {"twelve", "missing", "null", "blank", "no tags"}
    assert matches(shelf, MetadataFilters(filters=[both], condition=FilterCondition.NOT)) == set(VALUES) - {
        "twelve", "missing", "null", "blank", "no tags",
    }  # fmt: skip


def test_no_conditions_match_everything_at_every_level(shelf: Any) -> None:
    empty = MetadataFilters(filters=[])
    assert matches(shelf, empty) == set(VALUES)
    for condition in (FilterCondition.AND, FilterCondition.OR, None):
        assert matches(shelf, MetadataFilters(filters=[empty], condition=condition)) == set(VALUES)
    assert matches(shelf, MetadataFilters(filters=[empty], condition=FilterCondition.NOT)) == set()


held_values = st.sampled_from(list(VALUES))
conditions = st.recursive(
    st.sampled_from(FILTERS).map(lambda pair: one(*pair)),
    lambda inner: st.builds(
        lambda parts, how: MetadataFilters(filters=parts, condition=how),
        st.lists(inner, max_size=3),
        st.sampled_from(FilterCondition),
    ),
    max_leaves=6,
)


def nested_reference(filters: MetadataFilters, metadata: dict[str, Any]) -> bool | None:
    """The reference, made to nest: LlamaIndex's own refuses filters within filters."""
    if not filters.filters:
        return True
    answers = [
        nested_reference(each, metadata)
        if isinstance(each, MetadataFilters)
        else reference(MetadataFilters(filters=[each]), metadata)
        for each in filters.filters
    ]
    if None in answers:
        return None
    if filters.condition is FilterCondition.NOT:
        return not any(answers)
    return any(answers) if filters.condition is FilterCondition.OR else all(answers)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters=conditions)
def test_any_combination_agrees_with_the_reference(shelf: Any, filters: MetadataFilters) -> None:
    found = matches(shelf, filters)
    for name, held in VALUES.items():
        expected = nested_reference(filters, {} if held is ... else {"k": held})
        if expected is not None and not isinstance(held, (bool, dict)):
            assert (name in found) is expected


DECLARED = {"word": str, "count": int, "share": float, "flag": bool, "tags": list[str], "sizes": list[int]}
ROWS: dict[str, dict[str, Any]] = {
    "bare": {},
    "nulls": dict.fromkeys(DECLARED),
    "blank": {"word": "", "tags": [], "sizes": []},
    "a": {
        "word": "red wine",
        "count": 1,
        "share": 0.5,
        "flag": True,
        "tags": ["red", "blue"],
        "sizes": [1, 2],
    },
    "b": {"word": "Red", "count": 0, "share": 1.0, "flag": False, "tags": ["red wine"], "sizes": [0]},
    "c": {"word": "100%", "count": 12, "share": 12.0, "tags": [""]},
}
ON_DECLARED: list[tuple[str, Op, Any]] = [
    *(("word", op, "red wine") for op in (Op.EQ, Op.NE, Op.GT, Op.LTE, Op.CONTAINS, Op.TEXT_MATCH)),
    *(("word", op, "RED") for op in (Op.CONTAINS, Op.TEXT_MATCH, Op.TEXT_MATCH_INSENSITIVE)),
    *(("word", op, v) for op in (Op.ANY, Op.ALL, Op.IN, Op.NIN) for v in (["red", "wine"], ["%"], [], ["Red"])),
    *(("count", op, v) for op in (Op.EQ, Op.NE, Op.GT, Op.GTE, Op.LT, Op.LTE) for v in (0, 1, 1.0, 0.5)),
    *(("count", op, v) for op in (Op.IN, Op.NIN) for v in ([], [0, 12], [5])),
    *(("share", op, v) for op in (Op.EQ, Op.NE, Op.GT) for v in (0.5, 1, 12)),
    *(("flag", op, v) for op in (Op.EQ, Op.NE) for v in (0, 1)),
    *(("flag", op, v) for op in (Op.IN, Op.NIN) for v in ([0], [1, 0])),
    *(("tags", op, v) for op in (Op.ANY, Op.ALL, Op.IN, Op.NIN) for v in (["red"], ["red", "blue"], [])),
    *(("tags", op, v) for op in (Op.EQ, Op.NE) for v in ("red", ["red", "blue"], [])),
    *(("tags", Op.CONTAINS, v) for v in ("red", "wine", "")),
    *(("sizes", op, v) for op in (Op.ANY, Op.ALL) for v in ([1], [1, 2], [0], [])),
    ("sizes", Op.CONTAINS, 1),
    *((field, Op.IS_EMPTY, None) for field in DECLARED),
    ("word", Op.ALL, []),
]  # fmt: skip


@pytest.fixture(scope="module")
def drawer(module_client: SVRClient) -> Any:
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.svr import SVRVectorStore

    fields = {"client": module_client, "collection": "filter_fields", "filter_fields": DECLARED}
    store = SVRVectorStore(dimensions=2, **fields)  # type: ignore[arg-type]
    store.add([TextNode(id_=i, text=i, metadata=row, embedding=[1.0, 1.0]) for i, row in ROWS.items()])
    return store


@pytest.mark.parametrize(("key", "operator", "value"), ON_DECLARED, ids=str)
def test_each_operator_agrees_with_the_reference_on_declared_fields(
    drawer: Any, key: str, operator: Op, value: Any
) -> None:
    filters = one(operator, value, key)
    expected = {name for name, row in ROWS.items() if reference(filters, row)}
    assert {node.node_id for node in drawer.get_nodes(filters=filters)} == expected


@pytest.mark.parametrize(
    ("key", "operator", "value", "said"),
    [
        ("count", Op.EQ, "x", "int"),
        ("word", Op.IN, [1], "str"),
        ("count", Op.CONTAINS, 1, "int"),
        ("count", Op.TEXT_MATCH, "x", "int"),
        ("word", Op.EQ, ["a"], "str"),
    ],
)
def test_a_value_that_a_declared_field_cannot_hold_is_refused(
    drawer: Any, key: str, operator: Op, value: Any, said: str
) -> None:
    with pytest.raises(FilterError, match=rf"{key}.*{said}") as caught:
        drawer.get_nodes(filters=one(operator, value, key))
    assert str(caught.value).startswith(f"{operator.value} ")
    assert "$" not in str(caught.value)


@pytest.mark.parametrize(
    ("operator", "value", "said"),
    [
        (Op.EQ, None, "is_empty"),
        (Op.NE, None, "is_empty"),
        (Op.IN, "red", r"needs a list.*\['red'\]"),
        (Op.ANY, "red", "needs a list"),
        (Op.CONTAINS, ["red"], "any or all"),
        (Op.TEXT_MATCH, 1, "needs text"),
        (Op.GT, ["a"], "a number, a text"),
    ],
)
def test_a_value_that_an_operator_cannot_use_is_refused(
    shelf: Any, operator: Op, value: Any, said: str
) -> None:
    with pytest.raises(FilterError, match=said):
        shelf.get_nodes(filters=one(operator, value))


@pytest.mark.parametrize(
    "key", ["a.b", "a\\b", "$and", "\\.", "a\\.b", "a b", "ü'\"", "%", ".", "$eq.x", "a.$b"]
)
def test_a_key_is_always_taken_literally(store: Any, make_node: Any, key: str) -> None:
    store.add([make_node("1"), make_node("2"), make_node("3", a={"b": "v"})])
    store.add([make_node("1").model_copy(update={"metadata": {key: "v"}})])
    store.add([make_node("2").model_copy(update={"metadata": {key: ["v"]}})])
    for operator, value, found in (
        (Op.EQ, "v", ["1"]),
        (Op.CONTAINS, "v", ["1", "2"]),
        (Op.EQ, ["v"], ["2"]),
    ):
        assert [n.node_id for n in store.get_nodes(filters=one(operator, value, key))] == found


def test_a_declared_field_with_a_dot_is_literal_too(make_store: Any, make_node: Any) -> None:
    store = make_store(filter_fields={"a.b": int})
    store.add([make_node("1"), make_node("2").model_copy(update={"metadata": {"a.b": 5}})])
    assert [n.node_id for n in store.get_nodes(filters=one(Op.GTE, 5, "a.b"))] == ["2"]


def test_a_filter_on_the_partition_field_opens_only_its_partition(make_store: Any, make_node: Any) -> None:
    store = make_store(partition_by=by_field("topic"))
    store.add([make_node(f"{topic}{i}", topic=topic) for topic in "abc" for i in range(3)])
    from llama_index.vector_stores.svr.querying import restricted

    found = store.open()
    for operator, value in ((Op.EQ, "b"), (Op.IN, ["b"])):
        route = found.route(vector=[1.0] * 48, filter=restricted(one(operator, value, "topic"), found))
        assert (route.step, route.paths) == ("filter", ("topic=b",))
    assert len(store.get_nodes(filters=one(Op.EQ, "b", "topic"))) == 3


def test_declared_times_compare_as_times(make_store: Any, make_node: Any) -> None:
    from datetime import UTC, datetime

    store = make_store(filter_fields={"at": datetime})
    early, late = datetime(2024, 1, 31, 23, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)
    store.add([make_node("early", at=early), make_node("late", at=late), make_node("never")])
    assert [n.node_id for n in store.get_nodes(filters=one(Op.GT, "2024-02-01T00:30:00+01:00", "at"))] == [
        "late"
    ]
    assert [n.node_id for n in store.get_nodes(filters=one(Op.EQ, "2024-02-01T00:00:00+01:00", "at"))] == [
        "early"
    ]
