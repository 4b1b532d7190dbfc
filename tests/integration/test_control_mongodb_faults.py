"""What leases, operations and the outbox do when MongoDB fails in the middle: recover, or say so and change nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.monitoring import CommandListener

from svr_retrievers.backends.mongodb.connection import translated
from svr_retrievers.control.mongodb_work import MongoWork
from svr_retrievers.control.protocol import Event, Lease, Operation, State
from svr_retrievers.errors import BackendError, ConnectionFailed, DeadlineExceeded, PermissionDenied
from svr_retrievers.testing.control_base import everything, expired, ids
from svr_retrievers.testing.mongodb.server import Mongod

pytestmark = [pytest.mark.mongodb, pytest.mark.timeout(120)]

NOT_WRITABLE, UNAUTHORIZED, INTERNAL, WRITE_CONFLICT = 10107, 13, 1, 112
_numbers = itertools.count()


class Commands(CommandListener):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def started(self, event: object) -> None:
        self.seen.append(event.command_name)

    def succeeded(self, event: object) -> None:
        pass

    failed = succeeded


@dataclass
class World:
    """A store with something of everything in it."""

    work: MongoWork
    server: Mongod
    commands: Commands
    lease: Lease
    operation: Operation
    fresh: Event = field(default_factory=lambda: Event("s", "test.fresh"))

    def fail(self, *commands: str, times: int | str = 1, **how: object) -> None:
        mode = "alwaysOn" if times == "always" else {"times": times}
        data = {"failCommands": list(commands), "appName": "tested", **how}
        self._configure(mode, data)

    def mend(self) -> None:
        self._configure("off", {})

    def _configure(self, mode: object, data: dict[str, object]) -> None:
        with MongoClient(self.server.uri) as admin:
            admin.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    with Mongod() as server:
        yield server


@pytest_asyncio.fixture
async def world(server: Mongod) -> AsyncIterator[World]:
    commands = Commands()
    async with AsyncMongoClient(
        server.uri, appname="tested", event_listeners=[commands], serverSelectionTimeoutMS=5000
    ) as client:
        name = f"svr_faults_{next(_numbers)}"
        work = MongoWork(client[name], translated, timeout_seconds=1)
        await work.prepare()
        lease = await work.leases.claim("job", "a", 60)
        assert lease is not None
        operation = await work.operations.create("split", collection="c", cause="x", fence=lease)
        await work.outbox.append([Event("s", "test.old"), Event("s", "test.old")])
        await work.outbox.subscribe("a")
        await work.outbox.read(after=0)
        await work.outbox.acknowledge("a", 1)
        world = World(work, server, commands, lease, operation)
        yield world
        world.mend()
        await client.drop_database(name)


async def claim(w: World) -> None:
    assert await w.work.leases.claim("fresh", "b", 60) is not None


async def renew(w: World) -> None:
    await w.work.leases.renew(w.lease)


async def release(w: World) -> None:
    await w.work.leases.release(w.lease)


async def held(w: World) -> None:
    assert (await w.work.leases.held("job")).token == w.lease.token


async def fenced(w: World) -> None:
    async def write(session: AsyncClientSession) -> None:
        await w.work.leases.fence(w.lease, within=session)
        await w.work.outbox.append([w.fresh], within=session)
        await w.work.outbox.acknowledge("a", 2, within=session)

    await w.work.transact(write)


async def create(w: World) -> None:
    await w.work.operations.create("split", collection="c", cause="y", fence=w.lease)


async def advance(w: World) -> None:
    await w.work.operations.advance(w.operation, step="copy", state=State.RUNNING, fence=w.lease)


async def get(w: World) -> None:
    assert (await w.work.operations.get(w.operation.number)).cause == "x"


async def find(w: World) -> None:
    assert len(await w.work.operations.find(collection="c")) == 1


async def history(w: World) -> None:
    assert len(await w.work.operations.history(w.operation.number)) == 1


async def append(w: World) -> None:
    await w.work.outbox.append([w.fresh])


async def read(w: World) -> None:
    assert len(await w.work.outbox.read(after=0)) >= 2


async def subscribe(w: World) -> None:
    assert await w.work.outbox.subscribe("b") == 0


async def acknowledge(w: World) -> None:
    await w.work.outbox.acknowledge("a", 2)


async def unsubscribe(w: World) -> None:
    await w.work.outbox.unsubscribe("a")


async def prune(w: World) -> None:
    await w.work.outbox.prune(keep_seconds=0)


async def prepare(w: World) -> None:
    await w.work.prepare()


CALLS: dict[str, tuple[Callable[[World], Awaitable[None]], set[str]]] = {
    "claim": (claim, {"find", "findAndModify"}),
    "renew": (renew, {"findAndModify"}),
    "release": (release, {"update"}),
    "held": (held, {"find"}),
    "fenced": (fenced, {"findAndModify", "find", "insert", "update", "commitTransaction"}),
    "create": (create, {"findAndModify", "find", "insert", "commitTransaction"}),
    "advance": (advance, {"findAndModify", "insert", "commitTransaction"}),
    "get": (get, {"find"}),
    "find": (find, {"find"}),
    "history": (history, {"find"}),
    "append": (append, {"find", "insert", "commitTransaction"}),
    "read": (read, {"find", "findAndModify", "update", "commitTransaction"}),
    "subscribe": (subscribe, {"find", "findAndModify", "insert", "commitTransaction"}),
    "acknowledge": (acknowledge, {"find", "update"}),
    "unsubscribe": (unsubscribe, {"delete"}),
    "prune": (prune, {"find", "update", "delete", "commitTransaction"}),
    "prepare": (prepare, {"createIndexes", "update"}),
}  # fmt: skip
EACH = [(name, command) for name, (_, commands) in CALLS.items() for command in sorted(commands)]


async def ready(world: World, name: str) -> Callable[[World], Awaitable[None]]:
    if name in {"read", "prune"}:
        await world.work.outbox.append([world.fresh])
    if name == "prune":
        await world.work.outbox.read(after=0)
    return CALLS[name][0]


async def check(world: World) -> None:
    """Whatever happened, it happened wholly or not at all, and everything goes on."""
    world.mend()
    work = world.work
    for operation in await work.operations.find():
        versions = await work.operations.history(operation.number)
        assert [v.version for v in versions] == list(range(1, operation.version + 1))
        assert versions[-1] == operation
    start = await work.outbox.subscribe("checker")
    found = await everything(work, after=start)
    assert [e.position for e in found] == list(range(start + 1, start + 1 + len(found)))
    assert ids(found).count(world.fresh.id) <= 1
    newest = await work.operations.get(world.operation.number)
    assert (await work.operations.advance(newest, step="after")).version == newest.version + 1
    assert (await expired(work, "another")).token == 1


@pytest.mark.parametrize("name", CALLS)
async def test_the_commands_listed_are_those_sent(world: World, name: str) -> None:
    call = await ready(world, name)
    world.commands.seen.clear()

    await call(world)

    assert set(world.commands.seen) - {"endSessions", "abortTransaction", "getMore"} == CALLS[name][1]


@pytest.mark.parametrize(("name", "command"), [pair for pair in EACH if pair[1] != "createIndexes"])
async def test_one_lost_connection_is_not_noticed(world: World, name: str, command: str) -> None:
    call = await ready(world, name)
    world.fail(command, closeConnection=True)
    await call(world)
    await check(world)


@pytest.mark.parametrize(("name", "command"), EACH)
async def test_refusals_are_told_and_leave_nothing_half_done(world: World, name: str, command: str) -> None:
    call = await ready(world, name)
    for code, expected in ((UNAUTHORIZED, PermissionDenied), (INTERNAL, BackendError)):
        world.fail(command, times="always", errorCode=code)
        with pytest.raises(expected) as raised:
            await call(world)
        assert raised.value.message
    await check(world)


@pytest.mark.parametrize("name", CALLS)
async def test_a_server_that_stays_away_is_told_in_time(world: World, name: str) -> None:
    call = await ready(world, name)
    for how in ({"closeConnection": True}, {"errorCode": NOT_WRITABLE}):
        world.fail(*CALLS[name][1], times="always", **how)
        with pytest.raises((ConnectionFailed, DeadlineExceeded)):
            await asyncio.wait_for(call(world), 10)
    await check(world)
