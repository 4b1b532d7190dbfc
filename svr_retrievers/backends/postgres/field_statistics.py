"""Gathers the statistics of filter fields: PostgreSQL's own for declared ones, a sample's for the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, LiteralString, cast

from psycopg import sql

from svr_retrievers.backends.postgres.connection import Connection, unless_held, vector_of
from svr_retrievers.backends.postgres.selects import order_by
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.filters import FieldType, as_utc
from svr_retrievers.filters.choice import ScanCosts
from svr_retrievers.filters.statistics import (
    BOUNDS_KEPT,
    COMMON_KEPT,
    Fields,
    FieldStatistics,
    FilterStatistics,
    compact,
    of_metadata,
)
from svr_retrievers.filters.tree import Operand
from svr_retrievers.model import JsonValue, PartitionMap, Vector
from svr_retrievers.names import table_for

SAMPLED_DOCUMENTS = 1_000
"""Documents whose metadata is looked at: a value that one row in a hundred has is seen ten times."""
_OF_PARTITION_COMMON, _OF_PARTITION_BOUNDS = 8, 9
_OF_METADATA_COMMON, _OF_METADATA_BOUNDS = 30, 17
INDEXED_FROM_ROWS = 200
"""Below it reading all rows takes no longer than planning the use of an index."""
FACTS_KEPT = 2_500
"""Partitions times fields: beyond it only the collection as a whole is described. About half a megabyte."""

_NAMESPACES_KEPT = 20
_MEASURED_FROM_ROWS = 2_000
_FIRST_BATCH, _BATCHES, _FURTHEST = 40, 10, 5.0
_COST_SETTINGS: LiteralString = (
    "select set_config('hnsw.ef_search', '40', true), set_config('hnsw.iterative_scan', 'relaxed_order', true),"
    " set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)"
)

_TYPES: Final[dict[FieldType, LiteralString]] = {
    FieldType.INT: "bigint",
    FieldType.FLOAT: "float8",
    FieldType.STR: "text",
    FieldType.BOOL: "boolean",
    FieldType.DATETIME: "timestamptz",
}


async def index_fields(conn: Connection, tables: Tables, known: PartitionMap) -> None:
    """Gives the documents, and each partition that is worth it, the indexes of their fields; those with a vector
    index have them already.

    A scan of 1,500 rows takes 0.4 ms, a look into a B-tree 0.03, and a filtered search visits many partitions.
    Made once rows are there: while a collection is filled, five indexes cost a fifth of the write.
    """
    if not tables.columns or known.rows < INDEXED_FROM_ROWS:
        return
    due = {table_for(tables.ref.id, "documents"): tables.document_field_indexes()}
    if not tables.ref.config.servers:
        large = [leaf.id for leaf in known.leaves if leaf.stats.rows >= INDEXED_FROM_ROWS]
        due |= {
            table_for(tables.ref.id, f"p{number}"): tables.named_field_indexes(number) for number in large
        }
    cursor = await conn.execute(
        "select indexname from pg_indexes where schemaname = %s and tablename = any(%s)",
        (tables.schema, list(due)),
    )
    there = {str(row[0]) for row in await cursor.fetchall()}
    for wanted in due.values():
        for name, statement in wanted.items():
            if name not in there:
                await unless_held(conn, statement)


async def measure(conn: Connection, tables: Tables, known: PartitionMap) -> FilterStatistics:
    """Analyses the tables' filter columns and reads what PostgreSQL found, and samples the metadata."""
    fields: dict[str, FieldStatistics] = {}
    partitions: dict[int, Fields] = {}
    if known.rows:
        undeclared = of_metadata(await _metadata(conn, tables, known.rows), known.rows)
        fields = {
            name: compact(one, common=_OF_METADATA_COMMON, bounds=_OF_METADATA_BOUNDS)
            for name, one in undeclared.items()
            if name not in tables.columns
        }
    if tables.columns and known.rows:
        fields |= await _whole(conn, tables, known.rows)
        if (
            not tables.ref.config.servers
            and len(known) > 1
            and len(known) * len(tables.columns) <= FACTS_KEPT
        ):
            partitions = await _by_partition(conn, tables, known)
    namespaces = await _namespaces(conn, tables) if known.rows else {}
    return FilterStatistics(fields, partitions, known.rows, namespaces, await _costs(conn, tables, known))


async def _namespaces(conn: Connection, tables: Tables) -> dict[str, float]:
    cursor = await conn.execute(
        sql.SQL(
            "select namespace, count(*)::float8 / sum(count(*)) over () from {} group by 1 order by 2 desc limit %s"
        ).format(tables.documents),
        (_NAMESPACES_KEPT,),
    )
    return {str(row[0]): float(row[1]) for row in await cursor.fetchall()}


async def _costs(conn: Connection, tables: Tables, known: PartitionMap) -> ScanCosts | None:
    """What the steps of a search take on this machine, measured on the largest graph; None where there is none.

    The best of three, and never further from the defaults than a factor of five: a busy moment must not decide.
    """
    graphs = [leaf for leaf in known.leaves if leaf.stats.indexed and leaf.stats.rows >= _MEASURED_FROM_ROWS]
    if not graphs or tables.ref.config.index.kind != "hnsw" or tables.ref.config.servers:
        return None
    largest = max(graphs, key=lambda leaf: leaf.stats.rows)
    child, plain = tables.child(largest.id), ScanCosts.for_dimensions(tables.ref.config.dimensions)
    async with conn.transaction():
        await conn.execute(_COST_SETTINGS)
        some = conn.cursor(binary=True)
        await some.execute(sql.SQL("select embedding from {} limit 1").format(child))
        row = await some.fetchone()
        if row is None:
            return None
        vector = vector_of(row[0])
        through = [vector] * (2 if tables.quantized else 1)
        passing = await _took(conn, sql.SQL("select id from {} where length(id) < 0").format(child))
        compared = await _took(conn, _closest(tables, child, 10, exact=True), vector, vector)
        first = await _took(conn, _closest(tables, child, _FIRST_BATCH, exact=False), *through)
        more = await _took(conn, _closest(tables, child, _BATCHES * _FIRST_BATCH, exact=False), *through)
    rows = largest.stats.rows
    return ScanCosts(
        row=_near(passing / rows, plain.row),
        match=_near(compared / rows, plain.match),
        document=plain.document,
        probe=_near(first, plain.probe),
        visit=_near((more - first) / ((_BATCHES - 1) * _FIRST_BATCH), plain.visit),
    )


def _closest(tables: Tables, child: sql.Identifier, limit: int, *, exact: bool) -> sql.Composed:
    """With a placeholder for the vector, and another one where the order asks for it."""
    return sql.SQL(
        "select s.id, s.embedding {op} %s as distance from {child} s order by {order} limit {limit}"
    ).format(op=tables.operator, child=child, order=order_by(tables, exact=exact), limit=sql.Literal(limit))


async def _took(conn: Connection, statement: sql.Composed, *params: Vector) -> float:
    """Microseconds on the server, the best of three."""
    times = []
    for _ in range(3):
        cursor = await conn.execute(
            sql.SQL("explain (analyze, timing off, format json) ") + statement, params
        )
        row = await cursor.fetchone()
        assert row is not None
        times.append(float(row[0][0]["Execution Time"]) * 1e3)
    return min(times)


def _near(measured: float, default: float) -> float:
    return min(_FURTHEST * default, max(default / _FURTHEST, measured))


async def _metadata(conn: Connection, tables: Tables, rows: int) -> list[Mapping[str, JsonValue]]:
    percent = min(100.0, 300.0 * SAMPLED_DOCUMENTS / rows)
    cursor = await conn.execute(
        sql.SQL(
            "select metadata from {} tablesample system (%s) repeatable (0) order by random() limit %s"
        ).format(tables.documents),
        (percent, SAMPLED_DOCUMENTS),
    )
    return [row[0] for row in await cursor.fetchall()]


async def sample_keys(conn: Connection, tables: Tables, rows: int, wanted: int) -> list[tuple[str, str]]:
    percent = min(100.0, 300.0 * wanted / max(1, rows))
    cursor = await conn.execute(
        sql.SQL("select namespace, id from {} tablesample system (%s) order by random() limit %s").format(
            tables.documents
        ),
        (percent, wanted),
    )
    return [(str(row[0]), str(row[1])) for row in await cursor.fetchall()]


async def _whole(conn: Connection, tables: Tables, rows: int) -> dict[str, FieldStatistics]:
    """From the table of documents, which holds the fields of all partitions."""
    await conn.execute(
        sql.SQL("analyze {} ({})").format(tables.documents, sql.SQL(", ").join(tables.field_columns))
    )
    name = table_for(tables.ref.id, "documents")
    found = await _read(conn, tables, {name: rows})
    return {
        field: compact(one, common=COMMON_KEPT, bounds=BOUNDS_KEPT)
        for field, one in found.get(name, {}).items()
    }


async def _by_partition(conn: Connection, tables: Tables, known: PartitionMap) -> dict[int, Fields]:
    """From the partitions' own tables, as they were last analysed."""
    named = {table_for(tables.ref.id, f"p{leaf.id}"): leaf for leaf in known.leaves if leaf.stats.rows}
    found = await _read(conn, tables, {name: leaf.stats.rows for name, leaf in named.items()})
    return {
        named[table].id: {
            field: compact(one, common=_OF_PARTITION_COMMON, bounds=_OF_PARTITION_BOUNDS)
            for field, one in fields.items()
        }
        for table, fields in found.items()
    }


async def _read(
    conn: Connection, tables: Tables, rows: Mapping[str, int]
) -> dict[str, dict[str, FieldStatistics]]:
    """Table to field to statistics; tables that were never analysed are left out."""
    found: dict[str, dict[str, FieldStatistics]] = {}
    names = {column: field for field, column in tables.columns.items()}
    for kind in sorted({*tables.ref.config.fields.values()}):
        mine = [column for field, column in tables.columns.items() if tables.ref.config.fields[field] is kind]
        cursor = await conn.execute(_statement(kind), (tables.schema, list(rows), mine))
        for table, column, *facts in await cursor.fetchall():
            found.setdefault(table, {})[names[column]] = _statistics(facts, rows[table], kind)
    return found


def _statement(kind: FieldType) -> sql.Composed:
    values, shares = (
        ("most_common_elems", "most_common_elem_freqs")
        if kind.is_list
        else ("most_common_vals", "most_common_freqs")
    )
    return sql.SQL(
        "select tablename, attname, null_frac, n_distinct, {values}::text::{type}[], {shares},"
        " histogram_bounds::text::{bounds}[] from pg_stats"
        " where schemaname = %s and tablename = any(%s) and attname = any(%s) and not inherited"
    ).format(
        values=sql.Identifier(values),
        shares=sql.Identifier(shares),
        type=sql.SQL(_TYPES[kind.element]),
        bounds=sql.SQL("text" if kind.is_list else _TYPES[kind]),
    )


def _statistics(facts: Sequence[object], rows: int, kind: FieldType) -> FieldStatistics:
    missing, distinct, values, shares, bounds = facts
    number = float(cast("float", distinct))
    common = zip(_operands(values), cast("Sequence[float] | None", shares) or (), strict=False)
    return FieldStatistics(
        missing=float(cast("float", missing)),
        distinct=0.0 if kind.is_list else -number * rows if number < 0 else number,
        common=tuple(sorted(((v, float(s)) for v, s in common), key=lambda pair: -pair[1])),
        bounds=() if kind.is_list else _operands(bounds),
        is_list=kind.is_list,
    )


def _operands(values: object) -> tuple[Operand, ...]:
    given = cast("Sequence[Operand] | None", values) or ()
    return tuple(as_utc(value) if isinstance(value, datetime) else value for value in given)
