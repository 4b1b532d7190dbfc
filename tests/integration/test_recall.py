"""What users came for: filtered searches that are full and right, where one shared HNSW table is neither."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector

from svr_retrievers import Collection, Document, SVRClient, by_field, hnsw
from svr_retrievers.testing.data import topics

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

DIMENSIONS = 64
TENANTS, ROWS_EACH = 100, 300
ROWS = TENANTS * ROWS_EACH
QUERIES = topics(40, DIMENSIONS, seed=7)
SHARES = {"one_in_10": 10, "one_in_100": 100, "one_in_1000": 1000}


@pytest.fixture(scope="module")
def client(postgres_url: str) -> Iterator[SVRClient]:
    with SVRClient(postgres_url) as client:
        yield client


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Row i belongs to tenant i % 100: topics say nothing about tenants."""
    return topics(ROWS, DIMENSIONS, seed=0)


def _documents(vectors: np.ndarray) -> list[Document]:
    return [
        Document(
            f"{n:05d}",
            metadata={"tenant": f"t{n % TENANTS}", "quarter": n % 4}
            | {name: n % every == 0 for name, every in SHARES.items()},
            vector=row,
        )
        for n, row in enumerate(vectors)
    ]


def _truth(vectors: np.ndarray, query: np.ndarray, allowed: np.ndarray, limit: int = 10) -> set[str]:
    near = np.argsort(-(vectors[allowed] @ query), kind="stable")[:limit]
    return {f"{allowed[n]:05d}" for n in near}


def _filled(client: SVRClient, name: str, vectors: np.ndarray, **options: object) -> Collection:
    collection = client.create_collection(name, dimensions=DIMENSIONS, **options)
    given = _documents(vectors)
    for start in range(0, len(given), 10_000):
        collection.add(given[start : start + 10_000])
    collection.refresh()
    return collection


@pytest.fixture(scope="module")
def by_tenant(client: SVRClient, vectors: np.ndarray) -> Collection:
    return _filled(client, "by tenant", vectors, partition_by=by_field("tenant"))


@pytest.fixture(scope="module")
def whole(client: SVRClient, vectors: np.ndarray) -> Collection:
    declared = {"tenant": str} | dict.fromkeys(SHARES, bool)
    return _filled(client, "whole", vectors, filter_fields=declared, index=hnsw())


@pytest.fixture(scope="module")
def quarters(client: SVRClient, vectors: np.ndarray) -> Collection:
    """Four partitions of 7,500 rows, each with a graph of its own; the tenant is plain metadata."""
    return _filled(client, "quarters", vectors, partition_by=by_field("quarter"))


def test_a_shared_table_with_an_hnsw_index_returns_too_little(postgres_url: str, vectors: np.ndarray) -> None:
    """What pgvector does by default: it filters the 40 rows that the graph gave."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        register_vector(conn)
        conn.execute(f"create table plain (id int, tenant int, embedding vector({DIMENSIONS}))")
        with conn.cursor().copy("copy plain from stdin (format binary)") as copy:
            copy.set_types(["int4", "int4", "vector"])
            for n, row in enumerate(vectors):
                copy.write_row([n, n % TENANTS, row])
        conn.execute("create index on plain using hnsw (embedding vector_cosine_ops)")
        conn.execute("analyze plain")
        found = [
            len(
                conn.execute(
                    "select id from plain where tenant = %s order by embedding <=> %s limit 10",
                    (n % TENANTS, Vector(query)),
                ).fetchall()
            )
            for n, query in enumerate(QUERIES)
        ]
    mean = float(np.mean(found))
    print(f"\nplain pgvector: {mean:.1f} of 10 hits on average")  # noqa: T201 - the figure is what the test is about
    assert mean < 5


@pytest.mark.parametrize("kind", ["by_tenant", "whole", "quarters"])
def test_ours_is_full_and_right_for_every_tenant(
    kind: str, request: pytest.FixtureRequest, vectors: np.ndarray
) -> None:
    collection: Collection = request.getfixturevalue(kind)
    recalls = []
    for n, query in enumerate(QUERIES):
        tenant = n % TENANTS
        result = collection.search(vector=query, filter={"tenant": f"t{tenant}"})
        assert len(result) == 10
        assert {h.metadata["tenant"] for h in result} == {f"t{tenant}"}
        allowed = np.arange(tenant, ROWS, TENANTS)
        recalls.append(len(set(result.ids) & _truth(vectors, query, allowed)) / 10)
    print(f"\n{kind}: recall@10 {np.mean(recalls):.4f}")  # noqa: T201 - the figure is what the test is about
    assert np.mean(recalls) >= 0.99


def test_a_tenant_is_searched_in_its_own_partition_alone(by_tenant: Collection) -> None:
    route = by_tenant.search(vector=QUERIES[0], filter={"tenant": "t7"}).route
    assert (route.step, route.paths, route.considered) == ("filter", ("tenant=t7",), 1)
    assert len(by_tenant.partitions) == TENANTS


@pytest.mark.parametrize("kind", ["whole", "quarters"])
@pytest.mark.parametrize("share", [None, *SHARES])
def test_recall_through_real_graphs_holds_at_every_selectivity(
    kind: str, share: str | None, request: pytest.FixtureRequest, vectors: np.ndarray
) -> None:
    """Declared columns in one case, metadata in the other; 10 %, 1 % and 0.1 % of the rows match."""
    collection: Collection = request.getfixturevalue(kind)
    assert all(p.stats.indexed for p in collection.partitions)
    every = SHARES[share] if share else 1
    allowed = np.arange(0, ROWS, every)
    recalls = []
    for query in QUERIES:
        options = {"filter": {share: True}} if share else {"nprobe": 4, "ef_search": 100}
        result = collection.search(vector=query, limit=10, **options)
        assert len(result) == min(10, len(allowed))
        recalls.append(len(set(result.ids) & _truth(vectors, query, allowed)) / len(result))
    plan = collection.explain(vector=QUERIES[0], filter={share: True} if share else None).plan
    used = "graph" if "_hnsw" in plan else "scan"
    print(f"\n{kind} {share or 'no filter'}: recall@10 {np.mean(recalls):.4f} ({used})")  # noqa: T201 - the figure is what the test is about
    assert np.mean(recalls) >= 0.99


def test_probing_by_closeness_keeps_near_its_target_where_partitions_say_nothing(
    quarters: Collection, vectors: np.ndarray
) -> None:
    """The quarter has nothing to do with the topic, so that every partition holds neighbours of every question."""
    everything = np.arange(ROWS)
    found = [set(quarters.search(vector=q).ids) & _truth(vectors, q, everything) for q in QUERIES]
    sure = [
        set(quarters.search(vector=q, recall_target=0.99).ids) & _truth(vectors, q, everything)
        for q in QUERIES
    ]
    recalls = np.mean([len(f) / 10 for f in found]), np.mean([len(f) / 10 for f in sure])
    print(f"\nby closeness: recall@10 {recalls[0]:.4f} for 0.95, {recalls[1]:.4f} for 0.99")  # noqa: T201 - the figure is what the test is about
    assert recalls[0] >= 0.9
    assert recalls[1] >= 0.97


@pytest.mark.parametrize("share", list(SHARES))
def test_more_than_there_are_gives_all_there_are(whole: Collection, share: str) -> None:
    matching = ROWS // SHARES[share]
    limit = min(matching + 20, 10_000)
    result = whole.search(vector=QUERIES[0], limit=limit, filter={share: True})
    assert len(result) == matching
    assert result.incomplete is not None
    assert result.incomplete.code == "few_matches"


@pytest.mark.parametrize("kind", ["by_tenant", "whole", "quarters"])
def test_exact_is_exact(kind: str, request: pytest.FixtureRequest, vectors: np.ndarray) -> None:
    collection: Collection = request.getfixturevalue(kind)
    everything = np.arange(ROWS)
    for query in QUERIES[:5]:
        assert set(collection.search(vector=query, exact=True).ids) == _truth(vectors, query, everything)
