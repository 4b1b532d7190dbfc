"""The usual way, written by hand with psycopg: one pgvector table, one HNSW index, metadata in columns.

Twice: with every setting at its default, and tuned as an expert would: a B-tree for each filter
column, and iterative scan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import LiteralString, Self

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from svr_retrievers.demo.compare import Where
from svr_retrievers.model import Document, Vector

SHARED = "shared"
TUNED = "shared, tuned"
COLUMNS = ("category", "module", "kind", "name", "line", "length")
BATCH = 1_000

_CREATE = """
CREATE TABLE {schema}.documents (
    id text PRIMARY KEY, category text, module text, kind text, name text, line integer, length integer,
    text text, embedding vector({dimensions}))
"""
_COPY = """
COPY {schema}.documents (id, category, module, kind, name, line, length, text, embedding)
FROM STDIN (FORMAT BINARY)
"""
_TYPES = ("text", "text", "text", "text", "text", "int4", "int4", "text", "vector")
_READ = """
SELECT id, text, category, module, kind, name, line, length, vector_send(embedding)
FROM {schema}.documents ORDER BY id
"""
_VERSIONS = """
SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'
"""
_ASK = """
SELECT id, text, category, module, kind, name, line, length, embedding <=> %s AS distance
FROM {schema}.{table} {where} ORDER BY embedding <=> %s LIMIT {limit}
"""
_INDEX = """
CREATE INDEX ON {schema}.documents USING hnsw (embedding vector_cosine_ops);
ANALYZE {schema}.documents;
"""
_TUNED = """
CREATE TABLE {schema}.tuned AS TABLE {schema}.documents;
CREATE INDEX ON {schema}.tuned USING hnsw (embedding vector_cosine_ops);
CREATE INDEX ON {schema}.tuned (category);
CREATE INDEX ON {schema}.tuned (module);
CREATE INDEX ON {schema}.tuned (kind);
ANALYZE {schema}.tuned;
"""

DEFAULT_SCHEMA = "svr_demo"

Connection = psycopg.Connection[tuple[object, ...]]


class SharedTable:
    """The table, its facts (kept in a second small table) and the connection that fills it."""

    def __init__(self, url: str, schema: str = DEFAULT_SCHEMA) -> None:
        self.url = url
        self._schema = sql.Identifier(schema)
        self._connection = _connect(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def facts(self) -> dict[str, object]:
        """What the last complete `fill` stored, or nothing."""
        table = self._schema.as_string(self._connection) + ".facts"
        row = self._connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone()
        if row is None or not row[0]:
            return {}
        found = self._connection.execute(self._sql("SELECT facts FROM {schema}.facts")).fetchone()
        return dict(found[0]) if found and isinstance(found[0], dict) else {}

    def remember(self, facts: Mapping[str, object]) -> None:
        """Called last: a run that was cut short leaves no facts and is done again."""
        with self._connection.transaction():
            self._connection.execute(self._sql("CREATE TABLE {schema}.facts (facts jsonb)"))
            insert = self._sql("INSERT INTO {schema}.facts VALUES (%s::jsonb)")
            self._connection.execute(insert, (json.dumps(facts),))

    def drop(self) -> None:
        self._connection.execute(self._sql("DROP SCHEMA IF EXISTS {schema} CASCADE"))

    def fill(
        self, documents: Sequence[Document], vectors: Vector, on_rows: Callable[[int], None] | None = None
    ) -> None:
        """Copy everything in and build the HNSW index with pgvector's default parameters; twice, as above."""
        connection = self._connection
        self.drop()
        connection.execute(self._sql("CREATE SCHEMA {schema}"))
        connection.execute(self._sql(_CREATE, dimensions=sql.Literal(vectors.shape[1])))
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(self._sql(_COPY)) as copy:
            copy.set_types(_TYPES)
            for number, (document, vector) in enumerate(zip(documents, vectors, strict=True), start=1):
                metadata = document.metadata
                copy.write_row((document.id, *(metadata[c] for c in COLUMNS), document.text, vector))
                if on_rows is not None and number % BATCH == 0:
                    on_rows(number)
        connection.execute(self._sql(_INDEX))
        connection.execute(self._sql(_TUNED))

    def read(self) -> tuple[tuple[Document, ...], Vector]:
        """Everything that is stored, in order of id."""
        with self._connection.cursor(binary=True) as cursor:
            rows = cursor.execute(self._sql(_READ)).fetchall()
        documents = tuple(
            Document(id=str(r[0]), text=str(r[1]), metadata=dict(zip(COLUMNS, r[2:8], strict=True)))
            for r in rows
        )
        return documents, np.stack([_vector(r[8]) for r in rows])

    def versions(self) -> dict[str, str]:
        row = self._connection.execute(_VERSIONS).fetchone()
        return {"postgresql": str(row[0]).partition(" ")[0], "pgvector": str(row[1])} if row else {}

    @contextmanager
    def asker(self, *, tuned: bool = False) -> Iterator[TableWay]:
        """A connection of its own that asks, as an application would hold one."""
        with _connect(self.url) as connection:
            if tuned:
                connection.execute("SET hnsw.iterative_scan = relaxed_order")
            yield TableWay(connection, self._schema, tuned=tuned)

    def _sql(self, query: LiteralString, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(query).format(schema=self._schema, **parts)


def _vector(sent: object) -> Vector:
    """The vector in its binary form: two 16-bit numbers, then the big-endian floats."""
    assert isinstance(sent, bytes)
    return np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)


class TableWay:
    """Asks one of the two tables, with a prepared statement and vectors in binary."""

    def __init__(self, connection: Connection, schema: sql.Identifier, *, tuned: bool = False) -> None:
        self.name = TUNED if tuned else SHARED
        self._names = {"schema": schema, "table": sql.Identifier("tuned" if tuned else "documents")}
        self._connection = connection
        self._queries: dict[tuple[tuple[str, ...], int], sql.Composed] = {}

    def ask(self, vector: Vector, where: Where, limit: int) -> list[str]:
        query = self._query(tuple(where), limit)
        rows = self._connection.execute(query, (vector, *where.values(), vector), prepare=True, binary=True)
        return [str(row[0]) for row in rows.fetchall()]

    def how(self, vector: Vector, where: Where, limit: int) -> str:
        """The planner's own choice for this question."""
        explained = sql.SQL("EXPLAIN ") + self._query(tuple(where), limit)
        rows = self._connection.execute(explained, (vector, *where.values(), vector)).fetchall()
        text = "\n".join(str(row[0]) for row in rows)
        if "_embedding_idx" in text:
            return "HNSW"
        return "B-tree" if "_idx" in text else "scan"

    def _query(self, fields: tuple[str, ...], limit: int) -> sql.Composed:
        if (fields, limit) not in self._queries:
            conditions = [sql.SQL("{} = %s").format(sql.Identifier(f)) for f in fields]
            where = sql.SQL("WHERE ") + sql.SQL(" AND ").join(conditions) if fields else sql.SQL("")
            composed = sql.SQL(_ASK).format(**self._names, where=where, limit=sql.Literal(limit))
            self._queries[fields, limit] = composed
        return self._queries[fields, limit]


def _connect(url: str) -> Connection:
    connection = psycopg.connect(url, autocommit=True)
    register_vector(connection)
    # Loads the extension's library, so that its settings are known and checked.
    connection.execute("SELECT '[1]'::vector <=> '[1]'::vector")
    return connection
