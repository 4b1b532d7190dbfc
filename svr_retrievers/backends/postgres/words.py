"""The words of texts as PostgreSQL keeps them: a tsvector column beside each text, and the index over it.

Words are runs of letters, digits and underscores, joined by single dots as in `json.dumps`; the text search
configuration folds, stems and drops them. Each document also has a lexeme for its namespace, so that the index leads
to one namespace's documents alone.
"""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import errors, sql

from svr_retrievers.backends.postgres.connection import Connection
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.errors import InputError

_WHOLE_BYTES: Final = 262_144
_PART_CHARACTERS: Final = 65_536
"""Of a longer text only this much is taken apart: a tsvector holds at most a megabyte, or the write would fail."""
_NORMAL: Final[LiteralString] = (
    "replace(translate(case when octet_length({text}) <= {whole} then {text} else left({text}, {part}) end,"
    " '-/@<>&+~', '        '), '_', 'zqz')"
)
"""The parser would cut names at underscores, and make more than one word of what has hyphens or slashes."""

_NOT_NAMED: Final = (
    errors.UndefinedObject,
    errors.InvalidName,
    errors.SyntaxError,
    errors.InvalidSchemaName,
    errors.FeatureNotSupported,
)


def words_of(config: str, text: sql.Composable) -> sql.Composed:
    """The words of a text: an expression that a generated column may hold."""
    normal = sql.SQL(_NORMAL).format(
        text=text, whole=sql.Literal(_WHOLE_BYTES), part=sql.Literal(_PART_CHARACTERS)
    )
    return sql.SQL("to_tsvector({}::regconfig, {})").format(sql.Literal(config), normal)


def of_namespace(namespace: sql.Composable) -> sql.Composed:
    """A lexeme that no text yields."""
    return sql.SQL("'=' || md5({})").format(namespace)


def of_row(config: str, row: sql.Composable) -> sql.Composed:
    """What the column of a row holds; `row` is empty or the row's name with a dot."""
    text, namespace = (sql.SQL("{}{}").format(row, sql.SQL(name)) for name in ("text", "namespace"))
    return sql.SQL("{} || array_to_tsvector(array[{}])").format(
        words_of(config, text), of_namespace(namespace)
    )


def create(tables: Tables) -> list[sql.Composed]:
    """The column and its index, for a collection without documents."""
    return [
        sql.SQL(
            "alter table {documents} add column words tsvector generated always as ({words}) stored"
        ).format(documents=tables.documents, words=of_row(tables.text_search, sql.SQL(""))),
        sql.SQL("create index {name} on {documents} using gin (words)").format(
            name=sql.Identifier(tables.words_index), documents=tables.documents
        ),
    ]


def begin(tables: Tables) -> list[sql.Composed]:
    """A column that new rows fill from now on. None of this reads the table."""
    return [
        sql.SQL("alter table {} add column if not exists words_new tsvector").format(tables.documents),
        _function(tables, "words_new"),
        sql.SQL("drop trigger if exists svr_words on {}").format(tables.documents),
        sql.SQL(
            "create trigger svr_words before insert or update of text, namespace on {documents}"
            " for each row execute function {function}()"
        ).format(documents=tables.documents, function=tables.words_function),
    ]


def _function(tables: Tables, column: LiteralString) -> sql.Composed:
    body = sql.SQL("begin new.{column} := {words}; return new; end").format(
        column=sql.SQL(column), words=of_row(tables.text_search, sql.SQL("new."))
    )
    return sql.SQL("create or replace function {name}() returns trigger language plpgsql as {body}").format(
        name=tables.words_function, body=sql.Literal(body.as_string(None))
    )


def fill(tables: Tables) -> sql.Composed:
    """Fills the next rows behind a key and tells the last of them. Rows that others hold are left to another round,
    so that nobody waits for somebody who waits.
    """
    return sql.SQL(
        "with due as materialized (select namespace, id from {documents}"
        " where (namespace, id) > (%s, %s) and words_new is null order by namespace, id limit %s"
        " for update skip locked),"
        " done as (update {documents} s set words_new = {words} from due"
        " where s.namespace = due.namespace and s.id = due.id returning s.namespace, s.id)"
        " select namespace, id from done order by namespace desc, id desc limit 1"
    ).format(documents=tables.documents, words=of_row(tables.text_search, sql.SQL("s.")))


def unfilled(tables: Tables) -> sql.Composed:
    return sql.SQL("select exists (select from {} where words_new is null)").format(tables.documents)


def index(tables: Tables) -> sql.Composed:
    return sql.SQL("create index concurrently {name} on {documents} using gin (words_new)").format(
        name=sql.Identifier(tables.words_index), documents=tables.documents
    )


def drop_index(tables: Tables) -> sql.Composed:
    return sql.SQL("drop index concurrently if exists {}").format(
        sql.Identifier(tables.schema, tables.words_index)
    )


def finish(tables: Tables) -> list[sql.Composed]:
    """The column gets its name, which searches go by: from now on it is complete."""
    return [
        sql.SQL("alter table {} rename column words_new to words").format(tables.documents),
        _function(tables, "words"),
    ]


async def check(conn: Connection, name: str) -> None:
    """Raises InputError naming the text search configurations that there are."""
    try:
        async with conn.transaction():
            await conn.execute("select %s::text::regconfig", (name,))
    except _NOT_NAMED as error:
        cursor = await conn.execute("select cfgname from pg_ts_config order by 1")
        known = ", ".join(repr(row[0]) for row in await cursor.fetchall())
        raise InputError(
            f"PostgreSQL knows no text search configuration {name[:80]!r}.", hint=f"There are: {known}."
        ) from error
