"""The same filter over the same documents: the memory evaluator and each database must agree on each one."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from functools import reduce

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from pymongo import MongoClient
from pymongo.collection import Collection

from svr_retrievers.backends.mongodb.encoding import decode_metadata, encode_metadata, encode_typed
from svr_retrievers.backends.mongodb.filters import Paths, compile_match
from svr_retrievers.backends.mongodb.push import compile_push
from svr_retrievers.backends.postgres.filters import COLUMN_TYPES, compile_filter
from svr_retrievers.filters import FieldType, describe, evaluate, normalise_metadata, parse, typed_value
from svr_retrievers.testing.mongodb.documents import MISSING
from svr_retrievers.testing.mongodb.filters import Leaf, cell
from svr_retrievers.testing.mongodb.filters import parse as search_filter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CASES = int(os.environ.get("SVR_FILTER_CASES", "300"))

FIELDS = {
    "n": FieldType.INT,
    "f": FieldType.FLOAT,
    "s": FieldType.STR,
    "ok": FieldType.BOOL,
    "at": FieldType.DATETIME,
    "texts": FieldType.LIST_STR,
    "numbers": FieldType.LIST_INT,
    "weights": FieldType.LIST_FLOAT,
    "dotted.name": FieldType.INT,
}
COLUMNS = {name: f"c{index}" for index, name in enumerate(FIELDS)}
PATHS = Paths("metadata", {name: f"svr.f.{column}" for name, column in COLUMNS.items()}, "svr.z")


@pytest.fixture(scope="module")
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url) as connection:
        typed = ", ".join(f"{COLUMNS[name]} {COLUMN_TYPES[kind]}" for name, kind in FIELDS.items())
        connection.execute(
            f"create temporary table d (id int, metadata jsonb); create temporary table s (id int, {typed})"
        )
        connection.commit()
        yield connection


@pytest.fixture(scope="module")
def collection(mongodb_server: str) -> Iterator[Collection]:
    with MongoClient(mongodb_server, w=1, journal=False) as client:
        name = f"svr_test_{secrets.token_hex(6)}"
        yield client.get_database(name).get_collection("documents")
        client.drop_database(name)


KEYS = [
    "a",
    "b",
    "c.d",
    "x y",
    'q"uote',
    "it's",
    "back\\slash",
    "$dollar",
    "ünï",
    "",
    "line\nbreak",
    "select",
    "0",
    "$ref",
    "$id",
]
TEXTS = [
    "",
    "a",
    "A",
    "ab",
    "É",
    "é",
    "ß",
    "ſ",
    "K",
    "a%",
    "a_b",
    "\\",
    "\U0001f600",
    "\ufeff",
    "z\nz",
    "null",
    "1",
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    2**53,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**63,
    10**23,
    1e23,
    9007199254740993.0,
    0.0,
    -0.0,
]
NUMBERS += [1.0, 0.5, -1.5, 0.1, 1e-300, 5e-324, 1.7976931348623157e308, float(2**63), 1e16, 1e22]
MOMENTS = [
    datetime(2024, 1, 1),
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 1, 2, 30, tzinfo=timezone(timedelta(hours=2, minutes=30))),
    datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    date(2024, 1, 1),
]

texts = st.sampled_from(TEXTS) | st.text(max_size=4).filter(lambda t: "\0" not in t)
numbers = st.sampled_from(NUMBERS) | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False)
moments = st.sampled_from(MOMENTS)
scalars = st.booleans() | numbers | texts | moments
bigints = st.sampled_from([-(2**63), 2**63 - 1, 2**53 + 1]) | st.integers(-3, 3)
keys = st.sampled_from(KEYS)
values = st.recursive(
    st.none() | scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.lists(st.dictionaries(keys, inner, max_size=2), max_size=3)
    ),
    max_leaves=6,
)
declared = {
    FieldType.INT: bigints,
    FieldType.FLOAT: numbers,
    FieldType.STR: texts,
    FieldType.BOOL: st.booleans(),
    FieldType.DATETIME: moments,
    FieldType.LIST_STR: st.lists(texts, max_size=3),
    FieldType.LIST_INT: st.lists(bigints, max_size=3),
    FieldType.LIST_FLOAT: st.lists(numbers, max_size=3),
}
documents = st.builds(
    lambda free, fixed: {**free, **fixed},
    st.dictionaries(keys, values, min_size=1, max_size=4),
    st.fixed_dictionaries({}, optional={name: st.none() | declared[kind] for name, kind in FIELDS.items()}),
)


def escaped(key: str) -> str:
    return key.replace("\\", "\\\\").replace(".", "\\.").replace("$", "\\$")


paths = st.lists(keys, min_size=1, max_size=3).map(lambda parts: ".".join(escaped(p) for p in parts))
patterns = st.lists(
    st.sampled_from(["%", "_", "\\%", "\\\\", "a", "É", "k", "ß", "[", ".", "(?i)"]), max_size=4
).map("".join)
patterns |= texts.filter(lambda t: not t.endswith("\\"))
RANGES = ["$gt", "$gte", "$lt", "$lte"]


def conditions(
    scalar: st.SearchStrategy[object],
    ordered: st.SearchStrategy[object],
    *,
    lists: st.SearchStrategy[object] | None,
    text: bool,
    elements: bool,
) -> st.SearchStrategy[dict[str, object]]:
    """One operator with an operand that it takes."""

    def one(operators: list[str], operand: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
        return st.builds(lambda op, value: {op: value}, st.sampled_from(operators), operand)

    single = st.none() | scalar if lists is None else st.none() | scalar | lists
    kinds = [
        one(["$eq", "$ne"], single),
        one(["$in", "$nin"], st.lists(single, max_size=3)),
        one(["$exists"], st.booleans()),
        one(["$all"], st.lists(single, max_size=2)),
        one(RANGES, ordered),
    ]
    if text:
        kinds.append(one(["$like", "$ilike"], patterns))
    if elements:
        kinds.append(one(["$contains"], st.none() | scalar))
    return st.one_of(kinds).flatmap(lambda c: st.sampled_from([c, {"$not": c}]))


def declared_condition(name: str, rows: list[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    kind = FIELDS[name]
    scalar = numbers if kind.element in {FieldType.INT, FieldType.FLOAT} else declared[kind.element]
    values = [row[name] for row in rows if row.get(name) is not None]
    held = [item for value in values for item in (value if isinstance(value, list) else [value])]
    scalar = st.sampled_from(held) | scalar if held else scalar
    lists = st.lists(scalar, max_size=3) if kind.is_list else None
    ordered = scalar if kind is not FieldType.BOOL else st.nothing()
    text = kind.element is FieldType.STR
    chosen = conditions(scalar, ordered, lists=lists, text=text, elements=kind.is_list)
    return chosen.map(lambda condition: {name: condition})


def places(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """Each path through a document that leads to something, with what is there."""
    if path:
        yield ".".join(escaped(key) for key in path), value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                yield from places(inner, path)


def comparable(value: object) -> bool:
    return not isinstance(value, dict) and not (isinstance(value, list) and any(map(_has_object, value)))


def _has_object(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_object, value)))


free_lists = st.lists(st.none() | scalars, max_size=3)
any_ordered = numbers | texts | moments


def free_condition(rows: list[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    """Mostly about what the rows hold: random paths with random operands hardly ever match anything."""
    undeclared = [{key: value for key, value in row.items() if key not in FIELDS} for row in rows]
    found = [place for row in undeclared for place in places(row)]
    random = st.builds(
        lambda path, condition: {path: condition},
        paths,
        conditions(scalars, any_ordered, lists=free_lists, text=True, elements=True),
    )
    return (st.sampled_from(found).flatmap(about) | random) if found else random


def about(place: tuple[str, object]) -> st.SearchStrategy[dict[str, object]]:
    path, value = place
    items = [item for item in (value if isinstance(value, list) else [value]) if comparable(item)]
    held = [item for item in items if item is not None and not isinstance(item, list)]
    ranked = [item for item in held if not isinstance(item, bool)]
    chosen = conditions(
        st.sampled_from(held) | scalars if held else scalars,
        st.sampled_from(ranked) | any_ordered if ranked else any_ordered,
        lists=st.just(value) | free_lists if isinstance(value, list) and comparable(value) else free_lists,
        text=True,
        elements=True,
    )
    return chosen.map(lambda condition: {path: condition})


def filters(rows: list[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    free = free_condition(rows)
    groups = st.sampled_from(["$and", "$or", "$nor"])
    return st.recursive(
        st.sampled_from(list(FIELDS)).flatmap(lambda name: declared_condition(name, rows)) | free | free,
        lambda inner: st.one_of(
            st.builds(lambda op, parts: {op: parts}, groups, st.lists(inner, max_size=3)),
            st.builds(lambda part: {"$not": part}, inner),
            st.builds(lambda one, other: {**one, **other}, inner, inner),
        ),
        max_leaves=3,
    )


cases = st.lists(documents, min_size=2, max_size=5).flatmap(
    lambda rows: st.tuples(st.just(rows), filters(rows))
)


def matching_in_postgres(
    connection: psycopg.Connection, filter_: dict[str, object], stored: list[dict]
) -> set[int]:
    node = parse(filter_, FIELDS)
    condition, parameters, needs_metadata = compile_filter(node, COLUMNS)
    typed_only = sql.SQL("select s.id from s where {}")
    joined = sql.SQL("select s.id from s join d using (id) where {}")
    insert = f"insert into s values ({', '.join(['%s'] * (len(FIELDS) + 1))})"
    with connection.transaction(force_rollback=True):
        for index, metadata in enumerate(stored):
            row = [typed_value(name, kind, metadata) for name, kind in FIELDS.items()]
            connection.execute("insert into d values (%s, %s)", [index, json.dumps(metadata)])
            connection.execute(insert, [index, *row])
        query = (joined if needs_metadata else typed_only).format(condition)
        return {row[0] for row in connection.execute(query, parameters)}


def documents_of(stored: list[dict]) -> list[dict[str, object]]:
    """As the MongoDB backend stores them."""
    documents = []
    for index, metadata in enumerate(stored):
        body, original = encode_metadata(metadata)
        typed = {
            COLUMNS[name]: encode_typed(kind, typed_value(name, kind, metadata))
            for name, kind in FIELDS.items()
        }
        fields = {column: value for column, value in typed.items() if value is not None}
        missing = [column for column, value in typed.items() if value is None]
        documents.append({"_id": index, "metadata": body, "svr": {"f": fields, "z": missing, "m": original}})
    return documents


def matching_in_mongodb(
    collection: Collection, filter_: dict[str, object], stored: list[dict]
) -> tuple[set[int], bool]:
    return found_in_mongodb(collection, filter_, stored_in_mongodb(collection, stored), stored)


def stored_in_mongodb(collection: Collection, stored: list[dict]) -> list[dict[str, object]]:
    """The documents, each read back and found to be what was given."""
    documents = documents_of(stored)
    collection.delete_many({})
    collection.insert_many(documents)
    for row in collection.find():
        assert exactly(decode_metadata(row["metadata"], row["svr"]["m"])) == exactly(stored[row["_id"]])
    return documents


def found_in_mongodb(
    collection: Collection, filter_: dict[str, object], documents: list[dict[str, object]], stored: list[dict]
) -> tuple[set[int], bool]:
    """What the compiled filter finds, and whether it claims to be exact.

    On the way the part for `$vectorSearch` is asked, of the server and of the engine's stand-in, whether it
    leaves out what it must not.
    """
    node = parse(filter_, FIELDS)
    compiled, pushed = compile_match(node, PATHS), compile_push(node, PATHS)
    wanted = matching_in_memory(filter_, stored)
    given = pushed.filter or {}
    for let_through in (ids(collection.find(given, {"_id": 1})), searched(given, documents)):
        assert let_through == wanted if pushed.exact else let_through >= wanted, pushed
    return ids(collection.aggregate([{"$match": compiled.match}, {"$project": {"_id": 1}}])), compiled.exact


def ids(rows: Iterable[dict]) -> set[int]:
    return {row["_id"] for row in rows}


@dataclass
class Columns:
    """Documents as the stand-in's filters read them."""

    documents: list[dict[str, object]]

    def all(self) -> np.ndarray:
        return np.ones(len(self.documents), bool)

    def mask(self, path: str, leaf: Leaf) -> np.ndarray:
        def value(document: object) -> object:
            return reduce(lambda inner, name: inner.get(name, MISSING), path.split("."), document)

        return np.array([leaf.test(cell(value(document))) for document in self.documents])


def searched(filter_: dict[str, object], documents: list[dict[str, object]]) -> set[int]:
    """What a search's filter lets through; it raises what Atlas would refuse."""
    tree = search_filter(filter_, {*PATHS.typed.values(), PATHS.missing})
    return set(np.flatnonzero(tree(Columns(documents))).tolist())


def exactly(metadata: dict) -> str:
    """Tells 1 from 1.0 and from True."""
    return json.dumps(metadata, sort_keys=True)


def matching_in_memory(filter_: dict[str, object], stored: list[dict]) -> set[int]:
    node = parse(filter_, FIELDS)
    typed = [{name: typed_value(name, kind, m) for name, kind in FIELDS.items()} for m in stored]
    return {i for i, metadata in enumerate(stored) if evaluate(node, metadata, typed[i])}


FIXED_CASES = [
    ([{"a": [[1]]}, {"a": [1]}, {"a": 1.0}, {"a": True}, {"a": [{"b": 1}]}], {"a": 1}),
    ([{"a": [{"b": 1}, {}]}, {"a": []}, {"a": [[{"b": 1}]]}, {}], {"a.b": {"$ne": 1}}),
    ([{"a": 1}, {"a": [1, 2]}, {"a": [[1]]}, {"a": []}], {"a": {"$contains": 1}}),
    ([{"a": None}, {"a": "x"}, {"a": True}, {"a": [None, 0]}], {"a": {"$gt": -1}}),
    ([{"a": [1, None]}, {"a": None}, {"a": [1]}, {"a": [[None]]}, {}], {"a": None}),
    ([{"a": 1e23}, {"a": 10**23}, {"a": 99999999999999991611392}], {"a": 10**23}),
    ([{"a": 1e23}, {"a": 10**23}], {"a": {"$in": [1e23]}}),
    ([{"a": 2**53 + 1}, {"a": 2**53}], {"a": {"$gt": float(2**53)}}),
    ([{"n": 1}, {"n": 2}, {}], {"n": {"$gt": 1.5}}),
    ([{"n": 1}, {"n": 2}, {}], {"n": {"$lt": 1.5}}),
    ([{"n": -1}, {"n": -2}, {}], {"n": {"$gte": -1.5}}),
    ([{"n": -1}, {"n": -2}, {}], {"n": {"$lte": -1.5}}),
    ([{"numbers": [0, 5]}, {"numbers": [9]}, {"numbers": []}, {}], {"numbers": {"$gt": 5}}),
    ([{"numbers": [0, 5]}, {"numbers": [9]}, {"numbers": []}, {}], {"numbers": {"$gte": 6}}),
    ([{"texts": ["b"]}, {"texts": ["B", "z"]}, {}], {"texts": {"$lt": "a"}}),
    ([{"weights": [0.5]}, {"weights": [2]}, {}], {"weights": {"$lte": 1}}),
    ([{"a": [[1]]}, {"a": [1]}, {"a": [[1], 1]}, {"a": [1.0]}, {"a": [True]}], {"a": [1]}),
    ([{"a": [[1]]}, {"a": [1]}, {"a": [[1], 2]}, {"a": 1}, {"a": [None]}], {"a": {"$contains": 1}}),
    ([{"a": [{"b": 1}]}, {"a": {"0": 1}}, {"a": [{"0": 1}]}, {"a": [1]}], {"a.0": {"$exists": True}}),
    ([{"a": ["$b"], "b": "x"}, {"a": "$b"}, {"a": "x", "b": "x"}], {"": {"$ne": "$a"}, "a": "$b"}),
    ([{"": ["$b"]}, {"": "$b"}, {"": {"": "$b"}}, {"b": 1}], {"": {"$in": ["$b", "$$ROOT"]}}),
    ([{"a": 2**60}, {"a": float(2**60)}, {"a": 1152921504606847000}], {"a": 2**60}),
    ([{"a": 2**60}, {"a": float(2**60)}, {"a": 1152921504606847000}], {"a": {"$gt": 2**60}}),
    ([{"a": 10**40}, {"a": 10**40 + 1}, {"a": 1e40}, {"a": 2**1024 - 1}], {"a": {"$not": {"$gt": 10**40}}}),
    ([{"a": 10**40}, {"a": 10**40 + 1}, {"a": 1e40}, {"a": [10**40]}], {"a": {"$contains": 10**40}}),
    ([{"a": [10**40]}, {"a": [10**40 + 1]}, {"a": [1e40]}, {"a": []}], {"a": [10**40]}),
    (
        [{"a": 2**1024 - 1}, {"a": 1.7976931348623157e308}, {"a": -(2**1024) + 1}],
        {"a": {"$gte": 2**1024 - 1}},
    ),
    ([{"a": {"$ref": "x", "$id": 1, "b": 2}}, {"a": {"$ref": "x", "$id": 1, "$db": None}}], {"a.b": 2}),
    ([{"s": "a\n"}, {"s": "a"}, {"s": "\na"}, {"s": "A"}], {"s": {"$like": "a"}}),
    ([{"s": "a\n"}, {"s": "a"}, {"s": "\na"}, {"s": "A"}], {"s": {"$ilike": "%a"}}),
    ([{"f": 0.0}, {"f": -0.0}, {"f": 5e-324}, {}], {"f": {"$in": [-0.0, 2**1024 - 1]}}),
    ([{"f": 0.0}, {"f": -0.0}, {"f": 5e-324}, {}], {"f": {"$lt": 2**1024 - 1}}),
    ([{"texts": None}, {}, {"texts": []}, {"texts": [""]}], {"texts": {"$exists": False}}),
    ([{"texts": None}, {}, {"texts": []}, {"texts": [""]}], {"texts": {"$not": {"$eq": []}}}),
    ([{"a": [{"b": 1}, {}]}, {"a": [{"b": None}]}, {"a": [[{"b": None}]]}, {"a": []}], {"a.b": None}),
    ([{"": [{"b": 1}, {}]}, {"": [{"b": [None]}]}, {"": [[{"b": None}]]}, {"": []}], {".b": None}),
    ([{"": True}, {"": {"z": 1}}, {"": ["b", [2]]}, {"": None}, {"": 3}], {"": {"$gt": "a"}}),
    ([{"": True}, {"": {"z": 1}}, {"": ["b", [2]]}, {"": None}, {"": 3}], {"": {"$not": {"$gte": 0}}}),
    ([{"": ["b", [2]]}, {"": [2]}, {"": [[[2]]]}, {"": "b"}], {"": {"$contains": "b"}}),
    ([{"": ["b", [2]]}, {"": [2]}, {"": [[[2]]]}, {"": "b"}], {"": [2]}),
    ([{"a": 1}, {}], {"$or": []}),
    ([{"a": 1}, {}], {"$nor": []}),
]


def fixed_cases(test: Callable[..., None]) -> Callable[..., None]:
    return reduce(lambda inner, case: example(case=case)(inner), FIXED_CASES, test)


GENERATED = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


@GENERATED
@fixed_cases
@given(case=cases)
def test_memory_and_postgres_agree(
    connection: psycopg.Connection, case: tuple[list[dict[str, object]], dict[str, object]]
) -> None:
    rows, filter_ = case
    stored = [normalise_metadata(row) for row in rows]
    in_memory = matching_in_memory(filter_, stored)
    assert matching_in_postgres(connection, filter_, stored) == in_memory, describe(parse(filter_, FIELDS))


@GENERATED
@fixed_cases
@given(case=cases)
def test_memory_and_mongodb_agree(
    collection: Collection, case: tuple[list[dict[str, object]], dict[str, object]]
) -> None:
    rows, filter_ = case
    stored = [normalise_metadata(row) for row in rows]
    in_memory = matching_in_memory(filter_, stored)
    matching, exact = matching_in_mongodb(collection, filter_, stored)
    assert matching == in_memory if exact else matching >= in_memory, describe(parse(filter_, FIELDS))


def pattern_filters(pattern: str) -> list[dict[str, object]]:
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        pattern += "\\"
    return [{field: {op: pattern}} for op in ("$like", "$ilike") for field in ("s", "a", "texts", "")]


def documents_with(subject: str) -> list[dict]:
    return [normalise_metadata({"s": subject, "a": [subject], "texts": [subject], "": subject})]


subjects = texts | st.text("aAéÉßſkKz\n%_\\", max_size=6)


@GENERATED
@example(pattern="a%b%c", subject="abc")
@example(pattern="a%b%c", subject="a\nbbc\n")
@example(pattern="%ab%ab%", subject="abab")
@example(pattern="%ab%ab%b", subject="abab")
@example(pattern="_%_", subject="\U0001f600")
@given(pattern=patterns, subject=subjects)
def test_patterns_agree_in_postgres(connection: psycopg.Connection, pattern: str, subject: str) -> None:
    stored = documents_with(subject)
    for filter_ in pattern_filters(pattern):
        assert matching_in_postgres(connection, filter_, stored) == matching_in_memory(filter_, stored)


@GENERATED
@example(pattern="a%b%c", subject="abc")
@example(pattern="a%b%c", subject="a\nbbc\n")
@example(pattern="%ab%ab%", subject="abab")
@example(pattern="%ab%ab%b", subject="abab")
@example(pattern="_%_", subject="\U0001f600")
@given(pattern=patterns, subject=subjects)
def test_patterns_agree_in_mongodb(collection: Collection, pattern: str, subject: str) -> None:
    stored = documents_with(subject)
    documents = stored_in_mongodb(collection, stored)
    for filter_ in pattern_filters(pattern):
        found = found_in_mongodb(collection, filter_, documents, stored)
        assert found == (matching_in_memory(filter_, stored), True)


largest_filters = pytest.mark.parametrize(
    "filter_",
    [
        {"$or": [{"a": i} for i in range(9_999)]},
        {"$and": [{"n": {"$ne": i}} for i in range(9_999)]},
        {"a": {"$in": [i or None for i in range(5_000)]}},
        {"a": {"$nin": [[i] for i in range(5_000)]}},
        reduce(lambda inner, _: {"$not": inner}, range(99), {"a": 1}),
        {".".join("a" * 100): {"$exists": False}},
        {"k" * 10_000: {"$exists": False}},
    ],
    ids=["or", "and", "in", "lists", "not", "path", "key"],
)


@largest_filters
def test_the_largest_filters_run_in_postgres(
    connection: psycopg.Connection, filter_: dict[str, object]
) -> None:
    stored = [normalise_metadata({"a": 1, "n": -1}), {}]
    assert matching_in_postgres(connection, filter_, stored) == matching_in_memory(filter_, stored)


@largest_filters
def test_the_largest_filters_run_in_mongodb(collection: Collection, filter_: dict[str, object]) -> None:
    stored = [normalise_metadata({"a": 1, "n": -1}), {}]
    assert matching_in_mongodb(collection, filter_, stored) == (matching_in_memory(filter_, stored), True)


def test_filters_over_plain_columns_can_use_a_btree_index(connection: psycopg.Connection) -> None:
    """Each comparison of a scalar column must reach the index, not only filter what a scan returns."""
    with connection.transaction(force_rollback=True):
        connection.execute("set local enable_seqscan = off")
        for name in ("n", "f", "s", "at", "dotted.name"):
            connection.execute(f"create index on s ({COLUMNS[name]})")
        for filter_ in (
            {"n": {"$gte": 1.5}},
            {"f": {"$lt": 3}},
            {"s": {"$gt": "a"}},
            {"s": {"$in": ["a", "b"]}},
            {"at": {"$lte": date(2024, 1, 1)}},
            {"dotted.name": 7},
        ):
            condition, parameters, needs_metadata = compile_filter(parse(filter_, FIELDS), COLUMNS)
            assert not needs_metadata
            plan = connection.execute(
                sql.SQL("explain select id from s where {}").format(condition), parameters
            )
            assert "Index Cond" in "\n".join(row[0] for row in plan), filter_
