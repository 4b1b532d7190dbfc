"""One big pgvector table with one HNSW index, asked by hand: what the library has to beat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql
from psycopg.types.json import Jsonb

from svr_retrievers.bench.data import LIMIT, Queries, Rows
from svr_retrievers.bench.machine import cores
from svr_retrievers.bench.postgres.server import SCHEMA, Connection, connect
from svr_retrievers.bench.timing import Ask
from svr_retrievers.model import Vector

RawRow = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class BigTable:
    """The table `name`: id, text, metadata, filter columns (with their types) with a B-tree each, vector."""

    url: str
    name: str
    dimensions: int
    fields: Mapping[str, LiteralString]

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(SCHEMA, self.name)

    def create(self) -> None:
        columns = sql.SQL(", ").join(
            [sql.SQL("{} {}").format(sql.Identifier(f), sql.SQL(t)) for f, t in self.fields.items()]
        )
        statement = sql.SQL(
            "create table {table} (id text primary key, body text not null, metadata jsonb not null, {columns},"
            " embedding vector({dimensions}) not null);"
            " alter table {table} alter column embedding set storage plain"
        )
        with connect(self.url) as conn:
            conn.execute(
                statement.format(table=self.table, columns=columns, dimensions=sql.Literal(self.dimensions))
            )

    def fill(self, rows: Rows) -> None:
        self.create()
        with connect(self.url) as conn:
            with conn.cursor() as cursor, cursor.copy(self._copy(self.table)) as copy:
                copy.set_types(self._types)
                for number in range(len(rows)):
                    copy.write_row(self.row(rows, number))
            for field in self.fields:
                conn.execute(sql.SQL("create index on {} ({})").format(self.table, sql.Identifier(field)))
            conn.execute(sql.SQL("vacuum analyze {}").format(self.table))

    def copy_of(self, other: BigTable) -> None:
        """The same rows in a table of its own, so that another index can stand on them."""
        self.create()
        with connect(self.url) as conn:
            conn.execute(sql.SQL("insert into {} select * from {}").format(self.table, other.table))
            conn.execute(sql.SQL("vacuum analyze {}").format(self.table))

    def index(self, *, ef_construction: int = 64, m: int = 16) -> float:
        """Builds the HNSW index with all cores and enough memory; the seconds it took."""
        statement = sql.SQL(
            "create index {name} on {table} using hnsw (embedding vector_cosine_ops)"
            " with (m = {m}, ef_construction = {ef})"
        ).format(
            name=sql.Identifier(f"{self.name}_hnsw"),
            table=self.table,
            m=sql.Literal(m),
            ef=sql.Literal(ef_construction),
        )
        workers = str(max(0, cores() - 1))
        with connect(self.url, maintenance_work_mem="4GB", max_parallel_maintenance_workers=workers) as conn:
            started = time.perf_counter()
            conn.execute(statement)
            return time.perf_counter() - started

    def drop_index(self) -> None:
        with connect(self.url) as conn:
            conn.execute(sql.SQL("drop index {}").format(sql.Identifier(SCHEMA, f"{self.name}_hnsw")))

    def drop(self) -> None:
        with connect(self.url) as conn:
            conn.execute(sql.SQL("drop table if exists {}").format(self.table))

    def upserter(self) -> Callable[[Sequence[RawRow]], None]:
        """Writes rows laid ready: COPY into a staging table, then an upsert, in one transaction."""
        conn = connect(self.url)
        stage = sql.Identifier("pg_temp", f"{self.name}_stage")
        conn.execute(
            sql.SQL("create temp table {} (like {}) on commit delete rows").format(
                sql.Identifier(f"{self.name}_stage"), self.table
            )
        )
        changes = sql.SQL(", ").join(
            [sql.SQL("{c} = excluded.{c}").format(c=sql.Identifier(c)) for c in self._columns[1:]]
        )
        merge = sql.SQL("insert into {} select * from {} on conflict (id) do update set {}").format(
            self.table, stage, changes
        )

        def write(rows: Sequence[RawRow]) -> None:
            with conn.transaction(), conn.cursor() as cursor:
                with cursor.copy(self._copy(stage)) as copy:
                    copy.set_types(self._types)
                    for row in rows:
                        copy.write_row(row)
                cursor.execute(merge)

        return write

    def row(self, rows: Rows, number: int) -> RawRow:
        """What COPY is given for a row."""
        fields = [rows.value(name, number) for name in self.fields]
        return (str(number), rows.text(number), Jsonb(rows.metadata(number)), *fields, rows.vectors[number])

    @property
    def _types(self) -> list[str]:
        return ["text", "text", "jsonb", *self.fields.values(), "vector"]

    @property
    def _columns(self) -> list[str]:
        return ["id", "body", "metadata", *self.fields, "embedding"]

    def _copy(self, into: sql.Identifier) -> sql.Composed:
        columns = sql.SQL(", ").join([sql.Identifier(c) for c in self._columns])
        return sql.SQL("copy {} ({}) from stdin (format binary)").format(into, columns)

    def asker(
        self,
        queries: Queries,
        *,
        ef_search: int = 40,
        field: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Ask:
        """Asks with one prepared statement on a connection of its own, answers in binary, documents included."""
        given = {"hnsw__ef_search": str(ef_search)} | dict(settings or {})
        return _asking(connect(self.url, **given), self._select(field), queries, field)

    def uses_graph(self, queries: Queries, field: str | None, settings: Mapping[str, str]) -> bool:
        """Whether the planner would search the HNSW index with these settings."""
        with connect(self.url, **dict(settings)) as conn:
            params = _params(queries, 0, field)
            rows = conn.execute(sql.SQL("explain ") + self._select(field), params).fetchall()
        return any(f"{self.name}_hnsw" in str(row[0]) for row in rows)

    def _select(self, field: str | None) -> sql.Composed:
        condition = sql.SQL(" where {} = %s").format(sql.Identifier(field)) if field else sql.SQL("")
        return sql.SQL(
            "select id, body, metadata, embedding <=> %s as distance from {table}{condition}"
            " order by embedding <=> %s limit {limit}"
        ).format(table=self.table, condition=condition, limit=sql.Literal(LIMIT))


def _asking(conn: Connection, statement: sql.Composed, queries: Queries, field: str | None) -> Ask:
    cursor = conn.cursor(binary=True)

    def ask(query: int) -> Sequence[int]:
        rows = cursor.execute(statement, _params(queries, query, field), prepare=True).fetchall()
        return [int(str(row[0])) for row in rows]

    return ask


def _params(queries: Queries, query: int, field: str | None) -> tuple[object, ...]:
    vector: Vector = queries.vectors[query]
    return (vector, vector) if field is None else (vector, queries.value(field, query), vector)
