"""Vectors in a SQLite file, shared by processes."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from svr_retrievers.model import Vector
from svr_retrievers.providers.forking import begins_anew

T = TypeVar("T")
log = logging.getLogger("svr_retrievers.embedding")

_KEYS_A_QUERY = 500
_WAIT_SECONDS = 5.0
_PAGE_BYTES = 16_384
"""A row of 1,536 numbers takes 6 kB; in SQLite's own 4 kB pages half of the space would lie idle."""
_SCHEMA = """
create table if not exists vectors (key blob primary key, made real not null, numbers blob not null);
create index if not exists vectors_made on vectors (made);
"""


class DiskStore:
    """Keeps vectors for `ttl_seconds`, the newest `megabytes` of them. Errors of the file are logged, not raised."""

    def __init__(
        self, path: Path, *, ttl_seconds: float, megabytes: float, wall: Callable[[], float]
    ) -> None:
        self.path = path
        self._ttl = ttl_seconds
        self._most_bytes = megabytes * 2**20
        self._wall = wall
        self.begin_anew()
        begins_anew(self)
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()

    def begin_anew(self) -> None:
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        oldest = self._wall() - self._ttl

        def read(connection: sqlite3.Connection) -> dict[bytes, Vector]:
            found: dict[bytes, Vector] = {}
            for start in range(0, len(keys), _KEYS_A_QUERY):
                some = keys[start : start + _KEYS_A_QUERY]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"select key, numbers from vectors where key in ({marks}) and made > ?",  # noqa: S608
                    (*some, oldest),
                )
                found.update((key, np.frombuffer(numbers, dtype="<f4")) for key, numbers in rows)
            return found

        return self._try("read", read) or {}

    def put_many(self, vectors: Mapping[bytes, Vector]) -> None:
        now = self._wall()
        rows = [(key, now, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("insert or replace into vectors values (?, ?, ?)", rows)
                self._prune(connection, now)

        self._try("written", write)

    def _prune(self, connection: sqlite3.Connection, now: float) -> None:
        """Expired rows go, and then the oldest tenth until the rest fits."""
        connection.execute("delete from vectors where made <= ?", (now - self._ttl,))
        while _used_bytes(connection) > self._most_bytes:
            (count,) = connection.execute("select count(*) from vectors").fetchone()
            if not count:
                return
            connection.execute(
                "delete from vectors where key in (select key from vectors order by made limit ?)",
                (count // 10 + 1,),
            )

    def clear(self) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("delete from vectors")

        self._try("written", delete)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _try(self, done: str, work: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            try:
                return work(self._open())
            except (sqlite3.Error, OSError, ValueError) as error:
                log.warning("The embedding cache %s cannot be %s: %s.", self.path, done, error)
                return None

    def _open(self) -> sqlite3.Connection:
        """A connection must not cross a fork, so a child opens its own."""
        if self._connection is None or self._pid != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, check_same_thread=False)
            try:
                connection.execute(f"pragma page_size = {_PAGE_BYTES}")
                connection.execute("pragma journal_mode = wal")
                connection.execute("pragma synchronous = normal")
                connection.executescript(_SCHEMA)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def __del__(self) -> None:
        self.close()


def _used_bytes(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("pragma page_count").fetchone()
    (free,) = connection.execute("pragma freelist_count").fetchone()
    (size,) = connection.execute("pragma page_size").fetchone()
    return int((pages - free) * size)
