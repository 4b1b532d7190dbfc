"""What the tests of both adapters share: the backends they run on, each with a client."""
# ruff: noqa: INP001 - a folder of projects, no package

from __future__ import annotations

import gc
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from svr_retrievers import SVRClient

_CLIENTS = {"memory": "memory_client", "postgres": "svr_client", "mongodb": "mongodb_client"}
_UNKNOWN_COMMAND = 59


@pytest.fixture(scope="session")
def memory_client() -> Iterator[SVRClient]:
    with SVRClient("memory://") as client:
        yield client


@contextmanager
def _database(server: str, **told: float) -> Iterator[str]:
    """The URL of an empty database. `told`: what the stand-in for Atlas is told about it; Atlas is as it is."""
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure

    name = f"svr_test_{secrets.token_hex(6)}"
    given, _, options = server.partition("?")
    scheme, _, rest = given.partition("://")
    with MongoClient(server) as driver:
        try:
            driver[name].command({"standIn": 1, **told})
        except OperationFailure as error:
            if error.code != _UNKNOWN_COMMAND:
                raise
        yield f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{options}" if options else "")
        driver.drop_database(name)


@pytest.fixture(scope="session")
def mongodb_database(mongodb_server: str) -> Iterator[str]:
    """The URL of a database for a whole run: opening one takes longer than most tests."""
    with _database(mongodb_server) as url:
        yield url


@pytest.fixture(scope="session")
def mongodb_client(mongodb_database: str) -> Iterator[SVRClient]:
    """A blocking client on that database; each test uses collections of its own."""
    with SVRClient(mongodb_database) as client:
        yield client


@pytest.fixture(scope="session")
def late_client(mongodb_server: str) -> Iterator[SVRClient]:
    """A client on a database whose search indexes take their time to be built, and then run behind the writes."""
    with _database(mongodb_server, build=0.3, refresh=0.5) as url, SVRClient(url) as client:
        yield client


@pytest.fixture
def abandoned_sockets() -> Iterator[None]:
    """For tests of servers that cannot be reached: PyMongo does not close the socket of a cancelled attempt.

    Known there as PYTHON-5867. The socket is collected here, where no other test is blamed for it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(
    params=[
        "memory",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mongodb", marks=pytest.mark.mongodb),
    ]
)
def client(request: pytest.FixtureRequest) -> SVRClient:
    found: SVRClient = request.getfixturevalue(_CLIENTS[request.param])
    return found
