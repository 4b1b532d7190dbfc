"""What PostgreSQL really does: which partitions it opens, which index it takes, under which settings."""

from __future__ import annotations

import re
from collections.abc import Iterator

import anyio
import pytest
from psycopg import sql

from svr_retrievers import AsyncSVRClient, Collection, Document, Settings, SVRClient, by_field, errors, hnsw
from svr_retrievers.testing.data import topics, vector

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def client(postgres_url: str) -> Iterator[SVRClient]:
    with SVRClient(postgres_url) as client:
        yield client


@pytest.fixture(scope="module")
def collection(client: SVRClient) -> Collection:
    """Eight partitions: six small ones, one of 3,000 rows with a graph, and the catch-all."""
    made = client.create_collection(
        "plans",
        dimensions=16,
        partition_by=by_field("k"),
        filter_fields={"n": int},
        index=hnsw(min_rows=2000),
    )
    rows = topics(3600, 16)
    keys = ["large"] * 3000 + [f"small{n % 6}" for n in range(590)] + [None] * 10
    made.add([Document(f"{n}", metadata={"k": k, "n": n}, vector=rows[n]) for n, k in enumerate(keys)])
    made.refresh()
    return made


def _opened(plan: str) -> set[int]:
    """The partitions whose tables the plan touches, by id."""
    return {int(number) for number in re.findall(r"\bc\d+_p(\d+)\b", plan)}


@pytest.mark.parametrize(
    "options",
    [
        {"filter": {"k": "small3"}},
        {"filter": {"k": {"$in": ["small1", "small4"]}}},
        {"filter": {"k": None}},
        {"filter": {"k": {"$ne": "large"}}},
        {"filter": {"k": "small2", "n": {"$gt": 100}}},
        {"partitions": ["k=small5", "(rest)"]},
        {"nprobe": 2},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("exact", [False, True])
def test_only_the_routed_partitions_are_opened(
    collection: Collection, options: dict[str, object], exact: bool
) -> None:
    told = collection.explain(vector=topics(1, 16, seed=3)[0], exact=exact, **options)
    assert _opened(told.plan) == {p.id for p in told.route.partitions}


def test_a_large_partition_is_searched_by_its_graph(collection: Collection) -> None:
    large = collection.partitions.by_path("k=large")
    assert large is not None
    assert large.stats.indexed
    plan = collection.explain(vector=topics(1, 16, seed=3)[0], filter={"k": "large"}).plan
    assert f"_p{large.id}_hnsw" in plan
    assert "Seq Scan" not in plan


def test_small_partitions_have_no_graph_to_be_searched_by(collection: Collection) -> None:
    assert [p.path for p in collection.partitions if p.stats.indexed] == ["k=large"]
    assert "_hnsw" not in collection.explain(vector=topics(1, 16)[0], filter={"k": "small1"}).plan


@pytest.mark.parametrize("options", [{}, {"filter": {"k": "large"}}, {"partitions": ["k=large"]}], ids=str)
def test_an_exact_search_never_uses_a_graph(collection: Collection, options: dict[str, object]) -> None:
    plan = collection.explain(vector=topics(1, 16, seed=3)[0], exact=True, **options).plan
    assert "_hnsw" not in plan


async def test_a_stuck_search_ends_at_its_deadline(postgres_url: str) -> None:
    """Another session holds the table; the search gives up in time and the pool stays whole."""
    import psycopg

    async with AsyncSVRClient(postgres_url, settings=Settings(pool_max_connections=2)) as client:
        made = await client.create_collection("stuck", dimensions=4)
        await made.add([Document("a", vector=vector(1))])
        table = sql.Identifier("svr", f"c{made._ref.id}_space")
        async with await psycopg.AsyncConnection.connect(postgres_url) as holder:
            await holder.execute(sql.SQL("lock table {} in access exclusive mode").format(table))
            for _ in range(4):
                with anyio.fail_after(5), pytest.raises(errors.DeadlineExceeded):
                    await made.search(vector=vector(1), timeout_seconds=0.2)
            await holder.rollback()
        assert len(await made.search(vector=vector(1))) == 1
        await client.drop_collection("stuck")


def test_vectors_too_long_for_a_plain_index_are_indexed_in_half_precision(client: SVRClient) -> None:
    made = client.create_collection("half", dimensions=2100, index=hnsw(min_rows=100))
    rows = topics(200, 2100)
    made.add([Document(f"{n:03d}", vector=row) for n, row in enumerate(rows)])
    assert all(p.stats.indexed for p in made.partitions)
    for number in (3, 77, 150):
        hits = made.search(vector=rows[number], limit=3)
        assert hits[0].id == f"{number:03d}"
        assert hits[0].distance == pytest.approx(0.0, abs=1e-6)
        assert hits.ids == made.search(vector=rows[number], limit=3, exact=True).ids


def test_vectors_too_long_for_any_index_are_searched_exactly(client: SVRClient) -> None:
    made = client.create_collection("long", dimensions=4100, index=hnsw(min_rows=1))
    rows = topics(20, 4100)
    made.add([Document(f"{n:02d}", vector=row) for n, row in enumerate(rows)])
    assert not any(p.stats.indexed for p in made.partitions)
    assert made.search(vector=rows[7], limit=1).ids == ("07",)
