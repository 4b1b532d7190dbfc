"""What is MongoDB's own about leases, operations and the outbox: indexes, concerns, write concern errors, sessions."""

from __future__ import annotations

import ast
import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.monitoring import CommandListener

import svr_retrievers.control
from svr_retrievers.backends.mongodb.connection import translated
from svr_retrievers.control.mongodb_work import MongoWork
from svr_retrievers.control.protocol import Event
from svr_retrievers.errors import BackendError, LeaseLost, UsageError
from svr_retrievers.testing.control_base import claimed, event, everything, open_transaction
from svr_retrievers.testing.mongodb.server import Mongod

pytestmark = pytest.mark.mongodb
_numbers = itertools.count()


class Commands(CommandListener):
    def __init__(self) -> None:
        self.seen: list[dict[str, object]] = []

    def started(self, event: object) -> None:
        self.seen.append(dict(event.command))

    def succeeded(self, event: object) -> None:
        pass

    failed = succeeded


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    with Mongod() as server:
        yield server


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest_asyncio.fixture
async def database(server: Mongod, commands: Commands) -> AsyncIterator[AsyncDatabase]:
    async with AsyncMongoClient(
        server.uri, readPreference="secondaryPreferred", w=1, appname="own", event_listeners=[commands]
    ) as client:
        name = f"svr_own_{next(_numbers)}"
        yield client[name]
        await client.drop_database(name)


@pytest_asyncio.fixture
async def work(database: AsyncDatabase) -> MongoWork:
    work = MongoWork(database, translated)
    await work.prepare()
    return work


async def test_nothing_forgets_a_token(work: MongoWork, database: AsyncDatabase) -> None:
    """No index deletes by time: the last token of a name must stay."""
    for collection in await database.list_collection_names():
        indexes = await database[collection].index_information()
        assert not any("expireAfterSeconds" in index for index in indexes.values())
    assert set(await database.list_collection_names()) == {
        f"svr_metadata.{name}"
        for name in ("leases", "operations", "operation_history", "outbox", "outbox_consumers", "counters")
    }


async def test_a_prefix_keeps_installations_apart(work: MongoWork, database: AsyncDatabase) -> None:
    other = MongoWork(database, translated, prefix="other")
    await other.prepare()
    await other.outbox.append([event()])

    assert await claimed(work, "job")
    assert await claimed(other, "job")
    assert await everything(work) == []
    assert len(await everything(other)) == 1
    assert "other.svr_metadata.outbox" in await database.list_collection_names()


async def test_what_counts_is_what_a_majority_has(work: MongoWork, commands: Commands) -> None:
    """Whatever the client was made with."""
    commands.seen.clear()
    lease = await claimed(work, "job")
    made = await work.operations.create("split", collection="c", cause="x", fence=lease)
    await work.operations.get(made.number)
    await everything(work)

    for command in commands.seen:
        name = next(iter(command))
        if command.get("autocommit") is False:
            if command.get("startTransaction"):
                assert command["readConcern"]["level"] == "snapshot"
        elif name == "find":
            assert command["readConcern"]["level"] == "majority"
            assert command.get("$readPreference", {"mode": "primary"})["mode"] != "secondaryPreferred"
        if name in {"commitTransaction", "update", "insert", "findAndModify"} and (
            name == "commitTransaction" or command.get("autocommit") is None
        ):
            assert command["writeConcern"]["w"] == "majority"


async def test_reading_looks_at_what_it_returns(work: MongoWork, database: AsyncDatabase) -> None:
    """With 500 events there, a read of ten examines ten, and finding out that none waits examines none."""
    await work.outbox.append([event(number=n) for n in range(500)])
    await everything(work)
    outbox = database["svr_metadata.outbox"]
    for wanted, order, limit, most in (
        ({"position": {"$gt": 200}}, [("position", 1)], 10, 10),
        ({"position": None}, [("inserted", 1)], 1000, 0),
    ):
        explained = await database.command(
            "explain",
            {"find": outbox.name, "filter": wanted, "sort": dict(order), "limit": limit},
            verbosity="executionStats",
        )
        assert explained["executionStats"]["totalDocsExamined"] <= most


async def test_an_unprepared_store_says_so(database: AsyncDatabase) -> None:
    work = MongoWork(database, translated)
    for call in (
        lambda: work.operations.create("split", collection="c", cause="x"),
        lambda: work.outbox.read(after=0),
        lambda: work.outbox.subscribe("a"),
    ):
        with pytest.raises(UsageError, match="prepare"):
            await call()


async def test_preparing_at_once_and_again(database: AsyncDatabase) -> None:
    works = [MongoWork(database, translated) for _ in range(4)]
    await asyncio.gather(*(each.prepare() for each in works))
    await works[0].outbox.append([event()])
    await works[1].prepare()
    assert len(await everything(works[2])) == 1


@pytest.mark.parametrize("command", ["findAndModify", "update", "delete", "commitTransaction"])
async def test_a_write_that_no_majority_has_yet_is_told_or_repeated(
    work: MongoWork, server: Mongod, command: str
) -> None:
    """It may have happened and may be rolled back; the same call again settles it."""
    lease = await claimed(work, "job")
    await work.outbox.subscribe("a")
    operation = await work.operations.create("split", collection="c", cause="x")
    calls = {
        "findAndModify": lambda: work.leases.renew(lease),
        "update": lambda: work.leases.release(lease),
        "delete": lambda: work.outbox.unsubscribe("a"),
        "commitTransaction": lambda: work.operations.advance(operation, step="copy"),
    }
    async with AsyncMongoClient(server.uri) as admin:
        failing = {
            "failCommands": [command],
            "appName": "own",
            "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"},
        }
        await admin.admin.command(
            {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": failing}
        )
        try:
            if command == "commitTransaction":  # which the driver repeats by itself
                await calls[command]()
            else:
                with pytest.raises(BackendError):
                    await calls[command]()
        finally:
            await admin.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    newest = await work.operations.get(operation.number)
    assert len(await work.operations.history(operation.number)) == newest.version
    assert (await work.leases.renew(lease) if command == "findAndModify" else lease).token == lease.token


async def test_the_drivers_own_errors_reach_its_transaction(work: MongoWork, database: AsyncDatabase) -> None:
    """Two transactions write one operation: the driver begins the second anew, which then sees that it is late."""
    made = await work.operations.create("split", collection="c", cause="x")
    attempts = 0

    async def late(session: AsyncClientSession) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await database["svr_metadata.counters"].find_one({}, session=session)
            await work.operations.advance(made, step="by another")
        await work.operations.advance(made, step="late", within=session)

    async with database.client.start_session() as session:
        with pytest.raises(Exception, match="version 2, not 1"):
            await session.with_transaction(late, read_preference=ReadPreference.PRIMARY)
    assert attempts == 2
    assert (await work.operations.get(made.number)).step == "by another"


async def test_a_claim_does_not_wait_long_for_a_fenced_transaction(work: MongoWork) -> None:
    lease = await claimed(work, "job", seconds=0.1)

    async with open_transaction(work, lambda tx: work.leases.fence(lease, within=tx)) as outcome:
        while await work.leases.held("job") is not None:
            await anyio.lowlevel.checkpoint()
        assert await asyncio.wait_for(work.leases.claim("job", "b", 60), 10) is None

    assert outcome.exception() is None
    successor = await claimed(work, "job", "b")
    with pytest.raises(LeaseLost):
        await work.transact(lambda tx: work.leases.fence(lease, within=tx))
    assert successor.token > lease.token


async def test_a_filter_in_a_name_finds_nothing(work: MongoWork) -> None:
    for wrong in ({"$ne": ""}, {"$gt": ""}, ["job"], b"job"):
        with pytest.raises(ValueError, match="must be text"):
            await work.leases.claim(wrong, "a", 60)
        with pytest.raises(ValueError, match="must be text"):
            await work.operations.find(collection=wrong)
        with pytest.raises(ValueError, match="must be text"):
            await work.outbox.acknowledge(wrong, 0)
        with pytest.raises(ValueError, match="must be text"):
            Event("s", "t", id=wrong)


async def test_a_client_clock_decides_nothing(work: MongoWork, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.cycle([0, 3600, -3600, 86_400 * 366])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(hours))

    lease = await claimed(work, "job", seconds=60)
    for _ in range(8):
        lease = await work.leases.renew(lease)
        assert await work.leases.claim("job", "b", 60) is None
        assert await work.leases.held("job") == lease


def test_no_store_over_a_server_reads_a_clock() -> None:
    folder = Path(svr_retrievers.control.__file__).parent
    sources = [path for kind in ("postgres_work", "mongodb_work") for path in (folder / kind).glob("*.py")]
    assert len(sources) >= 9
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"now", "utcnow", "today", "monotonic", "time"}, path
            if isinstance(node, ast.Import):
                assert "time" not in {each.name for each in node.names}, path
