"""What `svr doctor` looks at in a PostgreSQL database, each with the way to mend it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from svr_retrievers.cli.checks import Check
from svr_retrievers.settings import Settings

Row = tuple[object, ...]

ITERATIVE_SCAN_SINCE = (0, 8)
CLOCK_SECONDS = 5.0
ROUND_TRIPS = 9

_RIGHTS = """
SELECT current_user, rolsuper, rolbypassrls, has_database_privilege(current_database(), 'CREATE'),
       coalesce(has_schema_privilege(to_regnamespace(%(schema)s)::oid, 'USAGE'), false),
       coalesce(has_schema_privilege(to_regnamespace(%(schema)s)::oid, 'CREATE'), false)
FROM pg_roles WHERE rolname = current_user
"""
_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
"""
_INDEXES = """
SELECT c.relname, a.amname, i.indisvalid AND i.indisready
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE c.relnamespace = to_regnamespace(%s)::oid AND c.relkind = 'i' AND a.amname IN ('hnsw', 'ivfflat')
ORDER BY 1
"""


def checks(url: str, settings: Settings) -> Iterator[Check]:
    """Every check, over one connection of its own."""
    wait = max(2, round(settings.connect_timeout_seconds))
    with psycopg.connect(url, autocommit=True, connect_timeout=wait) as connection:
        yield _connection(connection, url)
        yield _extension(connection)
        yield _schema(connection, settings.db_schema)
        yield from _applied(connection)
        yield _rights(connection, settings.db_schema)
        yield _indexes(connection, settings.db_schema)
        yield _pool(connection, settings)
        yield _clock(connection)


def _one(connection: psycopg.Connection[Row], query: sql.SQL, *values: object) -> Row:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row


def _connection(connection: psycopg.Connection[Row], url: str) -> Check:
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        connection.execute("SELECT 1")
        times.append((time.perf_counter() - started) * 1000)
    version, database = _one(
        connection, sql.SQL("SELECT current_setting('server_version'), current_database()")
    )
    host = conninfo_to_dict(url).get("host") or "the default host"
    detail = (
        f"PostgreSQL {version}, database {database} on {host}, {statistics.median(times):.2f} ms a round trip"
    )
    return Check("connection", "ok", detail)


def _extension(connection: psycopg.Connection[Row]) -> Check:
    (version,) = _one(
        connection, sql.SQL("SELECT max(extversion) FROM pg_extension WHERE extname = 'vector'")
    )
    if version is None:
        return Check("pgvector", "fail", "not installed in this database", "CREATE EXTENSION vector;")
    numbers = tuple(int(n) for n in str(version).split(".")[:2])
    if numbers < ITERATIVE_SCAN_SINCE:
        detail = f"{version}: it has no iterative scan, so filtered searches may come back short"
        return Check(
            "pgvector", "fail", detail, "install pgvector 0.8 or newer, then: ALTER EXTENSION vector UPDATE;"
        )
    return Check("pgvector", "ok", str(version))


def _schema(connection: psycopg.Connection[Row], schema: str) -> Check:
    known = sum(
        f.name.endswith(".sql") for f in (resources.files("svr_retrievers.control") / "sql").iterdir()
    )
    query = sql.SQL("SELECT coalesce(max(version), 0) FROM {}").format(sql.Identifier(schema, "versions"))
    row = connection.execute(query).fetchone()
    found = int(str(row[0])) if row else 0
    if found == known:
        return Check("schema", "ok", f"{schema!r} at version {found}")
    fix = "upgrade svr-retrievers" if found > known else "open a client with a role that may create tables"
    return Check("schema", "fail", f"{schema!r} at version {found}, this release knows {known}", fix)


def _applied(connection: psycopg.Connection[Row]) -> Iterator[Check]:
    """Settings are read back, because pgvector may turn an unknown one off with only a warning."""
    wanted = {
        "hnsw.iterative_scan": "relaxed_order",
        "ivfflat.iterative_scan": "relaxed_order",
        "hnsw.ef_search": "64",
    }
    connection.execute("SELECT '[1]'::vector <=> '[1]'::vector")
    found: dict[str, str] = {}
    with connection.transaction():
        for name, value in wanted.items():
            connection.execute("SELECT set_config(%s, %s, true)", (name, value))
            found[name] = str(_one(connection, sql.SQL("SELECT current_setting(%s)"), name)[0])
    wrong = [f"{name} = {found[name]}" for name, value in wanted.items() if found[name] != value]
    if wrong:
        yield Check(
            "settings", "fail", f"not applied: {', '.join(wrong)}", "upgrade pgvector to 0.8 or newer"
        )
    else:
        yield Check(
            "settings", "ok", ", ".join(f"{n} = {v}" for n, v in found.items()) + " (set and read back)"
        )


def _rights(connection: psycopg.Connection[Row], schema: str) -> Check:
    row = connection.execute(_RIGHTS, {"schema": schema}).fetchone()
    assert row is not None
    user, superuser, bypass, create, use, make = row
    if not use:
        return Check(
            "rights",
            "fail",
            f"{user} may not use {schema!r}",
            f'GRANT USAGE ON SCHEMA "{schema}" TO "{user}";',
        )
    if not make:
        detail = f"{user} may read and write, but not create collections in {schema!r}"
        return Check("rights", "note", detail, f'GRANT CREATE ON SCHEMA "{schema}" TO "{user}";')
    if superuser or bypass:
        detail = f"{user} bypasses row-level security" + (" (superuser)" if superuser else "")
        return Check(
            "rights", "note", detail, "fine for a server of your own; give applications a role without it"
        )
    return Check("rights", "ok", f"{user} may create collections" + (" and schemas" if create else ""))


def _indexes(connection: psycopg.Connection[Row], schema: str) -> Check:
    rows = connection.execute(_INDEXES, (schema,)).fetchall()
    broken = [str(name) for name, _, valid in rows if not valid]
    if broken:
        fix = " ".join(f'REINDEX INDEX "{schema}"."{name}";' for name in broken[:3])
        return Check("indexes", "fail", f"{len(broken)} of {len(rows)} vector indexes are invalid", fix)
    told = (
        f"{len(rows)} vector indexes, all valid" if rows else "no vector index yet: every partition is small"
    )
    return Check("indexes", "ok", told)


def _pool(connection: psycopg.Connection[Row], settings: Settings) -> Check:
    (allowed,) = _one(connection, sql.SQL(_CONNECTIONS))
    used = settings.pool_max_connections
    detail = f"a client uses up to {used} of the server's {allowed} connections"
    if used > int(str(allowed)):
        return Check(
            "pool", "fail", detail, f"set SVR_POOL_MAX_CONNECTIONS below {allowed}, or raise max_connections"
        )
    return Check("pool", "ok", detail)


def _clock(connection: psycopg.Connection[Row]) -> Check:
    before = datetime.now(UTC)
    (server,) = _one(connection, sql.SQL("SELECT clock_timestamp()"))
    assert isinstance(server, datetime)
    apart = abs((server - before).total_seconds())
    detail = f"{apart:.2f} s between this machine and the server"
    if apart > CLOCK_SECONDS:
        return Check("clock", "note", detail, "set both clocks by NTP: time filters use this machine's clock")
    return Check("clock", "ok", detail)
