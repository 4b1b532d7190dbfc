"""The statements for a collection that lies on several servers.

On each server stands the same LIST-partitioned space table as on one server alone, with the version of the
document beside each vector. Here, one foreign table stands for a server's whole share, so that one statement
searches all partitions on it. A vector counts only while partition and version are those of its document,
which is always here: what a failed or unfinished write left on a server is never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import LiteralString

from psycopg import sql

from svr_retrievers.backends.postgres import queries
from svr_retrievers.backends.postgres.filters import COLUMN_TYPES, compile_filter
from svr_retrievers.backends.postgres.selects import overfetch
from svr_retrievers.backends.postgres.spread.servers import Registered
from svr_retrievers.backends.postgres.tables import INLINE_DIMENSIONS, Tables
from svr_retrievers.backends.protocol import Query, Selection
from svr_retrievers.filters import ALL
from svr_retrievers.names import foreign_table_for, table_for

Dead = tuple[int, str, str, int]
"""A vector that no longer counts: partition, namespace, id, version."""
_BELIEVED_ROWS = sql.SQL("1e30")
"""What the planner here is told of a foreign table: so many that it always sends the LIMIT along, and never
fetches rows to sort them itself. Nothing else is planned by it."""
_FORGOTTEN_AT_ONCE = 5_000
_RESTORES_STATISTICS = 180_000


@dataclass(frozen=True)
class Share:
    """The part of a collection that lies on one server: `local` names tables here, `remote` those there."""

    local: Tables
    server: Registered

    @cached_property
    def remote(self) -> Tables:
        return Tables(self.server.schema, self.local.ref)

    @cached_property
    def rows(self) -> sql.Identifier:
        """The foreign table for all partitions on the server."""
        return sql.Identifier(self.local.schema, self._name)

    @property
    def _name(self) -> str:
        return foreign_table_for(table_for(self.local.ref.id, "space"), self.server.id)

    # What is made on the server

    def create(self) -> list[sql.Composed]:
        """The space table there; as here, but with versions."""
        inline = self.local.ref.config.dimensions <= INLINE_DIMENSIONS
        return [
            sql.SQL(
                'create table {space} (part integer not null, namespace text collate "C" not null,'
                ' id text collate "C" not null{fields}, embedding {vector} not null, version bigint not null)'
                " partition by list (part)"
            ).format(space=self.remote.space, fields=self._definitions, vector=self.local.vector_type),
            sql.SQL("alter table {space} alter column embedding set storage {how}").format(
                space=self.remote.space, how=sql.SQL("plain" if inline else "external")
            ),
        ]

    @cached_property
    def _definitions(self) -> sql.Composed:
        kinds = self.local.ref.config.fields.values()
        return sql.Composed(
            [
                sql.SQL(", {} {}").format(column, sql.SQL(COLUMN_TYPES[kind]))
                for column, kind in zip(self.local.field_columns, kinds, strict=True)
            ]
        )

    def create_child(self, partition: int) -> list[sql.Composed]:
        names = {
            "child": self.remote.child(partition),
            "space": self.remote.space,
            "part": sql.Literal(partition),
        }
        return [
            sql.SQL(
                "create table {child} (like {space} including defaults including storage)"
                " with (toast_tuple_target = 8160)"
            ).format(**names),
            sql.SQL("alter table {child} add primary key (namespace, id, version)").format(**names),
            sql.SQL("alter table {space} attach partition {child} for values in ({part})").format(**names),
        ]

    def build(self, partition: int, rows: int, megabytes: int) -> list[sql.Composable | str]:
        """The indexes of one partition. Its writers wait meanwhile, its readers do not."""
        index = self.remote.create_index(partition, rows).as_string(None)
        return [
            sql.SQL("set local maintenance_work_mem = {}").format(sql.Literal(f"{megabytes}MB")),
            index.replace("create index concurrently", "create index if not exists", 1),
            *self.remote.child_field_indexes(partition),
            sql.SQL("analyze {}").format(self.remote.child(partition)),
        ]

    def drop_children(self, partitions: Sequence[int]) -> sql.Composable:
        return self.remote.drop_children(partitions)

    def drop(self) -> sql.Composable:
        return sql.SQL("drop table if exists {}").format(self.remote.space)

    # What is made here

    def create_foreign(self, server_version: int) -> list[sql.Composed]:
        tells = server_version >= _RESTORES_STATISTICS
        made: list[sql.Composed] = [
            sql.SQL(
                'create foreign table {rows} (part integer not null, namespace text collate "C" not null,'
                ' id text collate "C" not null{fields}, embedding {vector} not null, version bigint not null)'
                " server {server} options (schema_name {schema}, table_name {table}, use_remote_estimate {asks})"
            ).format(
                rows=self.rows,
                fields=self._definitions,
                vector=self.local.vector_type,
                server=self.server.foreign(self.local.schema),
                schema=sql.Literal(self.server.schema),
                table=sql.Literal(table_for(self.local.ref.id, "space")),
                asks=sql.Literal("false" if tells else "true"),
            )
        ]
        if tells:
            made.append(
                sql.SQL(
                    "do $do$ begin perform pg_restore_relation_stats('schemaname', {}::text, 'relname', {}::text,"
                    " 'relpages', 1000000::integer, 'reltuples', {}::real); end $do$"
                ).format(sql.Literal(self.local.schema), sql.Literal(self._name), _BELIEVED_ROWS)
            )
        return made

    def drop_foreign(self) -> sql.Composed:
        return sql.SQL("drop foreign table if exists {}").format(self.rows)

    # Rows

    def insert(self, partitions: Sequence[int]) -> tuple[sql.Composed, list[object]]:
        """Sends the staged vectors of these partitions, with the versions that their documents have now."""
        fields, staged = self._fields(", {c}"), self._fields(", g.{c}")
        text = sql.SQL(
            "insert into {rows} (part, namespace, id, version{fields}, embedding)"
            " select g.part, g.namespace, g.id, d.version{staged}, g.embedding from {stage} g"
            " join {documents} d on d.namespace = g.namespace and d.id = g.id where g.part = any(%s::int[])"
        ).format(
            rows=self.rows,
            fields=fields,
            staged=staged,
            stage=self.local.stage,
            documents=self.local.documents,
        )
        return text, [list(partitions)]

    def _fields(self, form: LiteralString) -> sql.Composed:
        return sql.Composed([sql.SQL(form).format(c=column) for column in self.local.field_columns])

    def forget(self, dead: Sequence[Dead]) -> list[sql.Composed]:
        """Removes exactly these rows, some thousand with a statement."""
        starts = range(0, len(dead), _FORGOTTEN_AT_ONCE)
        return [self._forget(dead[start : start + _FORGOTTEN_AT_ONCE]) for start in starts]

    def _forget(self, dead: Sequence[Dead]) -> sql.Composed:
        """Runs on the server: through the foreign table rows would be removed by their address, which is not unique
        over partitions.
        """
        parts, namespaces, ids, versions = (list(column) for column in zip(*dead, strict=True))
        return sql.SQL(
            "delete from {space} s using unnest({parts}::int[], {namespaces}::text[], {ids}::text[],"
            " {versions}::bigint[]) g(part, namespace, id, version) where s.part = any({among}::int[])"
            " and s.part = g.part and s.namespace = g.namespace and s.id = g.id and s.version = g.version"
        ).format(
            space=self.remote.space,
            parts=sql.Literal(parts),
            namespaces=sql.Literal(namespaces),
            ids=sql.Literal(ids),
            versions=sql.Literal(versions),
            among=sql.Literal(sorted(set(parts))),
        )

    def dead(self) -> sql.Composed:
        """The rows that belong to no document as it is."""
        return sql.SQL(
            "select t.part, t.namespace, t.id, t.version from {rows} t where not exists (select from {documents} d"
            " where d.namespace = t.namespace and d.id = t.id and d.part = t.part and d.version = t.version)"
        ).format(rows=self.rows, documents=self.local.documents)

    def without_vector(self, partitions: Sequence[int]) -> tuple[sql.Composed, list[object]]:
        """Ids of documents in these partitions whose vector is not on the server."""
        text = sql.SQL(
            "select d.id from {documents} d where d.part = any(%s::int[]) and not exists (select from {rows} t"
            " where t.namespace = d.namespace and t.id = d.id and t.part = d.part and t.version = d.version)"
            " order by d.namespace, d.id"
        ).format(rows=self.rows, documents=self.local.documents)
        return text, [list(partitions)]

    def receive(self, other: Share) -> sql.Composed:
        """Copies the vectors of given keys from a partition in another share to partitions in this one."""
        return sql.SQL(
            "insert into {rows} (part, namespace, id, version{fields}, embedding)"
            " select g.part, t.namespace, t.id, t.version{theirs}, t.embedding from {other} t"
            " join unnest(%s::text[], %s::text[], %s::int[]) g(namespace, id, part)"
            " on t.namespace = g.namespace and t.id = g.id where t.part = %s"
        ).format(
            rows=self.rows,
            fields=self._fields(", {c}"),
            theirs=self._fields(", t.{c}"),
            other=other.rows,
        )

    def keys(self, partition: int) -> tuple[sql.Composed, list[object]]:
        """What a partition holds: namespace, id, version, embedding of every row that counts."""
        text = sql.SQL(
            "select t.namespace, t.id, t.version, t.embedding from {rows} t join {documents} d"
            " on d.namespace = t.namespace and d.id = t.id and d.part = t.part and d.version = t.version"
            " where t.part = %s"
        ).format(rows=self.rows, documents=self.local.documents)
        return text, [partition]

    def sample(self, partition: int, rows: int) -> tuple[sql.Composed, list[object]]:
        """Rows in the order of a hash of their id: as good as random, and the server can do it."""
        text = sql.SQL(
            "select t.embedding from {rows} t where t.part = %s order by hashtextextended(t.id, 0) limit {limit}"
        ).format(rows=self.rows, limit=sql.Literal(rows))
        return text, [partition]

    def vectors(self, namespace: str, ids: Sequence[str]) -> tuple[sql.Composed, list[object]]:
        text = sql.SQL(
            "select t.id, t.embedding from {rows} t join {documents} d on d.namespace = t.namespace"
            " and d.id = t.id and d.part = t.part and d.version = t.version"
            " where t.namespace = %s and t.id = any(%s)"
        ).format(rows=self.rows, documents=self.local.documents)
        return text, [namespace, list(ids)]

    # Search

    def search(self, query: Query, fetched: int) -> queries.Statement:
        """The closest rows of the named partitions, of which `fetched` come over from the server.

        As the search on one server, but for the column after the distance, the number of rows that came over,
        and for a filter on undeclared fields: it is answered here, by id, and the server ranks these ids.
        """
        condition, values, needs_metadata = compile_filter(query.filter, self.local.columns)
        if needs_metadata:
            condition, values = self._by_id(query)
        exact = query.exact or needs_metadata or not self.local.indexable
        text = sql.SQL(
            "with k as materialized"
            " (select s.part, s.namespace, s.id, s.version, s.embedding {op} %s as distance{own} from {rows} s"
            " where s.part = any(%s::int[]) and s.namespace = %s and {condition} order by {order} limit {fetched})"
            " select r.part, r.namespace, r.id, r.text, r.metadata, r.version, r.distance, c.came{theirs}"
            " from (select count(*) as came from k) c left join"
            " (select k.part, k.namespace, k.id, d.text, d.metadata, d.version, k.distance{embedding} from k"
            " join {documents} d on d.namespace = k.namespace and d.id = k.id and d.part = k.part"
            " and d.version = k.version order by k.distance + 0, k.namespace, k.id limit {limit}) r on true"
            " order by r.distance + 0, r.namespace, r.id"
        ).format(
            **self._embeddings(there=query.with_vectors),
            op=self.local.operator,
            rows=self.rows,
            condition=condition,
            order=self._order(exact=exact),
            fetched=sql.Literal(fetched),
            documents=self.local.documents,
            limit=sql.Literal(query.limit),
        )
        params = [query.vector, list(query.partitions), query.namespace, *values]
        if exact or self.local.quantized:
            params.append(query.vector)
        return queries.Statement(text, params)

    @staticmethod
    def _embeddings(*, there: bool) -> dict[str, sql.Composable]:
        columns: dict[str, LiteralString] = {
            "own": ", s.embedding",
            "embedding": ", k.embedding",
            "theirs": ", r.embedding",
        }
        return {name: sql.SQL(text if there else "") for name, text in columns.items()}

    def fetched(self, query: Query) -> int:
        """How many rows an index scan on the server sends for this query, so that the best of them are right."""
        return query.limit * overfetch(self.local, exact=False, filtered=query.filter != ALL)

    def _by_id(self, query: Query) -> tuple[sql.Composed, list[object]]:
        """The collation of the ids is the one that a parameter may have that is sent to a server."""
        where = Selection(query.namespace, query.filter, partitions=query.partitions)
        inner = queries.selection(self.local, where)
        text = sql.SQL(
            's.id = any(array(select s.id collate "default" from {documents} s'
            " cross join lateral (select s.metadata as metadata) d where {where}))"
        ).format(documents=self.local.documents, where=inner.text)
        return text, inner.params

    def _order(self, *, exact: bool) -> sql.Composable:
        """An order that no index serves breaks ties by key; see `queries`."""
        op = self.local.operator
        if exact:
            return sql.SQL("(s.embedding {op} %s) + 0, s.namespace, s.id").format(op=op)
        return self.local.index_order()
