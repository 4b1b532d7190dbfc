"""Primaries killed, paused and stepped down under readers and writers: nothing lost, nothing wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest
from pymongo import MongoClient

from svr_retrievers import (
    AsyncCollection,
    AsyncSVRClient,
    Document,
    Settings,
    SVRClient,
    by_field,
    errors,
    hnsw,
)
from svr_retrievers.control import mongodb as control

pytestmark = [
    pytest.mark.mongodb,
    pytest.mark.slow,
    # A call that is cancelled while the driver connects leaves its socket to the garbage collector, which warns.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KILLS = int(os.environ.get("SVR_CHAOS_KILLS", "2"))
WRITERS = READERS = 4
STABLE = 60
PROMISED = (errors.ConnectionFailed, errors.DeadlineExceeded, errors.WriteConflict)
UNKNOWN = "unknown"


@dataclass
class Cluster:
    """Three nodes behind a stand-in of its own process, which outlives each of them."""

    uri: str
    mongod: object
    nodes: list  # type: ignore[type-arg]

    def primary(self):  # type: ignore[no-untyped-def]
        return self.mongod.wait_for_primary()  # type: ignore[attr-defined]

    def step_down(self) -> None:
        with MongoClient(self.mongod.uri) as admin:  # type: ignore[attr-defined]
            admin.admin.command({"replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 2, "force": True})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    from svr_retrievers.testing.mongodb import Mongod, shared
    from svr_retrievers.testing.mongodb.server import binary

    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(f"{missing} {missing.hint}")
    with Mongod(3) as mongod:
        process, uri = shared.start(os.getpid(), ["--upstream", mongod.uri])
        try:
            yield Cluster(uri, mongod, mongod.nodes)
        finally:
            shared.end(process)


def corner(number: int) -> list[float]:
    """A direction of its own for each stable document, so that the nearest is known."""
    made = [0.0] * STABLE
    made[number % STABLE] = 1.0
    return made


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[AsyncSVRClient]:
    settings = Settings(connect_timeout_seconds=10, timeout_seconds=20)
    async with AsyncSVRClient(cluster.uri, settings=settings) as client:
        for name in await client.list_collections():
            await client.drop_collection(name)
        yield client


@dataclass
class Ledger:
    """What writers were told: the versions acknowledged, and the keys whose last outcome they do not know."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    writes: int = 0
    reads: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    moments: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def went_wrong(self, what: str, error: Exception) -> None:
        self.errors[f"{what}: {type(error).__name__}"] += 1
        if not isinstance(error, PROMISED):
            self.faults.append(f"{what}: {type(error).__name__}: {error}")

    def acknowledge(self) -> None:
        self.writes += 1
        self.moments.append(time.monotonic())

    @property
    def longest_outage(self) -> float:
        return max((b - a for a, b in zip(self.moments, self.moments[1:], strict=False)), default=0.0)


async def _write(collection: AsyncCollection, writer: int, ledger: Ledger, stopped: asyncio.Event) -> None:
    """Inserts, replaces and deletes keys of its own; the next write to a key comes after the last one's outcome."""
    round_number = 0
    while not stopped.is_set():
        round_number += 1
        names = [f"w{writer}-{round_number}-{n}" for n in range(3)]
        old = f"w{writer}-{round_number // 2}-0"
        rows = [Document(n, metadata={"k": f"p{writer % 2}"}, vector=[-1.0] * STABLE) for n in [*names, old]]
        try:
            await collection.add(rows)
        except Exception as error:  # noqa: BLE001 - judged by the ledger
            ledger.went_wrong("add", error)
            ledger.unknown.update(row.id for row in rows)
            continue
        ledger.acknowledge()
        ledger.acknowledged |= dict.fromkeys(names, 1)
        ledger.acknowledged[old] = ledger.acknowledged.get(old, 0) + 1
        if round_number % 5 == 0:
            await _delete(collection, names[2], ledger)


async def _delete(collection: AsyncCollection, name: str, ledger: Ledger) -> None:
    try:
        await collection.delete([name])
    except Exception as error:  # noqa: BLE001
        ledger.went_wrong("delete", error)
        ledger.unknown.add(name)
        return
    ledger.acknowledge()
    ledger.deleted.add(name)


async def _read(collection: AsyncCollection, reader: int, ledger: Ledger, stopped: asyncio.Event) -> None:
    """Asks for rows that nobody changes, by every way of asking: each must be the first hit, and complete."""
    number = reader
    while not stopped.is_set():
        number += 1
        name = f"s{number % STABLE:02d}"
        try:
            found = await collection.search(vector=corner(number), limit=3, exact=number % 3 == 0)
            got = await collection.get([name])
        except Exception as error:  # noqa: BLE001
            ledger.went_wrong("read", error)
            continue
        ledger.reads += 1
        if found.ids[:1] != (name,) or len(found) != 3 or [g.id for g in got] != [name]:
            ledger.faults.append(f"wrong answer for {name}: {found.ids}, {found.incomplete}, {got}")
        await asyncio.sleep(0.005)


async def _made(client: AsyncSVRClient, name: str) -> AsyncCollection:
    collection = await client.create_collection(
        name, dimensions=STABLE, partition_by=by_field("k"), index=hnsw(min_rows=0)
    )
    await collection.add(
        [Document(f"s{n:02d}", metadata={"k": f"p{n % 2}"}, vector=corner(n)) for n in range(STABLE)]
    )
    await collection.refresh()
    return collection


async def _under_load(client: AsyncSVRClient, collection: AsyncCollection, harm) -> Ledger:  # type: ignore[no-untyped-def]
    ledger, stopped = Ledger(), asyncio.Event()
    tasks = [asyncio.create_task(_write(collection, n, ledger, stopped)) for n in range(WRITERS)]
    tasks += [asyncio.create_task(_read(collection, n * 7, ledger, stopped)) for n in range(READERS)]
    try:
        await harm(ledger)
    finally:
        stopped.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 180)
    return ledger


async def _settled(collection: AsyncCollection) -> dict[str, int]:
    return {row.id: row.version or 0 for row in await collection.find() if row.id.startswith("w")}


async def _check(collection: AsyncCollection, ledger: Ledger) -> None:
    """Everything acknowledged is there in that version; of the rest only what has an unknown outcome."""
    assert not ledger.faults, ledger.faults[:5]
    held = await _settled(collection)
    certain = {name: v for name, v in ledger.acknowledged.items() if name not in ledger.unknown}
    wanted = {name: v for name, v in certain.items() if name not in ledger.deleted}
    lost = {name: v for name, v in wanted.items() if held.get(name, 0) != v}
    assert not lost, (
        f"{len(lost)} acknowledged writes are lost or another version: {dict(list(lost.items())[:5])}"
    )
    for name in ledger.unknown & ledger.acknowledged.keys() - ledger.deleted:
        assert held.get(name, 0) >= ledger.acknowledged[name]
    assert held.keys() <= wanted.keys() | ledger.unknown
    await collection.refresh()
    assert await collection.count() == len(held) + STABLE == collection.partitions.rows
    found = await collection.search(vector=[-1.0] * STABLE, limit=len(held), exact=True)
    assert set(found.ids) == held.keys()


async def _until_written(ledger: Ledger, more: int, seconds: float = 90.0) -> None:
    """Until so many further writes were acknowledged: the work goes on again."""
    goal, deadline = ledger.writes + more, time.monotonic() + seconds
    while ledger.writes < goal:
        assert time.monotonic() < deadline, f"no write for {seconds} s: {ledger.errors}"
        await asyncio.sleep(0.05)


async def test_killed_primaries_lose_nothing_that_was_acknowledged(
    client: AsyncSVRClient, cluster: Cluster
) -> None:
    collection = await _made(client, "killed")

    async def harm(ledger: Ledger) -> None:
        for _ in range(KILLS):
            await _until_written(ledger, 40)
            node = await asyncio.to_thread(cluster.primary)
            await asyncio.to_thread(node.kill)
            await _until_written(ledger, 20)
            await asyncio.to_thread(node.start)
        await _until_written(ledger, 40)

    ledger = await _under_load(client, collection, harm)
    print(  # noqa: T201 - the figures that the documentation quotes
        f"\nkills {KILLS}, acknowledged {ledger.writes}, unknown keys {len(ledger.unknown)}, answers {ledger.reads}, "
        f"longest outage {ledger.longest_outage:.1f} s, errors {dict(ledger.errors)}, faults {len(ledger.faults)}"
    )
    await _check(collection, ledger)


@pytest.fixture
async def wary(cluster: Cluster) -> AsyncIterator[AsyncSVRClient]:
    """Looks after the servers every half second, so that a frozen one is noticed within four."""
    settings = Settings(connect_timeout_seconds=3, timeout_seconds=5)
    async with AsyncSVRClient(f"{cluster.uri}&heartbeatFrequencyMS=500", settings=settings) as client:
        for name in await client.list_collections():
            await client.drop_collection(name)
        yield client


async def test_a_frozen_primary_is_left_and_deadlines_hold(wary: AsyncSVRClient, cluster: Cluster) -> None:
    """Frozen, it keeps its connections open and answers nothing, and wakes up in the belief to be the primary."""
    collection = await _made(wary, "frozen")
    late: list[float] = []

    async def ask() -> None:
        began = time.monotonic()
        with contextlib.suppress(*PROMISED):
            await collection.search(vector=corner(1), timeout_seconds=0.5)
        late.append(time.monotonic() - began)

    async def harm(ledger: Ledger) -> None:
        await _until_written(ledger, 20)
        node = await asyncio.to_thread(cluster.primary)
        node.pause()
        try:
            await asyncio.gather(*(ask() for _ in range(5)))
            await _until_written(ledger, 20)
        finally:
            node.resume()
        await _until_written(ledger, 20)

    ledger = await _under_load(wary, collection, harm)
    assert max(late) < 1.5
    await _check(collection, ledger)


async def test_primaries_that_step_down_lose_nothing(wary: AsyncSVRClient, cluster: Cluster) -> None:
    collection = await _made(wary, "stepped down")

    async def harm(ledger: Ledger) -> None:
        for _ in range(2):
            await _until_written(ledger, 20)
            await asyncio.to_thread(cluster.step_down)
        await _until_written(ledger, 20)

    ledger = await _under_load(wary, collection, harm)
    await _check(collection, ledger)


class Proxy:
    """Carries bytes to one address; cuts all connections, or lets nothing through while they stay open."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    def cut(self) -> int:
        for link in self._links:
            link.cancel()
        return len(self._links)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        onward, back = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [
            asyncio.create_task(self._carry(reader, back)),
            asyncio.create_task(self._carry(onward, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._links.discard(task)
            back.transport.abort()
            writer.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self._flowing.wait()
            sink.write(data)
            await sink.drain()


@pytest.fixture
async def proxied(mongodb_url: str) -> AsyncIterator[tuple[Proxy, AsyncSVRClient]]:
    """A client whose every byte passes the proxy; its tasks are gone when it is closed."""
    hosts = mongodb_url.partition("://")[2].partition("/")[0]
    if "," in hosts or "@" in hosts:
        pytest.skip("needs the suite's own single server")
    before = asyncio.all_tasks()
    settings = Settings(connect_timeout_seconds=2, timeout_seconds=5)
    database = mongodb_url.partition("://")[2].partition("/")[2].partition("?")[0]
    async with Proxy(int(hosts.rpartition(":")[2])) as proxy:
        url = f"mongodb://127.0.0.1:{proxy.port}/{database}?directConnection=true&heartbeatFrequencyMS=500"
        async with AsyncSVRClient(url, settings=settings) as client:
            yield proxy, client
    gc.collect()
    left = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()}
    assert not left, left


async def test_cut_connections_lose_nothing(proxied: tuple[Proxy, AsyncSVRClient]) -> None:
    proxy, client = proxied
    collection = await _made(client, "cut")

    async def harm(ledger: Ledger) -> None:
        for _ in range(15):
            await _until_written(ledger, 4)
            assert proxy.cut() > 0
        await _until_written(ledger, 10)

    ledger = await _under_load(client, collection, harm)
    await _check(collection, ledger)


async def test_half_open_connections_hold_nobody_up(
    proxied: tuple[Proxy, AsyncSVRClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is refused and nothing answers: searches end at their deadline, writes when the silence is noticed."""
    proxy, client = proxied
    monkeypatch.setattr(control, "REPEATED_SECONDS", 3.0)
    collection = await _made(client, "silent")
    row = Document("w", metadata={"k": "p0"}, vector=[-1.0] * STABLE)
    with proxy.silent():
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            await collection.search(vector=corner(1), timeout_seconds=0.4)
        assert time.monotonic() - began < 1.5
        calls = [collection.add([row]), collection.count(), collection.get(["s01"]), collection.refresh()]
        ended = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
        assert all(isinstance(each, PROMISED) for each in ended), ended
    assert (await collection.search(vector=corner(1), limit=1)).ids == ("s01",)
    await collection.add([row])
    assert [each.id for each in await collection.get(["w"])] == ["w"]
    assert await collection.count() == STABLE + 1


async def test_a_cancelled_call_leaves_a_client_that_works(proxied: tuple[Proxy, AsyncSVRClient]) -> None:
    """Cancelled at moments all over the call: a batch is whole or not there."""
    _, client = proxied
    collection = await _made(client, "cancelled")
    held = 0
    for number in range(40):
        rows = [Document(f"w{number}-{n}", metadata={"k": "p0"}, vector=[-1.0] * STABLE) for n in range(3)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(number * 0.0005):
                await collection.add(rows)
        found = [row.id for row in await collection.get([row.id for row in rows])]
        assert len(found) in (0, 3), found
        held += len(found)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(number * 0.0003):
                await collection.search(vector=corner(number))
    assert await collection.count() == STABLE + held
    found = await collection.search(vector=[-1.0] * STABLE, limit=max(held, 1), exact=True)
    assert sum(each.startswith("w") for each in found.ids) == held


def test_searches_stay_right_while_history_is_lost() -> None:
    """The search index falls off the log of changes, goes on with what it had, and is built anew."""
    from svr_retrievers.testing.mongodb import AtlasStandIn, Mongod
    from svr_retrievers.testing.mongodb.server import binary

    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(f"{missing} {missing.hint}")
    small = ["--oplogSize", "1", "--syncdelay", "1", "--setParameter", "minSnapshotHistoryWindowInSeconds=0"]
    with Mongod(options=small) as server, AtlasStandIn(server.uri) as atlas, SVRClient(atlas.uri) as client:
        made = client.create_collection(
            "docs", dimensions=4, partition_by=by_field("k"), index=hnsw(min_rows=0)
        )
        made.add([Document(f"d{n}", metadata={"k": "a"}, vector=[1.0, n, 0, 0]) for n in range(6)])
        made.refresh()
        with atlas.replication_cut():
            made.add([Document("new", metadata={"k": "a"}, vector=[1.0, 0.5, 0, 0])])
            made.add([Document("d1", metadata={"k": "a"}, vector=[-1.0, 0, 0, 0])])
            made.delete(["d0"])
            _roll_the_log(server.uri)
            for exact in (True, False):
                found = made.search(vector=[1.0, 0.4, 0, 0], limit=10, exact=exact)
                assert found.ids[0] == "new"
                assert found.ids[-1] == "d1"
                assert set(found.ids) == {"new", "d1", "d2", "d3", "d4", "d5"}
        deadline = time.monotonic() + 60
        while made.search(vector=[1.0, 0.4, 0, 0], limit=10).ids[0] != "new" or not _ready(atlas.uri):
            assert time.monotonic() < deadline
        made.refresh()
        found = made.search(vector=[1.0, 0.4, 0, 0], limit=10)
        assert (found.ids[0], found.ids[-1], len(found)) == ("new", "d1", 6)


def _roll_the_log(uri: str) -> None:
    with MongoClient(uri) as behind:
        log = behind.local["oplog.rs"]
        first = log.find_one(sort=[("$natural", 1)])["ts"]
        deadline = time.monotonic() + 60
        while log.find_one(sort=[("$natural", 1)])["ts"] <= first:
            assert time.monotonic() < deadline
            behind.other.filler.insert_many([{"f": "x" * 500_000} for _ in range(20)])
        behind.other.filler.insert_many([{"f": "x" * 500_000} for _ in range(60)])


def _ready(uri: str) -> bool:
    with MongoClient(uri) as front:
        found = front["svr"]["svr.documents.1"].list_search_indexes().to_list()
        return all(each["status"] == "READY" for each in found)
