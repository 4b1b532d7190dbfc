"""Wrong arguments, hostile text and documents at the limits, on MongoDB; and every command's shape is a known one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pymongo import AsyncMongoClient, monitoring

from svr_retrievers import Collection, Document, SVRClient, by_field, by_namespace, errors, hnsw
from svr_retrievers.backends.mongodb import connection
from svr_retrievers.testing.data import AWKWARD_TEXTS, METADATA, documents, vector

pytestmark = [pytest.mark.mongodb, pytest.mark.slow]

Call = Callable[[SVRClient, Collection], object]
MARK = "zq7"
HOSTILE = (
    "$where", "$expr", "$ne", "$$ROOT", "$$NOW", "$function", "$svr.n", "svr.n", "_id.n", "$literal", "a.$b",
    "..", ".", "0", "a.0.b", "-1", "this.n == 1 || true", "{$gt: ''}", '{"$ne": null}', "'; while(true){}; '",
    "$[]", "$[x]", "__proto__", "constructor", "\u202ex", "\ufeff", " ", "$", "$$",
)  # fmt: skip


def _wrong() -> list[tuple[str, Call]]:
    """The table of the other backends: what is wrong there is wrong here."""
    spec = importlib.util.spec_from_file_location(
        "bad_input_table", Path(__file__).with_name("test_bad_input.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.WRONG)


WRONG = _wrong()


class Log(monitoring.CommandListener):
    """Every command that the clients sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Sees the clients that are opened after it."""
    made = Log()
    monkeypatch.setattr(connection, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[made]))
    return made


@pytest.fixture
def client(log: Log, mongodb_url: str) -> Iterator[SVRClient]:
    with SVRClient(mongodb_url) as client:
        yield client


def test_wrong_arguments_are_named_and_nothing_happens(client: SVRClient) -> None:
    collection = client.create_collection(
        "good", dimensions=4, partition_by=by_field("category"), filter_fields={"year": int, "at": datetime}
    )
    collection.add(documents(8))
    before = collection.find(with_vectors=True), len(collection.partitions)
    for argument, call in WRONG:
        with pytest.raises((errors.InputError, errors.ConfigError)) as caught:
            call(client, collection)
        assert argument in str(caught.value), (argument, str(caught.value))
        assert caught.value.code
    assert client.list_collections() == ["good"]
    assert (collection.find(with_vectors=True), len(collection.refresh())) == before


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://user:s3cret@/db",
        "mongodb://user:s3cret%@host/db",
        "mongodb://user:s3c:ret@host/db",
        "mongodb://user:s3cret@host:99999/db",
        "mongodb://user:s3cret@host:port/db",
        "mongodb://user:s3cret@host/a b",
        "mongodb://user:s3cret@host/a$b",
        "mongodb://user:s3cret@host/?nonsense=1&readConcernLevel=7&maxPoolSize=x",
        "mongodb://user:s3cret@host/?authMechanism=NONE",
        "mongodb://user:s3cret@host/?tls=maybe",
        "mongodb://user:s3cret@host/?tls=true&tlsInsecure=true&tlsAllowInvalidCertificates=true",
        "mongodb+srv://user:s3cret@host/db",
        "mongodb+srv://user:s3cret@one.example.net,two.example.net/db",
        "mongodb+srv://user:s3cret@cluster.example.net:27017/db",
        "mongodb+srv://user:s3cret@127.0.0.1/db",
        "mongodb://",
        "mongodb+srv://",
        "mongodb:///db",
        "mongodb://host:0/db",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises((errors.ConfigError, errors.ConnectionFailed)) as caught:
        SVRClient(url)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "s3c" not in f"{chain!r} {chain}"
        chain = chain.__cause__ or chain.__context__
    assert caught.value.hint


def test_dimensions_end_where_the_index_ends(client: SVRClient) -> None:
    with pytest.raises(errors.InputError, match=r"8.?192"):
        client.create_collection("too many", dimensions=8193)
    made = client.create_collection("most", dimensions=8192)
    made.add([Document("x", vector=np.ones(8192)), Document("y", vector=-np.ones(8192))])
    assert made.search(vector=np.ones(8192)).ids == ("x", "y")
    assert client.list_collections() == ["most"]


def test_a_document_beyond_16_megabytes_is_refused_and_one_below_is_kept(client: SVRClient) -> None:
    made = client.create_collection("big", dimensions=4)
    near = "a" * (15 * 1024 * 1024)
    made.add([Document("near", near, vector=vector(1))])
    [found] = made.get(["near"])
    assert found.text == near
    for over in (
        Document("over", "a" * (16 * 1024 * 1024), vector=vector(1)),
        Document("over", "x", {"body": "a" * (16 * 1024 * 1024)}, vector=vector(1)),
    ):
        with pytest.raises(errors.InputError) as caught:
            made.add([Document("small", vector=vector(2)), over])
        assert len(str(caught.value)) < 2_000
        assert made.count() == 1
    made.add([Document("near", "short", vector=vector(1))])
    assert made.get(["near"])[0].text == "short"


def test_a_batch_of_many_megabytes_is_one_write(client: SVRClient) -> None:
    made = client.create_collection("batch", dimensions=4)
    rows = [Document(f"{n}", "b" * 1_000_000, vector=vector(n)) for n in range(40)]
    assert made.add(rows).inserted == 40
    assert made.count() == 40
    assert len(made.search(vector=vector(1), limit=40)) == 40
    assert len(made.find(limit=30)) == 30


def test_a_batch_of_many_documents_is_one_write(client: SVRClient) -> None:
    made = client.create_collection("many", dimensions=2)
    keys = [f"{n:06d}" for n in range(20_000)]
    assert made.add([Document(key, vector=[1.0, 2.0]) for key in keys]).inserted == 20_000
    assert made.count() == 20_000
    assert len(made.get(keys[::4])) == 5_000
    assert made.delete(keys[:15_000]) == 15_000
    assert made.count() == 5_000


def test_metadata_deeper_than_the_server_takes_is_refused_whole(client: SVRClient) -> None:
    made = client.create_collection("deep", dimensions=2)
    body: dict[str, object] = {"leaf": 1}
    for _ in range(60):
        body = {"a": body}
    made.add([Document("deep", metadata=body, vector=[1, 2])])
    assert made.get(["deep"])[0].metadata == body
    for _ in range(200):
        body = {"a": body}
    with pytest.raises(errors.InputError):
        made.add([Document("deeper", metadata=body, vector=[1, 2]), Document("other", vector=[1, 2])])
    assert made.count() == 1


def test_awkward_keys_and_values_come_back_as_they_were(client: SVRClient) -> None:
    made = client.create_collection("keys", dimensions=4, filter_fields={"$declared.name": str, "year": int})
    for number, text in enumerate((*AWKWARD_TEXTS, *HOSTILE)):
        body: dict[str, object] = {text: text, "in": {text: [text, {text: 1}]}, "$declared.name": text}
        made.add([Document(text, text, METADATA | body, vector(number))], namespace=text)
        [found] = made.get([text], namespace=text)
        assert (found.id, found.text, found.namespace) == (text, text, text)
        assert found.metadata == METADATA | body
        assert made.search(
            vector=vector(number), filter={"in." + _quoted(text): text}, namespace=text
        ).ids == (text,)
        assert made.count({"$nor": [{"in." + _quoted(text): {"$exists": True}}]}, namespace=text) == 0
    for text in (*AWKWARD_TEXTS, *HOSTILE):
        assert made.count(namespace=text) == 1
        assert made.clear(namespace=text) == 1


def _quoted(key: str) -> str:
    return key.replace("\\", "\\\\").replace(".", "\\.")


def _hostile_filters() -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for text in (f"{text}{MARK}" for text in HOSTILE):
        path = f"x{_quoted(text)}" if text.startswith("$") else _quoted(text)
        found += [
            {"k": text}, {"k": {"$ne": text}}, {"k": {"$in": [text, "a"]}}, {"k": {"$nin": [text]}},
            {"k": {"$gte": text}}, {"k": {"$like": text}}, {"k": {"$ilike": text + "%"}}, {"k": [text]},
            {"k": {"$contains": text}}, {"k": {"$all": [text]}}, {path: text}, {path: {"$exists": False}},
            {f"deep.{path}": {"$ne": text}}, {f"deep.{_quoted(text)}": text},
            {f"deep.{_quoted(text)}": {"$exists": False}},
            {"$or": [{"k": text}, {path: {"$ne": 1}}]}, {"$nor": [{"k": text}]}, {"$not": {path: text}},
            {"lang": {"$ne": text}}, {"lang": {"$in": [text]}}, {"lang": {"$like": text}}, {"lang": {"$gt": text}},
        ]  # fmt: skip
    return found


OPERATORS = {
    "$and", "$or", "$nor", "$not", "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$type",
    "$size", "$elemMatch", "$regex", "$options", "$expr", "$literal", "$reduce", "$let", "$filter", "$map", "$cond",
    "$isArray", "$isNumber", "$concatArrays", "$objectToArray", "$setIntersection", "$anyElementTrue",
    "$vectorSearch", "$match", "$project", "$unionWith", "$limit", "$sample", "$group", "$sum", "$max", "$floor",
    "$divide", "$inc", "$set", "$unset", "$dateAdd", "$listSearchIndexes", "$db", "$clusterTime",
    "$meta",
}  # fmt: skip


def _keys(value: object, at: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every key of a command that says something to the server: stored documents are data."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, at
            if key != "$literal" and not (key in ("documents", "u") and not at[1:]):
                yield from _keys(inner, (*at, key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _keys(inner, at)


def _texts(value: object, at: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*at, key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, at)
    elif isinstance(value, str):
        yield value, at


def test_hostile_filters_reach_no_other_rows_and_no_other_operators(client: SVRClient, log: Log) -> None:
    """Two tenants with the same rows: no filter shows one's rows to the other, nor says anything of its own."""
    made = client.create_collection(
        "shared",
        dimensions=4,
        partition_by=by_namespace(),
        filter_fields={"lang": str},
        index=hnsw(min_rows=0),
    )
    body = {"k": "a", "lang": "en", "deep": {"x": 1}}
    for tenant in ("mine", "theirs"):
        made.add(
            [Document(f"{tenant}{n}", metadata=body, vector=vector(n)) for n in range(3)], namespace=tenant
        )
    made.refresh()
    log.sent.clear()
    for filter_ in _hostile_filters():
        for exact in (True, False):
            found = made.search(vector=vector(1), filter=filter_, namespace="mine", limit=10, exact=exact)
            assert {hit.namespace for hit in found} <= {"mine"}, filter_
        held = made.find(filter_, namespace="mine")
        assert {row.id for row in held} == set(found.ids), filter_
        assert made.count(filter_, namespace="mine") == len(held)
        assert made.delete(filter={"$and": [filter_, {"k": "nobody"}]}, namespace="mine") == 0
    assert len(log.sent) > 1_000
    _check_shapes(log)
    assert made.count(namespace="theirs") == 3


def _check_shapes(log: Log) -> None:
    for command in log.sent:
        for key, at in _keys(command):
            assert not key.startswith("$") or key in OPERATORS, (key, at)
            assert MARK not in key or key.startswith("metadata."), (key, at)
        for text, at in _texts(command):
            if MARK in text and text.startswith("$") and "$expr" in at:
                assert "$literal" in at, (text, at)
        name, collection = next(iter(command.items()))
        if str(collection).startswith("svr.documents.") and name in ("find", "aggregate"):
            _check_narrowed(command)


def _check_narrowed(command: dict[str, object]) -> None:
    """The namespace stands in a conjunction of its own, outside of whatever the filter says."""
    conditions = [command["filter"]] if "filter" in command else _matches(command["pipeline"])
    for condition in conditions:
        assert isinstance(condition, dict), condition
        for each in condition["$or"] if condition.keys() == {"$or"} else [condition]:
            if "svr.w" in str(each) and MARK not in str(each) and "svr.n" not in str(each):
                continue  # by their stamps alone: how far an index has come, or rows that are only counted
            first = each
            while isinstance(first, dict) and "$and" in first:
                first = first["$and"][0]
            assert isinstance(first, dict), condition
            assert first.keys() in ({"_id"}, {"svr.n"}), condition
            assert "mine" in str(first), condition


def _matches(pipeline: object) -> list[object]:
    assert isinstance(pipeline, list)
    found: list[object] = []
    for stage in pipeline:
        if "$match" in stage:
            found.append(stage["$match"])
        if "$vectorSearch" in stage and "filter" in stage["$vectorSearch"]:
            found.append(stage["$vectorSearch"]["filter"])
        if "$unionWith" in stage and stage["$unionWith"]["coll"].startswith("svr.documents."):
            found += _matches(stage["$unionWith"]["pipeline"])
    return found


@pytest.mark.parametrize(
    "operator", ["$where", "$expr", "$function", "$regex", "$elemMatch", "$jsonSchema", "$text", "$near"]
)
def test_operators_of_the_server_are_not_of_the_language(client: SVRClient, log: Log, operator: str) -> None:
    made = client.create_collection("plain", dimensions=4, if_exists="open")
    log.sent.clear()
    for filter_ in (
        {operator: "1"},
        {"a": {operator: "1"}},
        {"$or": [{operator: {}}]},
        {"$not": {"a": {operator: 1}}},
    ):
        for call in (
            made.count,
            made.find,
            lambda f: made.delete(filter=f),
            lambda f: made.search(vector=vector(1), filter=f),
        ):
            with pytest.raises(errors.FilterError):
                call(filter_)
    assert not any(operator in str(command) for command in log.sent)
