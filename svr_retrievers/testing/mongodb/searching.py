"""Answers search stages: which index is meant, whether it can answer, and what it finds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from svr_retrievers.testing.mongodb import operators
from svr_retrievers.testing.mongodb.documents import text
from svr_retrievers.testing.mongodb.found import Found
from svr_retrievers.testing.mongodb.indexes import DELETING, Index
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.queries import vector_query
from svr_retrievers.testing.mongodb.refusals import in_query
from svr_retrievers.testing.mongodb.replicas import Store
from svr_retrievers.testing.mongodb.store import VectorStore
from svr_retrievers.testing.mongodb.textstore import TextStore
from svr_retrievers.testing.mongodb.views import VIEWS_SINCE

STORED_SOURCE_SINCE = (8, 2)
_HEAVY = 4_000_000  # numbers to go through, from which on others should not wait for it


async def search_vectors(mongot: Mongot, database: str, collection: str, asked: object) -> list[Found]:
    """Of `$vectorSearch`. An index that does not exist answers nothing, without an error."""
    query = vector_query(asked)
    settings = mongot.control.of(database)
    if query.stored_source and settings.version < STORED_SOURCE_SINCE:
        raise in_query('"returnStoredSource" is not supported by $vectorSearch before MongoDB 8.2')
    store = _store(mongot, database, collection, query.index)
    if store is None:
        return []
    if not isinstance(store, VectorStore):
        raise in_query(f"index {query.index} is not of type vectorSearch")
    if query.stored_source and not store.stores:
        raise in_query("storedSource is not configured for this index.")
    began = time.perf_counter()
    if store.size > _HEAVY:
        found = await asyncio.to_thread(store.search, query, settings)
    else:
        found = store.search(query, settings)
    mongot.search_millis = (time.perf_counter() - began) * 1000
    return found


async def search_text(mongot: Mongot, database: str, collection: str, asked: object) -> list[Found]:
    """Of `$search`, which takes the index named "default" when it names none."""
    if not isinstance(asked, dict):
        raise in_query('"$search" must be a document')
    name = text(asked, "index", "default")
    store = _store(mongot, database, collection, name)
    if store is None:
        return []
    if not isinstance(store, TextStore):
        raise in_query(f"index {name} is not of type search")
    return operators.answer(store, asked)


SEARCHES: dict[str, Callable[[Mongot, str, str, object], Awaitable[list[Found]]]] = {
    "$vectorSearch": search_vectors,
    "$search": search_text,
}


def _store(mongot: Mongot, database: str, collection: str, name: str) -> Store | None:
    index = _index(mongot, database, collection, name)
    if index is None:
        return None
    if index.main is None or not index.queryable:
        raise in_query(f"cannot query {index.described} while in state {index.state_in_queries}")
    return index.main.store


def _index(mongot: Mongot, database: str, collection: str, name: str) -> Index | None:
    """By the namespace it was created on; before 8.1 a view's index answers through the collection."""
    through_source = mongot.control.of(database).version < VIEWS_SINCE
    for index in mongot.indexes:
        home = index.record.home
        meant = home.source if through_source else home.name
        if (home.database, meant, index.record.name) == (
            database,
            collection,
            name,
        ) and index.status != DELETING:
            return index
    return None
