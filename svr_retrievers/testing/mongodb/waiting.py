"""For tests that use a stand-in: waiting for what happens eventually, with a deadline instead of a sleep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.operations import SearchIndexModel

T = TypeVar("T")
_POLL_SECONDS = 0.005
_DEADLINE_SECONDS = 30.0


def until(happened: Callable[[], T], *, seconds: float = _DEADLINE_SECONDS) -> T:
    """What `happened` returns once that is true. Raises TimeoutError with the last answer when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {seconds} s; the last answer was {found!r}")
        time.sleep(_POLL_SECONDS)
    return found


def told(database: Database[dict[str, object]], **settings: object) -> dict[str, object]:
    """Changes settings of the stand-in for this database (for all through `admin`); answers what now holds."""
    return dict(database.command({"standIn": 1, **settings}))


def counted(database: Database[dict[str, object]], name: str) -> int:
    """How often a command, or a search stage, was asked in this database."""
    counts = told(database)["counts"]
    assert isinstance(counts, dict)
    return int(counts.get(name, 0))


def built(
    collection: Collection[dict[str, object]],
    name: str,
    definition: Mapping[str, object],
    *,
    kind: str = "vectorSearch",
) -> None:
    """Creates an index and returns once it answers with that definition."""
    collection.create_search_index(SearchIndexModel(definition, name, kind))
    ready(collection, name, definition)


def ready(collection: Collection[dict[str, object]], name: str, definition: Mapping[str, object]) -> None:
    until(lambda: _is_ready(collection, name, definition))


def status(collection: Collection[dict[str, object]], name: str) -> str | None:
    """As it is listed; None where it is not."""
    return next((str(entry["status"]) for entry in collection.list_search_indexes(name)), None)


def _is_ready(collection: Collection[dict[str, object]], name: str, definition: Mapping[str, object]) -> bool:
    for entry in collection.list_search_indexes(name):
        if entry["status"] == "FAILED":
            raise RuntimeError(f"index {name} cannot be built: {entry['statusDetail']}")
        return (
            entry["status"] == "READY"
            and bool(entry["queryable"])
            and entry["latestDefinition"] == definition
        )
    return False
