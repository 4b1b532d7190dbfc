"""Fresh rows of an indexed partition: written beside the index, found at once, folded in without a loss."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest
from psycopg import sql

from svr_retrievers import Collection, Document, SVRClient, by_field, hnsw
from svr_retrievers.backends.postgres import folding
from svr_retrievers.backends.postgres.writing import STRAIGHT_ROWS
from svr_retrievers.model import PartitionStats

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
LEAST = 60
"""Rows from which on the partitions of these tests are indexed."""


def _vector(number: int) -> list[float]:
    made = np.random.default_rng(number).standard_normal(8)
    return [float(x) for x in made]


def _documents(numbers: range, key: str = "a", version: int = 0) -> list[Document]:
    return [
        Document(str(n), text=f"{n}.{version}", metadata={"k": key}, vector=_vector(n + 1_000_000 * version))
        for n in numbers
    ]


@pytest.fixture(scope="module")
def client(postgres_url: str) -> Iterator[SVRClient]:
    with SVRClient(postgres_url) as client:
        yield client


@pytest.fixture
def collection(client: SVRClient, request: pytest.FixtureRequest) -> Iterator[Collection]:
    """Two partitions of 200 rows each, both indexed, their tails closed."""
    made = client.create_collection(
        f"tails {request.node.name}",
        dimensions=8,
        partition_by=by_field("k"),
        filter_fields={"k": str},
        index=hnsw(min_rows=LEAST),
    )
    made.add(_documents(range(200)))
    made.add(_documents(range(200, 400), "b"))
    made.refresh()
    yield made
    client.drop_collection(made.name)


def _stats(collection: Collection, key: str = "a") -> PartitionStats:
    found = collection.partitions.by_path(f"k={key}")
    assert found is not None
    return found.stats


def _parts(url: str, collection: Collection) -> list[tuple[str, int]]:
    """Every vector's id and where it stands: negative in a tail."""
    with psycopg.connect(url) as conn:
        row = conn.execute("select id from svr.collections where name = %s", (collection.name,)).fetchone()
        assert row is not None
        space = sql.Identifier("svr", f"c{row[0]}_space")
        return [(str(i), int(p)) for i, p in conn.execute(sql.SQL("select id, part from {}").format(space))]


def _valid_indexes(url: str, collection: Collection) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute(
            "select count(*) from pg_index i join pg_class c on c.oid = i.indexrelid, svr.collections s"
            " where s.name = %s and c.relname ~ ('^c' || s.id || '_p[0-9]+_hnsw$') and i.indisvalid",
            (collection.name,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def _found_once(url: str, collection: Collection, expected: dict[str, str]) -> None:
    """Each document is stored once, found by its own vector with its newest text, and nothing else is."""
    places = [doc_id for doc_id, _ in _parts(url, collection)]
    assert sorted(places) == sorted(expected)
    assert collection.count() == len(expected)
    everything = collection.search(vector=_vector(0), limit=1000, exact=True)
    assert {hit.id: hit.text for hit in everything} == expected
    assert len(everything) == len(expected)


def test_many_fresh_rows_go_to_the_tail_and_are_found_at_once(
    collection: Collection, postgres_url: str
) -> None:
    assert not _stats(collection).tail
    collection.add(_documents(range(400, 450)))
    fresh = [part for doc_id, part in _parts(postgres_url, collection) if int(doc_id) >= 400]
    assert len(fresh) == 50
    assert max(fresh) < 0
    stats = _stats(collection)
    assert (stats.tail, stats.tail_rows, stats.rows, stats.indexed) == (True, 50, 250, True)
    for number in (400, 449):
        hit = collection.search(vector=_vector(number), limit=1)[0]
        assert (hit.id, hit.partition) == (str(number), "k=a")
    assert not _stats(collection, "b").tail


def test_a_trickle_goes_straight_into_the_index(collection: Collection, postgres_url: str) -> None:
    collection.add(_documents(range(400, 400 + STRAIGHT_ROWS)))
    assert min(part for _, part in _parts(postgres_url, collection)) > 0
    assert not _stats(collection).tail
    assert collection.search(vector=_vector(405), limit=1).ids == ("405",)


def test_refresh_folds_and_closes_tails(collection: Collection, postgres_url: str) -> None:
    collection.add(_documents(range(400, 430)))
    collection.refresh()
    assert min(part for _, part in _parts(postgres_url, collection)) > 0
    stats = _stats(collection)
    assert (stats.tail, stats.tail_rows, stats.rows, stats.indexed) == (False, 0, 230, True)
    assert collection.search(vector=_vector(1), filter={"k": "a"}, limit=5).ids
    assert _valid_indexes(postgres_url, collection) == 2
    assert collection.search(vector=_vector(429), limit=1).ids == ("429",)


def test_a_long_tail_gets_a_new_index(collection: Collection, postgres_url: str) -> None:
    collection.add(_documents(range(400, 550)))
    collection.refresh()
    stats = _stats(collection)
    assert (stats.tail, stats.rows, stats.indexed) == (False, 350, True)
    assert collection.search(vector=_vector(1), filter={"k": "a"}, limit=5).ids
    assert _valid_indexes(postgres_url, collection) == 2
    _found_once(postgres_url, collection, {str(n): f"{n}.0" for n in range(550)})


def test_a_write_folds_the_tail_that_it_makes_too_long(collection: Collection) -> None:
    collection.add(_documents(range(400, 400 + 4 * LEAST)))
    stats = _stats(collection)
    assert (stats.tail, stats.rows, stats.indexed) == (False, 200 + 4 * LEAST, True)


def test_replaced_and_deleted_rows_are_gone_wherever_they_were(
    collection: Collection, postgres_url: str
) -> None:
    expected = {str(n): f"{n}.0" for n in range(400)}
    steps = [
        _documents(range(400, 440)),  # new, to the tail
        _documents(range(30), version=1),  # from the graph to the tail
        _documents(range(420, 460), version=1),  # within the tail, and new
        _documents(range(410, 415), "b", version=1),  # from the tail of one to the graph of the other
        _documents(range(200, 240), "a", version=2),  # from the graph of the other to the tail
    ]
    for step in steps:
        collection.add(step)
        expected |= {d.id: d.text for d in step}
        _found_once(postgres_url, collection, expected)
    gone = [str(n) for n in (0, 5, 100, 205, 300, 412, 430, 455)]
    assert collection.delete(gone) == len(gone)
    expected = {i: text for i, text in expected.items() if i not in gone}
    _found_once(postgres_url, collection, expected)
    tails = [p for _, p in _parts(postgres_url, collection) if p < 0]
    with SVRClient(postgres_url) as other:
        waiting = sum(p.stats.tail_rows for p in other.collection(collection.name).partitions)
    assert waiting == len(tails) > 0
    assert [d.id for d in collection.find(ids=["29"], with_vectors=True) if d.vector is not None] == ["29"]
    collection.refresh()
    _found_once(postgres_url, collection, expected)


def test_unchanged_vectors_stay_in_the_index(collection: Collection, postgres_url: str) -> None:
    collection.add(_documents(range(400, 440)))
    before = dict(_parts(postgres_url, collection))
    again = [
        Document(d.id, text="new text", metadata=d.metadata, vector=d.vector) for d in _documents(range(50))
    ]
    assert {o.action for o in collection.add(again)} == {"updated"}
    assert dict(_parts(postgres_url, collection)) == before
    assert [d.text for d in collection.get(["7"])] == ["new text"]
    assert _stats(collection).tail_rows == 40


def test_the_last_row_of_a_tail_closes_it(collection: Collection) -> None:
    collection.add(_documents(range(400, 430)))
    collection.delete([str(n) for n in range(400, 430)])
    assert _stats(collection).tail
    collection.refresh()
    assert not _stats(collection).tail


@pytest.mark.parametrize("seed", range(4))
def test_any_history_of_many_writers_leaves_each_document_once(
    collection: Collection, postgres_url: str, seed: int
) -> None:
    """Four writers with ids of their own and one that folds all the time, each in a thread."""

    def write(worker: int) -> dict[str, str]:
        rng = random.Random(100 * seed + worker)
        mine = {str(n): f"{n}.0" for n in range(400) if n % 4 == worker}
        for version in range(1, 9):
            chosen = rng.sample(range(500), rng.choice([3, 30, 60]))
            batch = [
                Document(
                    str(n),
                    text=f"{n}.{version}",
                    metadata={"k": rng.choice("ab")},
                    vector=_vector(n + 1000 * version),
                )
                for n in chosen
                if n % 4 == worker
            ]
            collection.add(batch)
            mine |= {d.id: d.text for d in batch}
            gone = rng.sample(sorted(mine), 3)
            assert collection.delete(gone) == 3
            for doc_id in gone:
                del mine[doc_id]
        return mine

    with ThreadPoolExecutor(5) as pool:
        writers = [pool.submit(write, worker) for worker in range(4)]
        while not all(writer.done() for writer in writers):
            collection.refresh()
    expected: dict[str, str] = {}
    for writer in writers:
        expected |= writer.result()
    _found_once(postgres_url, collection, expected)
    collection.refresh()
    _found_once(postgres_url, collection, expected)
    assert not any(p.stats.tail for p in collection.partitions)


def test_a_key_that_many_write_at_once_is_there_once(collection: Collection, postgres_url: str) -> None:
    def write(version: int) -> None:
        collection.add(_documents(range(400, 440), "ab"[version % 2], version))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(12)))
    ids = [doc_id for doc_id, _ in _parts(postgres_url, collection)]
    assert len(ids) == len(set(ids)) == 440
    assert collection.count() == 440
    found = collection.search(vector=_vector(0), limit=1000, exact=True)
    assert sorted(found.ids) == sorted(ids)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("rebuild", [False, True], ids=["into the index", "with a new index"])
@pytest.mark.parametrize("step", range(6))
def test_a_fold_killed_at_any_step_loses_nothing(
    collection: Collection, postgres_url: str, step: int, rebuild: bool
) -> None:
    """The process is killed before its nth transaction; what it left behind is whole, and can be folded."""
    fresh = 100 if rebuild else 40
    collection.add(_documents(range(400, 400 + fresh)))
    expected = {str(n): f"{n}.0" for n in range(400 + fresh)}
    body = (
        "import os, signal, sys\n"
        "from svr_retrievers import SVRClient\n"
        "from svr_retrievers.backends.postgres import folding\n"
        "import psycopg\n"
        "folding.INTO_INDEX_ROWS = folding.INTO_TABLE_ROWS = 10\n"
        "left = int(sys.argv[3])\n"
        "original = psycopg.AsyncConnection.transaction\n"
        "def counted(self, *a, **k):\n"
        "    global left\n"
        "    if armed and left == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left -= armed\n"
        "    return original(self, *a, **k)\n"
        "armed = False\n"
        "psycopg.AsyncConnection.transaction = counted\n"
        "with SVRClient(sys.argv[1]) as client:\n"
        "    found = client.collection(sys.argv[2])\n"
        "    armed = True\n"
        "    found.refresh()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", body, postgres_url, collection.name, str(step + 1)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    _found_once(postgres_url, collection, expected)
    collection.add(_documents(range(30), version=1))
    expected |= {str(n): f"{n}.1" for n in range(30)}
    _found_once(postgres_url, collection, expected)
    collection.refresh()
    _found_once(postgres_url, collection, expected)
    assert all(not p.stats.tail for p in collection.partitions)
    assert all(p.stats.indexed for p in collection.partitions if p.stats.rows >= LEAST)


def test_what_is_folded_in_small_steps_is_the_same(
    collection: Collection, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "INTO_INDEX_ROWS", 7)
    collection.add(_documents(range(400, 440)))
    collection.refresh()
    _found_once(postgres_url, collection, {str(n): f"{n}.0" for n in range(440)})
    assert not _stats(collection).tail


def test_the_write_reads_no_partition_as_a_whole(collection: Collection, postgres_url: str) -> None:
    """Each key is looked up in one partition and its tail: a scan of all would grow with the collection."""
    from svr_retrievers.backends.postgres import changes
    from svr_retrievers.backends.postgres.tables import Tables
    from svr_retrievers.backends.protocol import CollectionConfig, CollectionRef

    with psycopg.connect(postgres_url) as conn:
        row = conn.execute("select id from svr.collections where name = %s", (collection.name,)).fetchone()
        assert row is not None
        tables = Tables("svr", CollectionRef(row[0], CollectionConfig("x", 8)))
        parts = [p.id for p in collection.partitions]
        conn.execute(changes.SETTINGS)
        keys = ([f"{n}" for n in range(20)], parts[:1] * 20)
        plan = conn.execute(
            sql.SQL("explain (analyze, costs off) ") + changes.delete_vectors(tables),
            (["default"] * 20, *keys, [*parts, *(-p for p in parts)]),
        ).fetchall()
        conn.rollback()
    text = "\n".join(str(line[0]) for line in plan)
    assert "Seq Scan" not in text
    assert "never executed" in text


def test_a_fold_looks_each_key_up(
    collection: Collection, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the server believes of tables that have just grown: once it scanned all documents for each key."""
    monkeypatch.setattr(folding, "INTO_INDEX_ROWS", 10)
    asked: list[str] = []
    original = psycopg.AsyncConnection.execute

    async def listened(
        self: psycopg.AsyncConnection, query: object, *args: object, **kwargs: object
    ) -> object:
        text = query if isinstance(query, str) else getattr(query, "as_string", lambda _: "")(None)
        if "for no key update of d" in text or "with moved as" in text:
            settings = await original(self, "select current_setting('enable_seqscan')")
            asked.append(str((await settings.fetchone() or ("",))[0]))
        return await original(self, query, *args, **kwargs)  # type: ignore[arg-type]

    collection.add(_documents(range(400, 440)))
    monkeypatch.setattr(psycopg.AsyncConnection, "execute", listened)
    assert collection.build_indexes() == 1
    assert asked == ["off"] * 8
    assert not _stats(collection).tail
