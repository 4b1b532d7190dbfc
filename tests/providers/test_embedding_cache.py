"""The cache: what it keeps apart, how it forgets, and a file that many processes share."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers.embedding import EmbeddingCache, EmbeddingService
from svr_retrievers.embedding.cache import cache_key, frozen
from svr_retrievers.errors import InputError
from svr_retrievers.spaces import VectorSpace
from svr_retrievers.testing.clock import FakeTime

pytestmark = pytest.mark.providers
SPACE = VectorSpace("test", "lengths", 2)


class Lengths:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked += texts
        return [[float(len(text)), 1.0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def vectors(count: int, size: int = 256) -> dict[bytes, np.ndarray]:
    return {cache_key("s", "", str(n)): frozen(np.full(size, n, dtype=np.float32)) for n in range(count)}


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
def test_keys_are_equal_only_for_equal_parts(
    first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    assert (cache_key(*first) == cache_key(*second)) == (first == second)


def test_the_least_recently_used_goes_first_and_the_size_holds() -> None:
    cache = EmbeddingCache(megabytes=0.01)
    made = vectors(100)
    keys = list(made)
    for key in keys:
        cache.put_many({key: made[key]})
        cache.get_many(keys[:1])

    assert len(cache) == 8  # 10,485 bytes for entries of 1,224
    assert set(cache.get_many(keys)) == {keys[0], *keys[-7:]}


def test_a_vector_larger_than_the_cache_is_left_out() -> None:
    cache = EmbeddingCache(megabytes=0.001)
    cache.put_many(vectors(1, 4096))

    assert len(cache) == 0


def test_everything_goes_after_its_time() -> None:
    time = FakeTime()
    cache = EmbeddingCache(ttl_seconds=60, timing=time.timing)
    made = vectors(3)
    cache.put_many(made)
    time.now += 59
    assert len(cache.get_many(list(made))) == 3
    time.now += 2

    assert cache.get_many(list(made)) == {}


def test_a_file_outlives_the_process_s_memory(tmp_path: Path) -> None:
    path = tmp_path / "new" / "vectors.db"
    first, second = Lengths(), Lengths()
    with EmbeddingService(first, space=SPACE, cache=EmbeddingCache(path=path)) as service:
        service.embed_documents(["a", "bb"])
    with EmbeddingService(second, space=SPACE, cache=EmbeddingCache(path=path)) as service:
        made = service.embed_documents(["bb", "ccc", "a"])

    assert [row.tolist() for row in made] == [[2, 1], [3, 1], [1, 1]]
    assert second.asked == ["ccc"]


def test_a_file_holds_no_text(tmp_path: Path) -> None:
    path = tmp_path / "vectors.db"
    with EmbeddingService(Lengths(), space=SPACE, cache=EmbeddingCache(path=path)) as service:
        service.embed_documents(["a secret sentence"])

    for file in tmp_path.iterdir():
        assert b"secret" not in file.read_bytes()


def test_a_file_keeps_spaces_apart(tmp_path: Path) -> None:
    made = []
    for version in ("1", "2"):
        embedder = Lengths()
        space = VectorSpace("test", "lengths", 2, version=version)
        cache = EmbeddingCache(path=tmp_path / "vectors.db")
        with EmbeddingService(embedder, space=space, cache=cache) as service:
            service.embed_documents(["a"])
        made.append(embedder.asked)

    assert made == [["a"], ["a"]]


def test_what_the_file_holds_grows_old_and_is_bounded(tmp_path: Path) -> None:
    time = FakeTime()
    cache = EmbeddingCache(
        megabytes=0.001, path=tmp_path / "vectors.db", ttl_seconds=60, disk_megabytes=0.3, timing=time.timing
    )
    made = vectors(600)
    keys = list(made)
    for start in range(0, 600, 50):
        cache.put_many({key: made[key] for key in keys[start : start + 50]})
        time.now += 1
    kept = cache.get_many(keys)
    assert 100 < len(kept) < 300
    assert keys[-1] in kept
    assert keys[0] not in kept
    time.now += 120

    assert cache.get_many(keys) == {}
    cache.close()


def _fill(path: Path, start: int) -> None:
    cache = EmbeddingCache(path=path)
    made = vectors(200)
    for key in list(made)[start : start + 50]:
        cache.put_many({key: made[key]})
    cache.close()


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.db"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(path, start)) for start in (0, 50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cache = EmbeddingCache(path=path)
    made = vectors(200)
    found = cache.get_many(list(made))
    cache.close()

    assert [worker.exitcode for worker in workers] == [0, 0]
    assert set(found) == set(list(made)[:100])
    for key, vector in found.items():
        np.testing.assert_array_equal(vector, made[key])


def test_a_broken_file_costs_a_warning_and_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "vectors.db"
    path.write_bytes(b"this is no database, and long enough to be taken for one by nobody" * 100)
    service = EmbeddingService(Lengths(), space=SPACE, cache=EmbeddingCache(path=path))
    with caplog.at_level(logging.WARNING, logger="svr_retrievers.embedding"):
        made = service.embed_documents(["a"])
        service.embed_documents(["a"])
    service.close()

    assert made[0].tolist() == [1, 1]
    assert "cannot be read" in caplog.text
    assert "cannot be written" in caplog.text


def test_numbers_that_were_cut_short_are_not_taken_for_a_vector(tmp_path: Path) -> None:
    path = tmp_path / "vectors.db"
    embedder = Lengths()
    with EmbeddingService(embedder, space=SPACE, cache=EmbeddingCache(path=path)) as service:
        service.embed_documents(["a"])
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("update vectors set numbers = x'000000'")
    connection.close()
    with EmbeddingService(embedder, space=SPACE, cache=EmbeddingCache(path=path)) as service:
        assert service.embed_documents(["a"])[0].tolist() == [1, 1]

    assert embedder.asked == ["a", "a"]


def test_clearing_forgets_memory_and_file(tmp_path: Path) -> None:
    cache = EmbeddingCache(path=tmp_path / "vectors.db")
    made = vectors(5)
    cache.put_many(made)
    cache.clear()

    assert cache.get_many(list(made)) == {}
    cache.close()


def test_a_file_needs_a_space() -> None:
    with pytest.raises(InputError, match="space"):
        EmbeddingService(Lengths(), cache=EmbeddingCache(path="unused.db"))
    assert not Path("unused.db").exists()


@pytest.mark.parametrize("wrong", [{"megabytes": 0}, {"ttl_seconds": -1}, {"disk_megabytes": 0},
                                   {"megabytes": "1"}, {"ttl_seconds": None}, {"path": 5}, {"path": b"x"}])  # fmt: skip
def test_sizes_times_and_paths_that_cannot_be_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        EmbeddingCache(**wrong)


def test_a_pickled_cache_has_the_settings_and_no_vectors(tmp_path: Path) -> None:
    cache = EmbeddingCache(megabytes=3, ttl_seconds=5, path=tmp_path / "vectors.db")
    cache.put_many(vectors(2))
    again = pickle.loads(pickle.dumps(cache))

    assert (again.megabytes, again.ttl_seconds, again.disk.path) == (3, 5, tmp_path / "vectors.db")
    assert len(again) == 0
    assert repr(cache) == "EmbeddingCache(2 vectors in memory, at most 3 MB, 'vectors.db')"
    cache.close()
    again.close()
