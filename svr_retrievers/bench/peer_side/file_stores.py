"""Embedded stores that keep documents in files of their own: each filled as its manual says, then asked."""

from __future__ import annotations

import json
import time
from importlib import import_module
from typing import Any

import numpy as np


class LanceDB:
    """A LanceDB table with an IVF_HNSW_SQ index, refined with the full vectors, a scalar index on the filter."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.table: Any = None
        self.settings = (8, 4)

    def open(self, given: dict[str, Any]) -> None:
        lance, arrow = import_module("lancedb"), import_module("pyarrow")
        data = self.data
        width = data.vectors.shape[1]
        flat = arrow.array(np.ascontiguousarray(data.vectors).reshape(-1))
        columns = {
            "id": arrow.array(range(len(data.vectors)), arrow.int64()),
            "text": arrow.array([d["text"] for d in data.documents]),
            "metadata": arrow.array([json.dumps(d["metadata"]) for d in data.documents]),
            "r100": arrow.array([d["metadata"]["r100"] for d in data.documents], arrow.int64()),
            "vector": arrow.FixedSizeListArray.from_arrays(flat, width),
        }
        base = lance.connect(str(data.folder / "lance"))
        self.table = base.create_table("rows", arrow.table(columns), mode="overwrite")
        parts = max(1, len(data.vectors) // 4_000)
        self.table.create_index(metric="cosine", index_type="IVF_HNSW_SQ", num_partitions=parts)
        self.table.create_scalar_index("r100")

    def tune(self, given: dict[str, Any]) -> None:
        self.settings = (int(given["probes"]), int(given["refine"]))

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        probes, refine = self.settings
        began = time.perf_counter()
        search = self.table.search(self.data.queries[query]).distance_type("cosine")
        search = search.nprobes(probes).refine_factor(refine).limit(self.data.limit)
        if filtered:
            search = search.where(f"r100 = {self.data.filter_value(query)}", prefilter=True)
        rows = search.select(["id", "text", "metadata", "_distance"]).to_list()
        took = (time.perf_counter() - began) * 1e3
        return [row["id"] for row in rows], took


class Chroma:
    """A persistent Chroma collection with cosine HNSW, ef_search 100."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.collection: Any = None

    def open(self, given: dict[str, Any]) -> None:
        chroma = import_module("chromadb")
        settings = chroma.config.Settings(anonymized_telemetry=False)
        client = chroma.PersistentClient(path=str(self.data.folder / "chroma"), settings=settings)
        self.collection = client.create_collection(
            "rows", configuration={"hnsw": {"space": "cosine", "ef_search": 100, "ef_construction": 100}}
        )
        for start in range(0, len(self.data.vectors), 2_000):
            part = self.data.documents[start : start + 2_000]
            self.collection.add(
                ids=[str(start + i) for i in range(len(part))],
                embeddings=np.array(self.data.vectors[start : start + 2_000]),
                documents=[d["text"] for d in part],
                metadatas=[d["metadata"] for d in part],
            )

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        where = {"r100": self.data.filter_value(query)} if filtered else None
        began = time.perf_counter()
        found = self.collection.query(
            query_embeddings=self.data.queries[query : query + 1], n_results=self.data.limit, where=where
        )
        took = (time.perf_counter() - began) * 1e3
        return [int(i) for i in found["ids"][0]], took


class MilvusLite:
    """A Milvus Lite collection with an HNSW index, its answers with text and metadata."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.client: Any = None
        self.ef = 100

    def open(self, given: dict[str, Any]) -> None:
        milvus = import_module("pymilvus")
        self.client = milvus.MilvusClient(str(self.data.folder / "milvus.db"))
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("id", milvus.DataType.INT64, is_primary=True)
        schema.add_field("vector", milvus.DataType.FLOAT_VECTOR, dim=self.data.vectors.shape[1])
        index = self.client.prepare_index_params()
        graph = {"M": 16, "efConstruction": 200}
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params=graph)
        self.client.create_collection("rows", schema=schema, index_params=index)
        for start in range(0, len(self.data.vectors), 1_000):
            part = enumerate(self.data.documents[start : start + 1_000], start)
            self.client.insert(
                "rows",
                [
                    {"id": i, "vector": self.data.vectors[i], "text": d["text"], **d["metadata"]}
                    for i, d in part
                ],
            )
        self.client.load_collection("rows")

    def tune(self, given: dict[str, Any]) -> None:
        self.ef = int(given["ef"])

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        where = f"r100 == {self.data.filter_value(query)}" if filtered else ""
        began = time.perf_counter()
        found = self.client.search(
            "rows",
            data=[self.data.queries[query]],
            limit=self.data.limit,
            filter=where,
            search_params={"params": {"ef": self.ef}},
            output_fields=["text", "cat", "r100"],
        )
        took = (time.perf_counter() - began) * 1e3
        return [int(hit["id"]) for hit in found[0]], took


class QdrantLocal:
    """Qdrant's client in its local mode: an exact search in the asking process."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.client: Any = None
        self.models: Any = None

    def open(self, given: dict[str, Any]) -> None:
        qdrant = import_module("qdrant_client")
        self.models = import_module("qdrant_client.models")
        self.client = qdrant.QdrantClient(":memory:")
        width = int(self.data.vectors.shape[1])
        size = self.models.VectorParams(size=width, distance=self.models.Distance.COSINE)
        self.client.create_collection("rows", vectors_config=size)
        documents = [{"text": d["text"], **d["metadata"]} for d in self.data.documents]
        self.client.upload_collection(
            "rows", vectors=np.array(self.data.vectors), payload=documents, ids=range(len(documents))
        )

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        same = self.models.MatchValue(value=self.data.filter_value(query))
        where = self.models.Filter(must=[self.models.FieldCondition(key="r100", match=same)])
        began = time.perf_counter()
        found = self.client.query_points(
            "rows",
            query=self.data.queries[query],
            limit=self.data.limit,
            query_filter=where if filtered else None,
        )
        took = (time.perf_counter() - began) * 1e3
        return [int(point.id) for point in found.points], took
