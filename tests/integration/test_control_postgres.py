"""What is PostgreSQL's own about leases, operations and the outbox: locks, timeouts, transaction numbers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio

from svr_retrievers import Settings
from svr_retrievers.backends.postgres.connection import borrowed, make_pool
from svr_retrievers.control.postgres_work import PostgresWork
from svr_retrievers.control.protocol import Event, State
from svr_retrievers.errors import (
    BackendError,
    Conflict,
    OperationPending,
    PermissionDenied,
    SchemaTooNew,
    UsageError,
)
from svr_retrievers.testing.control_base import claimed, event, everything, ids, open_transaction

_numbers = itertools.count()


@pytest.fixture
def schema() -> str:
    return f"work {next(_numbers)}"


@pytest_asyncio.fixture
async def work(postgres_url: str, schema: str) -> AsyncIterator[PostgresWork]:
    async with make_pool(postgres_url, Settings()) as pool:
        work = PostgresWork(lambda: borrowed(pool), schema=schema)
        await work.prepare()
        yield work


async def test_a_heartbeat_passes_beside_a_fenced_transaction(work: PostgresWork) -> None:
    lease = await claimed(work, "job", seconds=60)

    async with open_transaction(work, lambda tx: work.leases.fence(lease, within=tx)) as outcome:
        renewed = await asyncio.wait_for(work.leases.renew(lease), 1)

    assert renewed.expires_at > lease.expires_at
    assert outcome.exception() is None


async def test_a_stopped_holder_is_put_out_when_its_time_is_over(work: PostgresWork) -> None:
    """Its transaction is open and idle, as that of a process that was stopped: the server ends it."""
    lease = await claimed(work, "job", seconds=0.2)

    async with open_transaction(work, lambda tx: work.leases.fence(lease, within=tx)) as outcome:
        successor = await asyncio.wait_for(claimed(work, "job", "b"), 5)

    assert successor.token > lease.token
    assert isinstance(outcome.exception(), BackendError)


async def test_a_fence_never_lengthens_what_the_server_allows(work: PostgresWork) -> None:
    lease = await claimed(work, "job", seconds=60)

    async def allowed(conn: psycopg.AsyncConnection, given: str) -> str:
        await conn.execute(
            "select set_config('idle_in_transaction_session_timeout', %s, true)", (given,), prepare=False
        )
        await work.leases.fence(lease, within=conn)
        found = await conn.execute("show idle_in_transaction_session_timeout")
        return (await found.fetchone())[0]

    assert await work.transact(lambda tx: allowed(tx, "100ms")) == "100ms"
    assert await work.transact(lambda tx: allowed(tx, "2h")) == "1min"
    assert await work.transact(lambda tx: allowed(tx, "0")) == "1min"


async def test_what_is_set_for_a_transaction_ends_with_it(postgres_url: str, schema: str) -> None:
    async with make_pool(postgres_url, Settings(pool_min_connections=1, pool_max_connections=1)) as pool:
        work = PostgresWork(lambda: borrowed(pool), schema=schema)
        await work.prepare()
        lease = await claimed(work, "job", seconds=60)
        await work.operations.create("split", collection="c", cause="x", fence=lease)
        async with borrowed(pool) as conn:
            for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
                assert await (await conn.execute(f"show {setting}")).fetchone() == ("0",)


async def test_transaction_numbers_would_tell_a_wrong_order(
    work: PostgresWork, postgres_url: str, schema: str
) -> None:
    """The slow transaction has the smaller number, yet appended after the other was committed."""
    first, second, third = (event("s", n) for n in range(3))
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(conn: psycopg.AsyncConnection) -> None:
        await work.outbox.append([event("t")], within=conn)
        begun.set()
        await go.wait()
        await work.outbox.append([second], within=conn)

    task = asyncio.create_task(work.transact(slow))
    await begun.wait()
    await work.outbox.append([first])
    go.set()
    await task
    await work.outbox.append([third])

    with psycopg.connect(postgres_url) as conn:
        rows = conn.execute(
            psycopg.sql.SQL(
                "select id from {} where subject = 's' order by xmin::text::bigint, inserted"
            ).format(psycopg.sql.Identifier(schema, "outbox"))
        ).fetchall()
    assert [row[0] for row in rows] == [second.id, first.id, third.id]
    found = await everything(work)
    assert [e for e in ids(found) if e in {first.id, second.id, third.id}] == [first.id, second.id, third.id]


async def test_a_reader_that_is_stopped_does_not_stop_the_others(
    work: PostgresWork, postgres_url: str, schema: str
) -> None:
    """It holds the row by which readers take turns; what has a position already is read without it."""
    await work.outbox.append([event()])
    assert len(await everything(work)) == 1
    async with await psycopg.AsyncConnection.connect(postgres_url) as other:
        await other.execute(
            psycopg.sql.SQL("select 1 from {} for update").format(
                psycopg.sql.Identifier(schema, "outbox_state")
            )
        )
        assert len(await work.outbox.read(after=0)) == 1


async def test_another_default_isolation_changes_nothing(postgres_url: str, schema: str) -> None:
    options = "&options=-c%20default_transaction_isolation%3Dserializable"
    async with make_pool(postgres_url + options, Settings()) as pool:
        work = PostgresWork(lambda: borrowed(pool), schema=schema)
        await work.prepare()
        for _ in range(3):
            answers = await asyncio.gather(*(work.leases.claim("race", f"r{n}", 60) for n in range(20)))
            (lease,) = [each for each in answers if each is not None]
            await work.leases.release(lease)
        await asyncio.gather(*(work.outbox.append([event(f"s{n}")]) for n in range(20)))
        found = await asyncio.gather(*(everything(work) for _ in range(4)))
        assert [len(each) for each in found] == [20] * 4


async def test_a_client_clock_decides_nothing(work: PostgresWork, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.cycle([0, 3600, -3600, 86_400 * 366])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(hours))

    lease = await claimed(work, "job", seconds=60)
    for _ in range(8):
        lease = await work.leases.renew(lease)
        assert await work.leases.claim("job", "b", 60) is None
        assert await work.leases.held("job") == lease


async def test_preparing_at_once_and_again(postgres_url: str, schema: str) -> None:
    async with make_pool(postgres_url, Settings()) as pool:
        works = [PostgresWork(lambda: borrowed(pool), schema=schema) for _ in range(4)]
        await asyncio.gather(*(each.prepare() for each in works))
        await works[0].outbox.append([event()])
        await works[1].prepare()
        assert len(await everything(works[2])) == 1


async def test_an_unprepared_store_says_so(postgres_url: str, schema: str) -> None:
    async with make_pool(postgres_url, Settings()) as pool:
        work = PostgresWork(lambda: borrowed(pool), schema=schema)
        for call in (
            lambda: work.leases.claim("job", "a", 60),
            lambda: work.operations.create("split", collection="c", cause="x"),
            lambda: work.outbox.read(after=0),
            lambda: work.transact(lambda tx: work.outbox.append([event()], within=tx)),
        ):
            with pytest.raises(UsageError, match="prepare"):
                await call()


async def test_a_newer_schema_is_refused(work: PostgresWork, postgres_url: str, schema: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        versions = psycopg.sql.Identifier(schema, "versions")
        conn.execute(psycopg.sql.SQL("insert into {} values (999, 'later')").format(versions))
    with pytest.raises(SchemaTooNew):
        await work.prepare()


async def test_missing_rights_are_named(work: PostgresWork, postgres_url: str, schema: str) -> None:
    role = f"reader_{schema.replace(' ', '_')}"
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL("create role {}").format(psycopg.sql.Identifier(role)))
        conn.execute(
            psycopg.sql.SQL("grant usage on schema {} to {}").format(
                psycopg.sql.Identifier(schema), psycopg.sql.Identifier(role)
            )
        )
    try:
        async with make_pool(f"{postgres_url}&options=-c%20role%3D{role}", Settings()) as pool:
            poor = PostgresWork(lambda: borrowed(pool), schema=schema)
            for call in (
                lambda: poor.leases.claim("job", "a", 60),
                lambda: poor.operations.create("split", collection="c", cause="x"),
                lambda: poor.outbox.append([Event("s", "t")]),
            ):
                with pytest.raises(PermissionDenied, match="permission denied"):
                    await call()
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            conn.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))
            conn.execute(psycopg.sql.SQL("drop role {}").format(psycopg.sql.Identifier(role)))


async def test_an_operation_that_is_finished_while_another_is_created(
    work: PostgresWork, postgres_url: str, schema: str
) -> None:
    """The second sees the first as unfinished, waits for nothing; asked for its number, it is finished."""
    first = await work.operations.create("split", collection="c", cause="x")

    async def create(conn: psycopg.AsyncConnection) -> None:
        await conn.execute("set transaction isolation level read committed", prepare=False)
        await work.operations.create("split", collection="c", cause="x", within=Between(conn))

    class Between:
        """The connection, whose second statement comes after the first operation was finished."""

        def __init__(self, conn: psycopg.AsyncConnection) -> None:
            self.info, self._conn, self._calls = conn.info, conn, 0

        async def execute(self, *arguments: object) -> object:
            self._calls += 1
            if self._calls == 2:
                await work.operations.advance(first, state=State.DONE)
            return await self._conn.execute(*arguments)

    with pytest.raises(Conflict, match="finished just now") as raised:
        await work.transact(create)
    assert not isinstance(raised.value, OperationPending)
    assert (await work.operations.create("split", collection="c", cause="x")).number > first.number
