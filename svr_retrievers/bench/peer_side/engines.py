"""Graphs and lists in the asking process: row numbers only, without documents, files or a server."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

import numpy as np


class Hnswlib:
    """hnswlib, m 16, ef_construction 200; filters by calling back into Python."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.index: Any = None

    def open(self, given: dict[str, Any]) -> None:
        vectors = np.array(self.data.vectors)
        self.index = import_module("hnswlib").Index(space="cosine", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=200)
        self.index.add_items(vectors)
        self.tune({"ef": 100})

    def tune(self, given: dict[str, Any]) -> None:
        self.index.set_ef(int(given["ef"]))

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        wanted, values = self.data.filter_value(query), self.data.filtered
        keep = (lambda i: values[i] == wanted) if filtered else None
        began = time.perf_counter()
        found, _ = self.index.knn_query(
            self.data.queries[query], k=self.data.limit, num_threads=1, filter=keep
        )
        took = (time.perf_counter() - began) * 1e3
        return [int(i) for i in found[0]], took


class Usearch:
    """usearch, connectivity 16, expansion_add 200."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.index: Any = None

    def open(self, given: dict[str, Any]) -> None:
        vectors = np.array(self.data.vectors)
        index = import_module("usearch.index").Index
        self.index = index(
            ndim=vectors.shape[1], metric="cos", dtype="f32", connectivity=16, expansion_add=200
        )
        self.index.add(np.arange(len(vectors)), vectors)

    def tune(self, given: dict[str, Any]) -> None:
        self.index.expansion_search = int(given["ef"])

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        began = time.perf_counter()
        found = self.index.search(self.data.queries[query], self.data.limit, threads=1)
        return [int(i) for i in found.keys], (time.perf_counter() - began) * 1e3


class FaissGraph:
    """faiss HNSW over unit vectors, m 16, efConstruction 200."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.index: Any = None

    def open(self, given: dict[str, Any]) -> None:
        faiss = import_module("faiss")
        vectors = np.array(self.data.vectors)
        self.index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 200
        self.index.add(vectors)
        faiss.omp_set_num_threads(1)

    def tune(self, given: dict[str, Any]) -> None:
        self.index.hnsw.efSearch = int(given["ef"])

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        began = time.perf_counter()
        _, found = self.index.search(self.data.queries[query : query + 1], self.data.limit)
        return [int(i) for i in found[0]], (time.perf_counter() - began) * 1e3


class FaissLists:
    """faiss IVF: partitions scanned exactly."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.index: Any = None

    def open(self, given: dict[str, Any]) -> None:
        faiss = import_module("faiss")
        vectors = np.array(self.data.vectors)
        lists = max(4, min(256, len(vectors) // 400))
        self.centres = faiss.IndexFlatIP(vectors.shape[1])  # faiss holds no reference of its own
        self.index = faiss.IndexIVFFlat(self.centres, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        self.index.train(vectors)
        self.index.add(vectors)
        faiss.omp_set_num_threads(1)

    def tune(self, given: dict[str, Any]) -> None:
        self.index.nprobe = int(given["probes"])

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        began = time.perf_counter()
        _, found = self.index.search(self.data.queries[query : query + 1], self.data.limit)
        return [int(i) for i in found[0]], (time.perf_counter() - began) * 1e3
