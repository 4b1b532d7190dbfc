"""Building indexes: several at once, reported as they go, with settings that end with the build."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

from svr_retrievers import Document, Settings, SVRClient, by_field, hnsw
from svr_retrievers.backends.postgres.writing import STRAIGHT_ROWS

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def _documents(rows: range, dimensions: int = 8) -> list[Document]:
    vectors = np.random.default_rng(rows.start).standard_normal((len(rows), dimensions))
    return [Document(str(n), metadata={"k": n % 5}, vector=v) for n, v in zip(rows, vectors, strict=True)]


@pytest.mark.parametrize("connections", [1, 3])
def test_indexes_are_built_with_progress(postgres_url: str, connections: int) -> None:
    told: list[tuple[int, int]] = []
    settings = Settings(build_connections=connections)
    with SVRClient(postgres_url, settings=settings) as client:
        name = f"builds {connections}"
        made = client.create_collection(
            name, dimensions=8, partition_by=by_field("k"), index=hnsw(min_rows=60)
        )
        made.add(_documents(range(500)))
        assert not any(p.stats.indexed for p in made.partitions)
        made.refresh(progress=lambda done, rows: told.append((done, rows)))
        assert all(p.stats.indexed and not p.stats.tail for p in made.partitions)
        assert [done for done, _ in told] == [100, 200, 300, 400, 500]
        assert {rows for _, rows in told} == {500}
        told.clear()
        made.add(_documents(range(500, 500 + 5 * STRAIGHT_ROWS)))
        made.refresh(progress=lambda done, rows: told.append((done, rows)))
        assert told[-1] == (5 * STRAIGHT_ROWS, 5 * STRAIGHT_ROWS)
        told.clear()
        made.refresh(progress=lambda done, rows: told.append((done, rows)))
        assert told == []
        client.drop_collection(name)


def test_a_build_leaves_no_setting_on_its_connection(postgres_url: str) -> None:
    names = ("maintenance_work_mem", "max_parallel_maintenance_workers")
    with SVRClient(postgres_url, settings=Settings(pool_max_connections=1)) as client:
        made = client.create_collection("build settings", dimensions=8, index=hnsw(min_rows=60))
        made.add(_documents(range(100)))
        made.refresh()
        backend = client.aio._backend
        pool = backend._pool  # type: ignore[union-attr]

        async def current() -> tuple[object, ...]:
            async with pool.connection() as conn:
                found = await conn.execute("select current_setting(%s), current_setting(%s)", names)
                return tuple(await found.fetchone())

        after = client._bridge.run(current)
        client.drop_collection("build settings")
    with psycopg.connect(postgres_url) as conn:
        fresh = conn.execute("select current_setting(%s), current_setting(%s)", names).fetchone()
    assert after == fresh


def test_a_batch_of_any_size_is_one_write(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are encoded some thousands at a time, and a key on both sides of a seam is no exception."""
    from svr_retrievers.backends.postgres import encoding

    monkeypatch.setattr(encoding, "BLOCK_ROWS", 7)
    with SVRClient(postgres_url) as client:
        made = client.create_collection("blocks", dimensions=8, partition_by=by_field("k"))
        assert {o.action for o in made.add(_documents(range(100)))} == {"inserted"}
        assert [o.action for o in made.add(_documents(range(50, 150)))].count("updated") == 50
        assert made.count() == 150
        made.add([])
        client.drop_collection("blocks")


def test_only_what_is_missing_is_built_and_the_map_says_so(postgres_url: str) -> None:
    rows = np.random.default_rng(3).standard_normal((400, 8)).astype(np.float32)
    with SVRClient(postgres_url) as client:
        docs = client.create_collection("missing", dimensions=8, index=hnsw(min_rows=300))
        docs.add([Document(str(i)) for i in range(400)], vectors=rows)
        assert not docs.partitions.leaves[0].stats.indexed
        told: list[tuple[int, int]] = []
        assert docs.build_indexes(progress=lambda done, total: told.append((done, total))) == 1
        assert told[-1] == (400, 400)
        assert docs.partitions.leaves[0].stats.indexed
        assert docs.build_indexes() == 0
