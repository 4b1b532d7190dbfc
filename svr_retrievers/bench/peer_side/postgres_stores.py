"""The frameworks' own stores over PostgreSQL, filled by COPY in their own form and asked through their own calls."""

from __future__ import annotations

import time
import uuid
from importlib import import_module
from typing import Any


class LangChainPostgres:
    """langchain-postgres PGVectorStore with its recommended layout: metadata columns where filtered."""

    def __init__(self, data: Any) -> None:
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
            (uuid.UUID(int=i), d["text"], self.data.vectors[i], d["metadata"]["r100"], _rest(d))
            for i, d in enumerate(self.data.documents)
        )
        columns = "langchain_id, content, embedding, r100, langchain_metadata"
        _copy(given, given["table"], columns, ["uuid", "text", "vector", "int4", "json"], rows)

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
        found = self.store.similarity_search_by_vector(
            self.data.lists[query], k=self.data.limit, filter=where
        )
        took = (time.perf_counter() - began) * 1e3
        return [uuid.UUID(d.id).int for d in found], took


class LlamaIndexPostgres:
    """llama-index PGVectorStore with an HNSW index of its own making."""

    def __init__(self, data: Any) -> None:
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
                yield d["text"], metadata, str(i), self.data.vectors[i]

        table = f"data_{given['table']}"
        columns, types = "text, metadata_, node_id, embedding", ["text", "jsonb", "text", "vector"]
        _copy(given, table, columns, types, rows(), index=f"{table}_embedding_idx")

    def ask(self, query: int, filtered: bool) -> tuple[list[int], float]:
        types = self.types
        filters = None
        if filtered:
            same = types.MetadataFilter(key="r100", value=self.data.filter_value(query))
            filters = types.MetadataFilters(filters=[same])
        began = time.perf_counter()
        found = self.store.query(
            types.VectorStoreQuery(
                query_embedding=self.data.lists[query], similarity_top_k=self.data.limit, filters=filters
            )
        )
        took = (time.perf_counter() - began) * 1e3
        return [int(i) for i in found.ids], took


def _fixed_embeddings(data: Any) -> Any:
    base = import_module("langchain_core.embeddings").Embeddings

    class Fixed(base):  # type: ignore[misc,valid-type]
        """Hands out the vectors that were laid ready."""

        vectors: list[list[float]] = []  # noqa: RUF012 - replaced before each call

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            assert len(texts) == len(self.vectors)
            return self.vectors

        def embed_query(self, text: str) -> list[float]:
            found: list[float] = data.lists[int(text)]
            return found

    return Fixed()


def _rest(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document["metadata"].items() if name != "r100"}


def _copy(
    given: dict[str, Any], table: str, columns: str, types: list[str], rows: Any, index: str = ""
) -> None:
    """Fills a peer's own table quickly, in the peer's own form, and builds the index that everyone has."""
    psycopg = import_module("psycopg")
    register = import_module("pgvector.psycopg").register_vector
    with psycopg.connect(given["url"], autocommit=True) as conn:
        register(conn)
        conn.execute("select '[1]'::vector <=> '[1]'::vector")
        if index:
            conn.execute(f"drop index if exists {index}")
        with conn.cursor().copy(f"copy {table} ({columns}) from stdin (format binary)") as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)
        conn.execute("set maintenance_work_mem = '1GB'")
        conn.execute(f"create index on {table} using hnsw (embedding vector_cosine_ops)")
        if "r100" in columns:
            conn.execute(f"create index on {table} (r100)")
        conn.execute(f"vacuum analyze {table}")
