"""PostgreSQL with its control plane in MongoDB: killed at every step both agree again, and no document is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import pytest_asyncio
from pymongo import MongoClient

from svr_retrievers import (
    AsyncCollection,
    AsyncSVRClient,
    Document,
    Settings,
    by_cluster,
    by_field,
    errors,
    hnsw,
)
from svr_retrievers.backends.postgres import ControlledBackend
from svr_retrievers.testing.mongodb import Mongod
from svr_retrievers.testing.mongodb.server import binary

pytestmark = [pytest.mark.mongodb, pytest.mark.postgres, pytest.mark.slow]


class Died(BaseException):
    """What a client dies of in these tests: nothing in it may be caught and put right."""


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    """A replica set without search, which is all that a control plane needs."""
    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(str(missing))
    with Mongod() as server:
        yield server


@pytest.fixture
def control_url(server: Mongod) -> str:
    hosts, _, options = server.uri.partition("?")
    return f"{hosts.rstrip('/')}/control_{secrets.token_hex(6)}?{options}"


@pytest.fixture
def settings() -> Settings:
    """A schema of the test's own: each belongs to one control plane."""
    return Settings(db_schema=f"svr_{secrets.token_hex(6)}")


@pytest_asyncio.fixture
async def client(postgres_url: str, control_url: str, settings: Settings) -> AsyncIterator[AsyncSVRClient]:
    async with AsyncSVRClient(postgres_url, control=control_url, settings=settings) as client:
        yield client


def backend(client: AsyncSVRClient) -> ControlledBackend:
    found = client._backend
    assert isinstance(found, ControlledBackend)
    return found


@contextlib.contextmanager
def dying(client: AsyncSVRClient, where: str) -> Iterator[None]:
    """Inside, the client dies at that step, and never says so to either store."""
    reached: list[str] = []

    def step(at: str) -> None:
        reached.append(at)
        if at == where:
            raise Died(at)

    backend(client).controlled.step = step
    with pytest.raises(Died):
        yield
    assert reached[-1] == where


def docs(count: int, categories: str = "ab") -> list[Document]:
    return [
        Document(
            f"d{n}", f"text {n}", {"category": categories[n % len(categories)]}, [1.0 + n % 7, n % 5, n % 3]
        )
        for n in range(count)
    ]


def proposals(control_url: str) -> list[object]:
    """What each head says is proposed; there is at least one head."""
    with MongoClient(control_url) as mongo:
        database = mongo.get_default_database()
        name = next(n for n in database.list_collection_names() if n.endswith("svr_metadata.maps"))
        found = [head.get("proposed") for head in database[name].find()]
    assert found
    return found


def tables(postgres_url: str, settings: Settings) -> set[str]:
    with psycopg.connect(postgres_url) as conn:
        found = conn.execute("select tablename from pg_tables where schemaname = %s", (settings.db_schema,))
        return {str(row[0]) for row in found}


async def sound(client: AsyncSVRClient, name: str, expected: int) -> AsyncCollection:
    """The collection as a client sees it that comes later: both stores agree, and every document is there."""
    collection = await client.collection(name)
    assert await backend(client).agrees(name)
    assert await collection.count() == expected
    found = await collection.search(vector=[1.0, 2.0, 1.0], limit=max(1, expected), exact=True)
    assert len(found) == expected
    return collection


COMMITTED = {"map committed", "map confirmed"}


@pytest.mark.parametrize("where", ["map changed", "map proposed", "map committed", "map confirmed"])
@pytest.mark.parametrize("what", ["partitions", "statistics", "clusters", "tails"])
async def test_a_client_that_dies_in_a_change_of_the_map(
    postgres_url: str, control_url: str, settings: Settings, what: str, where: str
) -> None:
    scheme = by_cluster(2) if what == "clusters" else by_field("category")
    async with AsyncSVRClient(postgres_url, control=control_url, settings=settings) as doomed:
        made = await doomed.create_collection(
            "docs", dimensions=3, partition_by=scheme, index=hnsw(min_rows=20 if what == "tails" else 10_000)
        )
        stored = 0
        if what != "partitions":
            for start in (0, 30):
                await made.add(docs(60)[start : start + 30])
            stored = 60
        if what == "tails":
            await made.build_indexes()
        before = made.partitions.generation
        with dying(doomed, where):
            if what == "partitions":
                await made.add(docs(6))
            elif what == "tails":
                await made.add([Document(f"n{n}", "", {"category": "a"}, [1.0, n, 2.0]) for n in range(40)])
            else:
                await made.refresh()
        async with AsyncSVRClient(postgres_url, control=control_url, settings=settings) as client:
            later = await sound(client, "docs", stored)
            assert not any(proposals(control_url))
            assert (later.partitions.generation > before) is (where in COMMITTED)
            await later.add(docs(90, "abc"))
            await later.refresh()
            await sound(client, "docs", 90)


@pytest.mark.parametrize("where", ["collection written", "collection proposed", "collection committed"])
async def test_a_client_that_dies_creating_a_collection(
    postgres_url: str, control_url: str, settings: Settings, where: str
) -> None:
    async with (
        AsyncSVRClient(postgres_url, control=control_url, settings=settings) as doomed,
        AsyncSVRClient(postgres_url, control=control_url, settings=settings) as client,
    ):
        with dying(doomed, where):
            await doomed.create_collection("docs", dimensions=3)
        there = where == "collection committed"
        assert await client.list_collections() == (["docs"] if there else [])
        if there:
            with pytest.raises(errors.CollectionExists):
                await client.create_collection("docs", dimensions=3)
        else:
            with pytest.raises(errors.CollectionNotFound):
                await client.collection("docs")
            await client.create_collection("docs", dimensions=3)
        collection = await client.collection("docs")
        await collection.add(docs(5))
        await sound(client, "docs", 5)


@pytest.mark.parametrize("next_call", ["list", "open", "create", "drop"])
@pytest.mark.parametrize("where", ["drop announced", "dropped"])
async def test_a_client_that_dies_dropping_a_collection(
    postgres_url: str, control_url: str, settings: Settings, where: str, next_call: str
) -> None:
    async with (
        AsyncSVRClient(postgres_url, control=control_url, settings=settings) as doomed,
        AsyncSVRClient(postgres_url, control=control_url, settings=settings) as client,
    ):
        before = tables(postgres_url, settings)
        made = await doomed.create_collection("docs", dimensions=3, partition_by=by_field("category"))
        await made.add(docs(10))
        assert tables(postgres_url, settings) > before
        with dying(doomed, where):
            await doomed.drop_collection("docs")
        if next_call == "list":
            assert await client.list_collections() == []
        elif next_call == "create":
            await client.create_collection("docs", dimensions=3)
            await sound(client, "docs", 0)
            return
        else:
            with pytest.raises(errors.CollectionNotFound):
                await (client.collection("docs") if next_call == "open" else client.drop_collection("docs"))
        assert tables(postgres_url, settings) == before


SCRIPT = """
    import asyncio, os, signal, sys
    from svr_retrievers import AsyncSVRClient, Document, Settings

    async def main(url, control, schema, where):
        client = AsyncSVRClient(url, control=control, settings=Settings(db_schema=schema))
        await client.open()
        docs = await client.collection("docs")

        def step(at):
            if at == where:
                os.kill(os.getpid(), signal.SIGKILL)

        client._backend.controlled.step = step
        for n in range(100):
            await docs.add([Document(f"n{n}", "", {"category": f"c{n}"}, [1.0, n, 2.0])])
            print(n, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("where", ["map proposed", "map committed", "map confirmed"])
async def test_a_process_killed_between_the_two_stores(
    client: AsyncSVRClient, postgres_url: str, control_url: str, settings: Settings, where: str
) -> None:
    collection = await client.create_collection("docs", dimensions=3, partition_by=by_field("category"))
    await collection.add(docs(10))
    for _ in range(2):
        process = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable, "-c", textwrap.dedent(SCRIPT), postgres_url, control_url, settings.db_schema, where,
            ],
            capture_output=True,
            timeout=60,
            env=dict(os.environ),
        )  # fmt: skip
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        stored = len(process.stdout.split())
        later = await sound(client, "docs", 10 + stored)
        assert not any(proposals(control_url))
        await later.delete(filter={"category": {"$nin": ["a", "b"]}})
        await later.add(docs(10, "abxyz"[: 2 + stored]))
        await later.add(docs(10))


async def test_many_clients_that_die_and_go_on_leave_one_truth(
    postgres_url: str, control_url: str, settings: Settings
) -> None:
    """Each of several writers dies now and then, at any step, while the others go on."""
    acknowledged: set[str] = set()

    async def writer(number: int) -> None:
        for round_ in range(4):
            async with AsyncSVRClient(postgres_url, control=control_url, settings=settings) as client:
                mine = await client.create_collection(
                    "docs", dimensions=3, partition_by=by_field("category"), if_exists="open"
                )
                steps = iter(range(100))
                last = 3 + 5 * number + round_

                def step(at: str, steps: Iterator[int] = steps, last: int = last) -> None:
                    if next(steps) == last:
                        raise Died(at)

                backend(client).controlled.step = step
                with contextlib.suppress(Died):
                    for n in range(8):
                        key = f"{number}-{round_}-{n}"
                        await mine.add([Document(key, "", {"category": f"c{n}-{round_}"}, [1.0, n, 2.0])])
                        acknowledged.add(key)

    await asyncio.gather(*(writer(number) for number in range(3)))
    async with AsyncSVRClient(postgres_url, control=control_url, settings=settings) as client:
        collection = await client.collection("docs")
        assert await backend(client).agrees("docs")
        found = {document.id for document in await collection.find()}
        assert acknowledged <= found
        assert not any(proposals(control_url))


async def test_without_the_control_plane_rows_go_on_and_maps_wait(
    client: AsyncSVRClient, server: Mongod, control_url: str, postgres_url: str
) -> None:
    quick = Settings(db_schema=client.settings.db_schema, connect_timeout_seconds=1)
    async with AsyncSVRClient(postgres_url, control=control_url, settings=quick) as working:
        collection = await working.create_collection("docs", dimensions=3, partition_by=by_field("category"))
        await collection.add(docs(10))
        node = server.nodes[0]
        node.kill()
        try:
            await collection.add(docs(10))
            assert len(await collection.search(vector=[1.0, 2.0, 1.0], limit=20)) == 10
            with pytest.raises(errors.ConnectionFailed):
                await collection.add([Document("new", "", {"category": "new"}, [1.0, 2.0, 3.0])])
            assert await collection.count() == 10
            with pytest.raises(errors.ConnectionFailed):
                await working.drop_collection("docs")
        finally:
            node.start()
            await asyncio.to_thread(server.wait_for_primary)
        await collection.add([Document("new", "", {"category": "new"}, [1.0, 2.0, 3.0])])
        await sound(working, "docs", 11)


async def test_who_does_not_know_the_control_plane_changes_nothing(
    client: AsyncSVRClient, postgres_url: str, settings: Settings, server: Mongod
) -> None:
    collection = await client.create_collection("docs", dimensions=3, partition_by=by_field("category"))
    await collection.add(docs(10))
    with pytest.raises(errors.ConfigError, match="elsewhere") as refused:
        await AsyncSVRClient(postgres_url, settings=settings).open()
    assert "control=" in refused.value.hint
    hosts, _, options = server.uri.partition("?")
    other = f"{hosts.rstrip('/')}/another?{options}"
    with pytest.raises(errors.ConfigError, match="Another control plane"):
        await AsyncSVRClient(postgres_url, control=other, settings=settings).open()


async def test_what_is_there_is_taken_over_whole(
    postgres_url: str, control_url: str, settings: Settings
) -> None:
    async with AsyncSVRClient(postgres_url, settings=settings) as before:
        old = await before.create_collection("docs", dimensions=3, partition_by=by_field("category"))
        await old.add(docs(30, "abc"))
        await old.refresh()
        await before.create_collection("empty", dimensions=3)
        async with AsyncSVRClient(postgres_url, control=control_url, settings=settings) as client:
            assert await client.list_collections() == ["docs", "empty"]
            later = await sound(client, "docs", 30)
            assert later.partitions.generation == old.partitions.generation
            await sound(client, "empty", 0)
            # a client that was open all the while writes rows, and changes no map behind the control plane's back
            await old.add(docs(30, "abc"))
            with pytest.raises(errors.ConfigError):
                await old.add([Document("new", "", {"category": "new"}, [1.0, 2.0, 3.0])])
            with pytest.raises(errors.ConfigError):
                await before.create_collection("more", dimensions=3)
            with pytest.raises(errors.ConfigError):
                await before.drop_collection("empty")
            await sound(client, "docs", 30)


async def test_a_store_restored_from_a_backup_is_refused(client: AsyncSVRClient, postgres_url: str) -> None:
    collection = await client.create_collection("docs", dimensions=3, partition_by=by_field("category"))
    await collection.add(docs(10))
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f'update "{client.settings.db_schema}".collections set generation = 1')
    with pytest.raises(errors.ConfigError, match="generation"):
        await client.collection("docs")
    with pytest.raises(errors.ConfigError, match="generation"):
        await collection.add([Document("new", "", {"category": "new"}, [1.0, 2.0, 3.0])])


async def test_background_work_stands_beside_the_maps(client: AsyncSVRClient) -> None:
    work = backend(client).ledger.work
    lease = await work.leases.claim("split docs", "me", 30.0)
    assert lease is not None
    done = await work.operations.create("split", collection="docs", cause="growth", fence=lease)
    assert (await work.operations.get(done.number)).token == lease.token


@pytest.mark.parametrize(
    ("url", "control", "kind"),
    [
        ("memory://", "mongodb://127.0.0.1/x", errors.ConfigError),
        ("mongodb://127.0.0.1/x", "mongodb://127.0.0.1/x", errors.ConfigError),
        ("postgresql://h/d", "postgresql://h/d", errors.ConfigError),
        ("postgresql://h/d", 7, errors.InputError),
    ],
)
def test_a_control_plane_that_cannot_be_is_refused_at_once(
    url: str, control: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        AsyncSVRClient(url, control=control)


def test_the_environment_sets_it_and_no_text_shows_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVR_CONTROL", "mongodb://user:s3cret@127.0.0.1/x")
    client = AsyncSVRClient("postgresql://h/d")
    assert client._control == "mongodb://user:s3cret@127.0.0.1/x"
    assert "s3cret" not in repr(client) + repr(client.settings) + str(vars(client.settings))
