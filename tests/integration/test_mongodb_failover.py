"""Primaries killed, paused and stepped down under readers and writers: nothing lost, nothing wrong."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from pymongo import MongoClient

from svr_retrievers import AsyncCollection, AsyncSVRClient, Document, Settings, by_field, errors, hnsw

pytestmark = [pytest.mark.mongodb, pytest.mark.slow]

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

    def command(self, *given: object, **more: object) -> object:
        with MongoClient(self.mongod.uri) as admin:  # type: ignore[attr-defined]
            return admin.admin.command(*given, **more)


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
