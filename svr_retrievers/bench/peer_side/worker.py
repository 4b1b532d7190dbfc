"""Runs one peer and times its calls: reads one JSON object a line (open, tune, ask, add), answers with one each."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

PEERS = {
    "langchain-postgres": ("postgres_stores", "LangChainPostgres"),
    "llama-index": ("postgres_stores", "LlamaIndexPostgres"),
    "lancedb": ("file_stores", "LanceDB"),
    "chroma": ("file_stores", "Chroma"),
    "milvus-lite": ("file_stores", "MilvusLite"),
    "qdrant-local": ("file_stores", "QdrantLocal"),
    "hnswlib": ("engines", "Hnswlib"),
    "usearch": ("engines", "Usearch"),
    "faiss-hnsw": ("engines", "FaissGraph"),
    "faiss-ivf": ("engines", "FaissLists"),
}
"""Each peer's module beside this file, and its class."""


class Data:
    """The corpus as the run wrote it."""

    limit = 10

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.queries = np.load(folder / "queries.npy")
        self.asked_for = np.load(folder / "asked_for.npy")
        with (folder / "documents.jsonl").open(encoding="utf-8") as lines:
            self.documents = [json.loads(line) for line in lines]
        self.filtered = [document["metadata"]["r100"] for document in self.documents]
        self.lists = [[float(x) for x in row] for row in self.queries]

    def filter_value(self, query: int) -> int:
        return int(self.asked_for[query])

    def embedded(self, start: int, stop: int) -> list[list[float]]:
        return [[float(x) for x in row] for row in self.vectors[start:stop]]


def answer(peer: Any, request: dict[str, Any]) -> dict[str, Any]:
    do = request.pop("do")
    if do == "ask":
        ids, took = peer.ask(request["query"], request["filtered"])
        return {"ids": ids, "ms": took}
    if do == "add":
        return {"ms": peer.add(request["start"], request["stop"])}
    began = time.perf_counter()
    getattr(peer, do)(request)
    return {"done": do, "ms": (time.perf_counter() - began) * 1e3}


def serve(peer: Any, requests: IO[str], answers: IO[str]) -> None:
    for line in requests:
        try:
            told = answer(peer, json.loads(line))
        except Exception as error:  # noqa: BLE001 - any failure of a peer is an answer, not the end of the run
            told = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def main() -> None:
    name, folder = sys.argv[1:3]
    # What a peer prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, kind = PEERS[name]
    serve(getattr(import_module(module), kind)(Data(Path(folder))), sys.stdin, answers)


if __name__ == "__main__":
    main()
