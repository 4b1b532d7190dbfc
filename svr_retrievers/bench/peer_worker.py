"""Runs one peer and times its calls. Needs the peer and numpy only, so that it runs in an environment of its own.

Reads one JSON object a line: open, ask, add. Answers with one line each.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

LIMIT = 10


class Data:
    """The corpus as the run wrote it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.queries = np.load(folder / "queries.npy")
        self.asked_for = np.load(folder / "asked_for.npy")
        with (folder / "documents.jsonl").open(encoding="utf-8") as lines:
            self.documents = [json.loads(line) for line in lines]
        self.lists = [[float(x) for x in row] for row in self.queries]

    def filter_value(self, query: int) -> int:
        return int(self.asked_for[query])

    def embedded(self, start: int, stop: int) -> list[list[float]]:
        return [[float(x) for x in row] for row in self.vectors[start:stop]]


class LangChainPostgres:
    """langchain-postgres PGVectorStore with its recommended layout: metadata columns where filtered."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.store: Any = None

    def open(self, given: dict[str, Any]) -> None:
        v2 = import_module("langchain_postgres")
        engines = import_module("langchain_postgres.v2.engine")
        url = given["url"].replace("postgresql://", "postgresql+psycopg://", 1)
        engine = v2.PGEngine.from_connection_string(url)
        columns = [engines.Column("r100", "INTEGER")]
        engine.init_vectorstore_table(
            given["table"], self.data.vectors.shape[1], metadata_columns=columns, overwrite_existing=True
        )
        options = import_module("langchain_postgres.v2.indexes").HNSWQueryOptions(ef_search=40)
        self.store = v2.PGVectorStore.create_sync(
            engine,
            _fixed_embeddings(self.data),
            given["table"],
            metadata_columns=["r100"],
            index_query_options=options,
        )
        if given.get("filled"):
            self.fill(given)

    def fill(self, given: dict[str, Any]) -> None:
        rows = (
            (uuid.UUID(int=i), d["text"], self.data.vectors[i], d["metadata"]["r100"], json.dumps(_rest(d)))
            for i, d in enumerate(self.data.documents)
        )
        columns = "langchain_id, content, embedding, r100, langchain_metadata"
        _copy(given, given["table"], columns, rows)

    def add(self, start: int, stop: int) -> float:
        document = import_module("langchain_core.documents").Document
        made = [
            document(page_content=d["text"], metadata=d["metadata"], id=str(uuid.UUID(int=i)))
            for i, d in enumerate(self.data.documents[start:stop], start)
        ]
        self.store.embeddings.vectors = self.data.embedded(start, stop)
        began = time.perf_counter()
        self.store.add_documents(made, ids=[d.id for d in made])
        return (time.perf_counter() - began) * 1e3

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        where = {"r100": self.data.filter_value(query)} if filtered else None
        began = time.perf_counter()
        found = self.store.similarity_search_by_vector(self.data.lists[query], k=LIMIT, filter=where)
        took = (time.perf_counter() - began) * 1e3
        return [uuid.UUID(d.id).int for d in found], took


class LlamaIndexPostgres:
    """llama-index PGVectorStore with an HNSW index of its own making."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.store: Any = None
        self.types: Any = None

    def open(self, given: dict[str, Any]) -> None:
        module = import_module("llama_index.vector_stores.postgres")
        self.types = import_module("llama_index.core.vector_stores.types")
        url = given["url"]
        self.store = module.PGVectorStore(
            connection_string=url.replace("postgresql://", "postgresql+psycopg2://", 1),
            async_connection_string=url.replace("postgresql://", "postgresql+asyncpg://", 1),
            table_name=given["table"],
            schema_name="public",
            embed_dim=int(self.data.vectors.shape[1]),
            hnsw_kwargs={"hnsw_m": 16, "hnsw_ef_construction": 64, "hnsw_ef_search": 40},
            indexed_metadata_keys={("r100", "integer")},
            use_jsonb=True,
        )
        self.store._initialize()
        if given.get("filled"):
            self.fill(given)

    def fill(self, given: dict[str, Any]) -> None:
        schema = import_module("llama_index.core.schema")
        convert = import_module("llama_index.core.vector_stores.utils").node_to_metadata_dict

        def rows() -> Any:
            for i, d in enumerate(self.data.documents):
                node = schema.TextNode(id_=str(i), text=d["text"], metadata=d["metadata"])
                metadata = convert(node, remove_text=True, flat_metadata=False)
                yield d["text"], json.dumps(metadata), str(i), self.data.vectors[i]

        table = f"data_{given['table']}"
        _copy(given, table, "text, metadata_, node_id, embedding", rows(), index=f"{table}_embedding_idx")

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        types = self.types
        filters = None
        if filtered:
            same = types.MetadataFilter(key="r100", value=self.data.filter_value(query))
            filters = types.MetadataFilters(filters=[same])
        began = time.perf_counter()
        found = self.store.query(
            types.VectorStoreQuery(
                query_embedding=self.data.lists[query], similarity_top_k=LIMIT, filters=filters
            )
        )
        took = (time.perf_counter() - began) * 1e3
        return [int(i) for i in found.ids], took


class LanceDB:
    """A LanceDB table with an IVF_HNSW_SQ index, 8 probes and refinement, a scalar index on the filter."""

    def __init__(self, data: Data) -> None:
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
        search = search.nprobes(probes).refine_factor(refine).limit(LIMIT)
        if filtered:
            search = search.where(f"r100 = {self.data.filter_value(query)}", prefilter=True)
        rows = search.select(["id", "text", "metadata", "_distance"]).to_list()
        took = (time.perf_counter() - began) * 1e3
        return [row["id"] for row in rows], took


class Chroma:
    """A persistent Chroma collection with cosine HNSW, ef_search 100."""

    def __init__(self, data: Data) -> None:
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
            query_embeddings=self.data.queries[query : query + 1], n_results=LIMIT, where=where
        )
        took = (time.perf_counter() - began) * 1e3
        return [int(i) for i in found["ids"][0]], took


class Hnswlib:
    """hnswlib in the asking process: a graph in memory, no documents, no server."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.index: Any = None

    def open(self, given: dict[str, Any]) -> None:
        vectors = np.array(self.data.vectors)
        self.index = import_module("hnswlib").Index(space="cosine", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=200)
        self.index.add_items(vectors)
        self.index.set_ef(int(given.get("ef", 100)))

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        wanted = self.data.filter_value(query)
        documents = self.data.documents
        keep = (lambda i: documents[i]["metadata"]["r100"] == wanted) if filtered else None
        began = time.perf_counter()
        found, _ = self.index.knn_query(self.data.queries[query], k=LIMIT, filter=keep)
        took = (time.perf_counter() - began) * 1e3
        return [int(i) for i in found[0]], took


class Faiss:
    """faiss IVF in the asking process: partitions scanned exactly, no documents, no server."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.index: Any = None

    def open(self, given: dict[str, Any]) -> None:
        faiss = import_module("faiss")
        faiss.omp_set_num_threads(1)
        vectors = np.array(self.data.vectors)
        lists = max(4, min(256, len(vectors) // 400))
        centres = faiss.IndexFlatIP(vectors.shape[1])
        self.index = faiss.IndexIVFFlat(centres, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        self.index.train(vectors)
        self.index.add(vectors)
        self.index.nprobe = int(given.get("probes", 8))
        self.keep = centres  # faiss holds no reference of its own

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        if filtered:
            raise ValueError("faiss holds no metadata to filter by")
        began = time.perf_counter()
        _, found = self.index.search(self.data.queries[query : query + 1], LIMIT)
        return [int(i) for i in found[0]], (time.perf_counter() - began) * 1e3


PEERS: dict[str, Any] = {
    "langchain-postgres": LangChainPostgres,
    "llama-index": LlamaIndexPostgres,
    "lancedb": LanceDB,
    "chroma": Chroma,
    "hnswlib": Hnswlib,
    "faiss": Faiss,
}


def _fixed_embeddings(data: Data) -> Any:
    base = import_module("langchain_core.embeddings").Embeddings

    class Fixed(base):  # type: ignore[misc,valid-type]
        """Hands out the vectors that were laid ready."""

        vectors: list[list[float]] = []  # noqa: RUF012 - replaced before each call

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            assert len(texts) == len(self.vectors)
            return self.vectors

        def embed_query(self, text: str) -> list[float]:
            return data.lists[int(text)]

    return Fixed()


def _rest(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document["metadata"].items() if name != "r100"}


def _copy(given: dict[str, Any], table: str, columns: str, rows: Any, index: str = "") -> None:
    """Fills a peer's own table quickly, in the peer's own form, and builds the index that everyone has."""
    psycopg = import_module("psycopg")
    register = import_module("pgvector.psycopg").register_vector
    with psycopg.connect(given["url"], autocommit=True) as conn:
        register(conn)
        if index:
            conn.execute(f"drop index if exists {index}")
        with conn.cursor().copy(f"copy {table} ({columns}) from stdin") as copy:
            for row in rows:
                copy.write_row(row)
        conn.execute("set maintenance_work_mem = '1GB'")
        conn.execute(f"create index on {table} using hnsw (embedding vector_cosine_ops)")
        if "r100" in columns:
            conn.execute(f"create index on {table} (r100)")
        conn.execute(f"vacuum analyze {table}")


def answer(peer: Any, request: dict[str, Any]) -> dict[str, Any]:
    do = request.pop("do")
    if do == "ask":
        ids, took = peer.ask(request["query"], request["filtered"])
        return {"ids": ids, "ms": took}
    if do == "add":
        return {"ms": peer.add(request["start"], request["stop"])}
    getattr(peer, do)(request)
    return {"done": do}


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
    serve(PEERS[name](Data(Path(folder))), sys.stdin, answers)


if __name__ == "__main__":
    main()
