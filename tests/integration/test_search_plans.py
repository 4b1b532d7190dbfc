"""The plans of the statements that searches really send: which index, which partitions, which columns."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from svr_retrievers import Collection, Document, Settings, SVRClient, by_field, hnsw
from svr_retrievers.testing.data import topics

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
ROWS = topics(3_000, 16)


@pytest.fixture(scope="module")
def client(postgres_url: str) -> Iterator[SVRClient]:
    with SVRClient(postgres_url, settings=Settings(pool_max_connections=2)) as client:
        yield client


@pytest.fixture(scope="module")
def large(client: SVRClient) -> Collection:
    made = client.create_collection("large", dimensions=16, index=hnsw(min_rows=500))
    made.add([Document(f"{n}", "text", vector=row) for n, row in enumerate(ROWS)])
    made.refresh()
    return made


def _tables(plan: str) -> set[str]:
    return set(re.findall(r" on (c\d+_[pt]\d+)\b", plan))


def test_a_single_partition_is_searched_by_its_graph_under_a_generic_plan(
    client: SVRClient, large: Collection
) -> None:
    assert "_hnsw" in large.explain(vector=ROWS[0]).plan
    for number in range(12):
        assert len(large.search(vector=ROWS[number])) == 10
    pool = client._async._backend._asker._threads
    with pool.connection() as conn:
        plans = conn.execute(
            "select statement, generic_plans, custom_plans from pg_prepared_statements where statement like '%<=>%'"
        ).fetchall()
        assert any(generic > 0 for _, generic, _ in plans)
        scans = "select sum(idx_scan) from pg_stat_user_indexes where indexrelname like '%\\_hnsw'"
        conn.execute("select pg_stat_force_next_flush()")
        (before,) = conn.execute(scans).fetchone()
    for number in range(5):
        large.search(vector=ROWS[number])
    with pool.connection() as conn:
        conn.execute("select pg_stat_force_next_flush()")
        assert conn.execute(scans).fetchone()[0] >= before + 5


def test_an_exact_search_looks_at_every_row(large: Collection) -> None:
    assert "_hnsw" not in large.explain(vector=ROWS[0], exact=True).plan


def test_only_the_probed_partitions_are_in_the_plan(client: SVRClient) -> None:
    made = client.create_collection("sixty-four", dimensions=16, partition_by=by_field("k"))
    made.add([Document(f"{n}", metadata={"k": n % 64}, vector=ROWS[n]) for n in range(640)])
    told = made.explain(vector=ROWS[0], partitions=["k=3", "k=9"])
    numbers = {made.partitions.by_path(path).id for path in ("k=3", "k=9")}
    assert {int(t.rpartition("_p")[2]) for t in _tables(told.plan)} == numbers
    assert "Append" in told.plan


def test_a_tail_that_may_hold_rows_is_in_the_plan_and_only_then(client: SVRClient) -> None:
    made = client.create_collection("tailed", dimensions=16, index=hnsw(min_rows=500))
    made.add([Document(f"{n}", vector=ROWS[n]) for n in range(1_000)])
    made.refresh()
    assert not any("_t" in t for t in _tables(made.explain(vector=ROWS[0]).plan))
    made.add([Document(f"new {n}", vector=ROWS[1_000 + n]) for n in range(100)])
    assert any("_t" in t for t in _tables(made.explain(vector=ROWS[0]).plan))
    assert made.search(vector=ROWS[1_050], limit=1).ids == ("new 50",)


@pytest.mark.parametrize("with_vectors", [False, True])
def test_vectors_are_fetched_only_when_asked_for(large: Collection, with_vectors: bool) -> None:
    hits = large.search(vector=ROWS[0], with_vectors=with_vectors)
    assert all((hit.vector is not None) == with_vectors for hit in hits)
    sent = [text for form, text in _texts(large).items() if form.with_vectors == with_vectors]
    assert sent
    assert all((b"k.embedding" in text) == with_vectors for text in sent)


def _texts(collection: Collection) -> dict[object, bytes]:
    inner = collection._async
    return inner._backend.tables(inner._ref).texts


def test_a_plan_does_not_grow_with_the_number_of_partitions(client: SVRClient) -> None:
    made = client.create_collection("thousand", dimensions=16, partition_by=by_field("k"))
    sizes = []
    for first, last in ((0, 50), (50, 1_050)):
        made.add([Document(f"{n}", metadata={"k": n}, vector=ROWS[n]) for n in range(first, last)])
        plan = made.explain(vector=ROWS[0], partitions=["k=3", "k=9"]).plan
        sizes.append((len(plan.splitlines()), len(_tables(plan))))
    assert len(made.partitions) > 1_000
    assert sizes[0] == sizes[1]
    assert sizes[0][1] == 2
