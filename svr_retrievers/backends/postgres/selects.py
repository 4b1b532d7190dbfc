"""The pieces that searches are put together from: the closest rows of some tables, and the documents they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from psycopg import sql

from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.filters.choice import OVERFETCH

_TEXTS_KEPT = 1_000
_NOTHING = sql.SQL("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the text of every search depends on."""

    condition: str
    needs_metadata: bool
    limit: int
    with_vectors: bool


def text_of(tables: Tables, form: Form, make: Callable[[], sql.Composed]) -> bytes:
    """The text for this form, put together when it is first asked for."""
    text = tables.texts.get(form)
    if text is None:
        if len(tables.texts) >= _TEXTS_KEPT:
            tables.texts.clear()
        text = tables.texts[form] = make().as_bytes(None)
    return text


def closest(
    tables: Tables,
    form: Form,
    rows: sql.Composable,
    condition: sql.Composable,
    *,
    exact: bool,
    most: int,
    among: sql.Composable = _NOTHING,
) -> sql.Composed:
    """The `most` closest rows of a table, with their distance; placeholders: vector, those of `among`, namespace,
    those of the condition, and, where exact or quantized, the vector again.

    Limits are literals: with a parameter a generic plan would expect a tenth of the table, and sort it.
    """
    return sql.SQL(
        "(select s.part, s.namespace, s.id, s.embedding {op} %s as distance{embedding} from {rows} s{join}"
        " where {among}s.namespace = %s and {condition} order by {order} limit {most})"
    ).format(
        op=tables.operator,
        embedding=sql.SQL(", s.embedding" if form.with_vectors else ""),
        rows=rows,
        join=_with_metadata(tables) if form.needs_metadata else _NOTHING,
        among=among,
        condition=condition,
        order=order_by(tables, exact=exact),
        most=sql.Literal(most),
    )


def best(found: sql.Composable, limit: int) -> sql.Composed:
    """The best of what was found, taken before documents are fetched."""
    return sql.SQL(
        "(select * from ({found}) c order by c.distance + 0, c.namespace, c.id limit {limit})"
    ).format(found=found, limit=sql.Literal(limit))


def with_documents(tables: Tables, form: Form, found: sql.Composable) -> sql.Composed:
    """What a search answers with: part, namespace, id, text, metadata, version, distance, the map's generation as
    the rows were read[, vector].

    Ordered by an expression: a relaxed graph scan claims an order that it does not keep.
    """
    return sql.SQL(
        "select k.part, k.namespace, k.id, d.text, d.metadata, d.version, k.distance,"
        " (select c.generation from {collections} c where c.id = {collection}){embedding} from {found} k"
        " join {documents} d on d.namespace = k.namespace and d.id = k.id"
        " order by k.distance + 0, k.namespace, k.id limit {limit}"
    ).format(
        collections=tables.collections,
        collection=sql.Literal(tables.ref.id),
        embedding=sql.SQL(", k.embedding" if form.with_vectors else ""),
        found=found,
        documents=tables.documents,
        limit=sql.Literal(form.limit),
    )


def overfetch(tables: Tables, *, exact: bool, filtered: bool) -> int:
    """How many times the limit an index must yield, so that after sorting the best of them are right."""
    if exact:
        return 1
    return max(tables.candidates, OVERFETCH) if filtered else tables.candidates


def order_by(tables: Tables, *, exact: bool) -> sql.Composable:
    """In the exact form an expression no index can serve, so that ties are broken by key even at the limit."""
    if exact:
        return sql.SQL("(s.embedding {op} %s) + 0, s.namespace, s.id").format(op=tables.operator)
    return tables.index_order()


def _with_metadata(tables: Tables) -> sql.Composed:
    return sql.SQL(" join {documents} d on d.namespace = s.namespace and d.id = s.id").format(
        documents=tables.documents
    )
