"""What users are told when the database is down, forbids, lacks something or dies; and that work goes on after."""

from __future__ import annotations

import socket
import traceback
from typing import TYPE_CHECKING

import psycopg
import pytest

from svr_retrievers import Document, Settings, SVRClient, by_field, errors, hnsw
from svr_retrievers.testing.data import documents, vector

if TYPE_CHECKING:
    from conftest import OwnServer

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
SECRET = "s3cret"


def _told(error: BaseException) -> str:
    """Everything a log would hold about an error, its causes included, also those hidden from the traceback."""
    text = [*traceback.format_exception(error), str(error), repr(error)]
    inner = [error.__cause__, error.__context__]
    while inner:
        at = inner.pop()
        if at is not None:
            text += [repr(at), str(at)]
            inner += [at.__cause__, at.__context__]
    return "\n".join(text)


def _admin(server: OwnServer, *statements: str, database: str = "postgres") -> None:
    with psycopg.connect(server.url(database=database), autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


def _fast() -> Settings:
    return Settings(connect_timeout_seconds=2)


def test_a_closed_port_is_a_failed_connection() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(errors.ConnectionFailed) as caught:
            SVRClient(f"postgresql://user:{SECRET}@127.0.0.1:{port}/db", settings=_fast())
    assert not isinstance(caught.value, errors.AuthenticationFailed)
    assert caught.value.hint
    assert SECRET not in _told(caught.value)


def test_an_unknown_host_is_a_failed_connection() -> None:
    with pytest.raises(errors.ConnectionFailed) as caught:
        SVRClient(f"postgresql://user:{SECRET}@nowhere.invalid/db", settings=_fast())
    assert SECRET not in _told(caught.value)


def test_a_wrong_password_or_role_is_said_so_without_repeating_it(own_server: OwnServer) -> None:
    for user, password in (("postgres", f"{SECRET}wrong"), ("nobody", SECRET)):
        with pytest.raises(errors.AuthenticationFailed) as caught:
            SVRClient(own_server.url(user, password))
        assert caught.value.code == "authentication"
        assert SECRET not in _told(caught.value)
    with pytest.raises(errors.AuthenticationFailed):
        SVRClient(f"postgresql://postgres@127.0.0.1:{own_server.port}/postgres")


def test_the_password_is_in_no_repr(own_server: OwnServer) -> None:
    with SVRClient(own_server.url()) as client:
        collection = client.create_collection("secretive", dimensions=4)
        shown = [
            repr(client),
            client.url,
            repr(client.aio),
            repr(collection),
            repr(client.settings),
            str(vars(client)),
        ]
        with pytest.raises(errors.SVRError) as caught:
            client.collection("missing")
    assert not any(SECRET in text for text in [*shown, _told(caught.value)])


def test_an_unknown_database_is_named_as_such(own_server: OwnServer) -> None:
    with pytest.raises(errors.ConnectionFailed, match="does not exist"):
        SVRClient(own_server.url(database="missing"))


def test_a_role_that_may_not_install_pgvector_learns_what_is_missing(own_server: OwnServer) -> None:
    _admin(own_server, "create role guest login password 'guest'", "create database bare")
    with pytest.raises(errors.ExtensionMissing, match="CREATE EXTENSION vector") as caught:
        SVRClient(own_server.url("guest", "guest", "bare"))
    assert "guest:guest" not in _told(caught.value)


def test_a_role_that_may_not_create_learns_so(own_server: OwnServer) -> None:
    _admin(own_server, "create role reader login password 'reader'", "create database fresh")
    _admin(own_server, "create extension vector", database="fresh")
    with pytest.raises(errors.PermissionDenied):
        SVRClient(own_server.url("reader", "reader", "fresh"))


def test_a_role_without_create_works_on_a_migrated_schema(own_server: OwnServer) -> None:
    """Enough for a web server: rights on the rows of an existing collection, none on its structure."""
    _admin(own_server, "create role app login password 'app'", "create database shop")
    with SVRClient(own_server.url(database="shop")) as owner:
        made = owner.create_collection(
            "docs", dimensions=4, partition_by=by_field("k"), index=hnsw(min_rows=4)
        )
        made.add([Document("first", metadata={"k": "a"}, vector=vector(1))])
    _admin(
        own_server,
        "grant usage on schema svr to app",
        "grant select, insert, update, delete on all tables in schema svr to app",
        database="shop",
    )
    with SVRClient(own_server.url("app", "app", "shop")) as client:
        docs = client.collection("docs")
        added = docs.add([Document(f"{n}", metadata={"k": "a"}, vector=vector(n)) for n in range(6)])
        assert added.inserted == 6
        assert docs.count() == 7
        assert len(docs.search(vector=vector(1), filter={"k": "a"})) == 7
        assert docs.delete(["0"]) == 1
        with pytest.raises(errors.PermissionDenied):
            docs.add([Document("new", metadata={"k": "b"}, vector=vector(1))])
        with pytest.raises(errors.PermissionDenied):
            client.create_collection("mine", dimensions=3)
        assert docs.count() == 6
        with pytest.raises(errors.PermissionDenied):
            docs.refresh()


def test_a_newer_schema_is_not_touched(own_server: OwnServer) -> None:
    _admin(own_server, "create database future")
    url = own_server.url(database="future")
    SVRClient(url).close()
    _admin(own_server, "insert into svr.versions (version, name) values (999, 'later')", database="future")
    with pytest.raises(errors.SchemaTooNew, match="999") as caught:
        SVRClient(url)
    assert "pgrade" in caught.value.hint


def test_a_killed_server_is_told_and_forgotten(own_server: OwnServer) -> None:
    _admin(own_server, "create database mortal")
    with SVRClient(own_server.url(database="mortal"), settings=_fast()) as client:
        docs = client.create_collection("docs", dimensions=4, partition_by=by_field("category"))
        docs.add(documents(20))
        own_server.kill()
        calls = (
            lambda: docs.search(vector=vector(1)),
            lambda: docs.add(documents(3)),
            docs.count,
            lambda: docs.delete(["d001"]),
            client.list_collections,
        )
        for call in calls:
            with pytest.raises(errors.ConnectionFailed) as caught:
                call()
            assert SECRET not in _told(caught.value)
        own_server.start()
        assert docs.count() == 20
        assert len(docs.search(vector=vector(1), limit=30)) == 20
        assert docs.add(documents(3)).updated == 3


def test_a_restart_between_two_calls_is_survived_by_reading(own_server: OwnServer) -> None:
    """The pool holds connections that the server has closed meanwhile; whoever draws one is not to blame."""
    _admin(own_server, "create database restarted")
    with SVRClient(own_server.url(database="restarted")) as client:
        docs = client.create_collection("docs", dimensions=4)
        docs.add(documents(5))
        own_server.kill()
        own_server.start()
        failures = 0
        for _ in range(3):
            try:
                assert docs.count() == 5
            except errors.ConnectionFailed:
                failures += 1
        assert failures <= 1


def test_tables_dropped_underneath_are_told_as_a_dropped_collection(own_server: OwnServer) -> None:
    _admin(own_server, "create database gone")
    with SVRClient(own_server.url(database="gone")) as client:
        docs = client.create_collection("docs", dimensions=4)
        docs.add(documents(5))
        _admin(own_server, "drop table svr.c1_space, svr.c1_documents", database="gone")
        calls = (
            lambda: docs.search(vector=vector(1)),
            docs.count,
            docs.find,
            lambda: docs.add(documents(1)),
            lambda: docs.delete(["d001"]),
        )
        for call in calls:
            with pytest.raises(errors.CollectionNotFound, match="docs"):
                call()
        client.drop_collection("docs")
        assert client.list_collections() == []
