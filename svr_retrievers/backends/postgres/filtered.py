"""A filtered search as SQL: some partitions exactly over their matching rows, others through their index.

The form decides the plan. Left to itself the server walks a graph under almost any filter; an ordering
by an expression takes the graph away, and the field's B-tree is what remains.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from psycopg import sql

from svr_retrievers.backends.postgres.filters import compile_filter
from svr_retrievers.backends.postgres.queries import Planning, Search
from svr_retrievers.backends.postgres.selects import (
    Form,
    best,
    closest,
    overfetch,
    text_of,
    with_documents,
)
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import Query
from svr_retrievers.filters.choice import Choice, Estimates, Part, ScanCosts, choose
from svr_retrievers.model import Partition, PartitionMap

GENERIC_UP_TO_TABLES = 256
"""A kept plan names every table of the collection, and each search locks them all: about 0.2 us each."""
_KEPT_PLACES = 4
"""A kept plan has room for at least so many partitions: the fewer forms, the sooner each has been planned."""
GENERIC_UP_TO_MATCHES = 4_000
"""A plan for this very filter takes 60 us a partition to make. With more rows to compare that no longer counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form(Form):
    """One table by name or so many by number, on either side; 0 for none."""

    exact: int
    exact_table: int | None
    indexed: int
    indexed_table: int | None


def choice(
    tables: Tables, known: PartitionMap, query: Query, ef_search: int, most_visited: int
) -> Choice | None:
    """The way in each partition; None where there is no filter, or every row is to be compared."""
    if query.estimates is None or query.exact:
        return None
    parts = {number: _part(tables, known.get(number), number, query.estimates) for number in query.partitions}
    costs = query.estimates.costs or ScanCosts.for_dimensions(tables.ref.config.dimensions)
    return choose(parts, limit=query.limit, ef_search=ef_search, most_visited=most_visited, costs=costs)


def _part(tables: Tables, leaf: Partition | None, number: int, estimates: Estimates) -> Part:
    rows = leaf.stats.rows if leaf is not None else 0
    share, read = estimates.shares.get(number, 1.0), estimates.reads.get(number, 0.0)
    spec = tables.ref.config.index
    if leaf is None or not leaf.stats.indexed or not tables.indexable or spec.kind == "flat":
        return Part(rows, share, "none", read)
    lists = rows * spec.probes_for(rows) // spec.lists_for(rows) if spec.kind == "ivfflat" else 0
    return Part(rows, share, spec.kind, read, lists)


def search(tables: Tables, query: Query, choice: Choice, tailed: Container[int], known_tables: int) -> Search:
    """As `queries.search`, for a filter whose way was chosen. Fresh rows have no index: they are compared exactly.

    `known_tables`: how many tables hold rows of the collection.
    """
    exact = [*choice.exact, *(-p for p in query.partitions if p in tailed)]
    indexed = list(choice.indexed)
    plain, values, needs_metadata = compile_filter(query.filter, tables.columns)
    planning = _planning(query, choice, known_tables)
    kept = planning == "force_generic_plan"
    places = max(_KEPT_PLACES, _padded(len(exact))) if kept else _padded(len(exact))
    form = _Form(
        condition=plain.as_string(None),
        needs_metadata=needs_metadata,
        limit=query.limit,
        with_vectors=query.with_vectors,
        exact=places,
        exact_table=exact[0] if places == 1 else None,
        indexed=_padded(len(indexed)),
        indexed_table=indexed[0] if len(indexed) == 1 else None,
    )
    text = text_of(tables, form, lambda: _text(tables, form, plain))
    params: list[object] = []
    if exact:
        params += [query.vector, *_numbers(exact, places), query.namespace, *values, query.vector]
    if indexed:
        again = [query.vector] if tables.quantized else []
        params += [query.vector, *_numbers(indexed, form.indexed), query.namespace, *values, *again]
    return Search(text, params, planning, sorts=not indexed)


def _planning(query: Query, choice: Choice, known_tables: int) -> Planning:
    """A kept plan, where a B-tree leads to few rows whatever the value and there are not too many tables."""
    kept = (
        not choice.indexed
        and query.estimates is not None
        and query.estimates.led_by_value
        and choice.matches <= GENERIC_UP_TO_MATCHES
        and known_tables <= GENERIC_UP_TO_TABLES
    )
    return "force_generic_plan" if kept else "force_custom_plan"


def _padded(parts: int) -> int:
    """The next power of two, so that few texts serve all numbers of partitions."""
    return 0 if parts == 0 else 1 << (parts - 1).bit_length()


def _numbers(parts: Sequence[int], places: int) -> list[int]:
    """One parameter each: with an array the server could not leave partitions out of a kept plan."""
    return [] if places == 1 else [*parts, *([parts[-1]] * (places - len(parts)))]


def _text(tables: Tables, form: _Form, condition: sql.Composable) -> sql.Composed:
    sides: list[sql.Composable] = []
    if form.exact:
        sides.append(_side(tables, form, condition, form.exact, form.exact_table, exact=True))
    if form.indexed:
        sides.append(_side(tables, form, condition, form.indexed, form.indexed_table, exact=False))
    found: sql.Composable = sql.SQL(" union all ").join(sides)
    if form.indexed:
        found = best(found, form.limit)
    return with_documents(tables, form, found)


def _side(
    tables: Tables, form: _Form, condition: sql.Composable, parts: int, table: int | None, *, exact: bool
) -> sql.Composed:
    placeholders = sql.SQL(", ").join([sql.SQL("%s::int")] * parts)
    return closest(
        tables,
        form,
        tables.space if table is None else tables.child(table) if table > 0 else tables.tail(-table),
        condition,
        exact=exact,
        most=form.limit * overfetch(tables, exact=exact, filtered=True),
        among=sql.SQL("s.part in ({}) and ").format(placeholders) if table is None else sql.SQL(""),
    )
