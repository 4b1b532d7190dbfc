"""The public control suite on every store: memory, PostgreSQL and MongoDB."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession

from svr_retrievers import Settings
from svr_retrievers.backends.mongodb.connection import translated
from svr_retrievers.backends.postgres.connection import borrowed, make_pool
from svr_retrievers.control.memory import MemoryWork, Transaction
from svr_retrievers.control.mongodb_work import MongoWork
from svr_retrievers.control.postgres_work import PostgresWork
from svr_retrievers.errors import LeaseLost
from svr_retrievers.testing.control import ControlConformance
from svr_retrievers.testing.control_base import event

_numbers = itertools.count()


class TestMemory(ControlConformance[Transaction]):
    @pytest.fixture
    def work(self) -> MemoryWork:
        return MemoryWork()


class TestPostgres(ControlConformance[AsyncConnection]):
    @pytest_asyncio.fixture
    async def work(self, postgres_url: str) -> AsyncIterator[PostgresWork]:
        async with make_pool(postgres_url, Settings()) as pool:
            work = PostgresWork(lambda: borrowed(pool), schema=f"control {next(_numbers)}")
            await work.prepare()
            yield work


class TestMongo(ControlConformance[AsyncClientSession]):
    @pytest_asyncio.fixture
    async def work(self, mongodb_url: str) -> AsyncIterator[MongoWork]:
        async with AsyncMongoClient(mongodb_url) as client:
            work = MongoWork(client.get_default_database(), translated)
            await work.prepare()
            yield work


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2024, 2, 29, 23, 59, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


async def test_the_stores_clock_alone_ends_leases_and_ages_events() -> None:
    hands = Hands()
    work = MemoryWork(hands)
    lease = await work.leases.claim("job", "a", 60)
    assert lease is not None
    assert lease.expires_at == datetime(2024, 3, 1, tzinfo=UTC)
    await work.outbox.append([event()])
    await work.outbox.read(after=0)

    hands.now += timedelta(seconds=59)
    assert await work.leases.claim("job", "b", 60) is None
    assert await work.outbox.prune(keep_seconds=60) == 0
    hands.now += timedelta(seconds=1)
    with pytest.raises(LeaseLost):
        await work.leases.renew(lease)
    assert await work.outbox.prune(keep_seconds=60) == 1
    successor = await work.leases.claim("job", "b", 60)
    assert successor is not None
    assert successor.token == lease.token + 1


async def test_a_transaction_is_checked_again_when_it_commits() -> None:
    """Its lease ran out, or its operation changed, after the calls in it had passed."""
    hands = Hands()
    work = MemoryWork(hands)
    made = await work.operations.create("split", collection="c", cause="x")
    lease = await work.leases.claim("job", "a", 60)
    assert lease is not None

    async def too_long(transaction: Transaction) -> None:
        await work.operations.advance(made, step="copy", fence=lease, within=transaction)
        hands.now += timedelta(seconds=60)

    with pytest.raises(LeaseLost):
        await work.transact(too_long)
    assert await work.operations.get(made.number) == made
