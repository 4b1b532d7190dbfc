"""The public control suite on every store: memory, PostgreSQL and MongoDB."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator

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
from svr_retrievers.testing.control import ControlConformance
from svr_retrievers.testing.mongodb.server import Mongod

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


@pytest.fixture(scope="module")
def mongod_uri() -> Iterator[str]:
    given = os.environ.get("SVR_TEST_MONGODB_URI")
    if given:
        yield given
        return
    with Mongod() as server:
        yield server.uri


@pytest.mark.mongodb
class TestMongo(ControlConformance[AsyncClientSession]):
    @pytest_asyncio.fixture
    async def work(self, mongod_uri: str) -> AsyncIterator[MongoWork]:
        async with AsyncMongoClient(mongod_uri) as client:
            name = f"svr_control_{os.getpid()}_{next(_numbers)}"
            work = MongoWork(client[name], translated)
            await work.prepare()
            yield work
            await client.drop_database(name)
