"""The stand-in follows a collection only while it has an index."""

from __future__ import annotations

from pymongo import MongoClient
from pymongo.operations import SearchIndexModel

from svr_retrievers.testing.mongodb.waiting import until

DEFINITION = {"fields": [{"type": "vector", "path": "v", "numDimensions": 2, "similarity": "cosine"}]}


def test_collections_that_lose_their_last_index_are_followed_no_more(mongodb_url: str) -> None:
    """More of them than the stand-in may hold connections, one after the other."""
    with MongoClient(mongodb_url) as client:
        database = client.get_default_database()
        for number in range(120):
            kept = database.create_collection(f"kept {number}")
            kept.create_search_index(SearchIndexModel(DEFINITION, "i", "vectorSearch"))
            kept.drop_search_index("i")
        until(lambda: not _streams(client, database.name))


def _streams(client: MongoClient, database: str) -> int:
    """Change streams of the database's collections that somebody waits for.

    The server keeps a cursor for minutes whose reader went away while it was being opened; it holds no connection.
    """
    read = {"op": "getmore", "cursor.tailable": True, "ns": {"$regex": f"^{database}\\."}}
    return len(list(client.admin.aggregate([{"$currentOp": {}}, {"$match": read}])))
