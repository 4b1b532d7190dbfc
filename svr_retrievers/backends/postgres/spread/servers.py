"""Further servers of a database: registered with postgres_fdw, prepared for the collections that lie on them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import LiteralString

from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict

from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres.asking import ReadSettings
from svr_retrievers.backends.postgres.connection import Connection
from svr_retrievers.backends.postgres.spread.failures import reaching
from svr_retrievers.control.postgres import Catalog
from svr_retrievers.errors import (
    ConfigError,
    ExtensionMissing,
    PermissionDenied,
    ServerNotFound,
)
from svr_retrievers.model import Server
from svr_retrievers.names import foreign_server_for, foreign_table_for
from svr_retrievers.settings import Settings

DEFAULT_EF_SEARCH = IndexSpec().ef_search
_SECRETS = ("user", "password", "sslcert", "sslkey", "sslpassword", "passfile", "passcode")
"""Options that belong to the user mapping, which only its owner can read, or nowhere."""
_MAPPED = ("user", "password", "sslcert", "sslkey", "sslpassword")
_SHOWN = ("host", "port", "dbname")


@dataclass(frozen=True, slots=True)
class Registered:
    """A server as the database knows it. `schema` is ours alone on that server."""

    id: int
    name: str
    schema: str

    def foreign(self, schema: str) -> sql.Identifier:
        return sql.Identifier(foreign_server_for(schema, self.id))

    def commands(self, schema: str) -> sql.Identifier:
        """The foreign table whose inserted texts the server executes, in the transaction that inserts them."""
        return sql.Identifier(schema, foreign_table_for("commands", self.id))


async def registered(conn: Connection, catalog: Catalog) -> dict[str, Registered]:
    """All servers by name."""
    cursor = await conn.execute(
        catalog.statement("select id, name, remote_schema from {servers} order by id", **_table(catalog))
    )
    return {str(row[1]): Registered(int(row[0]), str(row[1]), str(row[2])) for row in await cursor.fetchall()}


def _table(catalog: Catalog) -> dict[str, sql.Composable]:
    return {"servers": catalog.table("servers")}


def named(there: dict[str, Registered], name: str) -> Registered:
    """Raises ServerNotFound, naming those that exist."""
    if name not in there:
        known = ", ".join(repr(n) for n in there) or "none yet"
        raise ServerNotFound(
            f"There is no server {name!r}.", hint=f"Register it with add_server(). There are: {known}."
        )
    return there[name]


async def execute(conn: Connection, schema: str, server: Registered, command: sql.Composable | str) -> None:
    """Runs a statement on the server, as part of this connection's transaction.

    It must not return anything, and must not be one that PostgreSQL refuses inside a function.
    """
    with reaching(server.name):
        await conn.execute(
            sql.SQL("insert into {} (statement) values (%s)").format(server.commands(schema)),
            (command if isinstance(command, str) else command.as_string(None),),
        )


_OWN_SETTINGS = (DEFAULT_EF_SEARCH, 20_000, 1)
"""With which a server is registered: ef_search, max_scan_tuples, probes."""


def has_settings(wanted: ReadSettings) -> bool:
    """Whether servers scan their indexes so anyway."""
    return (wanted.ef_search, wanted.max_scan_tuples, wanted.probes) == _OWN_SETTINGS


def scan_settings(wanted: ReadSettings) -> sql.Composed:
    return sql.SQL(
        "select set_config('hnsw.ef_search', {}, true), set_config('hnsw.max_scan_tuples', {}, true),"
        " set_config('ivfflat.probes', {}, true)"
    ).format(
        sql.Literal(str(wanted.ef_search)),
        sql.Literal(str(wanted.max_scan_tuples)),
        sql.Literal(str(wanted.probes)),
    )


async def add(conn: Connection, catalog: Catalog, settings: Settings, name: str, url: str) -> None:
    """Prepares the server directly, then registers it here; what was begun is taken back when that fails.

    Raises:
        ConfigError: the name is taken, or the two servers keep pgvector in different schemas.
        ExtensionMissing: postgres_fdw is not there and this role may not install it.
        ConnectionFailed: this client, or the main server, cannot reach it.
    """
    if name in await registered(conn, catalog):
        raise ConfigError(
            f"There is a server {name!r} already.", hint="Use another name, or remove_server() first."
        )
    await _ensure_fdw(conn)
    schema = f"svr_{secrets.token_hex(8)}"
    remote = await conns.connect(url, settings)
    async with remote:
        await conns.ensure_extension(remote)
        path = await _vector_schema(remote)
        if path != (here := await _vector_schema(conn)):
            raise ConfigError(
                f"pgvector lies in the schema {path!r} on {name!r}, but in {here!r} on the main server.",
                hint="Operators are sent with their schema: create the extension in the same one on both.",
            )
        with conns.translated():
            await _prepare(remote, schema, path)
        try:
            async with conn.transaction():
                await _register(conn, catalog, name, url, schema)
        except BaseException:
            await remote.execute(
                sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)), prepare=False
            )
            raise


async def _ensure_fdw(conn: Connection) -> None:
    found = await conn.execute("select 1 from pg_extension where extname = 'postgres_fdw'")
    if await found.fetchone() is not None:
        return
    try:
        await conn.execute("create extension if not exists postgres_fdw")
    except errors.Error as error:
        refused = isinstance(error, errors.InsufficientPrivilege)
        raise ExtensionMissing(
            "Several servers need the extension postgres_fdw, which is not installed in this database"
            + (" and which this role may not install." if refused else ", nor can it be created."),
            hint="Ask an administrator to run: CREATE EXTENSION postgres_fdw; (part of postgresql-contrib),"
            " and GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw to this role.",
        ) from None


async def _vector_schema(conn: Connection) -> str:
    row = await (
        await conn.execute(
            "select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace"
            " where e.extname = 'vector'"
        )
    ).fetchone()
    assert row is not None
    return str(row[0])


_RUN: LiteralString = (
    "create function {schema}.run() returns trigger language plpgsql set search_path = {vector}, pg_catalog"
    " as $$ begin execute new.statement; return null; end $$"
)


async def _prepare(remote: Connection, schema: str, vector_schema: str) -> None:
    """A schema of our own with a table that executes what is inserted into it."""
    names = {"schema": sql.Identifier(schema), "vector": sql.Identifier(vector_schema)}
    async with remote.transaction():
        for text in (
            "create schema {schema}",
            "create table {schema}.commands (statement text not null)",
            _RUN,
            "create trigger run before insert on {schema}.commands for each row execute function {schema}.run()",
        ):
            await remote.execute(sql.SQL(text).format(**names))


async def _register(conn: Connection, catalog: Catalog, name: str, url: str, remote_schema: str) -> None:
    cursor = await conn.execute(
        catalog.statement(
            "insert into {servers} (name, remote_schema) values (%s, %s) returning id", **_table(catalog)
        ),
        (name, remote_schema),
    )
    row = await cursor.fetchone()
    assert row is not None
    server = Registered(int(row[0]), name, remote_schema)
    given = {key: str(value) for key, value in conninfo_to_dict(url).items() if value not in (None, "")}
    await conn.execute(
        sql.SQL("create server {} foreign data wrapper postgres_fdw options ({})").format(
            server.foreign(catalog.schema), _options(_server_options(given))
        )
    )
    await _map_user(conn, server.foreign(catalog.schema), {k: v for k, v in given.items() if k in _MAPPED})
    await conn.execute(
        sql.SQL(
            "create foreign table {} (statement text not null) server {} options (schema_name {}, table_name"
            " 'commands', batch_size '1')"
        ).format(server.commands(catalog.schema), server.foreign(catalog.schema), sql.Literal(remote_schema))
    )
    await execute(conn, catalog.schema, server, sql.SQL("set local client_min_messages = warning"))


def _server_options(given: dict[str, str]) -> dict[str, str]:
    """How the main server connects, and what its planner is to believe: a row sent is what costs."""
    session = (
        f"-c hnsw.ef_search={DEFAULT_EF_SEARCH} -c hnsw.iterative_scan=relaxed_order"
        " -c ivfflat.iterative_scan=relaxed_order -c jit=off"
    )
    options = {key: value for key, value in given.items() if key not in _SECRETS}
    return {
        "connect_timeout": "5",
        "keepalives_idle": "10",
        "application_name": "svr",
        **options,
        "options": f"{options.get('options', '')} {session}".strip(),
        "extensions": "vector",
        "fetch_size": "1000",
        "batch_size": "1000",
        "fdw_tuple_cost": "10",
        "async_capable": "true",
    }


def _options(given: dict[str, str]) -> sql.Composed:
    pairs = [sql.SQL("{} {}").format(sql.Identifier(key), sql.Literal(value)) for key, value in given.items()]
    return sql.SQL(", ").join(pairs)


async def _map_user(conn: Connection, server: sql.Identifier, given: dict[str, str]) -> None:
    """The password travels as a parameter and is put in place by the server: no statement's text holds it."""
    for number, value in enumerate(given.values()):
        await conn.execute("select set_config(%s, %s, true)", (f"svr.login{number}", value))
    parts = [
        sql.SQL("{} || quote_literal(current_setting({}))").format(
            sql.Literal(f"{key} "), sql.Literal(f"svr.login{number}")
        )
        for number, key in enumerate(given)
    ]
    statement = sql.SQL("do $do$ begin execute {} || {} || ')'; end $do$").format(
        sql.Literal(f"create user mapping for current_user server {server.as_string(None)} options ("),
        sql.SQL(" || ', ' || ").join(parts) if parts else sql.SQL("''"),
    )
    refused = ""
    try:
        await conn.execute(statement)
    except (
        errors.Error
    ) as error:  # its context repeats the statement, password and all, so nothing may hold it
        refused = error.sqlstate or type(error).__name__
    if refused:
        raise PermissionDenied(
            f"The main server refuses to keep a login for the server ({refused}).",
            hint="Grant this role USAGE on the foreign data wrapper postgres_fdw, or use another role.",
        )


async def remove(conn: Connection, catalog: Catalog, name: str, *, lost: bool) -> None:
    """Forgets a server on which no collection lies, or any that is lost, with all that lay on it.

    Nothing is sent to the server: its own schema, empty but for a table, stays there.

    Raises:
        ServerNotFound: there is none of this name.
        ConfigError: collections lie on it, and it is not said to be lost.
    """
    async with conn.transaction():
        server = named(await registered(conn, catalog), name)
        using = [s for s in await listed(conn, catalog) if s.name == name and s.collections]
        if using and not lost:
            raise ConfigError(
                f"The server {name!r} is used by {', '.join(map(repr, using[0].collections[:3]))}.",
                hint="Drop these collections first; lost=True gives up what lies on a server that is gone.",
            )
        await conn.execute(
            sql.SQL("drop server {} cascade").format(server.foreign(catalog.schema)), prepare=False
        )
        await conn.execute(
            catalog.statement("delete from {servers} where name = %s", **_table(catalog)), (name,)
        )


async def listed(conn: Connection, catalog: Catalog) -> list[Server]:
    """All servers in order of registration, with what lies on them; never how to log in."""
    cursor = await conn.execute(
        catalog.statement(
            "select s.id, s.name, count(p.id), coalesce(sum(p.row_count), 0),"
            " array(select c.name from {collections} c where c.config -> 'servers' ? s.name order by c.name)"
            " from {servers} s left join {partitions} p on p.server = s.name group by s.id order by s.id",
            **_table(catalog),
        )
    )
    return [
        Server(
            name=str(row[1]),
            address=await _address(conn, foreign_server_for(catalog.schema, int(row[0]))),
            partitions=int(row[2]),
            rows=int(row[3]),
            collections=tuple(row[4]),
        )
        for row in await cursor.fetchall()
    ]


async def _address(conn: Connection, server: str) -> str:
    cursor = await conn.execute(
        "select option_name, option_value from pg_foreign_server, pg_options_to_table(srvoptions)"
        " where srvname = %s and option_name = any(%s)",
        (server, list(_SHOWN)),
    )
    there = {str(row[0]): str(row[1]) for row in await cursor.fetchall()}
    port = f":{there['port']}" if "port" in there else ""
    return f"{there.get('host', 'localhost')}{port}/{there.get('dbname', '')}".rstrip("/")
