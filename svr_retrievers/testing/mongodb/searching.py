"""Answers `$vectorSearch`: which index is meant, whether it can answer, and what it finds."""

from __future__ import annotations

import time

from svr_retrievers.testing.mongodb.indexes import DELETING, Index
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.queries import vector_query
from svr_retrievers.testing.mongodb.refusals import in_query
from svr_retrievers.testing.mongodb.store import Found, VectorStore
from svr_retrievers.testing.mongodb.views import VIEWS_SINCE

STORED_SOURCE_SINCE = (8, 2)


async def search(mongot: Mongot, database: str, collection: str, asked: object) -> list[Found]:
    """An index that does not exist answers nothing, without an error."""
    query = vector_query(asked)
    settings = mongot.control.of(database)
    if query.stored_source and settings.version < STORED_SOURCE_SINCE:
        raise in_query('"returnStoredSource" is not supported by $vectorSearch before MongoDB 8.2')
    index = _index(mongot, database, collection, query.index)
    if index is None:
        return []
    store = index.main.store if index.main is not None else None
    if not isinstance(store, VectorStore) or not index.queryable:
        raise in_query(f"cannot query vector index {index.described} while in state {index.state_in_queries}")
    if query.stored_source and not store.stores:
        raise in_query("storedSource is not configured for this index.")
    began = time.perf_counter()
    found = store.search(query, settings)
    mongot.search_millis = (time.perf_counter() - began) * 1000
    return found


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
