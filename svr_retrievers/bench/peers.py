"""Other systems, each in a process of its own Python: installed, asked and timed apart from this one."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np

from svr_retrievers.bench.data import Corpus
from svr_retrievers.bench.timing import Ask, Asked
from svr_retrievers.model import JsonValue

WORKER = Path(__file__).parent / "peer_side" / "worker.py"
PACKAGES = {
    "langchain-postgres": "langchain-postgres",
    "llama-index": "llama-index-vector-stores-postgres",
    "lancedb": "lancedb",
    "chroma": "chromadb",
    "milvus-lite": "pymilvus milvus-lite",
    "qdrant-local": "qdrant-client",
    "hnswlib": "hnswlib",
    "usearch": "usearch",
    "faiss-hnsw": "faiss-cpu",
    "faiss-ivf": "faiss-cpu",
}
"""The peers by the name they are shown under, and what has to be installed for each."""
FILTERED = "r100"
SECONDS = {"open": 1_200.0, "ask": 120.0}
"""How long a peer may take, here and for anything else 300 seconds: one that hangs must not hold up the run."""


class PeerUnavailable(Exception):
    """A peer cannot be measured here; the text says why and what to do."""


class Peer:
    """One system behind a pipe. Its process times each call itself, so the pipe costs it nothing."""

    def __init__(self, name: str, python: str, folder: Path) -> None:
        self.name = name
        self.opened_in = 0.0
        """Seconds that filling it and building its index took."""
        command = [python, "-W", "ignore", str(WORKER), name, str(folder)]
        self.log = folder / f"{name}.log"
        with self.log.open("w", encoding="utf-8") as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - the interpreter the user named
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
            except OSError as error:
                raise PeerUnavailable(f"{python} cannot be started: {error}") from error

    def call(self, do: str, **given: JsonValue) -> Mapping[str, JsonValue]:
        """Raises PeerUnavailable when the peer failed, took too long, or its process ended."""
        seconds = SECONDS.get(do, 300.0)
        expired = threading.Event()
        late = threading.Timer(seconds, self._stop, [expired])
        late.start()
        try:
            line = self._exchanged(json.dumps({"do": do, **given}) + "\n")
        finally:
            late.cancel()
        if not line:
            if expired.is_set():
                raise PeerUnavailable(f"it did not answer within {seconds:g} seconds")
            raise PeerUnavailable(f"its process ended: {self._last_words()}")
        answer = cast("dict[str, JsonValue]", json.loads(line))
        if "error" in answer:
            raise PeerUnavailable(str(answer["error"]))
        return answer

    def _exchanged(self, request: str) -> str:
        """The line that answers this one; empty when the process is gone."""
        pipe = self._process
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        try:
            pipe.stdin.write(request)
            pipe.stdin.flush()
            return pipe.stdout.readline()
        except OSError:
            return ""

    def ask(self, query: int, *, filtered: bool = False) -> Asked:
        answer = self.call("ask", query=query, filtered=filtered)
        return Asked(cast("list[int]", answer["ids"]), float(cast("float", answer["ms"])))

    def asker(self, *, filtered: bool = False) -> Ask:
        return lambda query: self.ask(query, filtered=filtered)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _stop(self, expired: threading.Event) -> None:
        expired.set()
        self._process.kill()

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@contextmanager
def peer(name: str, python: str, folder: Path, **opening: JsonValue) -> Iterator[Peer]:
    """The peer, opened with these settings; its process ends with the block.

    Raises:
        PeerUnavailable: it is not installed for this Python, or cannot be opened.
    """
    made = Peer(name, python, folder)
    try:
        try:
            told = made.call("open", **opening)
            made.opened_in = float(cast("float", told["ms"])) / 1e3
        except PeerUnavailable as error:
            if "No module named" not in str(error):
                raise
            raise PeerUnavailable(
                f"{PACKAGES[name]} is not installed for {python}: pip install {PACKAGES[name]}, or name a Python"
                " that has it with --peers-python ('make bench' does both)"
            ) from None
        yield made
    finally:
        made.close()


def write_data(folder: Path, corpus: Corpus, rows: int) -> None:
    """What a peer's process reads: vectors, texts, metadata and queries, as plain files."""
    part = corpus.rows.part(0, rows)
    np.save(folder / "vectors.npy", part.vectors)
    np.save(folder / "queries.npy", corpus.queries.vectors)
    np.save(folder / "asked_for.npy", corpus.queries.fields[FILTERED])
    with (folder / "documents.jsonl").open("w", encoding="utf-8") as lines:
        for i in range(len(part)):
            lines.write(json.dumps({"text": part.text(i), "metadata": part.metadata(i)}) + "\n")
