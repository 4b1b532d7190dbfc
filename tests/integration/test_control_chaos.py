"""Workers killed and stopped at any moment, servers killed under writers: one holder, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import PyMongoError

from svr_retrievers import Settings
from svr_retrievers.backends.mongodb.connection import translated
from svr_retrievers.backends.postgres.connection import borrowed, make_pool
from svr_retrievers.control.mongodb_work import MongoWork
from svr_retrievers.control.postgres_work import PostgresWork
from svr_retrievers.control.protocol import Event, RecordedEvent, Work
from svr_retrievers.errors import SVRError
from svr_retrievers.testing.control_base import everything, ids
from svr_retrievers.testing.mongodb.server import Mongod

if TYPE_CHECKING:
    from conftest import OwnServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

WORKER = Path(__file__).with_name("control_worker.py")
WORKERS, BLOWS, WRITERS, EVENTS = 3, 12, 4, 40
PATIENCE_SECONDS = 60.0
_numbers = itertools.count()


@dataclass
class Place:
    """An empty store, how a process of its own finds it, and how its server is harmed."""

    kind: str
    url: str
    name: str
    work: Work
    blows: list[Callable[[], None]]


@pytest.fixture(scope="module")
def mongod() -> Iterator[Mongod]:
    """Ends the transactions of dead clients after two seconds, where the server's default is a minute."""
    with Mongod(options=("--setParameter", "transactionLifetimeLimitSeconds=2")) as server:
        yield server


@contextlib.asynccontextmanager
async def on_postgres(server: OwnServer) -> AsyncIterator[Place]:
    url, name = server.url(), f"chaos_{next(_numbers)}"

    def cut() -> None:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            )

    def restart() -> None:
        server.kill()
        server.start()

    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("create extension if not exists vector")
    async with make_pool(url, Settings()) as pool:
        work = PostgresWork(lambda: borrowed(pool), schema=name)
        await work.prepare()
        yield Place("postgres", url, name, work, [cut, restart])


@contextlib.asynccontextmanager
async def on_mongodb(server: Mongod) -> AsyncIterator[Place]:
    name = f"chaos_{next(_numbers)}"

    def step_down() -> None:
        with MongoClient(server.uri) as admin, contextlib.suppress(PyMongoError):
            admin.admin.command({"replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": True})

    def restart() -> None:
        primary = server.wait_for_primary()
        primary.kill()
        primary.start()
        server.wait_for_primary()

    async with AsyncMongoClient(server.uri) as client:
        work = MongoWork(client[name], translated)
        await work.prepare()
        yield Place("mongodb", server.uri, name, work, [step_down, restart])


@pytest_asyncio.fixture(params=["postgres", pytest.param("mongodb", marks=pytest.mark.mongodb)])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    if request.param == "postgres":
        made = on_postgres(request.getfixturevalue("own_server"))
    else:
        made = on_mongodb(request.getfixturevalue("mongod"))
    async with made as place:
        yield place


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


# One holder


@dataclass
class Worker:
    """A process whose printed lines are what it was told is committed."""

    place: Place
    holder: str
    told: list[str] = field(default_factory=list)

    def start(self) -> None:
        place = self.place
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), place.kind, place.url, place.name, self.holder],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.reader = threading.Thread(target=self._read, args=(self.process,))
        self.reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):
                    self.told.append(line.strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        self.reader.join(PATIENCE_SECONDS)


async def test_no_write_of_a_stale_holder(place: Place) -> None:
    """Holders are killed, or stopped until another has the lease and then woken, wherever they just are."""
    chance = random.Random(7)
    workers = [Worker(place, f"w{n}") for n in range(WORKERS)]
    try:
        for worker in workers:
            worker.start()
        for _ in range(BLOWS):
            await strike(place, workers, chance)
    finally:
        for worker in workers:
            worker.kill()
    found = await everything(place.work)

    tokens = [int(str(each.event.data["token"])) for each in found]
    assert tokens == sorted(tokens)
    holders = {token: set() for token in tokens}
    for each, token in zip(found, tokens, strict=True):
        holders[token].add(each.event.data["holder"])
    assert all(len(names) == 1 for names in holders.values())
    assert len(holders) > BLOWS // 2
    assert len(set(ids(found))) == len(found)
    told = [each for worker in workers for each in worker.told]
    assert len(told) > BLOWS
    assert set(told) <= set(ids(found))


async def strike(place: Place, workers: list[Worker], chance: random.Random) -> None:
    """Stops whoever holds the lease, in the middle of whatever it does, until somebody else has taken it."""
    lease = None
    told = sum(len(worker.told) for worker in workers) + chance.randrange(6)

    async def somebody_holds() -> bool:
        nonlocal lease
        lease = await place.work.leases.held("job")
        return lease is not None and sum(len(worker.told) for worker in workers) >= told

    async def another_holds() -> bool:
        now = await place.work.leases.held("job")
        return now is not None and now.token > lease.token and now.holder != lease.holder

    await until(somebody_holds)
    victim = next(worker for worker in workers if worker.holder == lease.holder)
    if chance.random() < 0.5:
        victim.kill()
        victim.start()
        return
    victim.process.send_signal(signal.SIGSTOP)
    try:
        await until(another_holds)
    finally:
        victim.process.send_signal(signal.SIGCONT)


# Nothing lost, nothing twice


@dataclass
class Stubborn:
    """Writers that repeat a call until it is acknowledged, and a reader that goes on from where it was."""

    work: Work
    left: int = WRITERS
    appended: list[Event] = field(default_factory=list)
    seen: list[RecordedEvent] = field(default_factory=list)
    errors: list[SVRError] = field(default_factory=list)

    async def write(self, writer: int) -> None:
        for number in range(EVENTS):
            event = Event(f"w{writer}", "test.done", {"number": number})
            await self._insist(lambda event=event: self.work.outbox.append([event]))
            self.appended.append(event)
        self.left -= 1

    async def read(self) -> None:
        while True:
            last = not self.left
            after = self.seen[-1].position if self.seen else 0
            batch = await self._insist(lambda after=after: self.work.outbox.read(after=after, limit=5))
            self.seen += batch
            if last and not batch:
                return

    async def _insist(self, call: Callable[[], Awaitable[object]]) -> object:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await call()
                except SVRError as error:
                    self.errors.append(error)
                    await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Mongod]:
    with Mongod(3) as server:
        yield server


@pytest.mark.mongodb
async def test_what_was_acknowledged_survives_the_primary(three_nodes: Mongod) -> None:
    """Another node becomes primary: positions, events and the last token are those that clients were told."""
    async with on_mongodb(three_nodes) as place:
        before = await place.work.leases.claim("job", "a", 60)
        await ride_out(place)
        assert await place.work.leases.held("job") == before
        assert await place.work.leases.release(before)
        assert (await place.work.leases.claim("job", "b", 60)).token == before.token + 1


async def test_a_server_that_dies_loses_and_doubles_nothing(place: Place) -> None:
    await ride_out(place)


async def ride_out(place: Place) -> None:
    """Calls that failed are repeated with the same event, which is one event however often it is appended."""
    mill = Stubborn(place.work)

    async def harm() -> None:
        for n, blow in enumerate(place.blows * 2):
            await until(lambda n=n: enough(len(mill.appended) >= (n + 1) * WRITERS * EVENTS // 6))
            await asyncio.to_thread(blow)

    await asyncio.gather(*(mill.write(n) for n in range(WRITERS)), mill.read(), harm())

    assert [each.position for each in mill.seen] == list(range(1, WRITERS * EVENTS + 1))
    assert sorted(ids(mill.seen)) == sorted(each.id for each in mill.appended)
    for writer in range(WRITERS):
        numbers = [e.event.data["number"] for e in mill.seen if e.event.subject == f"w{writer}"]
        assert numbers == list(range(EVENTS))
    assert {error.code for error in mill.errors} <= {"connection", "backend", "deadline", "write_conflict"}


async def enough(reached: bool) -> bool:
    return reached
