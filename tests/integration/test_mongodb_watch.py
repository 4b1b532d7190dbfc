"""Change streams on MongoDB: nothing is missed, whatever breaks; what cannot be had any more is announced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from svr_retrievers import (
    AsyncCollection,
    AsyncSVRClient,
    Change,
    Document,
    SVRClient,
    by_cluster,
    by_field,
    errors,
)
from svr_retrievers.backends.mongodb import streaming
from svr_retrievers.testing.mongodb import AtlasStandIn, Mongod
from svr_retrievers.testing.mongodb.server import binary

pytestmark = [pytest.mark.mongodb, pytest.mark.slow]

EVENTS = int(os.environ.get("SVR_CHAOS_EVENTS", "120"))
SECONDS = 30.0


def corner(number: int) -> list[float]:
    return [1.0 + number % 7, number % 5, number % 3]


def doc(number: int, category: str = "a") -> Document:
    return Document(f"d{number}", f"text {number}", {"category": category}, corner(number))


@pytest_asyncio.fixture
async def client(mongodb_url: str) -> AsyncIterator[AsyncSVRClient]:
    async with AsyncSVRClient(mongodb_url) as client:
        yield client


@pytest_asyncio.fixture
async def docs(client: AsyncSVRClient) -> AsyncCollection:
    return await client.create_collection("docs", dimensions=3, partition_by=by_field("category"))


async def until(changes: AsyncIterator[Change], done) -> list[Change]:  # type: ignore[no-untyped-def]
    """The changes up to the one with which `done` holds, of all so far."""
    seen: list[Change] = []
    async with asyncio.timeout(SECONDS):
        async for change in changes:
            seen.append(change)
            if done(seen):
                break
    return seen


def tally(seen: list[Change]) -> dict[str, tuple[int, int, int, int, int]]:
    """What happened in each partition over all changes: inserted, updated, deleted, moved in and out."""
    found: dict[str, Counter[str]] = {}
    for change in seen:
        for each in change.partitions:
            mine = found.setdefault(each.path, Counter())
            for name in ("inserted", "updated", "deleted", "moved_in", "moved_out"):
                mine[name] += getattr(each.counts, name)
    return {
        path: (n["inserted"], n["updated"], n["deleted"], n["moved_in"], n["moved_out"])
        for path, n in found.items()
    }


def rows(collection: AsyncCollection) -> dict[str, int]:
    return {p.path: p.stats.rows for p in collection.partitions}


async def test_every_kind_of_write_is_told_by_partition(docs: AsyncCollection) -> None:
    async with docs.watch() as changes:
        await docs.add([doc(1), doc(2), doc(3, "b")])
        await docs.add([doc(1), doc(2, "b")])  # one stays, one moves
        await docs.delete(["d3", "absent"])
        seen = await until(changes, lambda seen: sum(c.counts.deleted for c in seen) == 1)
    assert tally(seen) == {"category=a": (2, 1, 0, 0, 1), "category=b": (1, 0, 1, 1, 0)}
    assert {change.kind for change in seen} == {"map", "rows"}
    assert rows(docs) == {"category=a": 1, "category=b": 1}


async def test_another_clients_map_and_counts_are_followed_without_a_question(
    docs: AsyncCollection, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncSVRClient(mongodb_url) as other, docs.watch() as changes:
        theirs = await other.collection("docs")
        await theirs.add([doc(n, "abc"[n % 3]) for n in range(30)])
        seen = await until(changes, lambda seen: sum(c.counts.inserted for c in seen) == 30)
        assert [c.generation for c in seen if c.kind == "map"] == sorted(
            {c.generation for c in seen if c.kind == "map"}
        )
        assert docs.partitions.generation >= seen[0].generation >= 2  # type: ignore[operator]
        assert rows(docs) == {f"category={c}": 10 for c in "abc"}

        async def refused(*_: object) -> None:
            raise AssertionError("the database was asked")

        monkeypatch.setattr(docs._backend, "load_map", refused)
        await theirs.add([doc(n) for n in range(30, 35)])
        await theirs.delete([f"d{n}" for n in range(1, 30, 3)])
        await until(changes, lambda seen: sum(c.counts.deleted for c in seen) == 10)
        assert rows(docs) == {"category=a": 15, "category=b": 0, "category=c": 10}


async def test_a_held_map_is_the_new_one_before_it_is_told(docs: AsyncCollection, mongodb_url: str) -> None:
    async with AsyncSVRClient(mongodb_url) as other, docs.watch() as changes:
        theirs = await other.collection("docs")
        for n, category in enumerate("abcd"):
            await theirs.add([doc(n, category)])
            made = theirs.partitions.generation
            await until(changes, lambda seen, made=made: seen[-1].generation == made)
            assert docs.partitions.generation == made
            assert docs.partitions.by_path(f"category={category}") is not None


async def test_rows_that_a_reclustering_moves_are_told(client: AsyncSVRClient) -> None:
    docs = await client.create_collection("docs", dimensions=3, partition_by=by_cluster(2))
    async with docs.watch() as changes:
        await docs.add([doc(n) for n in range(30)])
        await docs.add([doc(n) for n in range(30, 60)])
        await docs.refresh()
        moved = await until(changes, lambda seen: sum(c.counts.moved_in for c in seen) == 60)
    told = tally(moved)
    source = next(path for path in told if told[path][4])
    assert told[source][4] == 60
    assert rows(docs)[source] == 0
    assert docs.partitions.rows == 60
    assert await docs.count() == 60


class Writer:
    """Writes at random, and knows what a reader must be told of it."""

    def __init__(self, docs: AsyncCollection) -> None:
        self.docs = docs
        self.present: dict[int, str] = {}
        self.told = {f"category={c}": [0, 0, 0, 0, 0] for c in "abc"}
        self.happened = 0
        self._chance = random.Random(7)

    async def run(self, writes: int) -> None:
        for _ in range(writes):
            key, category = self._chance.randrange(40), self._chance.choice("abc")
            if self._chance.random() < 0.25:
                await self._delete(key)
            else:
                await self._put(key, category)

    async def _delete(self, key: int) -> None:
        if await self.docs.delete([f"d{key}"]):
            self._count(self.present.pop(key), 2)

    async def _put(self, key: int, category: str) -> None:
        await self.docs.add([doc(key, category)])
        before = self.present.get(key)
        self.present[key] = category
        if before not in {None, category}:
            self.told[f"category={before}"][4] += 1
        self._count(category, 0 if before is None else 1 if before == category else 3)

    def _count(self, category: str, what: int) -> None:
        self.told[f"category={category}"][what] += 1
        self.happened += 1


@pytest.mark.parametrize("each", ["event", "change"])
async def test_killed_at_every_event_and_resumed_it_misses_none_and_doubles_none(
    docs: AsyncCollection, mongodb_url: str, monkeypatch: pytest.MonkeyPatch, each: str
) -> None:
    """Each reader is cut off after one event, or one change of several, with more read ahead or in its waiting."""
    if each == "event":
        monkeypatch.setattr(streaming.MongoStream, "_waiting", lambda _: None)
    async with docs.watch() as first:
        await docs.add([doc(n, "abc"[n % 3]) for n in range(100, 103)])
        token = (await until(first, lambda seen: sum(c.counts.inserted for c in seen) == 3))[-1].token
    writer = Writer(docs)
    writing = asyncio.create_task(writer.run(EVENTS))
    seen: list[Change] = []
    async with AsyncSVRClient(mongodb_url) as client, asyncio.timeout(SECONDS + EVENTS):
        mine = await client.collection("docs")
        while not writing.done() or tally(seen) != {p: tuple(n) for p, n in writer.told.items()}:
            changes = mine.watch(after=token)
            seen.append(await anext(changes))
            token = seen[-1].token
            waiting = asyncio.create_task(changes.following())
            await asyncio.sleep(0)
            waiting.cancel()
            await changes.aclose()
        there = Counter(writer.present.values())
        assert rows(mine) == {f"category={c}": there[c] + 1 for c in "abc"}
    await writing
    assert len([c for c in seen if c.partitions]) == writer.happened if each == "event" else len(seen) > 1


async def test_a_token_means_behind_it_and_nothing_else(docs: AsyncCollection) -> None:
    async with docs.watch() as changes:
        for n in range(8):
            await docs.add([doc(n)])
            await until(changes, lambda seen: bool(seen[-1].partitions))
        last = await docs.add([doc(8)]) and (await until(changes, lambda seen: True))[-1].token
    async with docs.watch(after=last) as changes:
        await docs.add([doc(9), doc(10)])
        seen = await until(changes, lambda seen: bool(seen[-1].partitions))
    assert tally(seen) == {"category=a": (2, 0, 0, 0, 0)}


@pytest.mark.parametrize("token", ["", "nonsense", "1.XYZ", "1.8263", 7])
async def test_what_is_no_token_is_refused(docs: AsyncCollection, token: str) -> None:
    with pytest.raises(errors.InputError, match="no token"):
        await docs.watch(after=token).open()


async def test_a_token_ends_with_its_collection(client: AsyncSVRClient, docs: AsyncCollection) -> None:
    async with docs.watch() as changes:
        await docs.add([doc(1)])
        token = (await until(changes, lambda seen: bool(seen[-1].partitions)))[-1].token
    await client.drop_collection("docs")
    again = await client.create_collection("docs", dimensions=3)
    with pytest.raises(errors.InputError, match="another collection"):
        again.watch(after=token)


@pytest.mark.parametrize("how", ["by the client", "its documents", "renamed", "the database"])
async def test_a_drop_ends_the_stream(
    client: AsyncSVRClient, docs: AsyncCollection, mongodb_url: str, how: str
) -> None:
    await docs.add([doc(1)])
    async with docs.watch() as changes:
        with MongoClient(mongodb_url) as admin:
            database = admin.get_default_database()
            documents = next(name for name in database.list_collection_names() if ".documents." in name)
            if how == "by the client":
                await client.drop_collection("docs")
            elif how == "its documents":
                database.drop_collection(documents)
            elif how == "renamed":
                database[documents].rename("elsewhere")
            else:
                admin.drop_database(database.name)
        seen = await until(changes, lambda seen: False)
        assert [change.kind for change in seen] == ["dropped"]
        with pytest.raises(StopAsyncIteration):
            await anext(changes)


async def test_a_drop_is_seen_by_who_comes_back_later(client: AsyncSVRClient, docs: AsyncCollection) -> None:
    async with docs.watch() as changes:
        await docs.add([doc(1)])
        token = (await until(changes, lambda seen: bool(seen[-1].partitions)))[-1].token
    await docs.add([doc(2)])
    await client.drop_collection("docs")
    async with docs.watch(after=token) as changes:
        seen = await until(changes, lambda seen: False)
    assert seen[-1].kind == "dropped"
    assert sum(change.counts.inserted for change in seen) == 1


async def test_a_quiet_stream_hands_out_newer_tokens(
    docs: AsyncCollection, client: AsyncSVRClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "QUIET_SECONDS", 0.0)
    elsewhere = await client.create_collection("elsewhere", dimensions=3)
    async with docs.watch() as changes:
        first = await anext(changes)
        await elsewhere.add([doc(1)])
        later = (await until(changes, lambda seen: seen[-1].token > first.token))[-1]
    assert (first.kind, first.partitions, later.partitions) == ("rows", (), ())
    async with docs.watch(after=later.token) as changes:
        await docs.add([doc(1)])
        assert await until(changes, lambda seen: bool(seen[-1].partitions))


async def test_backends_without_changes_say_so() -> None:
    async with AsyncSVRClient("memory://") as client:
        docs = await client.create_collection("docs", dimensions=3)
        with pytest.raises(errors.ConfigError, match="memory"):
            docs.watch()


async def test_a_closed_client_ends_the_stream_with_its_reason(mongodb_url: str) -> None:
    client = AsyncSVRClient(mongodb_url)
    docs = await client.create_collection("docs", dimensions=3)
    changes = docs.watch()
    waiting = asyncio.create_task(anext(await changes.open()))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises((errors.ClientClosed, errors.ConnectionFailed)):
        await asyncio.wait_for(waiting, SECONDS)
    await changes.aclose()


def test_blocking_it_is_a_plain_iterator_that_another_thread_can_end(mongodb_url: str) -> None:
    with SVRClient(mongodb_url) as client:
        docs = client.create_collection("docs", dimensions=3, partition_by=by_field("category"))
        changes = docs.watch()
        docs.add([doc(1), doc(2)])
        for change in changes:
            if change.counts.inserted == 2:
                break
        rest: list[Change] = []
        reader = threading.Thread(target=lambda: rest.extend(changes))
        reader.start()
        changes.close()
        reader.join(SECONDS)
        assert not reader.is_alive()
        assert rest == []
        with docs.watch(after=change.token) as later:
            docs.delete(["d1"])
            assert next(later).counts.deleted == 1
        assert next(later, None) is None


async def test_from_another_event_loop_it_is_the_same(mongodb_url: str) -> None:
    with SVRClient(mongodb_url) as client:
        docs = (await client.aio.create_collection("docs", dimensions=3)) and client.collection("docs").aio
        async with docs.watch() as changes:
            await docs.add([doc(1)])
            seen = await until(changes, lambda seen: bool(seen[-1].partitions))
        assert seen[-1].counts.inserted == 1
        assert docs.partitions.rows == 1


async def test_rows_that_others_deleted_are_recounted(docs: AsyncCollection, mongodb_url: str) -> None:
    """Nobody notes what another program does to the documents; a refresh brings counts and stream to the truth."""
    await docs.add([doc(n) for n in range(10)])
    with MongoClient(mongodb_url) as admin:
        database = admin.get_default_database()
        name = next(name for name in database.list_collection_names() if ".documents." in name)
        database[name].delete_many({"_id.i": {"$in": ["d1", "d2"]}})
    async with docs.watch() as changes:
        await docs.refresh()
        await docs.add([doc(10)])
        await until(changes, lambda seen: sum(c.counts.inserted for c in seen) == 1)
        assert rows(docs) == {"category=a": 9}
    assert await docs.count() == 9


# History lost, and elections


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Mongod, str]]:
    """A server that forgets its history after a megabyte."""
    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(str(missing))
    options = [
        "--oplogSize",
        "1",
        "--syncdelay",
        "1",
        "--setParameter",
        "minSnapshotHistoryWindowInSeconds=0",
    ]
    with Mongod(options=options) as server, AtlasStandIn(server.uri) as front:
        hosts, _, rest = front.uri.partition("?")
        yield server, f"{hosts.rstrip('/')}/watch_{secrets.token_hex(4)}?{rest}"


def forget(server: Mongod) -> None:
    """Writes until the oldest entry of the log is younger than the moment of the call."""
    with MongoClient(server.uri) as admin:
        last = admin.local["oplog.rs"].find_one(sort=[("$natural", -1)])
        assert last is not None
        until_seconds = time.monotonic() + 60
        while time.monotonic() < until_seconds:
            admin.filler.rows.insert_many([{"body": secrets.token_bytes(200_000)} for _ in range(20)])
            admin.filler.rows.drop()
            oldest = admin.local["oplog.rs"].find_one(sort=[("$natural", 1)])
            if oldest is not None and oldest["ts"] > last["ts"]:
                return
    raise AssertionError("the log kept its history")


@pytest.mark.parametrize("wrong_by", [0, 5])
async def test_lost_history_is_announced_once_everything_is_verified(
    small: tuple[Mongod, str], wrong_by: int
) -> None:
    server, url = small
    async with AsyncSVRClient(url) as client, AsyncSVRClient(url) as other:
        name = f"docs {secrets.token_hex(4)}"
        docs = await client.create_collection(name, dimensions=3, partition_by=by_field("category"))
        async with docs.watch() as changes:
            await docs.add([doc(1)])
            token = (await until(changes, lambda seen: bool(seen[-1].partitions)))[-1].token
        theirs = await other.collection(name)
        await theirs.add([doc(n, "ab"[n % 2]) for n in range(20)])
        if wrong_by:
            with MongoClient(url) as admin:
                database = admin.get_default_database()
                documents = f"svr.documents.{docs._ref.id}"
                gone = [f"d{n}" for n in range(0, 2 * wrong_by, 2)]
                database[documents].delete_many({"_id.i": {"$in": gone}})
        forget(server)
        async with docs.watch(after=token) as changes:
            lost = await asyncio.wait_for(anext(changes), SECONDS)
            assert lost.kind == "history_lost"
            assert rows(docs) == {"category=a": 10 - wrong_by, "category=b": 10}
            assert docs.partitions.generation == theirs.partitions.generation
            await theirs.add([doc(100)])
            seen = await until(changes, lambda seen: sum(c.counts.inserted for c in seen) == 1)
            assert tally(seen) == {"category=a": (1, 0, 0, 0, 0)}
            assert rows(docs)["category=a"] == 11 - wrong_by
        async with docs.watch(after=lost.token) as changes:  # its token resumes like any other
            assert tally(await until(changes, lambda seen: bool(seen[-1].partitions)))["category=a"][0] == 1
        await client.drop_collection(name)


async def test_a_reader_that_falls_behind_while_open_is_told_too(
    small: tuple[Mongod, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes its time while the server forgets what it has not read."""
    server, url = small
    monkeypatch.setattr(streaming, "_WAITING", 1)
    async with AsyncSVRClient(url) as client:
        name = f"docs {secrets.token_hex(4)}"
        docs = await client.create_collection(name, dimensions=3)
        async with docs.watch() as changes:
            for n in range(5):
                await docs.add([doc(n)])
            await asyncio.to_thread(forget, server)
            await docs.add([doc(5)])
            seen = await until(changes, lambda seen: seen[-1].kind == "history_lost")
            assert sum(c.counts.inserted for c in seen) < 6
            assert docs.partitions.rows == 6
            await docs.add([doc(6)])
            assert (await until(changes, lambda seen: bool(seen[-1].partitions)))[-1].counts.inserted == 1
            assert docs.partitions.rows == 7


async def test_a_new_primary_costs_no_change() -> None:
    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(str(missing))
    with Mongod(3) as servers, AtlasStandIn(servers.uri) as front:
        async with AsyncSVRClient(front.uri) as client:
            docs = await client.create_collection("docs", dimensions=3, partition_by=by_field("category"))
            async with docs.watch() as changes:
                stop = asyncio.Event()
                seen: list[Change] = []

                def inserted() -> int:
                    return sum(change.counts.inserted for change in seen)

                async def reach(count: int) -> None:
                    while inserted() < count:
                        seen.append(await asyncio.wait_for(anext(changes), SECONDS))

                async def write() -> int:
                    done = 0
                    while not stop.is_set():
                        try:
                            await docs.add([doc(done, "ab"[done % 2])])
                        except (errors.ConnectionFailed, errors.WriteConflict):
                            continue  # whether it is in is not known: the same document again
                        done += 1
                    return done

                writing = asyncio.create_task(write())
                await reach(10)
                for _ in range(2):
                    with MongoClient(servers.uri) as admin, contextlib.suppress(PyMongoError):
                        admin.admin.command("replSetStepDown", 1, force=True)
                    await reach(inserted() + 20)
                stop.set()
                done = await writing
                await reach(done)
                assert inserted() == done == await docs.count()
                assert sum(rows(docs).values()) == done
                assert not any(change.kind == "history_lost" for change in seen)
