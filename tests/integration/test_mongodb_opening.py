"""What users are told when a MongoDB deployment cannot be opened, forbids, or lacks something; never their password."""

from __future__ import annotations

import gc
import shutil
import socket
import subprocess
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from svr_retrievers import Document, Settings, SVRClient, by_field, errors, hnsw
from svr_retrievers.backends.mongodb import connection
from svr_retrievers.testing.data import documents, vector

pytestmark = [
    pytest.mark.mongodb,
    pytest.mark.slow,
    # The driver leaves sockets of servers that never greeted it to the garbage collector, which warns.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SECRET = "s3cret"
FAST = Settings(connect_timeout_seconds=2)


def told(error: BaseException) -> str:
    """Everything a log would hold about an error, its causes included."""
    text = [*traceback.format_exception(error), str(error), repr(error)]
    inner = [error.__cause__, error.__context__]
    while inner:
        at = inner.pop()
        if at is not None:
            text += [repr(at), str(at)]
            inner += [at.__cause__, at.__context__]
    return "\n".join(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(url: str, error: type[errors.SVRError], settings: Settings = FAST) -> errors.SVRError:
    """The error of opening that URL: of exactly that kind, in time, with a hint, without the password."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        SVRClient(url, settings=settings)
    assert time.monotonic() - began < settings.connect_timeout_seconds + 4
    assert type(caught.value) is error
    assert caught.value.hint
    assert SECRET not in told(caught.value)
    gc.collect()
    return caught.value


@pytest.fixture(autouse=True, scope="module")
def needs_mongod() -> None:
    from svr_retrievers.testing.mongodb.server import binary

    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(f"{missing} {missing.hint}")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Hosts of a deployment that asks for logins (SCRAM) and encrypts for who wants it, behind a stand-in."""
    from svr_retrievers.testing.mongodb import AtlasStandIn
    from svr_retrievers.testing.mongodb.server import Node

    folder = tmp_path_factory.mktemp("guarded")
    key = folder / "key"
    key.write_text("c2hhcmVkIGtleSBvZiB0aGUgdGVzdHM=")
    key.chmod(0o600)
    node = Node(folder / "data", free_port(), ("--keyFile", str(key)))
    node.start()
    try:
        _initiate(node.address)
        root = f"mongodb://root:{SECRET}@{node.address}/?authSource=admin&replicaSet=rs"
        with MongoClient(root) as admin:
            _user(admin, "writer", "readWrite")
            _user(admin, "reader", "read")
        with AtlasStandIn(root) as atlas:
            yield atlas.uri.partition("@")[2].partition("/")[0]
    finally:
        node.kill()


def _initiate(address: str) -> None:
    """By the right that a fresh server gives to its own machine: the first user is the last thing it allows."""
    deadline = time.monotonic() + 30
    with MongoClient(f"mongodb://{address}/", directConnection=True) as local:
        local.admin.command("replSetInitiate", {"_id": "rs", "members": [{"_id": 0, "host": address}]})
        while True:
            try:
                local.admin.command("createUser", "root", pwd=SECRET, roles=["root"])
            except PyMongoError:
                assert time.monotonic() < deadline
            else:
                return


def _user(admin: MongoClient[dict[str, object]], name: str, role: str) -> None:
    for database in ("app", "admin"):
        roles = [{"role": role, "db": "app"}]
        admin[database].command("createUser", name, pwd=SECRET, roles=roles)


def guarded_url(hosts: str, user: str, password: str = SECRET) -> str:
    return f"mongodb://{user}:{password}@{hosts}/app?replicaSet=rs"


def test_a_closed_port_is_a_failed_connection() -> None:
    error = refused(f"mongodb://user:{SECRET}@127.0.0.1:{free_port()}/db", errors.ConnectionFailed)
    assert "cannot be reached" in str(error)


def test_a_port_that_accepts_and_says_nothing_is_a_failed_connection() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        refused(f"mongodb://user:{SECRET}@127.0.0.1:{mute.getsockname()[1]}/db", errors.ConnectionFailed)


def test_a_server_that_speaks_something_else_is_a_failed_connection(port_of_another_protocol: int) -> None:
    refused(f"mongodb://user:{SECRET}@127.0.0.1:{port_of_another_protocol}/db", errors.ConnectionFailed)


@pytest.fixture
def port_of_another_protocol() -> Iterator[int]:
    """A port that answers every connection with a line of HTTP."""
    import threading

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            while True:
                try:
                    visitor, _ = listening.accept()
                except OSError:
                    return
                with visitor:
                    visitor.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
def test_a_host_that_does_not_resolve_is_a_failed_connection(scheme: str) -> None:
    refused(f"{scheme}://user:{SECRET}@cluster.nowhere.invalid/db", errors.ConnectionFailed)


def test_a_wrong_login_is_said_so_without_repeating_it(guarded: str) -> None:
    for user, password in (("writer", f"{SECRET}wrong"), ("nobody", SECRET)):
        refused(guarded_url(guarded, user, password), errors.AuthenticationFailed)
    wrong_source = guarded_url(guarded, "root").replace("/app?", "/app?authSource=elsewhere&")
    refused(wrong_source, errors.AuthenticationFailed)


def test_no_login_is_no_permission(guarded: str) -> None:
    with pytest.raises((errors.PermissionDenied, errors.AuthenticationFailed)) as caught:
        SVRClient(f"mongodb://{guarded}/app?replicaSet=rs", settings=FAST)
    assert caught.value.hint


def test_the_password_is_in_no_repr(guarded: str) -> None:
    with SVRClient(guarded_url(guarded, "writer")) as client:
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
        client.drop_collection("secretive")
    assert not any(SECRET in text for text in [*shown, told(caught.value)])


def test_a_user_who_may_only_read_reads_and_nothing_else(guarded: str) -> None:
    with SVRClient(guarded_url(guarded, "writer")) as owner:
        made = owner.create_collection(
            "docs", dimensions=4, partition_by=by_field("category"), index=hnsw(min_rows=0)
        )
        made.add(documents(12))
        made.refresh()
        with SVRClient(guarded_url(guarded, "reader")) as client:
            docs = client.collection("docs")
            assert docs.count() == 12
            assert docs.search(vector=vector(1), limit=20).ids == made.search(vector=vector(1), limit=20).ids
            assert docs.get(["d001"])[0].id == "d001"
            for call in (
                lambda: docs.add([Document("new", metadata={"category": "wiki"}, vector=vector(1))]),
                lambda: docs.add([Document("new", metadata={"category": "unseen"}, vector=vector(1))]),
                lambda: docs.delete(["d001"]),
                docs.clear,
                docs.refresh,
                lambda: client.create_collection("mine", dimensions=4),
                lambda: client.drop_collection("docs"),
            ):
                with pytest.raises(errors.PermissionDenied) as caught:
                    call()
                assert "readWrite" in caught.value.hint
                assert SECRET not in told(caught.value)
            assert docs.count() == 12
        assert owner.list_collections() == ["docs"]
        assert len(made.partitions) == len(owner.collection("docs").partitions)
        owner.drop_collection("docs")


def test_a_server_without_encryption_is_told(guarded: str) -> None:
    url = f"mongodb://user:{SECRET}@{guarded}/app?tls=true"
    error = refused(url, errors.ConnectionFailed)
    assert "cannot be reached" in str(error) or "encrypted" in str(error)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_vouches_for_is_told(tmp_path: Path) -> None:
    from svr_retrievers.testing.mongodb.server import Node

    made = [tmp_path / "key.pem", tmp_path / "cert.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(made[0]), "-out", str(made[1]),
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    both = tmp_path / "both.pem"
    both.write_text("".join(part.read_text() for part in made))
    node = Node(
        tmp_path / "data", free_port(), ("--tlsMode", "preferTLS", "--tlsCertificateKeyFile", str(both))
    )
    node.start()
    try:
        with MongoClient(f"mongodb://{node.address}/", directConnection=True) as local:
            local.admin.command(
                "replSetInitiate", {"_id": "rs", "members": [{"_id": 0, "host": node.address}]}
            )
        url = f"mongodb://{node.address}/app?replicaSet=rs&tls=true"
        error = refused(url, errors.ConnectionFailed)
        assert "encrypted" in str(error)
        assert "certificate" in str(error)
        refused(f"{url}&tlsCAFile={made[1]}", errors.ServerTooOld, Settings(connect_timeout_seconds=20))
    finally:
        node.kill()


def test_a_server_alone_is_no_replica_set(tmp_path: Path) -> None:
    from svr_retrievers.testing.mongodb.server import binary

    port = free_port()
    process = subprocess.Popen(
        [str(binary()), "--dbpath", str(tmp_path), "--port", str(port), "--bind_ip", "127.0.0.1", "--quiet",
         "--nounixsocket"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with MongoClient(f"mongodb://127.0.0.1:{port}/", serverSelectionTimeoutMS=30_000) as local:
            local.admin.command("ping")
        error = refused(f"mongodb://127.0.0.1:{port}/db", errors.ConfigError)
        assert "replica set" in str(error)
        refused(f"mongodb://127.0.0.1:{port}/db?replicaSet=rs", errors.ConnectionFailed)
    finally:
        process.kill()
        process.wait(30)


def test_the_version_and_the_search_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server of today's tests is too old; one that is not, but cannot search, says so and keeps nothing."""
    from svr_retrievers.testing.mongodb import AtlasStandIn, Mongod
    from svr_retrievers.testing.mongodb import Settings as Deployment

    with Mongod() as server:
        error = refused(server.uri, errors.ServerTooOld)
        assert "6.0.5" in str(error)
        with AtlasStandIn(server.uri, Deployment(server_version="6.0.10")) as old:
            refused(old.uri, errors.ServerTooOld)
        with (
            AtlasStandIn(server.uri, Deployment(server_version="6.0.11")) as enough,
            SVRClient(enough.uri) as client,
        ):
            assert client.list_collections() == []
        monkeypatch.setattr(connection, "OLDEST", (6, 0, 0))
        with SVRClient(server.uri) as client, MongoClient(server.uri) as admin:
            before = set(admin["svr"].list_collection_names())
            with pytest.raises(errors.SearchUnavailable) as caught:
                client.create_collection("docs", dimensions=4)
            assert "mongot" in caught.value.hint
            assert client.list_collections() == []
            assert set(admin["svr"].list_collection_names()) == before


def test_a_full_tier_is_told_and_leaves_the_others_alone(mongodb_url: str) -> None:
    with SVRClient(mongodb_url) as client, MongoClient(mongodb_url) as admin:
        database = admin.get_default_database()
        first = client.create_collection("first", dimensions=4, index=hnsw(min_rows=0))
        first.add(documents(5))
        first.refresh()
        database.command({"standIn": 1, "maxIndexes": 1})
        before = set(database.list_collection_names())
        with pytest.raises(errors.IndexLimitReached) as caught:
            client.create_collection("second", dimensions=4)
        assert "Flex" in caught.value.hint
        assert "mode='source'" in caught.value.hint
        assert set(database.list_collection_names()) == before
        assert client.list_collections() == ["first"]
        assert len(first.search(vector=vector(1), limit=10)) == 5
        first.add(documents(7))
        assert first.count() == 7
        database.command({"standIn": 1, "maxIndexes": None})
        assert client.create_collection("second", dimensions=4).count() == 0
