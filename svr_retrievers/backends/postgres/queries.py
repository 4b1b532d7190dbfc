"""The statements that read and write rows, put together from fixed fragments and compiled filters."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from psycopg import sql

from svr_retrievers.backends.postgres.filters import compile_filter
from svr_retrievers.backends.postgres.sessions import STATEMENTS_KEPT
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import Query, Selection
from svr_retrievers.filters import ALL
from svr_retrievers.filters.choice import OVERFETCH

TEXTS_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class Statement:
    text: sql.Composed
    params: list[object]


AUTO_UP_TO_TABLES = 200
"""Making a generic plan locks all tables and takes some 0.03 ms for each."""
Planning: TypeAlias = Literal["auto", "force_custom_plan", "force_generic_plan"]


@dataclass(frozen=True, slots=True)
class Search:
    """A search ready to be sent, and whether the server may keep its plan."""

    text: bytes
    params: list[object]
    planning: Planning
    sorts: bool = True
    """False where an index yields the order, and the server shall not sort all rows instead."""


def search(
    tables: Tables, query: Query, tailed: Container[int] = (), *, known_tables: int = AUTO_UP_TO_TABLES + 1
) -> Search:
    """The closest rows of the named partitions: part, namespace, id, text, metadata, version, distance,
    the map's generation as the rows were read[, vector].

    In the exact form the ordering is an expression no index can serve, and ties are broken by key even at the limit.
    The outer order is an expression too: a relaxed graph scan claims an order that it does not keep. The rows of a
    partition in `tailed` lie under its negative number as well.

    A generic plan would open every partition, and misjudge a filter. Where there are few of the `known_tables` that
    hold rows of the collection, the server finds that out itself after five searches, and sessions need not be told
    a new mode each time a search of one partition follows one of several. One partition is named, and its plan kept,
    where a session can keep those of all.
    """
    parts = [*query.partitions, *(-p for p in query.partitions if p in tailed)]
    condition, values, needs_metadata = (
        _EVERYTHING if query.filter == ALL else compile_filter(query.filter, tables.columns)
    )
    child = parts[0] if len(parts) == 1 and known_tables <= 2 * STATEMENTS_KEPT else None
    form = _Form(
        child,
        condition.as_string(None),
        needs_metadata,
        query.exact or not tables.indexable,
        query.limit,
        query.filter == ALL,
        query.with_vectors,
    )
    text = tables.texts.get(form)
    if text is None:
        if len(tables.texts) >= TEXTS_KEPT:
            tables.texts.clear()
        text = tables.texts[form] = _text(tables, form, condition).as_bytes(None)
    params: list[object] = [query.vector, *(() if child is not None else (parts,)), query.namespace, *values]
    if form.exact or tables.quantized:
        params.append(query.vector)
    once = not form.everything or (child is None and known_tables > AUTO_UP_TO_TABLES)
    return Search(text, params, "force_custom_plan" if once else "auto", sorts=form.exact)


_EVERYTHING: tuple[sql.Composable, list[object], bool] = (sql.SQL("true"), [], False)


@dataclass(frozen=True, slots=True)
class _Form:
    """What the text of a search depends on. `child`: the one partition, None where there are several."""

    child: int | None
    condition: str
    needs_metadata: bool
    exact: bool
    limit: int
    everything: bool
    with_vectors: bool


def _text(tables: Tables, form: _Form, condition: sql.Composable) -> sql.Composed:
    """Limits are literals: with a parameter a generic plan would expect a tenth of the table, and sort it.

    Where more candidates than the limit come from an index, the best of them are taken before texts are fetched.
    """
    times = overfetch(tables, exact=form.exact, filtered=not form.everything)
    inner = sql.SQL(
        "select s.part, s.namespace, s.id, s.embedding {op} %s as distance{embedding} from {rows} s{join}"
        " where {partitions}s.namespace = %s and {condition} order by {order} limit {most}"
    ).format(
        op=tables.operator,
        embedding=sql.SQL(", s.embedding" if form.with_vectors else ""),
        rows=tables.space if form.child is None else tables.child(form.child),
        join=join_documents(tables) if form.needs_metadata else sql.SQL(""),
        partitions=sql.SQL("s.part = any(%s::int[]) and " if form.child is None else ""),
        condition=condition,
        order=order_by(tables, exact=form.exact),
        most=sql.Literal(form.limit * times),
    )
    if times > 1:
        inner = sql.SQL(
            "select * from ({inner}) c order by c.distance + 0, c.namespace, c.id limit {limit}"
        ).format(inner=inner, limit=sql.Literal(form.limit))
    return sql.SQL(
        "select k.part, k.namespace, k.id, d.text, d.metadata, d.version, k.distance,"
        " (select c.generation from {collections} c where c.id = {collection}){embedding} from ({inner}) k"
        " join {documents} d on d.namespace = k.namespace and d.id = k.id"
        " order by k.distance + 0, k.namespace, k.id limit {limit}"
    ).format(
        collections=tables.collections,
        collection=sql.Literal(tables.ref.id),
        embedding=sql.SQL(", k.embedding" if form.with_vectors else ""),
        inner=inner,
        documents=tables.documents,
        limit=sql.Literal(form.limit),
    )


def overfetch(tables: Tables, *, exact: bool, filtered: bool) -> int:
    """How many times the limit an index must yield, so that after sorting the best of them are right."""
    if exact:
        return 1
    return max(tables.candidates, OVERFETCH) if filtered else tables.candidates


def exactly(query: Query) -> Query:
    return replace(query, exact=True)


def join_documents(tables: Tables) -> sql.Composed:
    return sql.SQL(" join {documents} d on d.namespace = s.namespace and d.id = s.id").format(
        documents=tables.documents
    )


def order_by(tables: Tables, *, exact: bool) -> sql.Composable:
    if exact:
        return sql.SQL("(s.embedding {op} %s) + 0, s.namespace, s.id").format(op=tables.operator)
    return tables.index_order()


def selection(tables: Tables, which: Selection) -> Statement:
    """The condition, over `s` (documents) and `d` (its metadata), for the rows of a selection."""
    condition, values, _ = compile_filter(which.filter, tables.columns)
    text = sql.SQL("s.namespace = %s and {condition}").format(condition=condition)
    params: list[object] = [which.namespace, *values]
    if which.ids is not None:
        text += sql.SQL(" and s.id = any(%s)")
        params.append(list(which.ids))
    if which.partitions is not None:
        text += sql.SQL(" and s.part = any(%s::int[])")
        params.append(list(which.partitions))
    return Statement(sql.Composed([text]), params)


def _rows(tables: Tables) -> sql.Composed:
    """The documents as `s`, with their metadata as `d.metadata`, which is what compiled filters speak of."""
    return sql.SQL("{documents} s cross join lateral (select s.metadata as metadata) d").format(
        documents=tables.documents
    )


def find(tables: Tables, which: Selection, *, limit: int | None, with_vectors: bool) -> Statement:
    where = selection(tables, which)
    vector = (
        sql.SQL(
            ", (select v.embedding from {space} v"
            " where v.part in (s.part, -s.part) and v.namespace = s.namespace and v.id = s.id)"
        ).format(space=tables.space)
        if with_vectors
        else sql.SQL("")
    )
    text = sql.SQL(
        "select s.namespace, s.id, s.text, s.metadata, s.version{vector} from {rows} where {where}"
        " order by s.id{limit}"
    ).format(
        vector=vector,
        rows=_rows(tables),
        where=where.text,
        limit=sql.SQL("" if limit is None else " limit %s"),
    )
    return Statement(text, where.params if limit is None else [*where.params, limit])


def count(tables: Tables, which: Selection) -> Statement:
    where = selection(tables, which)
    text = sql.SQL("select count(*) from {rows} where {where}").format(rows=_rows(tables), where=where.text)
    return Statement(text, where.params)


def delete(tables: Tables, which: Selection) -> Statement:
    """Deletes the documents in key order, so that concurrent writers cannot deadlock; returns part and key."""
    where = selection(tables, which)
    text = sql.SQL(
        "with doomed as (select s.namespace, s.id from {rows} where {where} order by s.namespace, s.id for update of s)"
        " delete from {documents} t using doomed g where t.namespace = g.namespace and t.id = g.id"
        " returning t.part, t.namespace, t.id"
    ).format(rows=_rows(tables), where=where.text, documents=tables.documents)
    return Statement(text, where.params)
