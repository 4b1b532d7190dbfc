"""Vectors kept by what they are of: in memory for this process, and on disk for all that share the file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from svr_retrievers.embedding.disk import DiskStore
from svr_retrievers.errors import InputError, MissingExtra
from svr_retrievers.model import Vector
from svr_retrievers.providers.arguments import check_number
from svr_retrievers.providers.forking import begins_anew
from svr_retrievers.providers.timing import REAL, Timing

try:
    from cachetools import TTLCache
except ImportError as missing:
    raise MissingExtra(
        "Caching embeddings needs the package `cachetools`, which is not installed.",
        hint='Run: pip install "svr-retrievers[providers]"',
    ) from missing

_OVERHEAD_BYTES = 200
"""What an entry takes beside its numbers: key, array header, links."""


class EmbeddingCache:
    """Least recently used vectors go first, and each goes after `ttl_seconds`. Safe from every thread.

    `path` names a SQLite file that keeps them beyond the process; any number of processes may share it. It holds
    hashes and vectors, no texts. A file that cannot be read or written costs a warning in the log, never an answer.
    """

    def __init__(
        self,
        *,
        megabytes: float = 64,
        ttl_seconds: float = 86_400,
        path: str | Path | None = None,
        disk_megabytes: float = 1024,
        timing: Timing = REAL,
    ) -> None:
        numbers = {"megabytes": megabytes, "ttl_seconds": ttl_seconds, "disk_megabytes": disk_megabytes}
        for name, value in numbers.items():
            check_number(name, value)
        if path is not None and not isinstance(path, str | Path):
            raise InputError(f"path must be the path of a file, not {path!r:.60}.")
        self.megabytes = megabytes
        self.ttl_seconds = ttl_seconds
        self._disk_megabytes = disk_megabytes
        self.begin_anew()
        begins_anew(self)
        self._memory: TTLCache[bytes, Vector] = TTLCache(
            megabytes * 2**20, ttl_seconds, timer=timing.clock, getsizeof=_size
        )
        self.disk = (
            None
            if path is None
            else DiskStore(Path(path), ttl_seconds=ttl_seconds, megabytes=disk_megabytes, wall=timing.wall)
        )

    def begin_anew(self) -> None:
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Those of the keys that are there. The arrays are read-only."""
        found = self.in_memory(keys)
        missing = [key for key in keys if key not in found]
        if self.disk is not None and missing:
            stored = self.disk.get_many(missing)
            self._remember(stored)
            found |= stored
        return found

    def in_memory(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """As `get_many`, without a look at the disk."""
        with self._lock:
            pairs = ((key, self._memory.get(key)) for key in keys)
            return {key: vector for key, vector in pairs if vector is not None}

    def put_many(self, vectors: Mapping[bytes, Vector]) -> None:
        self._remember(vectors)
        if self.disk is not None:
            self.disk.put_many(vectors)

    def _remember(self, vectors: Mapping[bytes, Vector]) -> None:
        with self._lock:
            for key, vector in vectors.items():
                if _size(vector) <= self._memory.maxsize:
                    self._memory[key] = vector

    def clear(self) -> None:
        """Forgets everything, on disk too."""
        with self._lock:
            self._memory.clear()
        if self.disk is not None:
            self.disk.clear()

    def close(self) -> None:
        """Closes the file; it is opened again when it is needed."""
        if self.disk is not None:
            self.disk.close()

    def __reduce__(self) -> tuple[Callable[[], EmbeddingCache], tuple[()]]:
        """A pickle holds the settings and the file's path, no vectors."""
        made = partial(
            EmbeddingCache,
            megabytes=self.megabytes,
            ttl_seconds=self.ttl_seconds,
            path=self.disk.path if self.disk is not None else None,
            disk_megabytes=self._disk_megabytes,
        )
        return made, ()

    def __len__(self) -> int:
        with self._lock:
            return len(self._memory)

    def __repr__(self) -> str:
        disk = f", {self.disk.path.name!r}" if self.disk is not None else ""
        return f"EmbeddingCache({len(self):,} vectors in memory, at most {self.megabytes:g} MB{disk})"


def cache_key(space: str, inputs: str, text: str) -> bytes:
    """32 bytes that stand for a text in a space, embedded as one kind of input."""
    digest = hashlib.sha256()
    for part in (space, inputs, text):
        body = part.encode()
        digest.update(len(body).to_bytes(8, "big") + body)
    return digest.digest()


def frozen(vector: Vector) -> Vector:
    """A copy that nobody can change: one array serves many callers."""
    kept: Vector = np.array(vector, dtype=np.float32)
    kept.setflags(write=False)
    return kept


def _size(vector: Vector) -> int:
    return int(vector.nbytes) + _OVERHEAD_BYTES
