"""The command line on MongoDB: doctor, collections, search."""

from __future__ import annotations

import json

import pytest

from svr_retrievers import Document, SVRClient
from svr_retrievers.cli.app import run
from svr_retrievers.errors import ServerTooOld


def test_doctor_finds_all_in_order(mongodb_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with SVRClient(mongodb_url) as client:
        client.create_collection("notes", dimensions=3).add([Document("a", vector=[1, 0, 0])])
        client.collection("notes").refresh()
    assert run(["doctor", "--url", mongodb_url, "--json"]) == 0
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert {"connection", "server", "rights", "index of 'notes'"} <= set(found)
    assert found["index of 'notes'"]["state"] == "ok"
    assert "replica set" in found["server"]["detail"]


def test_doctor_names_a_missing_index(mongodb_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pymongo import MongoClient

    with SVRClient(mongodb_url) as client:
        client.create_collection("notes", dimensions=3).refresh()
    with MongoClient(mongodb_url) as raw:
        database = raw.get_default_database()
        [name] = [n for n in database.list_collection_names() if ".documents." in n]
        [index] = list(database[name].list_search_indexes())
        database[name].drop_search_index(index["name"])
    assert run(["doctor", "--url", mongodb_url, "--json"]) == 1
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert found["index of 'notes'"]["state"] == "fail"
    assert "missing" in found["index of 'notes'"]["detail"]


def test_an_old_server_is_one_line() -> None:
    from svr_retrievers.errors import MissingExtra
    from svr_retrievers.testing.mongodb import Mongod
    from svr_retrievers.testing.mongodb.server import binary

    try:
        binary()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    with Mongod() as server, pytest.raises(ServerTooOld, match=r"6\.0\.11"):
        run(["doctor", "--url", server.uri])


def test_a_collection_is_listed_and_searched(mongodb_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with SVRClient(mongodb_url) as client:
        made = client.create_collection("notes", dimensions=3)
        made.add([Document("a", "first", vector=[1, 0, 0]), Document("b", "second", vector=[0, 1, 0])])
    assert run(["collections", "list", "--url", mongodb_url]) == 0
    assert "notes" in capsys.readouterr().out
    assert run(["search", "notes", "--vector", "[1,0,0]", "--limit", "1", "--url", mongodb_url]) == 0
    assert "first" in capsys.readouterr().out
