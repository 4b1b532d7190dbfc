"""What the tests of both adapters share: the backends they run on, each with a client."""
# ruff: noqa: INP001 - a folder of projects, no package

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from svr_retrievers import SVRClient

_CLIENTS = {"memory": "memory_client", "postgres": "svr_client", "mongodb": "mongodb_client"}


@pytest.fixture(scope="session")
def memory_client() -> Iterator[SVRClient]:
    with SVRClient("memory://") as client:
        yield client


@pytest.fixture(scope="session")
def mongodb_database(mongodb_server: str) -> Iterator[str]:
    """The URL of a database for a whole run: opening one takes longer than most tests."""
    from pymongo import MongoClient

    name = f"svr_test_{secrets.token_hex(6)}"
    given, _, options = mongodb_server.partition("?")
    scheme, _, rest = given.partition("://")
    yield f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{options}" if options else "")
    with MongoClient(mongodb_server) as client:
        client.drop_database(name)


@pytest.fixture(scope="session")
def mongodb_client(mongodb_database: str) -> Iterator[SVRClient]:
    """A blocking client on that database; each test uses collections of its own."""
    with SVRClient(mongodb_database) as client:
        yield client


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
