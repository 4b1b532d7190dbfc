"""Random histories on the memory backend and on a database, which must tell the same story at every step."""

from __future__ import annotations

import os
import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from svr_retrievers import (
    Collection,
    Document,
    SVRClient,
    by_cluster,
    by_field,
    by_hash,
    by_namespace,
    by_time,
    flat,
    hnsw,
)

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("SVR_ORACLE_EXAMPLES", "15"))
STEPS = 25

ids = st.sampled_from(["a", "b", "c", "d", "e", "É", "🦊", "'; --", "z" * 300, "A"])
namespaces = st.sampled_from(["default", "default", "default", "other"])
values = st.sampled_from([None, 1, 1.0, 2, "x", "y", "X", True, 2.5, "ß"])
moments = st.sampled_from([None, "2024-01-01", "2024-01-31T23:59:59.999999Z", "2024-02-01", "2025-06-30"])
vectors = st.lists(st.integers(-1, 1), min_size=3, max_size=3)
"""Few enough that equal distances, also at the limit, are common."""
metadata = st.fixed_dictionaries(
    {},
    optional={
        "k": values,
        "n": st.integers(-2, 2) | st.none(),
        "at": moments,
        "tags": st.lists(st.sampled_from(["x", "y", "z"]), max_size=2),
        "deep": st.fixed_dictionaries({"k": values}),
    },
)
filters = st.recursive(
    st.sampled_from([
        {}, {"k": 1}, {"k": "x"}, {"k": None}, {"k": {"$ne": 1}}, {"k": {"$in": [1, "x", None]}},
        {"k": {"$gt": 1}}, {"n": {"$gte": 0}}, {"n": {"$nin": [0, None]}}, {"n": None}, {"tags": "x"},
        {"tags": {"$all": ["x", "y"]}}, {"tags": []}, {"deep.k": "y"}, {"deep": {"$exists": True}},
        {"at": {"$lt": "2024-02-01"}}, {"at": {"$gte": "2024-02-01"}}, {"at": None}, {"k": {"$exists": False}},
        {"k": {"$like": "_"}}, {"k": True},
    ]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=3,
)  # fmt: skip
schemes = st.sampled_from([
    None,
    by_field("k"),
    by_field("k", max_partitions=2),
    by_field("k", values=[1, "x"]),
    by_time("at"),
    by_hash(3),
    by_hash(2, "k"),
    by_namespace().then(by_field("deep.k")),
    by_field("k").then(by_time("at", every="year")),
    by_cluster(1),
])  # fmt: skip


class Histories(RuleBasedStateMachine):
    """Squares of small whole numbers are exact in 32 bits, so distances and ties are the same everywhere."""

    clients: tuple[SVRClient, SVRClient]

    @initialize(
        scheme=schemes,
        metric=st.sampled_from(["l2", "inner_product"]),
        index=st.sampled_from([flat(), hnsw(min_rows=2)]),
        declared=st.booleans(),
    )
    def create(self, scheme: object, metric: str, index: object, declared: bool) -> None:
        fields = {"n": int, "tags": list[str]} if declared else None
        self.name = f"oracle {uuid.uuid4().hex}"
        self.exact = index != flat()
        self.pair: list[Collection] = [
            client.create_collection(
                self.name, dimensions=3, metric=metric, partition_by=scheme, filter_fields=fields, index=index
            )
            for client in self.clients
        ]

    @invariant()
    def the_same_closest(self) -> None:
        """After every step, since the rules alone search seldom: the top of each namespace, ties at the limit."""
        if not hasattr(self, "pair"):
            return
        for space, limit in (("default", 1), ("default", 3), ("other", 2)):
            ours, theirs = (
                c.search(vector=[1, 0, 1], limit=limit, namespace=space, exact=self.exact) for c in self.pair
            )
            assert [_row(hit) for hit in ours] == [_row(hit) for hit in theirs]
            assert (ours.incomplete is None) == (theirs.incomplete is None)

    def teardown(self) -> None:
        for client in self.clients:
            client.drop_collection(self.name, missing_ok=True)

    @rule(
        batch=st.lists(
            st.tuples(ids, metadata, vectors), min_size=3, max_size=10, unique_by=lambda entry: entry[0]
        ),
        space=namespaces,
    )
    def upsert(self, batch: list[tuple[str, dict, list[int]]], space: str) -> None:
        given = [Document(i, f"text of {i}", m, v) for i, m, v in batch]
        ours, theirs = (
            [(o.id, o.action, o.partition) for o in c.add(given, namespace=space)] for c in self.pair
        )
        assert ours == theirs

    @rule(which=st.lists(ids, max_size=4), space=namespaces)
    def delete_ids(self, which: list[str], space: str) -> None:
        ours, theirs = (c.delete(which, namespace=space) for c in self.pair)
        assert ours == theirs

    @rule(filter_=filters.map(lambda narrowed: {"$and": [{"n": 1}, narrowed]}), space=namespaces)
    def delete_matching(self, filter_: dict, space: str) -> None:
        ours, theirs = (c.delete(filter=filter_, namespace=space) for c in self.pair)
        assert ours == theirs

    @rule()
    @precondition(lambda self: hasattr(self, "pair"))
    def refresh(self) -> None:
        ours, theirs = ({p.path: p.stats.rows for p in c.refresh()} for c in self.pair)
        assert ours == theirs

    @rule(vector=vectors, filter_=st.just({}) | filters, space=namespaces, limit=st.integers(1, 6))
    def search(self, vector: list[int], filter_: dict, space: str, limit: int) -> None:
        options = {
            "limit": limit,
            "filter": filter_,
            "namespace": space,
            "exact": self.exact,
            "with_vectors": True,
        }
        ours, theirs = (c.search(vector=vector, **options) for c in self.pair)
        assert [_row(hit) for hit in ours] == [_row(hit) for hit in theirs]
        assert ours.route.step == theirs.route.step
        assert sorted(ours.route.paths) == sorted(theirs.route.paths)
        assert (ours.incomplete is None) == (theirs.incomplete is None)
        for mine, other in zip(ours, theirs, strict=True):
            assert np.array_equal(mine.vector, other.vector)

    @rule(filter_=filters, space=namespaces, limit=st.none() | st.integers(0, 4))
    def find(self, filter_: dict, space: str, limit: int | None) -> None:
        ours, theirs = (c.find(filter_, namespace=space, limit=limit, with_vectors=True) for c in self.pair)
        assert ours == theirs

    @rule(which=st.lists(ids, max_size=4), space=namespaces)
    def get(self, which: list[str], space: str) -> None:
        ours, theirs = (c.get(which, namespace=space) for c in self.pair)
        assert ours == theirs

    @rule(filter_=filters, space=namespaces)
    def count(self, filter_: dict, space: str) -> None:
        ours, theirs = (c.count(filter_, namespace=space) for c in self.pair)
        assert ours == theirs


def _row(hit: object) -> tuple:
    return (
        hit.id,
        hit.distance,
        hit.score,
        hit.text,
        hit.metadata,
        hit.version,
        hit.partition,
        hit.namespace,
    )


@pytest.mark.parametrize(
    "database",
    [
        pytest.param("postgres_url", marks=pytest.mark.postgres),
        pytest.param("mongodb_url", marks=pytest.mark.mongodb),
    ],
)
def test_both_backends_tell_the_same_story(request: pytest.FixtureRequest, database: str) -> None:
    url = request.getfixturevalue(database)
    with SVRClient("memory://") as memory, SVRClient(url) as other:
        _tell_the_same_story((memory, other))


def _tell_the_same_story(clients: tuple[SVRClient, SVRClient]) -> None:
    class OnThese(Histories):
        pass

    OnThese.clients = clients
    run_state_machine_as_test(
        OnThese,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
