"""How many commands a search and a write send to MongoDB, counted by the driver itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from svr_retrievers import Collection, Document, SVRClient, by_field, hnsw
from svr_retrievers.backends.mongodb import connection
from svr_retrievers.testing.data import topics

ROWS = 400


class Commands(CommandListener):
    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()

    def started(self, event: CommandStartedEvent) -> None:
        self.sent[event.command_name] += 1

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    counted = Commands()
    monkeypatch.setattr(connection, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[counted]))
    return counted


@pytest.fixture
def collection(mongodb_url: str, commands: Commands) -> Iterator[Collection]:
    """Settled: indexed, seen to be so, and nothing on its way."""
    with SVRClient(mongodb_url) as client:
        made = client.create_collection(
            "counted",
            dimensions=16,
            partition_by=by_field("kind"),
            filter_fields={"year": int},
            index=hnsw(min_rows=0),
        )
        rows = topics(ROWS, 16, seed=1)
        made.add(
            [
                Document(f"{n}", f"text {n}", {"kind": f"k{n % 4}", "year": 2000 + n % 20}, v)
                for n, v in enumerate(rows)
            ]
        )
        made.refresh()
        made.search(vector=rows[0])
        commands.sent.clear()
        yield made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit": 1},
        {"limit": 100},
        {"filter": {"year": {"$gte": 2005}}},
        {"filter": {"kind": "k1"}},
        {"filter": {"kind": {"$in": ["k1", "k2"]}, "year": {"$lt": 2015}}},
        {"exact": True},
        {"nprobe": 2},
        {"partitions": ["kind=k3"]},
        {"with_vectors": True},
    ],
    ids=str,
)
def test_a_search_is_one_round_trip(collection: Collection, commands: Commands, options: dict) -> None:
    for query in topics(5, 16, seed=2):
        commands.sent.clear()
        found = collection.search(vector=query, **options)
        assert found.incomplete is None
        assert commands.sent == {"aggregate": 1}


def test_a_search_that_meets_fresh_rows_is_one_round_trip_too(
    collection: Collection, commands: Commands
) -> None:
    """How far the index has come is looked at beside the search, not before its answer."""
    [query] = topics(1, 16, seed=3)
    collection.add([Document("fresh", "fresh", {"kind": "k1", "year": 2020}, query)])
    commands.sent.clear()
    found = collection.search(vector=query, limit=3)
    assert found.ids[0] == "fresh"
    assert commands.sent["aggregate"] >= 1
    assert set(commands.sent) <= {"aggregate", "find", "update"}


def test_a_write_is_one_transaction_of_few_commands(collection: Collection, commands: Commands) -> None:
    rows = topics(300, 16, seed=4)
    given = [Document(f"{n}", "again", {"kind": "k1", "year": 2001}, v) for n, v in enumerate(rows[:150])]
    given += [Document(f"new {n}", "new", {"kind": "k2", "year": 2002}, v) for n, v in enumerate(rows[150:])]
    collection.add(given)
    assert commands.sent["commitTransaction"] == 1
    assert commands.sent["insert"] == 1
    assert sum(commands.sent.values()) <= 12
