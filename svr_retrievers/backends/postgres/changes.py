"""The statements that change rows, put together from fixed fragments.

`part` of a document is its partition p. Its vector stands under `part` p in the space, or under -p while it
waits in the partition's tail. A statement that looks for vectors names both, in a list, which the planner prunes by,
and again for the single row, which leaves one or two tables to look into.
"""

from __future__ import annotations

from psycopg import sql

from svr_retrievers.backends.postgres.tables import Tables

SETTINGS = (
    "select set_config('plan_cache_mode', 'force_custom_plan', true),"
    " set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),"
    " set_config('enable_seqscan', 'off', true)"
)
"""Each key is looked up on its own, whatever the server believes of tables that grow faster than it counts them: a
join that reads whole partitions would cost more than the write, and one that reads them for each key never ends.
"""


def _fields(tables: Tables, form: sql.SQL) -> sql.Composed:
    return sql.Composed([form.format(c=column) for column in tables.field_columns])


def any_exists(tables: Tables) -> sql.Composed:
    """Whether one of the ids is there already in the namespace."""
    return sql.SQL("select exists (select 1 from {} where namespace = %s and id = any(%s))").format(
        tables.documents
    )


def copy_documents(tables: Tables) -> sql.Composed:
    return sql.SQL(
        "copy {} (part, namespace, id{}, version, text, metadata) from stdin (format binary)"
    ).format(tables.documents, _fields(tables, sql.SQL(", {c}")))


def copy_vectors(tables: Tables) -> sql.Composed:
    return sql.SQL("copy {} (part, namespace, id{}, embedding) from stdin (format binary)").format(
        tables.space, _fields(tables, sql.SQL(", {c}"))
    )


def copy_stage(tables: Tables) -> sql.Composed:
    return sql.SQL(
        "copy {} (part, namespace, id{}, text, metadata, embedding) from stdin (format binary)"
    ).format(tables.stage, _fields(tables, sql.SQL(", {c}")))


def upsert_documents(tables: Tables) -> sql.Composed:
    """Writes the staged documents in key order; returns key and former partition of those that existed."""
    return sql.SQL(
        "with written as (insert into {documents} as d (part, namespace, id, version, text, metadata{fields})"
        " select abs(part), namespace, id, 1, text, metadata{fields} from {stage} order by namespace, id"
        " on conflict (namespace, id) do update set part = excluded.part, moved_from = d.part,"
        " version = d.version + 1, text = excluded.text, metadata = excluded.metadata{changes}"
        " returning namespace, id, moved_from, version)"
        " select namespace, id, moved_from from written where version > 1"
    ).format(
        documents=tables.documents,
        stage=tables.stage,
        fields=_fields(tables, sql.SQL(", {c}")),
        changes=_fields(tables, sql.SQL(", {c} = excluded.{c}")),
    )


_FORMER = sql.SQL(
    "{documents} d where d.namespace = g.namespace and d.id = g.id and d.version > 1"
    " and s.part = any(%s::int[]) and s.part in (d.moved_from, -d.moved_from)"
    " and s.namespace = g.namespace and s.id = g.id"
)
"""The former vector `s` of a staged key `g` that was replaced."""


def keep_unchanged(tables: Tables) -> sql.Composed:
    """Takes those off the stage whose vector stays as it is, where it is: its index entry need not be made again."""
    return sql.SQL(
        "delete from {stage} g using {space} s, {former}"
        " and (abs(s.part), s.embedding{old}) is not distinct from (abs(g.part), g.embedding{new})"
        " returning g.part, g.namespace, g.id"
    ).format(
        stage=tables.stage,
        space=tables.space,
        former=_FORMER.format(documents=tables.documents),
        old=_fields(tables, sql.SQL(", s.{c}")),
        new=_fields(tables, sql.SQL(", g.{c}")),
    )


def delete_replaced(tables: Tables) -> sql.Composed:
    """Removes the former vectors of what is on the stage; returns where each was."""
    return sql.SQL("delete from {space} s using {stage} g, {former} returning s.part").format(
        stage=tables.stage, space=tables.space, former=_FORMER.format(documents=tables.documents)
    )


def insert_vectors(tables: Tables) -> sql.Composed:
    return sql.SQL(
        "insert into {space} (part, namespace, id{fields}, embedding)"
        " select part, namespace, id{fields}, embedding from {stage}"
    ).format(space=tables.space, stage=tables.stage, fields=_fields(tables, sql.SQL(", {c}")))


def delete_vectors(tables: Tables) -> sql.Composed:
    """Removes the vectors of the given keys and partitions; returns where each was."""
    return sql.SQL(
        "delete from {space} s using unnest(%s::text[], %s::text[], %s::int[]) g(namespace, id, part)"
        " where s.part = any(%s::int[]) and s.part in (g.part, -g.part)"
        " and s.namespace = g.namespace and s.id = g.id returning s.part"
    ).format(space=tables.space)
