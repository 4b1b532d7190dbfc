"""Cases that once went wrong on a real server: each test's name is what holds now."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from svr_retrievers import AsyncSVRClient, Document, Settings, SVRClient, by_field, by_hash, hnsw
from svr_retrievers.backends.postgres.store import PostgresBackend
from svr_retrievers.errors import CollectionNotFound, ConfigError, UsageError


def test_a_failed_search_leaves_its_connection_usable(postgres_url: str) -> None:
    one_connection = Settings(pool_min_connections=1, pool_max_connections=1)
    with SVRClient(postgres_url) as other, SVRClient(postgres_url, settings=one_connection) as mine:
        for name in ("stays", "goes"):
            other.create_collection(name, dimensions=2).add([Document("1", vector=[1, 2])])
        stays, goes = mine.collection("stays"), mine.collection("goes")
        stays.count()
        other.drop_collection("goes")
        with pytest.raises(CollectionNotFound):
            goes.search(vector=[1, 2])
        for _ in range(8):
            assert stays.search(vector=[1, 2]).ids == ("1",)
            assert stays.count() == 1


def test_a_writer_that_dies_between_the_levels_of_a_scheme_breaks_nothing(
    svr_client: SVRClient, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = by_field("cat").then(by_hash(2))
    made = svr_client.create_collection("nested", dimensions=2, partition_by=nested)
    real = PostgresBackend.add_partitions

    class Died(Exception):
        pass

    async def dying(self: PostgresBackend, *args: object) -> object:
        await real(self, *args)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(PostgresBackend, "add_partitions", dying)
        with pytest.raises(Died):
            made.add([Document("1", metadata={"cat": "a"}, vector=[1, 2])])
    with SVRClient(postgres_url) as fresh:
        seen = fresh.collection("nested")
        assert len(seen.search(vector=[1, 2])) == 0
        seen.refresh()
        seen.add([Document("2", metadata={"cat": "b"}, vector=[1, 2])])
        assert len(seen.search(vector=[1, 2], filter={"cat": "a"})) == 0
        seen.add([Document("1", metadata={"cat": "a"}, vector=[1, 2])])
        assert seen.search(vector=[1, 2], filter={"cat": "a"}).ids == ("1",)


def test_a_collection_of_many_partitions_can_be_dropped(svr_client: SVRClient) -> None:
    made = svr_client.create_collection("many", dimensions=2, partition_by=by_hash(450))
    made.add([Document(str(i), vector=[1, i + 1]) for i in range(1500)])
    assert len(made.partitions) > 300
    svr_client.drop_collection("many")
    assert svr_client.list_collections() == []


def test_vectors_of_any_length_are_found_through_a_half_precision_index(svr_client: SVRClient) -> None:
    wide = np.random.default_rng(0).normal(size=(80, 2100)).astype(np.float32)
    tiny = np.vstack([wide[:40] * 1e-9, wide[40:]])
    made = svr_client.create_collection("tiny", dimensions=2100, index=hnsw(min_rows=50))
    made.add([Document(str(i)) for i in range(80)], vectors=tiny)
    made.refresh()
    assert all(p.stats.indexed for p in made.partitions)
    for scale in (1.0, 1e-9):
        assert made.search(vector=wide[0] * scale, limit=3).ids[0] == "0"


def test_large_l2_vectors_beyond_the_plain_index_are_searched_exactly(svr_client: SVRClient) -> None:
    wide = np.random.default_rng(0).normal(size=(60, 2100)).astype(np.float32) * 1e5
    made = svr_client.create_collection("large", dimensions=2100, metric="l2", index=hnsw(min_rows=50))
    made.add([Document(str(i)) for i in range(60)], vectors=wide)
    assert made.search(vector=wide[7], limit=3).ids[0] == "7"


def test_pickles_hold_no_password() -> None:
    url = "postgresql://bob:Tr0ub4dor@127.0.0.1:1/db"
    assert b"Tr0ub4dor" not in pickle.dumps(Settings.load(url=url))
    with pytest.raises(UsageError, match="pickled"):
        pickle.dumps(AsyncSVRClient(url))


def test_a_path_the_embedded_launcher_cannot_take_is_refused_before_it_is_made(tmp_path) -> None:
    with pytest.raises(ConfigError, match="spaces"):
        SVRClient(path=tmp_path / "a b")
    assert not (tmp_path / "a b").exists()


@pytest.mark.parametrize("namespace", ["default", "other"])
def test_rows_deleted_since_the_last_vacuum_do_not_make_an_answer_short(
    svr_client: SVRClient, namespace: str
) -> None:
    """A search that stops at its candidates finds nothing but dead rows here, and must go on."""
    angles = np.linspace(0, 1, 2_500)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    made = svr_client.create_collection("dead", dimensions=2, index=hnsw(min_rows=0))
    made.add([Document(f"{i:04}") for i in range(2_500)], vectors=vectors, namespace=namespace)
    made.refresh()
    assert made.search(vector=[1, 0], limit=3, ef_search=20, namespace=namespace).ids == (
        "0000",
        "0001",
        "0002",
    )
    made.delete([f"{i:04}" for i in range(60)], namespace=namespace)
    found = made.search(vector=[1, 0], limit=3, ef_search=20, namespace=namespace)
    assert found.ids == ("0060", "0061", "0062")
    assert found.incomplete is None


def test_one_namespace_among_others_is_searched_beyond_the_candidates(svr_client: SVRClient) -> None:
    angles = np.linspace(0, 1, 2_500)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    made = svr_client.create_collection("shared", dimensions=2, index=hnsw(min_rows=0))
    made.add([Document(f"{i:04}") for i in range(2_500)], vectors=vectors, namespace="many")
    made.add([Document("far", vector=[0, 1]), Document("farther", vector=[-1, 0.1])], namespace="few")
    made.refresh()
    assert made.search(vector=[1, 0], limit=2, ef_search=20, namespace="few").ids == ("far", "farther")
