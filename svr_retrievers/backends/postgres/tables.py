"""The physical tables of a collection, and the statements that make, index and drop them.

`documents` holds each text once, keyed by (namespace, id), with the declared fields as indexed columns
for listing and deleting. `space` holds the vectors, LIST-partitioned by partition, with the same fields
for filtering inside a search.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import LiteralString

from psycopg import sql

from svr_retrievers.backends.indexes import Quantization
from svr_retrievers.backends.postgres.filters import COLUMN_TYPES
from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.model import Metric
from svr_retrievers.names import column_for, stable_hash, table_for

VECTOR_INDEX_MAX = 2_000
HALFVEC_INDEX_MAX = 4_000
BIT_INDEX_MAX = 64_000
INLINE_DIMENSIONS = 1_900
"""Vectors up to this length stay in the row: a scan that must fetch each from TOAST is several times slower."""
_OPERATORS: dict[Metric, LiteralString] = {
    Metric.COSINE: "<=>",
    Metric.L2: "<->",
    Metric.INNER_PRODUCT: "<#>",
}
_CLASSES: dict[Metric, LiteralString] = {
    Metric.COSINE: "cosine_ops",
    Metric.L2: "l2_ops",
    Metric.INNER_PRODUCT: "ip_ops",
}


_QUANTIZED_CLASSES: dict[str, LiteralString] = {"half": "halfvec_cosine_ops", "binary": "bit_hamming_ops"}
_INDEX_OPERATORS: dict[str, LiteralString] = {"half": "<=>", "binary": "<~>"}
_LONGEST_INDEXED = {"none": VECTOR_INDEX_MAX, "half": HALFVEC_INDEX_MAX, "binary": BIT_INDEX_MAX}
_RESCORED = {"none": 1, "half": 4, "binary": 20}
"""Half precision orders almost as full precision does; single bits say little, and need many candidates."""


@dataclass(frozen=True)
class Tables:
    """Names and fragments for one collection in one schema."""

    schema: str
    ref: CollectionRef

    @cached_property
    def documents(self) -> sql.Identifier:
        return sql.Identifier(self.schema, table_for(self.ref.id, "documents"))

    @cached_property
    def space(self) -> sql.Identifier:
        return sql.Identifier(self.schema, table_for(self.ref.id, "space"))

    @property
    def text_search(self) -> str:
        """The text search configuration that takes texts apart into words."""
        return self.ref.config.text_search or "simple"

    @property
    def words_index(self) -> str:
        return table_for(self.ref.id, "documents_words")

    @cached_property
    def words_function(self) -> sql.Identifier:
        """What fills the words of rows that are written, where a generated column came too late."""
        return sql.Identifier(self.schema, table_for(self.ref.id, "words"))

    @cached_property
    def collections(self) -> sql.Identifier:
        """The control table that holds the generation of each map."""
        return sql.Identifier(self.schema, "collections")

    @cached_property
    def texts(self) -> dict[Hashable, bytes]:
        """Texts of searches by their form, so that each is put together once."""
        return {}

    def child(self, partition: int) -> sql.Identifier:
        return sql.Identifier(self.schema, table_for(self.ref.id, f"p{partition}"))

    def tail(self, partition: int) -> sql.Identifier:
        """Where the fresh rows of an indexed partition stand: the child of the space for the value -partition."""
        return sql.Identifier(self.schema, table_for(self.ref.id, f"t{partition}"))

    @cached_property
    def stage(self) -> sql.Identifier:
        return sql.Identifier("pg_temp", self._stage)

    @cached_property
    def _stage(self) -> str:
        """Told apart by schema as well: behind a pooler, clients of two schemas may share a session."""
        return table_for(self.ref.id, f"stage_{stable_hash(self.schema):x}")

    @cached_property
    def columns(self) -> dict[str, str]:
        """Declared field to physical column."""
        return {field: column_for(field, i) for i, field in enumerate(self.ref.config.fields, start=1)}

    @cached_property
    def field_columns(self) -> list[sql.Identifier]:
        return [sql.Identifier(column) for column in self.columns.values()]

    @cached_property
    def _field_definitions(self) -> sql.Composed:
        kinds = self.ref.config.fields.values()
        return sql.Composed(
            [
                sql.SQL(", {} {}").format(column, sql.SQL(COLUMN_TYPES[kind]))
                for column, kind in zip(self.field_columns, kinds, strict=True)
            ]
        )

    @cached_property
    def vector_type(self) -> sql.Composed:
        return sql.SQL("vector({})").format(sql.Literal(self.ref.config.dimensions))

    @cached_property
    def operator(self) -> sql.SQL:
        return sql.SQL(_OPERATORS[self.ref.config.metric])

    @cached_property
    def quantization(self) -> Quantization:
        """How the index keeps the vectors: as asked for, or in half precision where they are too long for a plain one.

        Only under cosine, where they can be brought to unit length: others might not fit the range of half precision.
        """
        config = self.ref.config
        if config.index.quantization != "none":
            return config.index.quantization
        long = VECTOR_INDEX_MAX < config.dimensions <= HALFVEC_INDEX_MAX
        return "half" if long and config.metric is Metric.COSINE else "none"

    @property
    def quantized(self) -> bool:
        return self.quantization != "none"

    @property
    def indexable(self) -> bool:
        return (
            self.ref.config.index.kind != "flat"
            and self.ref.config.dimensions <= _LONGEST_INDEXED[self.quantization]
        )

    @cached_property
    def candidates(self) -> int:
        """How many times the limit an unfiltered index scan must yield, so that the best of them are right."""
        return self.ref.config.index.rescore or _RESCORED[self.quantization]

    def index_order(self) -> sql.Composable:
        """The order by which a scan of the vector index yields rows of `s`; with one placeholder where quantized."""
        if not self.quantized:
            return sql.SQL("distance")
        return sql.SQL("{} {} {}").format(
            self._compressed(sql.SQL("s.embedding")),
            sql.SQL(_INDEX_OPERATORS[self.quantization]),
            self._compressed(sql.SQL("%s::vector")),
        )

    def _compressed(self, vector: sql.SQL) -> sql.Composed:
        template = {
            "half": sql.SQL("(l2_normalize({vector})::halfvec({size}))"),
            "binary": sql.SQL("(binary_quantize({vector})::bit({size}))"),
        }[self.quantization]
        return template.format(vector=vector, size=sql.Literal(self.ref.config.dimensions))

    def create(self) -> list[sql.Composed]:
        names = {"documents": self.documents, "space": self.space, "fields": self._field_definitions}
        return [
            sql.SQL(
                'create table {documents} (namespace text collate "C" not null, id text collate "C" not null,'
                " part integer not null, moved_from integer, version bigint not null, text text not null,"
                " metadata jsonb not null{fields}, primary key (namespace, id))"
            ).format(**names),
            sql.SQL(
                'create table {space} (part integer not null, namespace text collate "C" not null,'
                ' id text collate "C" not null{fields}, embedding {vector} not null) partition by list (part)'
            ).format(**names, vector=self.vector_type),
            sql.SQL("alter table {space} alter column embedding set storage plain").format(**names)
            if self.ref.config.dimensions <= INLINE_DIMENSIONS
            else sql.SQL("alter table {space} alter column embedding set storage external").format(**names),
        ]

    def document_field_indexes(self) -> dict[str, sql.Composed]:
        """Name to statement, for listing, counting and deleting by filter."""
        return self._field_indexes("documents")

    def _field_indexes(self, part: str, *, lists: bool = False) -> dict[str, sql.Composed]:
        """Name to statement: a B-tree for each declared field, with `lists` a GIN index for those of lists."""
        table = sql.Identifier(self.schema, table_for(self.ref.id, part))
        made: dict[str, sql.Composed] = {}
        for field, column in self.columns.items():
            is_list = self.ref.config.fields[field].is_list
            if is_list and not lists:
                continue
            name = f"{table_for(self.ref.id, part)}_{column}"
            how = sql.SQL("using gin ({})" if is_list else "(namespace, {})").format(sql.Identifier(column))
            made[name] = sql.SQL("create index if not exists {name} on {table} {how}").format(
                name=sql.Identifier(name), table=table, how=how
            )
        return made

    def create_child(self, partition: int) -> list[sql.Composed]:
        """Made beside the parent and then attached, which never waits for running searches."""
        return self._create_child(self.child(partition), partition)

    def create_tail(self, partition: int) -> list[sql.Composed]:
        """The empty tail of a partition, a child of the space like any other, that never gets a vector index."""
        return self._create_child(self.tail(partition), -partition)

    def _create_child(self, child: sql.Identifier, value: int) -> list[sql.Composed]:
        """Vectors are left out of its statistics: comparing a sample of them takes longer than all the rest."""
        names = {"child": child, "space": self.space, "part": sql.Literal(value)}
        return [
            sql.SQL(
                "create table {child} (like {space} including defaults including storage)"
                " with (toast_tuple_target = 8160)"
            ).format(**names),
            sql.SQL("alter table {child} add primary key (namespace, id)").format(**names),
            sql.SQL("alter table {child} alter column embedding set statistics 0").format(**names),
            sql.SQL("alter table {space} attach partition {child} for values in ({part})").format(**names),
        ]

    def create_stage(self) -> sql.Composed:
        return sql.SQL(
            'create temp table if not exists {stage} (part integer, namespace text collate "C",'
            ' id text collate "C", text text, metadata jsonb{fields}, embedding {vector}) on commit delete rows'
        ).format(
            stage=sql.Identifier(self._stage),
            fields=self._field_definitions,
            vector=self.vector_type,
        )

    def index_name(self, partition: int) -> sql.Identifier:
        return sql.Identifier(self.schema, self._index(partition))

    def _index(self, partition: int) -> str:
        return table_for(self.ref.id, f"p{partition}_{self.ref.config.index.kind}")

    def create_index(self, partition: int, rows: int) -> sql.Composed:
        """The vector index of one partition, built without blocking writers."""
        spec = self.ref.config.index
        metric = self.ref.config.metric
        kind = sql.SQL(_QUANTIZED_CLASSES.get(self.quantization, "vector_" + _CLASSES[metric]))
        options = (
            sql.SQL("m = {}, ef_construction = {}").format(
                sql.Literal(spec.m), sql.Literal(spec.ef_construction)
            )
            if spec.kind == "hnsw"
            else sql.SQL("lists = {}").format(sql.Literal(min(spec.lists_for(rows), 32_768)))
        )
        return sql.SQL(
            "create index concurrently {name} on {child} using {method} ({column} {kind}) with ({options})"
        ).format(
            name=sql.Identifier(self._index(partition)),
            child=self.child(partition),
            method=sql.SQL("hnsw") if spec.kind == "hnsw" else sql.SQL("ivfflat"),
            column=self._indexed_column(),
            kind=kind,
            options=options,
        )

    def _indexed_column(self) -> sql.Composable:
        return self._compressed(sql.SQL("embedding")) if self.quantized else sql.SQL("embedding")

    def child_field_indexes(self, partition: int) -> list[sql.Composed]:
        return list(self.named_field_indexes(partition).values())

    def named_field_indexes(self, partition: int) -> dict[str, sql.Composed]:
        return self._field_indexes(f"p{partition}", lists=True)

    def drop_children(self, partitions: Sequence[int]) -> sql.Composed:
        tables = [table for p in partitions for table in (self.child(p), self.tail(p))]
        return sql.SQL("drop table if exists {}").format(sql.SQL(", ").join(tables))

    def drop(self) -> Sequence[sql.Composed]:
        return [
            *(sql.SQL("drop table if exists {}").format(table) for table in (self.space, self.documents)),
            sql.SQL("drop function if exists {}").format(self.words_function),
        ]
