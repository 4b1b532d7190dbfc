"""The statements that read and write rows, put together from fixed fragments and compiled filters."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from psycopg import sql

from svr_retrievers.backends.postgres.filters import compile_filter
from svr_retrievers.backends.postgres.selects import (
    Form,
    best,
    closest,
    overfetch,
    text_of,
    with_documents,
)
from svr_retrievers.backends.postgres.sessions import STATEMENTS_KEPT
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import Query, Selection
from svr_retrievers.filters import ALL


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
    """The closest rows of the named partitions. Those of a partition in `tailed` lie under its negative number as well.

    One partition is named, and its plan kept, where a session can keep those of all. Several are asked for by number:
    a generic plan would open every partition, and misjudge a filter. Where there are few of the `known_tables` that
    hold rows of the collection, the server finds that out itself after five searches, and sessions need not be told
    a new mode each time a search of one partition follows one of several.
    """
    condition, values, needs_metadata = (
        _EVERYTHING if query.filter == ALL else compile_filter(query.filter, tables.columns)
    )
    named = len(query.partitions) == 1 and known_tables <= 2 * STATEMENTS_KEPT
    form = _Form(
        condition=condition.as_string(None),
        needs_metadata=needs_metadata,
        limit=query.limit,
        with_vectors=query.with_vectors,
        child=query.partitions[0] if named else None,
        tail=named and query.partitions[0] in tailed,
        exact=query.exact or not tables.indexable,
        everything=query.filter == ALL,
    )
    text = text_of(tables, form, lambda: _text(tables, form, condition))
    numbers = [] if named else [[*query.partitions, *(-p for p in query.partitions if p in tailed)]]
    params: list[object] = [query.vector, *numbers, query.namespace, *values]
    if form.exact or tables.quantized:
        params.append(query.vector)
    if form.tail:
        params += [query.vector, query.namespace, *values, query.vector]
    once = not form.everything or (not named and known_tables > AUTO_UP_TO_TABLES)
    return Search(text, params, "force_custom_plan" if once else "auto", sorts=form.exact)


_EVERYTHING: tuple[sql.Composable, list[object], bool] = (sql.SQL("true"), [], False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form(Form):
    """`child`: the one partition, None where there are several. `tail`: it has fresh rows beside it."""

    child: int | None
    tail: bool
    exact: bool
    everything: bool


def _text(tables: Tables, form: _Form, condition: sql.Composable) -> sql.Composed:
    """Where more candidates than the limit come up, the best of them are taken before texts are fetched."""
    times = overfetch(tables, exact=form.exact, filtered=not form.everything)
    found = closest(
        tables,
        form,
        tables.space if form.child is None else tables.child(form.child),
        condition,
        exact=form.exact,
        most=form.limit * times,
        among=sql.SQL("s.part = any(%s::int[]) and " if form.child is None else ""),
    )
    if form.tail and form.child is not None:
        fresh = closest(tables, form, tables.tail(form.child), condition, exact=True, most=form.limit)
        found = sql.SQL("{} union all {}").format(found, fresh)
    if times > 1 or form.tail:
        found = best(found, form.limit)
    return with_documents(tables, form, found)


def exactly(query: Query) -> Query:
    return replace(query, exact=True)


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


def find(
    tables: Tables, which: Selection, *, limit: int | None, with_vectors: bool, after: str | None = None
) -> Statement:
    where = selection(tables, which)
    if after is not None:
        where = Statement(where.text + sql.SQL(" and s.id > %s"), [*where.params, after])
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
