"""Every command that MongoDB may fail, failing: a typed error or a right answer, and batches whole or not at all."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pymongo.client_session_shared
import pymongo.common
import pytest
from pymongo import MongoClient

from svr_retrievers import Collection, Document, SVRClient, by_field, errors, hnsw
from svr_retrievers.control import mongodb_fence
from svr_retrievers.testing.data import vector

pytestmark = [pytest.mark.mongodb, pytest.mark.slow]

SECRET = "s3cret"
LONGEST_SECONDS = 10.0
COMMANDS = (
    "find", "aggregate", "getMore", "insert", "update", "delete", "findAndModify", "commitTransaction",
    "abortTransaction", "create", "createIndexes", "listCollections", "drop",
)  # fmt: skip
FAULTS: dict[str, dict[str, object]] = {
    "connection closed": {"closeConnection": True},
    "primary stepped down (189)": {"errorCode": 189},
    "shutting down (91)": {"errorCode": 91},
    "interrupted by shutdown (11600)": {"errorCode": 11600},
    "time is up (50)": {"errorCode": 50},
    "unauthorized (13)": {"errorCode": 13},
    "write conflict (112)": {"errorCode": 112},
    "transient (112)": {"errorCode": 112, "errorLabels": ["TransientTransactionError"]},
    "unknown commit (64)": {"errorCode": 64, "errorLabels": ["UnknownTransactionCommitResult"]},
    "unheard of (96)": {"errorCode": 96},
}
PROMISED = (
    errors.AuthenticationFailed,
    errors.BackendError,
    errors.ConnectionFailed,
    errors.DeadlineExceeded,
    errors.PermissionDenied,
    errors.WriteConflict,
)


@dataclass
class Server:
    uri: str
    admin: MongoClient[dict[str, object]]

    @contextmanager
    def failing(self, *commands: str, times: int | None = None, **fault: object) -> Iterator[None]:
        """The commands of this package's clients fail, so many times or always; `skip` lets the first ones pass."""
        skip = fault.pop("skip", None)
        mode: object = "alwaysOn" if times is None else {"times": times}
        if skip is not None:
            mode = {"skip": skip}
        told = {"failCommands": list(commands), "appName": "svr-retrievers", **fault}
        self.admin.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": told})
        try:
            yield
        finally:
            self.quiet()

    def quiet(self) -> None:
        self.admin.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    @staticmethod
    def database_of(client: SVRClient) -> str:
        """These clients' URL names none, so that it is the default one."""
        assert client.backend == "mongodb"
        return "svr"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this module's own: what fails is set for all of its clients."""
    from svr_retrievers.testing.mongodb import AtlasStandIn, Mongod
    from svr_retrievers.testing.mongodb.server import binary

    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(f"{missing} {missing.hint}")
    with Mongod() as mongod, AtlasStandIn(mongod.uri) as atlas, MongoClient(mongod.uri) as admin:
        admin.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 1})  # of those left open
        yield Server(f"{atlas.uri}&serverMonitoringMode=poll&heartbeatFrequencyMS=500", admin)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[SVRClient]:
    """Asks for the primary again at once: a server that only says that it stepped down announces nothing new."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pymongo.common, "MIN_HEARTBEAT_INTERVAL", 0.02)
        with SVRClient(server.uri) as client:
            yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions are repeated for a moment only, and a map that stays closed opens after a second."""
    monkeypatch.setattr(mongodb_fence, "_CLOSED_SECONDS", 1)
    monkeypatch.setattr(pymongo.client_session_shared, "_WITH_TRANSACTION_RETRY_TIME_LIMIT", 0.3)


def doc(name: str, category: str, number: int = 1) -> Document:
    return Document(name, text=f"text of {name}", metadata={"k": category}, vector=vector(number))


def told(error: BaseException) -> str:
    """Everything a log would hold about an error, its causes included."""
    return "\n".join([*traceback.format_exception(error), str(error), repr(error)])


@dataclass
class Books:
    """What the collection must hold: versions by id, and the alternatives where an outcome is unknown."""

    collection: Collection
    held: dict[str, int] = field(default_factory=dict)
    failures: list[errors.SVRError] = field(default_factory=list)

    def attempt(self, call: Callable[[], object]) -> tuple[bool, object]:
        """Whether it succeeded, and with what; anything but a promised error, in good time, fails the test."""
        began = time.monotonic()
        try:
            done = call()
        except PROMISED as error:
            self.failures.append(error)
            return False, error
        finally:
            assert time.monotonic() - began < LONGEST_SECONDS
        return True, done

    def change(self, after: dict[str, int], call: Callable[[], object], quiet: Callable[[], None]) -> None:
        """A write: done where it returns, and whole or not at all where it raises. `quiet` ends the fault."""
        before = self.held
        done, _ = self.attempt(call)
        quiet()
        found = versions(self.collection)
        if done:
            assert found == after
        else:
            assert found in (before, after), (before, after, found)
        self.held = found


def versions(collection: Collection) -> dict[str, int]:
    return {each.id: each.version or 0 for each in collection.find()}


@pytest.fixture
def books(client: SVRClient) -> Iterator[Books]:
    for name in client.list_collections():
        client.drop_collection(name)
    made = client.create_collection(
        "docs", dimensions=4, partition_by=by_field("k"), filter_fields={"k": str}, index=hnsw(min_rows=0)
    )
    made.add([doc(f"d{n}", "ab"[n % 2], n) for n in range(6)])
    made.refresh()
    return Books(made, versions(made))


def _write_calls(books: Books) -> list[tuple[dict[str, int], Callable[[], object]]]:
    """Writes of every kind, each with what must be held after it."""
    held, collection = books.held, books.collection
    new = [doc(f"n{n}", "ab"[n % 2], n) for n in range(3)]
    other = [doc("x0", "fresh"), doc("x1", "a")]
    again = [doc("d0", "a"), doc("d1", "b", 5), doc("d4", "moved")]
    return [
        (held | {"n0": 1, "n1": 1, "n2": 1}, lambda: collection.add(new)),
        (held | {"x0": 1, "x1": 1}, lambda: collection.add(other)),
        (held | {name: held[name] + 1 for name in ("d0", "d1", "d4")}, lambda: collection.add(again)),
        ({k: v for k, v in held.items() if k not in ("d2", "d3")}, lambda: collection.delete(["d2", "d3"])),
        ({k: v for k, v in held.items() if k not in ("d1", "d3", "d5", "n1")},
         lambda: collection.delete(filter={"k": "b"})),
    ]  # fmt: skip


def _check_whole(books: Books) -> None:
    """The same client goes on: it reads what is there, writes, and finds what it wrote."""
    collection, held = books.collection, books.held
    assert collection.count() == len(held)
    collection.add([doc("last", "b", 3)])
    held = held | {"last": 1}
    for exact in (True, False):
        assert set(collection.search(vector=vector(1), limit=50, exact=exact).ids) == set(held)
    collection.refresh()
    assert collection.partitions.rows == len(held)
    assert set(collection.search(vector=vector(1), limit=50).ids) == set(held)
    for error in books.failures:
        assert SECRET not in told(error)


KINDS = ("insert", "new partition", "replace", "delete", "delete by filter")


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_one_failure_of_each_command_leaves_writes_whole(
    server: Server, books: Books, fault: str, kind: int
) -> None:
    """Each command in turn fails once under each kind of write, which succeeds or says why it did not."""
    original = {each.id: each for each in books.collection.find(with_vectors=True)}
    for command in COMMANDS[:9]:
        after, call = _write_calls(books)[kind]
        with server.failing(command, times=1, **FAULTS[fault]):
            books.change(after, call, server.quiet)
        books.collection.delete([each for each in books.held if each not in original])
        books.collection.add(
            [each for key, each in original.items() if key not in versions(books.collection)]
        )
        books.held = versions(books.collection)
    _check_whole(books)


@pytest.mark.parametrize("command", COMMANDS[:8])
def test_a_command_that_keeps_failing_is_told_and_forgotten(
    server: Server, books: Books, command: str
) -> None:
    """Every write while the command fails, of each kind in turn, by a fault that is never over by itself."""
    faults = [f for name, f in FAULTS.items() if name != "time is up (50)"]
    for kind in range(len(KINDS)):
        after, call = _write_calls(books)[kind]
        with server.failing(command, **faults[kind % len(faults)]):
            books.change(after, call, server.quiet)
    _check_whole(books)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_reads_under_faults_are_right_or_typed_errors(
    server: Server, books: Books, fault: str, times: int | None
) -> None:
    collection, held = books.collection, books.held
    calls: list[tuple[object, Callable[[], object]]] = [
        (len(held), collection.count),
        (set(held), lambda: {each.id for each in collection.find()}),
        (["d1", "d3"], lambda: [each.id for each in collection.get(["d1", "d3"])]),
        (set(held), lambda: set(collection.search(vector=vector(1), limit=50).ids)),
        (set(held), lambda: set(collection.search(vector=vector(1), limit=50, exact=True).ids)),
        (
            {"d1", "d3", "d5"},
            lambda: set(collection.search(vector=vector(1), limit=50, filter={"k": "b"}).ids),
        ),
        (3, lambda: collection.count({"k": {"$in": ["b"]}})),
    ]
    for command in ("find", "aggregate", "getMore"):
        for wanted, call in calls:
            with server.failing(command, times=times, **FAULTS[fault]):
                done, answer = books.attempt(call)
            assert not done or answer == wanted, (command, answer, wanted)
    _check_whole(books)


@pytest.mark.parametrize("command", COMMANDS)
def test_collections_are_made_and_dropped_whole(
    server: Server, client: SVRClient, books: Books, command: str
) -> None:
    """A creation that fails leaves neither an entry nor documents; a name is free again after a drop that failed."""
    for fault in ({"errorCode": 13}, {"closeConnection": True}, {"errorCode": 11600}):
        with server.failing(command, times=1, **fault):
            books.attempt(lambda: client.create_collection("other", dimensions=4))
            server.quiet()
        client.create_collection("other", dimensions=4, if_exists="open").add([doc("one", "a")])
        with server.failing(command, times=1, **fault):
            books.attempt(lambda: client.drop_collection("other"))
            server.quiet()
        if "other" in client.list_collections():
            assert client.collection("other").count() == 1
            client.drop_collection("other")
        made = client.create_collection("other", dimensions=4)
        assert made.count() == 0
        client.drop_collection("other")
    assert client.list_collections() == ["docs"]
    _check_whole(books)


@pytest.mark.parametrize(
    "command", ["createSearchIndexes", "createIndexes", "create", "insert", "commitTransaction"]
)
def test_a_creation_that_was_refused_leaves_nothing(
    server: Server, client: SVRClient, books: Books, command: str
) -> None:
    name = server.database_of(client)
    before = set(server.admin[name].list_collection_names())
    if command == "createSearchIndexes":
        server.admin[name].client["admin"].command("ping")
        with MongoClient(server.uri) as front:
            front.admin.command({"standIn": 1, "maxIndexes": 1})
            try:
                done, error = books.attempt(lambda: client.create_collection("other", dimensions=4))
            finally:
                front.admin.command({"standIn": 1, "maxIndexes": None})
        assert isinstance(error, errors.IndexLimitReached)
        assert "mode='source'" in error.hint
    else:
        with server.failing(command, errorCode=13):
            done, error = books.attempt(lambda: client.create_collection("other", dimensions=4))
        assert isinstance(error, errors.PermissionDenied)
    assert not done
    assert set(server.admin[name].list_collection_names()) == before
    assert client.list_collections() == ["docs"]
    assert client.create_collection("other", dimensions=4).count() == 0
    _check_whole(books)


def test_a_refresh_under_faults_comes_to_an_end(server: Server, books: Books) -> None:
    for command in ("find", "aggregate", "update", "findAndModify", "commitTransaction"):
        for fault in FAULTS.values():
            with server.failing(command, times=1, **fault):
                books.attempt(books.collection.refresh)
    _check_whole(books)


@pytest.mark.parametrize("skipped", range(6))
def test_a_map_change_that_breaks_off_blocks_nobody_for_long(
    server: Server, books: Books, skipped: int
) -> None:
    """A new partition closes the map for writers; whichever of its updates fails, they go on soon after."""
    with server.failing("update", skip=skipped, errorCode=13):
        books.change(books.held | {"x0": 1}, lambda: books.collection.add([doc("x0", "fresh")]), server.quiet)
    began = time.monotonic()
    for number in range(32):
        books.collection.add([doc(f"y{number}", "a")])
    assert time.monotonic() - began < LONGEST_SECONDS
    books.held |= {f"y{number}": 1 for number in range(32)}
    _check_whole(books)


def test_deadlines_hold_where_the_server_does_not_answer(server: Server, books: Books) -> None:
    """The search ends when it said it would, with a typed error, and the connection is of use again."""
    for exact in (True, False):
        with server.failing("aggregate", "getMore", blockConnection=True, blockTimeMS=2_000):
            began = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded) as caught:
                books.collection.search(vector=vector(1), timeout_seconds=0.3, exact=exact)
            assert time.monotonic() - began < 1.5
        assert caught.value.hint
        assert set(books.collection.search(vector=vector(1), limit=50).ids) == set(books.held)
    _check_whole(books)


@pytest.mark.parametrize(
    "fault", [{"closeConnection": True}, {"errorCode": 91}, {"errorCode": 11600}], ids=str
)
def test_a_commit_of_unknown_outcome_is_said_to_be_so(
    server: Server, books: Books, fault: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left open keeps its rows until the server ends it."""
    new = doc("unsure", "a")
    with server.failing("commitTransaction", **fault):
        done, error = books.attempt(lambda: books.collection.add([new]))
    assert not done
    assert isinstance(error, errors.ConnectionFailed)
    assert "unknown" in error.hint
    monkeypatch.setattr(pymongo.client_session_shared, "_WITH_TRANSACTION_RETRY_TIME_LIMIT", 10)
    books.collection.add([new])
    books.held |= versions(books.collection)
    assert books.held["unsure"] in (1, 2)
    _check_whole(books)
