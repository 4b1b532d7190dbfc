"""The Atlas stand-in when things break: elections, dead and frozen members, cut connections, logins, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure, PyMongoError
from pymongo.operations import SearchIndexModel

from svr_retrievers.testing.mongodb import AtlasStandIn, Mongod, Settings
from svr_retrievers.testing.mongodb.server import Node
from svr_retrievers.testing.mongodb.waiting import built, counted, ready, status, told, until

pytestmark = [
    pytest.mark.usefixtures("mongodb_server"),
    pytest.mark.skipif("SVR_TEST_MONGODB_URI" in os.environ, reason="these test the stand-in itself"),
]

PLAIN = {"fields": [{"type": "vector", "path": "v", "numDimensions": 2, "similarity": "cosine"}]}
INDEX = SearchIndexModel(PLAIN, "ix", "vectorSearch")


def ids(coll: Collection) -> set[object]:
    asked = {"index": "ix", "path": "v", "queryVector": [1.0, 0.0], "limit": 1000, "exact": True}
    return {each["_id"] for each in coll.aggregate([{"$vectorSearch": asked}])}


@pytest.fixture
def coll(mongodb_url: str) -> Iterator[Collection]:
    with MongoClient(mongodb_url) as client:
        coll = client.get_default_database()["c"]
        coll.insert_many([{"_id": n, "v": [1.0, float(n)]} for n in range(3)])
        yield coll


@pytest.fixture(scope="module")
def three(mongodb_server: str) -> Iterator[Mongod]:
    with Mongod(3) as server:
        yield server


@pytest.fixture
def in_front(three: Mongod) -> Iterator[AtlasStandIn]:
    for node in three.nodes:
        if node.process is None:
            node.start()
    three.wait_for_primary()
    with AtlasStandIn(three.uri, catalogue=f"kept_{secrets.token_hex(4)}") as atlas:
        yield atlas
    with MongoClient(three.uri) as client:
        client.drop_database("t")


def primary(three: Mongod) -> Node:
    return three.wait_for_primary()


@pytest.mark.slow
def test_clients_see_the_fronts_as_the_members(three: Mongod, in_front: AtlasStandIn) -> None:
    with MongoClient(in_front.uri) as client:
        client.admin.command("ping")
        until(lambda: len(client.nodes) == 3)
        behind = {node.address for node in three.nodes}
        hello = client.admin.command("hello")
        fronts = {f"{host}:{port}" for host, port in client.nodes}
    assert set(hello["hosts"]) == fronts
    assert not fronts & behind
    assert hello["me"] in fronts
    assert hello["primary"] == hello["me"]
    assert hello["setName"] == "rs"


@pytest.mark.slow
def test_a_killed_primary_costs_no_write_and_the_index_follows_the_next_one(
    three: Mongod, in_front: AtlasStandIn
) -> None:
    with MongoClient(in_front.uri) as client:
        coll = client.t.c
        coll.insert_one({"_id": "first", "v": [1.0, 0.0]})
        built(coll, "ix", PLAIN)
        stop, written, errors = threading.Event(), ["first"], []

        def write() -> None:
            number = 0
            while not stop.is_set():
                try:
                    coll.insert_one({"_id": number, "v": [1.0, 0.0]})
                    written.append(number)
                except PyMongoError as error:
                    errors.append(error)
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        until(lambda: len(written) > 20)
        killed = primary(three)
        killed.kill()
        survivor = primary(three)
        assert survivor is not killed
        at = len(written)
        until(lambda: len(written) > at + 20)
        stop.set()
        writer.join()
        assert errors == []
        told(client.t, settle=True)
        assert ids(coll) >= set(written)
        assert status(coll, "ix") == "READY"
        killed.start()


@pytest.mark.slow
def test_an_index_is_built_and_kept_up_while_primaries_step_down(
    three: Mongod, in_front: AtlasStandIn
) -> None:
    with MongoClient(in_front.uri) as client:
        coll = client.t.c
        coll.insert_many([{"_id": n, "v": [1.0, 0.0]} for n in range(50)])
        coll.create_search_index(INDEX)
        for n in range(100, 102):
            with contextlib.suppress(AutoReconnect):
                client.admin.command({"replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 5})
            coll.insert_one({"_id": n, "v": [1.0, 0.0]})
        ready(coll, "ix", PLAIN)
        told(client.t, settle=True)
        assert ids(coll) == {*range(50), 100, 101}


@pytest.mark.slow
def test_a_frozen_member_freezes_only_its_own_connections(three: Mongod, in_front: AtlasStandIn) -> None:
    with MongoClient(in_front.uri) as client:
        client.t.c.insert_one({"_id": 1, "v": [1.0, 0.0]})
        built(client.t.c, "ix", PLAIN)
        frozen = next(node for node in three.nodes if node is not primary(three))
        front = in_front.front_of(frozen.address)
        frozen.pause()
        try:
            with (
                MongoClient(
                    f"mongodb://{front}/",
                    directConnection=True,
                    serverSelectionTimeoutMS=300,
                    socketTimeoutMS=200,
                ) as other,
                pytest.raises((NetworkTimeout, AutoReconnect)),
            ):
                other.admin.command("ping")
            assert ids(client.t.c) == {1}
        finally:
            frozen.resume()
        with MongoClient(f"mongodb://{front}/", directConnection=True) as other:
            assert other.admin.command("ping")["ok"] == 1


@pytest.mark.slow
def test_lost_history_makes_an_index_stale_and_then_builds_it_anew() -> None:
    small = ["--oplogSize", "1", "--syncdelay", "1", "--setParameter", "minSnapshotHistoryWindowInSeconds=0"]
    with Mongod(options=small) as server, AtlasStandIn(server.uri) as atlas, MongoClient(atlas.uri) as client:
        coll = client.t.c
        coll.insert_one({"_id": 0, "v": [1.0, 0.0]})
        built(coll, "ix", PLAIN)
        with atlas.replication_cut():
            coll.insert_one({"_id": 1, "v": [1.0, 0.0]})
            with MongoClient(server.uri) as behind:
                first = behind.local["oplog.rs"].find_one(sort=[("$natural", 1)])["ts"]
                filler = "x" * 500_000

                def rolled() -> bool:
                    behind.other.c.insert_many([{"f": filler} for _ in range(20)])
                    return behind.local["oplog.rs"].find_one(sort=[("$natural", 1)])["ts"] > first

                until(rolled)
                behind.other.c.insert_many([{"f": filler} for _ in range(60)])
            assert ids(coll) == {0}
        until(lambda: ids(coll) == {0, 1})
        until(lambda: status(coll, "ix") == "READY")


def test_a_server_that_dies_and_comes_back_is_followed_again() -> None:
    with Mongod() as server, AtlasStandIn(server.uri) as atlas, MongoClient(atlas.uri) as client:
        coll = client.t.get_collection("c")
        coll.insert_one({"_id": 0, "v": [1.0, 0.0]})
        built(coll, "ix", PLAIN)
        [node] = server.nodes
        node.kill()
        with MongoClient(atlas.uri, serverSelectionTimeoutMS=200) as other, pytest.raises(PyMongoError):
            other.admin.command("ping")
        node.start()
        server.wait_for_primary()
        coll.insert_one({"_id": 1, "v": [1.0, 0.0]})
        until(lambda: ids(coll) == {0, 1})


def test_definitions_outlive_the_stand_in_and_indexes_are_built_again(mongodb_url: str) -> None:
    with Mongod() as server:
        with AtlasStandIn(server.uri) as atlas, MongoClient(atlas.uri) as client:
            client.t.c.insert_one({"_id": 0, "v": [1.0, 0.0]})
            client.t.gone.insert_one({"_id": 0, "v": [1.0, 0.0]})
            built(client.t.c, "ix", PLAIN)
            built(client.t.gone, "ix", PLAIN)
            before = client.t.c.list_search_indexes("ix").to_list()[0]["id"]
        with MongoClient(server.uri) as behind:
            behind.t.c.insert_one({"_id": 1, "v": [1.0, 0.0]})
            behind.t.gone.drop()
        with AtlasStandIn(server.uri, Settings(build=60)) as atlas, MongoClient(atlas.uri) as client:
            ready(client.t.c, "ix", PLAIN)
            assert client.t.c.list_search_indexes("ix").to_list()[0]["id"] == before
            assert ids(client.t.c) == {0, 1}
            assert client.t.gone.list_search_indexes().to_list() == []


def test_clients_that_vanish_leave_nothing_behind(mongodb_server: str) -> None:
    with Mongod() as server, AtlasStandIn(server.uri) as atlas:
        host, port = atlas.uri.removeprefix("mongodb://").partition("/")[0].split(":")
        for greeting in (b"", b"\x10", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\x10" + b"\0" * 15):
            with socket.create_connection((host, int(port))) as half:
                half.sendall(greeting)
        with socket.create_connection((host, int(port))):
            until(lambda: atlas.connections == 1)
        until(lambda: atlas.connections == 0)
        with MongoClient(atlas.uri) as client:
            assert client.admin.command("ping")["ok"] == 1
        until(lambda: atlas.connections == 0)


async def test_a_cancelled_search_ends_its_connection_and_no_other(
    coll: Collection, mongodb_url: str
) -> None:
    await asyncio.to_thread(built, coll, "ix", PLAIN)
    await asyncio.to_thread(told, coll.database, searchDelay=30)
    asked = {"index": "ix", "path": "v", "queryVector": [1.0, 0.0], "limit": 10, "exact": True}
    before = await asyncio.to_thread(counted, coll.database, "aggregate")
    async with AsyncMongoClient(mongodb_url) as client:
        again = client.get_default_database()["c"]
        search = asyncio.create_task((await again.aggregate([])).to_list())
        await search
        slow = asyncio.create_task(again.aggregate([{"$vectorSearch": asked}]))
        await asyncio.to_thread(until, lambda: counted(coll.database, "aggregate") >= before + 2)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        await asyncio.to_thread(told, coll.database, searchDelay=0)
        assert len(await (await again.aggregate([{"$vectorSearch": asked}])).to_list()) == 3


@pytest.mark.parametrize("command", ["createSearchIndexes", "updateSearchIndex", "dropSearchIndex"])
def test_fail_points_strike_the_commands_about_indexes(
    coll: Collection, mongodb_url: str, command: str
) -> None:
    app = f"app-{secrets.token_hex(4)}"
    built(coll, "ix", PLAIN)
    calls = {
        "createSearchIndexes": lambda c: c.create_search_index(
            SearchIndexModel(PLAIN, "new", "vectorSearch")
        ),
        "updateSearchIndex": lambda c: c.update_search_index("ix", PLAIN),
        "dropSearchIndex": lambda c: c.drop_search_index("ix"),
    }
    data = {"failCommands": [command], "errorCode": 8000, "errorLabels": ["Mine"], "appName": app}
    point = {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data}
    with MongoClient(mongodb_url, appName=app) as client:
        mine = client.get_default_database()["c"]
        client.admin.command(point)
        coll.update_search_index("ix", PLAIN)
        with pytest.raises(PyMongoError) as caught:
            calls[command](mine)
        assert caught.value.has_error_label("Mine")
        assert caught.value.code == 8000
        calls[command](mine)
        client.admin.command(
            point | {"data": {"failCommands": [command], "closeConnection": True, "appName": app}}
        )
        with pytest.raises(AutoReconnect):
            calls[command](mine)
        client.admin.command(point | {"mode": "off"})


def test_the_servers_own_fail_points_hold_for_searches(coll: Collection, mongodb_url: str) -> None:
    app = f"app-{secrets.token_hex(4)}"
    built(coll, "ix", PLAIN)
    data = {"failCommands": ["aggregate"], "errorCode": 8000, "appName": app}
    with MongoClient(mongodb_url, appName=app, retryReads=False) as client:
        client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})
        mine = client.get_default_database()["c"]
        with pytest.raises(OperationFailure) as caught:
            ids(mine)
        assert caught.value.code == 8000
        assert ids(mine) == {0, 1, 2}


@pytest.fixture(scope="module")
def guarded(mongodb_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtlasStandIn]:
    """A server that asks for logins, and users: one who may all, one who reads, one of another database."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("secret" * 20)
    key.chmod(0o600)
    with Mongod(options=["--auth", "--keyFile", str(key)]) as server:
        with MongoClient(server.uri) as client:
            client.admin.command("createUser", "root", pwd="p@ss", roles=["root"])
        root = server.uri.replace("mongodb://", "mongodb://root:p%40ss@") + "&authSource=admin"
        with MongoClient(root) as client:
            for user, role, database in (
                ("writer", "readWrite", "t"),
                ("reader", "read", "t"),
                ("other", "readWrite", "o"),
            ):
                client.admin.command("createUser", user, pwd="x", roles=[{"role": role, "db": database}])
        with AtlasStandIn(root) as atlas:
            yield atlas


def logged_in(atlas: AtlasStandIn, user: str) -> MongoClient:
    return MongoClient(atlas.uri.replace("root:p%40ss", f"{user}:x"))


def test_logins_hold_through_the_front(guarded: AtlasStandIn) -> None:
    with MongoClient(guarded.uri) as root, logged_in(guarded, "writer") as writer:
        root.t.c.insert_one({"_id": 0, "v": [1.0, 0.0]})
        built(writer.t.c, "ix", PLAIN)
        assert ids(writer.t.c) == {0}
    with logged_in(guarded, "reader") as reader:
        assert ids(reader.t.c) == {0}
        assert status(reader.t.c, "ix") == "READY"
        with pytest.raises(OperationFailure) as caught:
            reader.t.c.create_search_index(SearchIndexModel(PLAIN, "new", "vectorSearch"))
        assert caught.value.code == 13
        with pytest.raises(OperationFailure) as caught:
            reader.t.c.drop_search_index("ix")
        assert caught.value.code == 13


def test_strangers_are_refused_through_the_front(guarded: AtlasStandIn) -> None:
    anonymous = guarded.uri.replace("root:p%40ss@", "").partition("?")[0] + "?replicaSet=rs"
    for uri in (anonymous, guarded.uri.replace("root:p%40ss", "other:x")):
        with MongoClient(uri) as client:
            for call in (
                lambda c: c.create_search_index(INDEX),
                lambda c: c.update_search_index("ix", PLAIN),
                lambda c: c.list_search_indexes().to_list(),
                ids,
            ):
                with pytest.raises(OperationFailure) as caught:
                    call(client.t.c)
                assert caught.value.code == 13
    with MongoClient(guarded.uri.replace("root:p%40ss", "root:wrong")) as client:
        with pytest.raises(OperationFailure) as caught:
            ids(client.t.c)
        assert caught.value.code == 18


def test_only_members_of_a_replica_set_can_stand_behind_it(tmp_path: Path) -> None:
    [node] = Mongod(folder=tmp_path).nodes
    node.start()
    try:
        with pytest.raises(RuntimeError, match="replSetInitiate"):
            AtlasStandIn(f"mongodb://{node.address}/?directConnection=true").start()
    finally:
        node.kill()


def test_one_member_alone_can_be_meant(mongodb_server: str) -> None:
    with Mongod() as server, AtlasStandIn(server.uri + "&directConnection=true") as atlas:
        assert atlas.uri.endswith("directConnection=true")
        with MongoClient(atlas.uri) as client:
            client.t.c.insert_one({"_id": 0, "v": [1.0, 0.0]})
            built(client.t.c, "ix", PLAIN)
            assert ids(client.t.c) == {0}


def test_as_a_process_it_prints_its_uri_and_ends_when_told(mongodb_server: str) -> None:
    with Mongod() as server:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "svr_retrievers.testing.mongodb",
                "--upstream",
                server.uri,
                "--set",
                "build=0.1",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            with process.stdout as said, MongoClient(said.readline().strip()) as client:
                client.t.c.insert_one({"_id": 0, "v": [1.0, 0.0]})
                built(client.t.c, "ix", PLAIN)
                assert ids(client.t.c) == {0}
                assert told(client.admin)["settings"]["build"] == 0.1
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_as_a_process_it_ends_with_the_process_it_watches_and_its_server_too(tmp_path: Path) -> None:
    watched = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    module = [sys.executable, "-m", "svr_retrievers.testing.mongodb", "--while", str(watched.pid)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(module, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process.stdout as said:
        uri = said.readline().strip()
    with MongoClient(uri) as client:
        assert client.admin.command("ping")["ok"] == 1
    assert len(list(tmp_path.iterdir())) == 1
    watched.kill()
    watched.communicate()
    assert process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []
    with MongoClient(uri, serverSelectionTimeoutMS=100) as client, pytest.raises(PyMongoError):
        client.admin.command("ping")
